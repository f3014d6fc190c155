"""A rollout as people read it: who gets what, what the evidence is, what comes next."""

from typing import Any

from longrein.cli import _text

ENDS = {"promoted": "was promoted", "rolled_back": "was taken back", "replaced": "was given up"}


def as_text(r: dict[str, Any]) -> str:
    """A few lines, of what models.experiment.describe tells."""
    name = r["strategy"] if r["stage"] == r["strategy"] else f"{r['stage']} after {r['strategy']}"
    if not r["ended_ms"]:
        head = f"endpoint {r['endpoint']}: {name} of {r['candidate']}, begun {_text.ago(r['started_ms'])}"
        head += ", paused" if r["status"] == "paused" else ""
    else:
        head = f"endpoint {r['endpoint']}: {r['candidate']} {ENDS[r['status']]} {_text.ago(r['ended_ms'])} ({name})"
    lines = [head]
    if not r["ended_ms"]:
        candidate = share(r["weight"]) if r["weight"] else f"{share(r['shadow'])} copied"
        rows = [
            (r["stable"], share(1 - r["weight"]), f"{r['requests']['stable']:,} requests"),
            (r["candidate"], candidate, f"{r['requests']['candidate']:,} requests"),
        ]
        lines.append(_text.indent(_text.table(rows)))
    lines += [f"  {sentence}" for sentence in r["evidence"]]
    if r["reason"] and r["ended_ms"]:
        lines.append(f"  by {r['actor']}: {r['reason']}")
    if not r["ended_ms"]:
        lines.append("  next: " + outlook(r))
        lines.append(f"  now: longrein promote {r['candidate']}, or longrein rollback {r['endpoint']}")
    return "\n".join(lines)


def outlook(r: dict[str, Any]) -> str:
    if r["status"] == "paused":
        return f"nothing until longrein rollout {r['endpoint']} --resume; it is taken back all the same if it is worse"
    if not r["deadline_ms"]:
        return str(r["next"])
    return f"{r['next']}; taken back if worse; {r['undecided']} if undecided at {_text.when(r['deadline_ms'])}"


def share(weight: float) -> str:
    return f"{100 * weight:.4g} %"


def way(strategy: dict[str, Any]) -> str:
    """How a release moves in, of the strategy as plain data: `canary 5 → 25 → 50 %`."""
    name = strategy["strategy"]
    if name == "canary":
        return "canary " + " → ".join(f"{step['weight']:g}" for step in strategy["steps"]) + " %"
    if name == "shadow":
        then = strategy["then"]
        return f"shadow {strategy['share']:g} %, then {then if isinstance(then, str) else way(then)}"
    if name == "ab":
        return f"A/B at {strategy['weight']:g} %, by {strategy['judge']['goal']}"
    if name == "bandit":
        return f"bandit by {strategy['judge']['goal']}, {strategy['floor']:g} % at least for each"
    return "switched whole"
