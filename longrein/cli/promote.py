"""Point an alias at a version; only one that every gate of the alias passed."""

import click

from longrein.cli._complete import refs
from longrein.cli.main import Session


@click.command(help=__doc__)
@click.argument("ref", shell_complete=refs)
@click.option("--alias", default="prod", show_default=True, help="What to point.")
@click.option("--approve", is_flag=True, help="Say the person's yes that `approval: manual` asks for.")
@click.option("--reason", default="", help="Why, for the audit trail.")
@click.pass_obj
def command(session: Session, ref: str, alias: str, approve: bool, reason: str) -> None:
    asset = session.workspace.promote(ref, alias, approve=approve, reason=reason)
    where = f"{asset.kind}:{asset.name}@{alias}"
    data = {"alias": where, "ref": asset.ref, "digest": asset.digest}
    if session.workspace.asset(where) == asset:
        session.show(data | {"moved": True}, f"{where} is {asset.ref} now")
    else:
        session.show(data | {"moved": False}, f"{asset.ref} is being rolled out: longrein rollout {asset.name}")
