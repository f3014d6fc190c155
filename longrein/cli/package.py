"""Write a release as a signed ModelPack artifact or image, or what runs an endpoint on Kubernetes or KServe."""

from pathlib import Path

import click

from longrein.cli._complete import refs
from longrein.cli.main import Session


@click.command(help=__doc__)
@click.argument("ref", shell_complete=refs)
@click.option("--to", type=click.Path(path_type=Path), required=True, help="A new folder, or a new file for manifests.")
@click.option("--format", default="modelpack", show_default=True, help="modelpack, image, kubernetes or kserve.")
@click.option("--base", type=click.Path(path_type=Path), help="An image with Longrein in it, as an OCI layout.")
@click.option("--image", default="", help="For manifests: where the image was pushed, as in registry/name@sha256:….")
@click.option(
    "--key",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The Ed25519 key; .longrein/package.key if not given.",
)
@click.pass_obj
def command(session: Session, ref: str, to: Path, format: str, base: Path | None, image: str, key: Path | None) -> None:
    from longrein.core.errors import Error, nearest
    from longrein.core.signature import fingerprint, public_key
    from longrein.models.package import manifests
    from longrein.models.package.pack import FORMATS, pack

    workspace = session.workspace
    release = workspace.asset(ref if ":" in ref else f"release:{ref}")
    key = key or workspace.home / "package.key"
    if format in manifests.FORMATS:
        size = workspace.asset(release.meta["model"]["ref"]).bytes
        trust = fingerprint(public_key(key))
        made = manifests.write(release, to, format, image=image, trust=trust, model_bytes=size)
        session.show(made, f"{to} runs {release.ref} on {format}")
        return
    if format not in FORMATS:
        raise Error("invalid", f"there is no format {format!r}", nearest(format, [*FORMATS, *manifests.FORMATS]))
    done = pack(workspace.ledger, workspace.store, release, to, key_file=key, format=format, base=base)
    session.say(f"note the key that signed it: {done['signer']}")
    session.show(done, f"{release.ref} is in {to}, as {done['digest'][:19]}")
