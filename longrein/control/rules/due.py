"""When a rule fires: a pure machine, (rule, what happened, its firings so far, the time) → firings that are due."""

from collections.abc import Sequence
from typing import NamedTuple

from longrein.control.rules.rule import ALERTS, DATA, Config, moments, seconds
from longrein.core.ledger import Alert
from longrein.core.ledger.alerts import SEVERITIES

DEPTH = 3  # a firing may bring about another one, and that one more; then a person has to look
CAUSED_BY = "caused_by"  # in an alert's evidence: the firing that brought it about
SETTLED_MS = 60_000  # an alert that came and went between two looks counts for so long


class Cause(NamedTuple):
    """Something that happened, once."""

    key: str  # no two causes share it
    kind: str  # an alert's, "data_changed", "schedule", "by hand"
    endpoint: str  # "": of none
    summary: str
    since_ms: int  # when it began
    at_ms: int  # when it was noticed
    severity: str = "critical"
    alert: int = 0  # its id
    by: tuple[str, ...] = ()  # names of the rules that brought it about, the newest last


class Past(NamedTuple):
    """A firing of this rule."""

    key: str
    endpoint: str
    started_ms: int
    running: bool = False
    cost_usd: float = 0.0


class Held(NamedTuple):
    """A cause that a rule would act on, and why it does not now."""

    cause: Cause
    why: str
    until_ms: int  # 0: not known


def decide(
    name: str, rule: Config, causes: Sequence[Cause], past: Sequence[Past], now: int
) -> tuple[list[Cause], list[Held]]:
    """What fires now, and what is held back. past: all of those within the budget's time and the cooldown, and any
    firing of these causes."""
    fire: list[Cause] = []
    held: list[Held] = []
    firings, known = list(past), {one.key for one in past}
    for cause in sorted(causes, key=lambda c: c.at_ms):
        if cause.key in known or not matches(rule, cause, now):
            continue
        if why := _barred(name, rule, cause, firings, now):
            held.append(Held(cause, *why))
            continue
        fire.append(cause)
        known.add(cause.key)
        firings.append(Past(cause.key, cause.endpoint, now, running=True))
    return fire, held


def matches(rule: Config, cause: Cause, now: int) -> bool:
    if cause.kind != (rule.on or "schedule") or (rule.endpoint and cause.endpoint not in ("", rule.endpoint)):
        return False
    if cause.kind not in ALERTS:
        return True
    loud = SEVERITIES.index(cause.severity) >= SEVERITIES.index(rule.when.severity)
    return loud and now - cause.at_ms >= rule.when.for_s * 1000


def _barred(name: str, rule: Config, cause: Cause, firings: Sequence[Past], now: int) -> tuple[str, int] | None:
    """(why not now, until when)."""
    if name in cause.by:
        return "it brought this about itself", 0
    if len(cause.by) >= DEPTH:
        return f"{DEPTH} rules have led to this already: a person has to look", 0
    here = [one for one in firings if one.endpoint == (rule.endpoint or cause.endpoint)]
    if any(one.running for one in here):
        return "it is at work here already", 0
    cooled = max((one.started_ms for one in here), default=-1 << 62) + int(seconds(rule.cooldown) * 1000)
    if cooled > now:
        return f"it cools down for {rule.cooldown}", cooled
    span = int(seconds(rule.budget.per) * 1000)
    recent = sorted(one.started_ms for one in firings if one.started_ms > now - span)
    if len(recent) >= rule.budget.runs:
        return f"it has fired {len(recent)} times in {rule.budget.per}", recent[-rule.budget.runs] + span
    spent = sum(one.cost_usd for one in firings if one.started_ms > now - span)
    if rule.budget.usd is not None and recent and spent >= rule.budget.usd:
        return f"it has spent ${spent:.2f} in {rule.budget.per}", recent[0] + span
    return None


def of_alert(alert: Alert) -> Cause:
    kind, _, rest = alert.subject.partition(":")
    endpoint = rest.partition("@")[0] if kind in ("endpoint", "release") else ""
    by = alert.evidence.get(CAUSED_BY)
    return Cause(
        f"alert:{alert.id}", alert.kind, endpoint, alert.summary, alert.since_ms, alert.fired_ms, alert.severity,
        alert.id, tuple(map(str, by)) if isinstance(by, list) else (),
    )  # fmt: skip


def of_data(dataset: str, key: str, by: tuple[str, ...], now: int) -> Cause:
    """key: of the step that would make the dataset's next version."""
    return Cause(f"data:{key}", DATA, "", f"the sources of {dataset} changed", now, now, by=by)


def of_schedule(name: str, rule: Config, declared_ms: int, now: int) -> Cause | None:
    """The newest moment that has come since the rule was declared; missed ones before it are left out."""
    if rule.every:
        span = int(seconds(rule.every) * 1000)
        moment = now // span * span
    elif rule.schedule:
        moment = next(moments(rule.schedule, now + 1, reverse=True), 0)
    else:
        return None
    if moment <= declared_ms:
        return None
    return Cause(f"time:{name}:{moment}", "schedule", rule.endpoint, f"it is time: {rule.trigger}", moment, moment)


def next_moment(rule: Config, now: int) -> int | None:
    """When a rule with a schedule comes next."""
    if rule.every:
        span = int(seconds(rule.every) * 1000)
        return now // span * span + span
    return next(moments(rule.schedule, now), None) if rule.schedule else None
