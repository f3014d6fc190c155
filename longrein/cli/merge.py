"""Bring what one branch of a dataset changed into another, row by row; conflicts are shown and nothing is lost."""

from typing import Any

import click

from longrein.cli import _text
from longrein.cli._complete import refs
from longrein.cli.main import Session
from longrein.core.errors import Error


@click.command(help=__doc__)
@click.argument("theirs", shell_complete=refs)
@click.argument("ours", shell_complete=refs)
@click.option("--on", default="input", show_default=True, help="The column that names a row, or a key of `extra`.")
@click.option("--prefer", type=click.Choice(["ours", "theirs"]), help="Whose row stays where both changed it.")
@click.option("-m", "--message", default="", help="What was done, for whoever reads the history.")
@click.pass_obj
def command(session: Session, theirs: str, ours: str, on: str, prefer: Any, message: str) -> None:
    from longrein.data import revise

    workspace = session.workspace
    one, other = workspace.dataset_asset(theirs).ref, workspace.dataset_asset(ours).ref
    try:
        asset, decided = revise.merge(
            workspace.ledger, workspace.store, one, other, actor=workspace.actor, on=on, prefer=prefer or "",
            message=message,
        )  # fmt: skip
    except Error as error:
        for conflict in error.details.get("conflicts", []):
            session.say("\n".join(f"  {side:7}{_brief(found)}" for side, found in conflict.items()) + "\n")
        raise
    data = {"ref": asset.ref, "digest": asset.digest, "rows": asset.meta["rows"], "decided": len(decided)}
    told = f", {len(decided):,} conflicts decided for {prefer}" if decided else ""
    session.show(data, f"{asset.ref}: {asset.meta['rows']:,} rows{told}  longrein diff {other} {asset.ref}")


def _brief(row: dict[str, Any] | None) -> str:
    return _text.short(f"{row['input']} ⇒ {row.get('output') or '–'}", 90) if row else "(no such row)"
