"""Write a dataset version as files, to edit and commit or to hand on: JSONL, CSV, Parquet, Hugging Face, WebDataset."""

from pathlib import Path

import click

from longrein.cli._complete import refs
from longrein.cli.main import Session


@click.command(help=__doc__)
@click.argument("ref", shell_complete=refs)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--format", default="jsonl", show_default=True, help="jsonl, csv, parquet, hf or webdataset.")
@click.option("--license", default="", help="For its Croissant metadata: an SPDX name or a URL.")
@click.pass_obj
def command(session: Session, ref: str, folder: Path, format: str, license: str) -> None:
    from longrein.data import checkout

    workspace = session.workspace
    asset = workspace.dataset_asset(ref)
    made = checkout.write(
        workspace.store, asset.uri, folder, format, ref=asset.ref, digest=asset.digest, license=license
    )
    data = {"ref": asset.ref, "digest": asset.digest, "rows": made.rows, "files": [str(p) for p in made.paths]}
    session.show(data, f"{made.rows:,} rows of {asset.ref} are in {folder}")
