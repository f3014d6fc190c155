"""Show the requests that the gateway answered, or what a step's process wrote, by run id or by step (model:support)."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from longrein.cli import _text
from longrein.cli._complete import refs
from longrein.cli.main import Session, visible
from longrein.core.errors import Error

if TYPE_CHECKING:
    from longrein.workspace import Workspace

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
HEADS = ("request", "when", "endpoint", "release", "status", "tokens", "took", "text")


@click.command(help=__doc__)
@click.argument("what", metavar="[RUN|STEP]", default="", shell_complete=refs)
@click.option("-n", "--lines", default=0, help="The last so many: 200 lines, or 50 requests, if not given.")
@click.option("--endpoint", default="")
@click.option("--release", default="", metavar="REF|DIGEST")
@click.option("--status", default="", help="429, or a class: 5xx.")
@click.option("--since", default="", metavar="AGE", help="Not older than 30s, 10m, 2h or 7d.")
@click.option("--key", default="", metavar="ID", help="Asked with this API key.")
@click.option("--user", default="", help="Asked for this user.")
@click.option("--session", "session_", default="", help="Asked in this session.")
@click.option("--text", default="", help="Somewhere in what was asked or answered.")
@click.option("-f", "--follow", is_flag=True, help="Go on showing requests as they end, until Ctrl-C.")
@click.pass_obj
def command(
    session: Session, /, what: str, lines: int, release: str, since: str, session_: str, follow: bool, **filters: Any
) -> None:
    workspace = session.workspace
    if what:
        if follow or release or since or session_ or any(filters.values()):
            raise Error("invalid", "a step's log has no requests to choose from", f"longrein logs {what}")
        of_step(session, what, lines or 200)
        return
    from longrein.data.requests import Query

    digest = workspace.asset(release).digest if ":" in release else release
    query = Query(**filters, release=digest, session=session_, since_ms=since_ms(since))
    found = workspace.requests.find(query, lines or 50)
    if follow:
        show(session, found[::-1])
        for request in workspace.requests.follow(query):
            show(session, [request])
    else:
        session.show(found, _text.table(map(row, found), HEADS) if found else "no request is like that")


def show(session: Session, found: list[dict[str, Any]]) -> None:
    """One request a line, as JSON too: to go on with, no table will do."""
    import msgspec

    for request in found:
        text = "  ".join(map(str, row(request)))
        click.echo(msgspec.json.encode(request) if session.json else visible(text))


def row(r: dict[str, Any]) -> tuple[Any, ...]:
    tokens = f"{r['prompt_tokens']} + {r['completion_tokens']}"
    text = "(erased)" if r["erased"] else _text.short(r["input"] or "", 40)
    return (
        r["id"], _text.when(r["ts_ms"]), r["endpoint"] or "–", r["release"][:12] or "–", r["status"], tokens,
        f"{r['total_ms']:.0f} ms", text,
    )  # fmt: skip


def since_ms(age: str) -> int:
    """The time so long ago; 0 for no age. Errors: `invalid`."""
    import time

    if not age:
        return 0
    found = re.fullmatch(r"(\d{1,6})([smhd])", age)
    if not found:
        raise Error("invalid", f"--since cannot be {age[:50]!r}", "write 30s, 10m, 2h or 7d")
    return time.time_ns() // 1_000_000 - int(found[1]) * UNITS[found[2]] * 1000


def of_step(session: Session, what: str, lines: int) -> None:
    path = find(session.workspace, what)
    text = path.read_text("utf-8", errors="replace").splitlines()[-lines:] if path.exists() else []
    session.show({"path": str(path), "lines": text}, "\n".join(text) if text else f"nothing was written to {path}")


def find(workspace: "Workspace", what: str) -> Path:
    """The log of a run, or of the newest run of a step."""
    if ":" in what:
        recent = workspace.ledger.runs.recent(limit=1000)
        kind, _, name = what.partition("@")[0].partition(":")
        datasets = ("data.ingest", "data.mix")
        made_by = {"dataset": datasets, "model": ("models.train",), "report": ("models.evaluate",)}.get(kind, ())
        run = next((r for r in recent if r.capability in made_by and r.name == name), None)
        if run is None:
            raise Error("not_found", f"no run of {what} is known", "longrein ls runs")
    else:
        run = workspace.ledger.runs.get(what)
    return Path(workspace.home / "work" / run.step_key[:20] / "log.txt")
