"""Show a run: what it did with which settings, what it read and made, its metrics and cost (ids: longrein ls runs)."""

from typing import TYPE_CHECKING, Any

import click

from longrein.cli import _text
from longrein.cli.main import Session

if TYPE_CHECKING:
    from longrein.core.ledger import Ledger


@click.command(help=__doc__)
@click.argument("id")
@click.option("--history", metavar="METRIC", help="Print every point of one metric.")
@click.pass_obj
def command(session: Session, id: str, history: str | None) -> None:
    ledger = session.workspace.ledger
    if history:
        points = ledger.runs.history(ledger.runs.get(id).id, history)
        rows = [(step, _text.when(ts), _text.number(value)) for step, ts, value in points]
        session.show(
            [{"step": step, "ts_ms": ts, "value": value} for step, ts, value in points],
            _text.table(rows, ("step", "time", history)),
        )
        return
    data = describe(ledger, id)
    session.show(data, as_text(data))


def describe(ledger: "Ledger", id: str) -> dict[str, Any]:
    run = ledger.runs.get(id)
    around = ledger.assets.of_run(run.id)
    return vars(run) | {
        "params": ledger.runs.params(run.id), "metrics": ledger.runs.metrics(run.id), "tags": ledger.runs.tags(run.id),
        "inputs": {e.role or a.kind: a.ref for e, a in around if e.direction == "in"},
        "outputs": [a.ref for e, a in around if e.direction == "out"],
    }  # fmt: skip


def as_text(data: dict[str, Any]) -> str:
    used = [
        f"{_text.duration(data['wall_s'])} wall" if data["wall_s"] is not None else "",
        f"{_text.duration(data['cpu_s'])} CPU" if data["cpu_s"] is not None else "",
        f"{_text.size(data['max_rss_bytes'])} memory" if data["max_rss_bytes"] else "",
        _text.money(data["cost_usd"]) if data["cost_usd"] is not None else "",
    ]
    facts = {
        "run": data["id"],
        "what": f"{data['capability'] or 'logged from outside'} {data['name']}".rstrip(),
        "status": data["status"].lower(),
        "started": f"{_text.when(data['started_ms'])} by {data['actor'] or '–'}",
        "took": ", ".join(filter(None, used)) or "–",
        "read": ", ".join(f"{ref} ({role})" for role, ref in data["inputs"].items()) or "–",
        "made": ", ".join(data["outputs"]) or "–",
        "code": data["code"] or "–",
        "machine": data["environment"].get("host", "–"),
    }
    parts = [_text.pairs(facts)]
    for part in ("params", "metrics", "tags"):
        if data[part]:
            rows = [(f"  {k}", _text.short(_text.number(v), 100)) for k, v in sorted(data[part].items())]
            parts.append(f"{part}\n" + _text.table(rows))
    if data["error"]:
        hint = data["error"].get("hint") or f"longrein logs {data['id'][:12]}"
        parts.append(f"error: {data['error']['message']}\nhint: {hint}")
    return "\n\n".join(parts)
