"""Show where everything stands: what is serving, what apply would do, what runs, what failed last."""

from typing import TYPE_CHECKING, Any

import click

from longrein.cli import _rollout, _serving, _text, alerts
from longrein.cli.main import Session
from longrein.core.errors import Error

if TYPE_CHECKING:
    from longrein.workspace import Workspace

MOST = 20  # names shown


@click.command(help=__doc__)
@click.pass_obj
def command(session: Session) -> None:
    data = describe(session.workspace)
    session.show(data, as_text(data))


def describe(workspace: "Workspace") -> dict[str, Any]:
    from longrein.control.rules import firing
    from longrein.models.experiment.describe import as_of_now

    ledger = workspace.ledger
    data: dict[str, Any] = {"project": str(workspace.root), "url": _serving.running(workspace), "error": None}
    try:
        from longrein.cli.plan import as_data

        data |= as_data(workspace.plan())
    except Error as error:  # a broken file must not hide the rest
        data |= {"error": error.as_dict(), "changes": None, "steps": [], "endpoints": []}
    data["alerts"] = alerts.describe(ledger, 0)["firing"]
    data["rollouts"] = [as_of_now(ledger, r) for r in ledger.rollouts.all_live().values()]
    data["newest"] = [
        {"ref": a.ref, "versions": n, "digest": a.digest, "created_ms": a.created_ms} for a, n in ledger.assets.latest()
    ]
    data["running"] = [
        {"step": i.step, "run": i.run_id, "owner": i.owner, "live": i.live, "attempt": i.attempts}
        for i in ledger.work.running()
        if not i.step.startswith(firing.CAPABILITY)
    ]
    data["rules"] = [firing.as_data(found) for found in firing.under_way(ledger)]
    data["failed"] = [
        {"run": r.id, "what": f"{r.capability} {r.name}".strip(), "error": r.error, "ended_ms": r.ended_ms}
        for r in ledger.runs.recent(limit=50)
        if r.status == "FAILED"
    ][:5]
    return data


def as_text(data: dict[str, Any]) -> str:
    parts = [f"{data['project']}  " + (f"gateway at {data['url']}" if data["url"] else "no gateway runs here")]
    if data["error"]:
        hint = f"\nhint: {data['error']['hint']}" if data["error"]["hint"] else ""
        parts.append(f"longrein.yaml is not right: {data['error']['message']}{hint}")
    parts += ["\n".join(alerts.firing(data["alerts"]))] if data["alerts"] else []
    if data["endpoints"]:
        rows = [
            (e["endpoint"], e["serving"] or "–", e["status"], _gates(e["gates"]), e["rollback"] or "–")
            for e in data["endpoints"]
        ]
        parts.append(_text.table(rows, ("endpoint", "serves", "state", "gates", "rollback to")))
    parts += map(_rollout.as_text, data["rollouts"])
    parts += [
        f"rule {r['rule']} is at work: {r['why']}\n  now: {r['now'] or 'it begins'}  (run {r['run'][:12]}, "
        f"since {_text.ago(r['started_ms'])}; longrein rules)"
        for r in data["rules"]
    ]
    if data["newest"]:
        newest = [(a["ref"], a["versions"], a["digest"][:12], _text.ago(a["created_ms"])) for a in data["newest"]]
        more = f"\nand {len(newest) - MOST} more: longrein ls" if len(newest) > MOST else ""
        parts.append(_text.table(newest[:MOST], ("newest", "versions", "digest", "made")) + more)
    for item in data["running"]:
        word = "runs" if item["live"] else "was cut off: longrein apply resumes it"
        parts.append(f"{item['step']} {word} (run {item['run'][:12]}, attempt {item['attempt']})")
    if data["failed"]:
        failed = [
            (r["run"][:12], r["what"], _text.ago(r["ended_ms"]), _text.short((r["error"] or {}).get("message", ""), 90))
            for r in data["failed"]
        ]
        parts.append(_text.table(failed, ("failed run", "what", "when", "why")))
    if data["changes"] is not None:
        parts.append(
            f"{data['changes']} things to do: longrein plan" if data["changes"] else "all is as longrein.yaml says"
        )
    return "\n\n".join(parts)


def _gates(gates: dict[str, str]) -> str:
    return ", ".join(f"{name} {_text.short(state, 50)}" for name, state in gates.items()) or "–"
