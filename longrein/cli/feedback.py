"""Bring in what people and programs said of answers, from a file: metrics and labels by request id."""

from pathlib import Path

import click

from longrein.cli.main import Session


@click.group(help=__doc__)
def command() -> None:
    pass


@command.command(name="import")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--source", default="import", show_default=True, help="Who says so: each is heard once about an answer.")
@click.pass_obj
def import_(session: Session, file: Path, source: str) -> None:
    """Read JSON lines: {"id" or "session", and "metrics": {name: number}, "label" or "comment"}.

    Cut off, it is simply run again: what is known already is not counted twice.
    """
    from longrein.data.feedback import load

    workspace = session.workspace
    found = load(workspace.ledger, workspace.requests, file, source=source)
    told = f"{found['lines']} lines: {found['new']} values are new, {found['known']} were known already"
    for name, words in (("late", "came late"), ("unknown", "of unknown requests"), ("erased", "of erased requests"),
                        ("invalid", "of no use")):  # fmt: skip
        told += f", {found[name]} {words}" if found[name] else ""
    session.show(found, told)
    if found["first_invalid"]:
        session.say(f"  {found['first_invalid']}")
