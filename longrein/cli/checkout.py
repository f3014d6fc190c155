"""Write a dataset version as files: JSONL, CSV, Parquet to edit and commit; others to hand on or to train from."""

from pathlib import Path
from typing import Any

import click

from longrein.cli._complete import refs
from longrein.cli.main import Session


@click.command(help=__doc__)
@click.argument("ref", shell_complete=refs)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--format",
    default="jsonl",
    show_default=True,
    help="jsonl, csv, parquet, hf, webdataset; or for training pretrain, sft, preference.",
)
@click.option("--license", default="", help="For its Croissant metadata: an SPDX name or a URL.")
@click.option("--tokenizer", default="", help="For training: a model's folder.")
@click.option("--seq", type=int, help="For training: tokens of a sequence.")
@click.option("--option", "more", multiple=True, metavar="KEY=VALUE", help="For training: others of the writer.")
@click.pass_obj
def command(
    session: Session, ref: str, folder: Path, format: str, license: str, tokenizer: str, seq: int | None,
    more: tuple[str, ...],
) -> None:  # fmt: skip
    from longrein.core import plugins
    from longrein.core.errors import Error
    from longrein.data import checkout

    workspace = session.workspace
    asset = workspace.dataset_asset(ref)
    known = {"ref": asset.ref, "digest": asset.digest}
    options = {"tokenizer": tokenizer, "seq": seq} | dict(_pair(one) for one in more)
    options = {name: value for name, value in options.items() if value not in ("", None)}
    if format in plugins.names("writer"):
        from longrein.data import export

        if "tokenizer" in options:
            options["tokenizer"] = str(Path(options["tokenizer"]).absolute())
        told = export.write(workspace.store, asset.uri, folder, format, options, project=workspace.root, **known)
        lines = [
            f"{split}: " + ", ".join(f"{n:,} {what}" for what, n in c.items()) for split, c in told["counts"].items()
        ]
        session.show(told, f"{len(told['files']):,} files of {asset.ref} are in {folder}\n" + "\n".join(lines))
        return
    if options:
        raise Error(
            "invalid", f"the format {format!r} takes no {next(iter(options))!r}", "pretrain, sft and preference do"
        )
    made = checkout.write(workspace.store, asset.uri, folder, format, license=license, **known)
    data = known | {"rows": made.rows, "files": [str(p) for p in made.paths]}
    session.show(data, f"{made.rows:,} rows of {asset.ref} are in {folder}")


def _pair(given: str) -> tuple[str, Any]:
    """KEY=VALUE, a number as one."""
    key, equals, value = given.partition("=")
    if not equals:
        raise click.BadParameter(f"{given!r} is not KEY=VALUE")
    return key, int(value) if value.isdigit() else value
