"""Create, list and revoke API keys."""

import click

from longrein.cli.main import Session


@click.group(help=__doc__)
def command() -> None:
    pass


@command.command()
@click.argument("label")
@click.option(
    "--scope", "scopes", multiple=True, default=("infer",), show_default=True, help="infer, track or admin; repeatable."
)
@click.option("--team", default="", help="Whose key it is: a team shares the limits that longrein.yaml gives it.")
@click.option(
    "--limit",
    "limits",
    multiple=True,
    metavar="NAME=NUMBER",
    help="requests_per_minute, tokens_per_minute, _day or _month, usd_per_day or _month; repeatable.",
)
@click.option(
    "--release",
    default="",
    metavar="WHICH",
    help="What answers it, whatever is rolled out: stable, candidate, a version.",
)
@click.option(
    "--to", "file", type=click.Path(dir_okay=False), help="Write the secret to a new 0600 file instead of showing it."
)
@click.pass_obj
def create(
    session: Session, label: str, scopes: tuple[str, ...], team: str, limits: tuple[str, ...], release: str,
    file: str | None,
) -> None:  # fmt: skip
    """Make a key. Its secret is shown this once and kept only as a hash."""
    from longrein.control import scaffold
    from longrein.core.limit import parse

    workspace, limit = session.workspace, parse(limits)

    def make() -> str:
        return workspace.ledger.keys.create(
            label, scopes, team=team, limits=limit, release=release, actor=workspace.actor
        )

    if file:
        path = scaffold.secret_file(file, make)
        session.show({"label": label, "scopes": scopes, "file": str(path)}, f"the key lies in {path}")
        return
    secret = make()
    session.say("this is shown once: keep it where your program reads its secrets")
    session.show({"label": label, "scopes": scopes, "secret": secret}, secret)


@command.command(name="list")
@click.pass_obj
def list_(session: Session) -> None:
    """List keys, never their secrets."""
    from longrein.cli import _text, ls

    data, rows, heads = ls.keys(session.workspace.ledger, 0)
    session.show(data, _text.table(rows, heads) if rows else "there are no keys yet")


@command.command()
@click.argument("id")
@click.pass_obj
def revoke(session: Session, id: str) -> None:
    """End a key at once."""
    workspace = session.workspace
    workspace.ledger.keys.revoke(id, actor=workspace.actor)
    session.show({"key": id, "state": "revoked"}, f"key {id} is revoked")
