"""Give a version a name of its own, an alias that moves when asked: `longrein tag dataset:tickets@3 gold`."""

import click

from longrein.cli._complete import refs
from longrein.cli.main import Session


@click.command(help=__doc__)
@click.argument("ref", shell_complete=refs)
@click.argument("alias")
@click.option("-d", "--delete", is_flag=True, help="Take the alias away instead.")
@click.option("--reason", default="", help="Why, for the audit trail.")
@click.pass_obj
def command(session: Session, ref: str, alias: str, delete: bool, reason: str) -> None:
    workspace = session.workspace
    asset = workspace.asset(ref)
    where = f"{asset.kind}:{asset.name}@{alias}"
    if delete:
        there = workspace.ledger.aliases.drop(asset.kind, asset.name, alias, actor=workspace.actor)
        session.show({"alias": where, "dropped": there}, f"{where} is gone" if there else f"there was no {where}")
        return
    workspace.promote(asset.ref, alias, reason=reason)
    session.show({"alias": where, "ref": asset.ref, "digest": asset.digest}, f"{where} is {asset.ref} now")
