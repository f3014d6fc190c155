"""Show whether what endpoints are asked and answer is still as it was, and what changed; or accept it as normal."""

from contextlib import suppress
from socket import gethostname
from typing import TYPE_CHECKING, Any

import click

from longrein.cli import _text
from longrein.cli.main import Session
from longrein.core.errors import Error, nearest

if TYPE_CHECKING:
    from longrein.core.ledger import Alert
    from longrein.workspace import Workspace

KIND = "drifted"
HEADS = ("endpoint", "watch", "state", "evidence", "last hour", "requests", "compared with")
SHOWN = 3  # features, kinds and examples


@click.command(help=__doc__)
@click.argument("endpoint", default="")
@click.option("--accept", is_flag=True, help="What there is now is normal: look for changes from here on.")
@click.option("--reason", default="", help="Why it is, for the audit trail.")
@click.option("--affected", is_flag=True, help="The ids of requests that an alert is about, of this host.")
@click.option("-n", "--limit", default=100, show_default=True, type=click.IntRange(1, 20_000), help="How many of them.")
@click.pass_obj
def command(session: Session, endpoint: str, accept: bool, reason: str, affected: bool, limit: int) -> None:
    workspace = session.workspace
    if (accept or affected) and not endpoint:
        raise click.UsageError("name the endpoint")
    if endpoint:
        _check(workspace, endpoint)
    if accept:
        workspace.ledger.drift.accept(endpoint, actor=workspace.actor, reason=reason)
        session.say(f"what {endpoint} sees now is normal; the observer begins to compare with it")
    if affected:
        ids = _affected(workspace, endpoint, limit)
        session.show(ids, "\n".join(ids) or "no request of this host is known to be like those of an alert that fires")
        return
    found = describe(workspace, endpoint)
    session.show(found, as_text(found))


def describe(workspace: "Workspace", endpoint: str = "") -> dict[str, Any]:
    """{"streams": the newest word on each, evidence of all hosts added up; "alerts": those that fire}."""
    ledger = workspace.ledger
    alerts = [a for a in ledger.alerts.firing(KIND) if endpoint in ("", a.subject.partition(":")[2])]
    streams: dict[tuple[str, str, str], dict[str, Any]] = {}
    rows = sorted(ledger.drift.of(endpoint), key=lambda row: -row["updated_ms"])
    for row in rows:
        for state in row["state"]["streams"]:
            about = {"endpoint": row["endpoint"], "hosts": [], "updated_ms": row["updated_ms"], "left_out": 0}
            one = streams.setdefault((row["endpoint"], state["group"], state["key"]), about | state | {"evidence": 0.0})
            one["hosts"].append(row["host"])
            one["evidence"] += state["evidence"]
            one["left_out"] += row["state"]["left_out"]
            one["seen"] = state["seen"] + (one["seen"] if len(one["hosts"]) > 1 else 0)
            one["drifted"] = any(a.subject == f"endpoint:{row['endpoint']}" and a.evidence["key"] == state["key"]
                                 and a.name == state["group"] for a in alerts)  # fmt: skip
    for one in streams.values():
        release = ledger.assets.by_digest(one["release"], "release") if len(one["release"]) >= 8 else None
        one["release"] = release.ref if release else one["release"][:12]
    judged = [(row, told) for row in rows if (told := row["state"].get("judge"))]
    judges = [{"endpoint": row["endpoint"], "host": row["host"], **told} for row, told in judged]
    return {
        "streams": list(streams.values()),
        "judges": judges,
        "alerts": [_as_data(workspace, alert) for alert in alerts],
    }


def as_text(found: dict[str, Any]) -> str:
    if not found["streams"] and not found["judges"]:
        return "nothing is watched yet: declare `drift: true` at an endpoint, and serve it"
    parts = [_text.table([_row(one) for one in found["streams"]], HEADS)] if found["streams"] else []
    for one in found["judges"]:
        parts.append(
            f"{one['graded']} answers of {one['endpoint']} were graded since the observer of {one['host']} began, "
            f"{one['failed']} could not be, {one['left_out']} were too many"
        )
    if lost := sum(one["left_out"] for one in found["streams"]):
        parts.append(f"{lost} answers were left out: more came than could be weighed, or nobody listened")
    return "\n\n".join([*parts, *map(_alert, found["alerts"])])


def _row(one: dict[str, Any]) -> tuple[str, ...]:
    from math import log10

    from longrein.ops.monitor.series import spark

    state = "drifted" if one["drifted"] else f"learns, {one['learning']} to go" if one["learning"] else "as it was"
    watch = f"{one['group']} of {one['release']}" if one["release"] else one["group"]
    line = spark([*one["trace"], log10(one["needed"])])[:-1]
    odds = f"{_odds(one['evidence'])} of {one['needed']:,}" if one["evidence"] > 1 else "none"
    return one["endpoint"], watch, state, odds, line, _text.number(one["seen"]), one["normal"]


def _alert(alert: dict[str, Any]) -> str:
    told, endpoint = alert["evidence"], alert["subject"].partition(":")[2]
    lines = [f"{alert['summary']}; since {_text.when(alert['since_ms'])}, {_text.ago(alert['since_ms'])}"]
    for f in told["features"][:SHOWN]:
        lines.append(f"  {f['name']}: {f['before']:.3g} → {f['after']:.3g}, {_odds(f['evidence'])}")
    for kind in told["kinds"][:SHOWN]:
        words = ", ".join(kind["words"][:5]) or "words are not kept"
        lines.append(f"  {kind['before']:.0%} → {kind['after']:.0%} of requests: {words}")
    for word in ("before", "after"):
        for id in told[word][:SHOWN]:
            lines.append(f"  {word} {id}  {_text.short(alert['texts'].get(id, ''), 70)}".rstrip())
    lines.append(f"  requests like these: longrein drift {endpoint} --affected; is it normal now? --accept")
    return "\n".join(lines)


def _odds(evidence: float) -> str:
    """By chance there is so much once in so many requests."""
    return f"1 in {evidence:,.0f}" if evidence < 1e9 else "1 in 10^9 or more"


def _as_data(workspace: "Workspace", alert: "Alert") -> dict[str, Any]:
    """With the texts of examples, as far as this host's log has them."""
    from longrein.ops.monitor.message import as_data

    texts, told = {}, alert.evidence
    for id in {*told["before"][:SHOWN], *told["after"][:SHOWN]} if told["host"] == gethostname() else ():
        with suppress(Error):
            request = workspace.requests.get(id)
            texts[id] = request["output" if told["text"] == "output" else "input"] or ""
    return as_data(alert) | {"texts": texts}


def _check(workspace: "Workspace", endpoint: str) -> None:
    known = (workspace.ledger.work.wanted() or {}).get("endpoints") or {}
    if endpoint not in known:
        raise Error("not_found", f"there is no endpoint {endpoint[:100]!r}", nearest(endpoint, known))
    if not (known[endpoint].get("drift") or known[endpoint].get("judge")):
        raise Error(
            "invalid", f"endpoint {endpoint} is not watched for drift", "declare `drift: true` there, and apply"
        )


def _affected(workspace: "Workspace", endpoint: str, limit: int) -> list[str]:
    from longrein.control.drifting import affected

    alerts = [a for a in workspace.ledger.alerts.firing(KIND) if a.subject == f"endpoint:{endpoint}"]
    ids = [id for alert in alerts for id in affected(workspace.root, alert, limit)]
    return list(dict.fromkeys(ids))[:limit]
