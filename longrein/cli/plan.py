"""Show what apply would do and why, which gates will judge, and what a rollback would go to."""

from typing import TYPE_CHECKING, Any

import click

from longrein.cli import _rollout, _text
from longrein.cli.main import Session

if TYPE_CHECKING:
    from longrein.control.plan import Deployment, Plan, Planned

STATES = {"blocked": ", blocked", "waiting": ", waiting for a person", "rolling": ", being rolled out",
          "frozen": ", frozen by a rule"}  # fmt: skip
WORDS = {"ready": "run", "after": "then", "running": "busy", "failed": "retry", "done": "keep"}


@click.command(help=__doc__)
@click.pass_obj
def command(session: Session) -> None:
    workspace = session.workspace
    found, price = workspace.plan(), workspace.spec.compute.usd_per_hour
    session.show(as_data(found) | {"usd_per_hour": price}, as_text(found, price))


def as_data(plan: "Plan") -> dict[str, Any]:
    return {
        "changes": plan.changes,
        "steps": [_step(p) for p in plan.steps],
        "endpoints": [_endpoint(d) for d in plan.deployments],
    }


def as_text(plan: "Plan", usd_per_hour: float = 0.0) -> str:
    """usd_per_hour: what the machine costs, for an estimate from what each step took last time."""
    if not plan.steps:
        return "longrein.yaml declares nothing yet\nhint: longrein init --data FILE, or add a dataset to it"
    rows = [_row(p) for p in plan.steps]
    parts = [_text.table(rows, ("do", "step", "why", "last took"))]
    ends = [line for d in plan.deployments for line in _lines(d)]
    parts += ["\n".join(ends)] if ends else []
    parts.append(_sum(plan, usd_per_hour))
    return "\n\n".join(parts)


def _row(p: "Planned") -> tuple[str, ...]:
    why = p.output.ref if p.status == "done" and p.output else "; ".join(p.reasons)
    return WORDS[p.status], p.step.id, _text.short(why, 90), _text.duration(p.last_wall_s)


def _lines(d: "Deployment") -> list[str]:
    if d.status == "serving":
        lines = [f"endpoint {d.endpoint} serves {d.serving.ref}" if d.serving else ""]
    else:
        now = d.serving.ref if d.serving else "nothing yet"
        wanted = d.release.ref if d.release else "a new release"
        lines = [f"endpoint {d.endpoint} serves {now}; wanted: {wanted}{STATES.get(d.status, '')}"]
    if d.status != "serving" and d.strategy.tag != "blue_green":
        lines.append(f"  it moves in as {_rollout.way(d.strategy.as_data())}")
    lines += [f"  gate {name}: {state}" for name, state in d.gates.items()]
    if d.status == "held":
        lines.append("  it was rolled back from: longrein promote brings it back")
    if d.serving and d.status in ("after", "judge", "ready", "rolling", "waiting"):  # once the new release is out
        lines.append(f"  a rollback would go to {d.serving.ref}")
    elif d.rollback:
        lines.append(f"  a rollback would go to {d.rollback.ref}")
    return lines


def _sum(plan: "Plan", usd_per_hour: float) -> str:
    if not plan.changes:
        return "nothing to do"
    todo = [p for p in plan.steps if p.status != "done"]
    known = [p.last_wall_s for p in todo if p.last_wall_s is not None]
    if not todo:
        return "nothing to run; a release to judge or to put into production: longrein apply"
    told = f"{len(todo)} of {len(plan.steps)} steps to run"
    if known:
        cost = f" and {_text.money(sum(known) / 3600 * usd_per_hour)}" if usd_per_hour else ""
        told += f", about {_text.duration(sum(known))}{cost}" + ("" if len(known) == len(todo) else " for those known")
    return f"{told}: longrein apply"


def _step(p: "Planned") -> dict[str, Any]:
    return {
        "step": p.step.id, "capability": p.step.capability, "status": p.status, "reasons": p.reasons, "key": p.key,
        "output": p.output.ref if p.output else None, "last_wall_s": p.last_wall_s, "error": p.error,
    }  # fmt: skip


def _endpoint(d: "Deployment") -> dict[str, Any]:
    return {
        "endpoint": d.endpoint, "status": d.status, "release": d.release.ref if d.release else None,
        "serving": d.serving.ref if d.serving else None, "gates": d.gates,
        "rollback": d.rollback.ref if d.rollback else None, "strategy": d.strategy.as_data(),
    }  # fmt: skip
