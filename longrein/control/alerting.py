"""Raises alerts, and resolves them: of endpoints that break their objectives, and of releases that were taken back."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from longrein.core import objective as declared
from longrein.core.errors import Error
from longrein.core.ledger import Alert, Block
from longrein.core.ledger.traffic import BLOCK_MS, SETTLED_MS
from longrein.core.objective import Objective, objectives
from longrein.core.record import FOLDER
from longrein.ops.monitor.message import sentence
from longrein.ops.monitor.objective import (
    COARSE_MS,
    DAY_MS,
    FINE_FOR_MS,
    HOUR_MS,
    MINUTE_MS,
    Firing,
    Series,
    burn_rate,
    judge,
    measure,
)

if TYPE_CHECKING:
    from longrein.control.observer import Site

AGAIN_MS = MINUTE_MS  # how much is read again in each look: a gateway may write a little late
RESET_MS = HOUR_MS  # a clock that jumps further than this, or a host that slept: begin anew
EXAMPLES, LOOKED_AT = 5, 300  # requests named in an alert, of so many of the newest
WORST = 3  # releases and teams named
ALL_MS = 3 * DAY_MS  # the longest window that an alert rests on


class Alerting:
    def __init__(self, site: "Site") -> None:
        self.site = site
        self._watches = [Watch(site, name, e.objectives) for name, e in site.spec.endpoints.items() if e.objectives]
        self._head = 0

    def look(self, now: int) -> None:
        until = (now - SETTLED_MS) // BLOCK_MS * BLOCK_MS
        for watch in self._watches:
            watch.look(until)
        self._follow_rollouts(now)

    def close(self) -> None:
        """All there is to keep is in the ledger."""

    def _follow_rollouts(self, now: int) -> None:
        head, _ = self.site.ledger.events.head()
        if head != self._head:
            self._resolve_undeclared()
            self._tell_rollbacks(now)
            self._head = head

    def _resolve_undeclared(self) -> None:
        """What fires for an objective that nobody declares any more would fire for ever, and be shown."""
        self.site.ledger.objectives.keep([watch.name for watch in self._watches])
        known = {(o.kind, f"endpoint:{w.name}", o.name) for w in self._watches for o in w.series}
        for alert in self.site.ledger.alerts.firing():
            key = (alert.kind, alert.subject, alert.name)
            if "objective" in alert.evidence and key not in known:
                self.site.ledger.alerts.resolve(*key, summary="it is no objective any more", actor=self.site.actor)

    def _tell_rollbacks(self, now: int) -> None:
        """A release that a rollout took back by itself: it fires for a day, or until the next one is rolled out."""
        ledger, actor = self.site.ledger, self.site.actor
        for event in reversed(ledger.events.recent(kind="rollout.rolled_back", after=self._head)):
            rollout = ledger.rollouts.get(event.data["rollout"])
            subject, name = f"endpoint:{rollout.endpoint}", f"rollout {rollout.id}"
            by_itself = rollout.state.get("outcome") == "rolled_back"  # else a person did it, who knows
            if not by_itself or event.ts_ms < now - DAY_MS:
                continue
            if any(a.name == name and a.kind == "degraded" for a in ledger.alerts.recent(subject=subject)):
                continue
            told = {"rollout": rollout.id, "release": rollout.candidate.ref, "reason": event.data["reason"]}
            told |= {"decision": event.data["evidence"]} if "evidence" in event.data else {}
            ledger.alerts.fire(
                "degraded", subject, name, summary=sentence("degraded", told), evidence=told, actor=actor,
                since_ms=rollout.started_ms,
            )  # fmt: skip
        for alert in ledger.alerts.firing("degraded"):
            endpoint, mine = alert.subject.partition(":")[2], alert.evidence.get("rollout")
            latest = next(iter(ledger.rollouts.recent(endpoint, 1)), None) if mine else None
            if latest and (latest.id != mine or alert.fired_ms < now - DAY_MS):
                ledger.alerts.resolve("degraded", alert.subject, alert.name, actor=actor)


class Watch:
    """One endpoint's objectives. It reads each block of traffic about twice: when it has settled, and once more in the
    hours after, in which a gateway that was cut off may still write. What is older is read backwards, a little at each
    look, so that none takes long; an alert waits until its windows are known."""

    def __init__(self, site: "Site", name: str, config: declared.Config) -> None:
        self.site, self.name, self.config = site, name, config
        self.span_ms = max(int(config.days * DAY_MS), ALL_MS)
        self._reset(0)

    def _reset(self, until: int) -> None:
        self.series = {o: Series(self.span_ms) for o in objectives(self.config)}
        self.read_ms = self.known_ms = self.swept_ms = until // COARSE_MS * COARSE_MS - COARSE_MS
        self.told_ms = 0

    def look(self, until: int) -> None:
        """until: the end of the last block that has settled."""
        if not -MINUTE_MS <= until - self.read_ms <= RESET_MS:
            self._reset(until)
        if until > self.read_ms:
            self._read(max(self.read_ms - AGAIN_MS, self.known_ms), until)
            self.read_ms = until
            self._sweep(until)
        elif self.known_ms <= until - self.span_ms:
            return
        if self.known_ms > until - self.span_ms:
            self._read_back(until)
        self._judge(until)

    def _read(self, since: int, until: int) -> None:
        blocks = [b for b in self.site.ledger.traffic.blocks(self.name, since, until) if b.arm == ""]
        for objective, series in self.series.items():
            series.put(since, until, [(block.start_ms, measure(objective, block)) for block in blocks])

    def _sweep(self, until: int) -> None:
        """Read one slot of the last hours again, each time an older one."""
        if self.swept_ms - COARSE_MS < max(until - FINE_FOR_MS + COARSE_MS, self.known_ms):
            self.swept_ms = until // COARSE_MS * COARSE_MS
        else:
            self._read(self.swept_ms - COARSE_MS, self.swept_ms)
            self.swept_ms -= COARSE_MS

    def _read_back(self, until: int) -> None:
        """Blocks older than a day are longer, and so fewer."""
        step = HOUR_MS if self.known_ms > until - DAY_MS else 12 * HOUR_MS
        self._read(self.known_ms - step, self.known_ms)
        self.known_ms -= step
        for series in self.series.values():
            series.trim(until)

    def _judge(self, until: int) -> None:
        firing = {a.key: a for a in self.site.ledger.alerts.firing()}
        minute = until - self.told_ms >= MINUTE_MS
        for objective, series in self.series.items():
            alert = firing.get(f"{objective.kind} endpoint:{self.name} {objective.name}")
            found = judge(objective, series, until, self.known_ms)
            if found and (minute or alert is None or alert.severity != found.rule.severity):
                self._fire(objective, found, alert, until)
            elif alert and not found and self.known_ms <= until - ALL_MS:
                self.site.ledger.alerts.resolve(
                    objective.kind, alert.subject, alert.name, actor=self.site.actor
                )  # fmt: skip
        if minute:
            self.told_ms = until
            self._tell(until)
            for series in self.series.values():
                series.trim(until)

    def _tell(self, until: int) -> None:
        """How all of them stand."""
        states = {o.name: {**self._target(o), "budget_left": self._left(o, until),
                           "events": s.sum(until, self.span_ms).n, "complete": self.known_ms <= until - self.span_ms,
                           "burn_rates": {ms // 1000: round(burn_rate(o, s.sum(until, ms), ms), 4)
                                          for ms in (HOUR_MS, 6 * HOUR_MS, ALL_MS)}}
                  for o, s in self.series.items()}  # fmt: skip
        self.site.ledger.objectives.put(self.name, states, until)

    def _fire(self, objective: Objective, found: Firing, before: Alert | None, until: int) -> None:
        rule, kept = found.rule, before.evidence if before else {}
        evidence = {
            **self._target(objective), "objective": objective.name,
            "window_s": rule.long_ms // 1000, "burn_rate": burn_rate(objective, found.long, rule.long_ms),
            "short_window_s": rule.short_ms // 1000,
            "short_burn_rate": burn_rate(objective, found.short, rule.short_ms), "threshold": rule.rate,
            "events": found.long.n, "bad": found.long.bad, "budget_left": self._left(objective, until),
        }  # fmt: skip
        if before and before.severity == rule.severity:
            evidence |= {name: kept[name] for name in ("releases", "teams", "requests") if name in kept}
        else:
            evidence |= self._culprits(objective, until) | {"requests": self._examples(objective, until)}
        self.site.ledger.alerts.fire(
            objective.kind, f"endpoint:{self.name}", objective.name, severity=rule.severity, evidence=evidence,
            summary=sentence(objective.kind, evidence), since_ms=found.since_ms, actor=self.site.actor,
        )  # fmt: skip

    def _target(self, o: Objective) -> dict[str, Any]:
        money = {"usd_per_day": o.usd_per_day} if o.usd_per_day else {"budget": o.budget}
        return money | {"days": self.config.days} | ({"limit_s": o.limit_ms / 1000} if o.limit_ms else {})

    def _left(self, objective: Objective, until: int) -> float:
        """Share of the error budget that is left; below zero when more than all is used."""
        span_ms = int(self.config.days * DAY_MS)
        return 1 - burn_rate(objective, self.series[objective].sum(until, span_ms), span_ms)

    def _culprits(self, objective: Objective, until: int) -> dict[str, Any]:
        """Releases and teams with the most bad events of the last hour."""
        blocks = [
            b for b in self.site.ledger.traffic.blocks(self.name, until - HOUR_MS, until, teams=True) if not b.arm
        ]
        return {"releases": _worst(objective, blocks, "release"), "teams": _worst(objective, blocks, "team")}

    def _examples(self, objective: Objective, until: int) -> list[str]:
        """The ids of some of the newest bad requests, where their log lies on this host."""
        from longrein.data.requests import Query, RequestLog  # brings pyarrow, which is needed here only

        status = {"availability": "5xx", "throttled": "429"}.get(objective.name, "")
        query = Query(endpoint=self.name, status=status, since_ms=until - HOUR_MS)
        try:
            newest = RequestLog(self.site.home / FOLDER).find(query, LOOKED_AT)
        except (Error, OSError):  # the alert matters more
            return []
        return [r["id"] for r in newest if _is_bad(objective, r)][:EXAMPLES]


def _worst(objective: Objective, blocks: Iterable[Block], by: str) -> list[dict[str, Any]]:
    found: dict[str, list[float]] = {}
    for block in blocks:
        counts = measure(objective, block)
        total = found.setdefault(getattr(block, by), [0.0, 0.0])
        total[0], total[1] = total[0] + counts.n, total[1] + counts.bad
    worst = sorted(((bad, n, who) for who, (n, bad) in found.items() if bad > 0), reverse=True)[:WORST]
    return [{by: who, "events": n, "bad": bad} for bad, n, who in worst]


def _is_bad(objective: Objective, request: Mapping[str, Any]) -> bool:
    if objective.metric == "latency_ms":
        return bool(request["status"] == 200 and request["total_ms"] > objective.limit_ms)
    if objective.metric == "ttft_ms":
        return bool((request["ttft_ms"] or 0.0) > objective.limit_ms)
    if objective.metric == "token_ms":
        rest = request["completion_tokens"] - 1
        took_ms = request["total_ms"] - (request["ttft_ms"] or 0.0)
        return bool(rest > 0 and took_ms / rest > objective.limit_ms)
    if objective.metric in ("guarded", "refusals"):
        return bool(request["guards"] if objective.metric == "guarded" else request.get("refusal"))
    return objective.kind != "feedback_low"
