"""Print what a step's process wrote, by run id or by step (model:support)."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from longrein.cli._complete import refs
from longrein.cli.main import Session
from longrein.core.errors import Error

if TYPE_CHECKING:
    from longrein.workspace import Workspace


@click.command(help=__doc__)
@click.argument("what", metavar="RUN|STEP", shell_complete=refs)
@click.option("-n", "--lines", default=200, show_default=True, help="The last so many lines.")
@click.pass_obj
def command(session: Session, what: str, lines: int) -> None:
    path = find(session.workspace, what)
    text = path.read_text("utf-8", errors="replace").splitlines()[-lines:] if path.exists() else []
    session.show({"path": str(path), "lines": text}, "\n".join(text) if text else f"nothing was written to {path}")


def find(workspace: "Workspace", what: str) -> Path:
    """The log of a run, or of the newest run of a step."""
    if ":" in what:
        recent = workspace.ledger.runs.recent(limit=1000)
        kind, _, name = what.partition("@")[0].partition(":")
        made_by = {"dataset": "data.ingest", "model": "models.train", "report": "models.evaluate"}.get(kind, "")
        run = next((r for r in recent if r.capability == made_by and r.name == name), None)
        if run is None:
            raise Error("not_found", f"no run of {what} is known", "longrein ls runs")
    else:
        run = workspace.ledger.runs.get(what)
    return Path(workspace.home / "work" / run.step_key[:20] / "log.txt")
