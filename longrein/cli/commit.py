"""Make an edited checkout the next version of a dataset; under a new name it begins a branch."""

from pathlib import Path

import click

from longrein.cli import _text
from longrein.cli._complete import refs
from longrein.cli.main import Session


@click.command(help=__doc__)
@click.argument("name", metavar="DATASET", shell_complete=refs)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("-m", "--message", default="", help="What was done, for whoever reads the history.")
@click.pass_obj
def command(session: Session, name: str, folder: Path, message: str) -> None:
    from longrein.data import revise

    workspace = session.workspace
    name = name.removeprefix("dataset:").partition("@")[0]
    asset = revise.commit(workspace.ledger, workspace.store, name, folder, actor=workspace.actor, message=message)
    data = {"ref": asset.ref, "digest": asset.digest, "bytes": asset.bytes, "meta": asset.meta}
    hint = f"longrein diff {asset.meta['parent']} {asset.ref}" if "parent" in asset.meta else ""
    session.show(data, f"{asset.ref}: {asset.meta.get('rows', 0):,} rows, {_text.size(asset.bytes)}  {hint}".rstrip())
