"""Begin a dataset of another name with the rows of a version, without copying any."""

import click

from longrein.cli._complete import refs
from longrein.cli.main import Session


@click.command(help=__doc__)
@click.argument("ref", shell_complete=refs)
@click.argument("name")
@click.pass_obj
def command(session: Session, ref: str, name: str) -> None:
    from longrein.data import revise

    workspace = session.workspace
    parent = workspace.dataset_asset(ref)
    name = name.removeprefix("dataset:")
    asset = revise.branch(workspace.ledger, workspace.store, parent.ref, name, actor=workspace.actor)
    session.show({"ref": asset.ref, "digest": asset.digest, "parent": parent.ref}, f"{asset.ref} is {parent.ref}")
