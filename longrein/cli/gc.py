"""Remove what no asset refers to: versions of tables, files, old scratch; with --keep, old dataset versions too."""

from typing import Any

import click

from longrein.cli import _text
from longrein.cli.main import Session


@click.command(help=__doc__)
@click.option("-n", "--dry-run", is_flag=True, help="Say what would go, and remove nothing.")
@click.option(
    "--keep", type=click.IntRange(min=1), metavar="N",
    help="Of each dataset keep the newest N versions, and those that an alias, or what it was made from, needs.",
)  # fmt: skip
@click.pass_obj
def command(session: Session, dry_run: bool, keep: int | None) -> None:
    from longrein.data import collect

    workspace = session.workspace
    found = collect.find(workspace.ledger, workspace.store, workspace.home / "work", keep=keep)
    if not dry_run:
        collect.remove(workspace.ledger, workspace.store, found, actor=workspace.actor)
    data = found.as_dict() | {"removed": not dry_run}
    session.show(data, as_text(data))


def as_text(data: dict[str, Any]) -> str:
    lines = [f"  {ref}" for ref in data["assets"]]
    lines += [f"  {table}: {len(numbers):,} versions" for table, numbers in data["versions"].items()]
    lines += [f"  {path}" for path in data["paths"]]
    if not lines:
        return "nothing to remove"
    head = "removed" if data["removed"] else "would remove (longrein gc without --dry-run does)"
    return "\n".join([f"{head} {_text.size(data['bytes'])}:", *lines])
