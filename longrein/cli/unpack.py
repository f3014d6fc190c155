"""Verify a package's signature and bytes, and bring its release into this project, or into a new one that serves it."""

from pathlib import Path

import click

from longrein.cli.main import Session


@click.command(help=__doc__)
@click.argument("package", type=click.Path(path_type=Path, file_okay=False))
@click.option("--trust", multiple=True, help="The fingerprint of a key that may have signed it; repeatable.")
@click.option("--into", type=click.Path(path_type=Path), help="A new project that only serves it, in this folder.")
@click.pass_obj
def command(session: Session, package: Path, trust: tuple[str, ...], into: Path | None) -> None:
    from longrein import workspace
    from longrein.control import scaffold
    from longrein.models.package.unpack import serve, unpack, vouched

    keys = [key for given in trust for key in given.replace(",", " ").split()]  # several, as in an environment variable
    if into and not (into / workspace.FILE).exists():
        vouched(package, keys)  # a package that is refused leaves no project behind
        scaffold.write(into, scaffold.serving(into.absolute().name))
    opened = workspace.open(into) if into else session.workspace
    ledger, actor = opened.ledger, opened.actor
    release, signer = unpack(ledger, opened.store, package, opened.home, trusted=keys, actor=actor)
    if into:
        serve(ledger, release, actor=actor)
    data = {"ref": release.ref, "digest": release.digest, "signer": signer, "project": str(opened.root)}
    then = f"longrein -C {into} serve" if into else f"longrein promote {release.ref}"
    session.say(f"next: {then}")
    session.show(data, f"{release.ref}, signed by {signer}, is in {opened.root}")
