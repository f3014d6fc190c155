"""Burn rates: how fast the error budget of an objective is used up, and when that is worth an alert. Pure, no clock.

Multi-window, multi-burn-rate alerts of Google's SRE workbook, chapter 5: an alert fires while the budget burns fast
enough over a long window, so that it matters, and over a short one too, so that it ends soon after the trouble does.
With little traffic one bad answer is a large share: so what the long window holds must also be more than chance.
"""

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

from longrein.core.ledger.traffic import Block
from longrein.core.objective import TIMINGS, Objective

MINUTE_MS, HOUR_MS, DAY_MS = 60_000, 3_600_000, 86_400_000
FINE_MS, COARSE_MS = 10_000, 300_000  # slots of windows up to an hour, and of longer ones
FINE_FOR_MS = 6 * HOUR_MS + COARSE_MS  # how long fine slots are kept: what comes late changes them
CHANCE = 1e-5  # that a service within its objective looks so bad in a window, at most


class Rule(NamedTuple):
    """Fire when the budget burns `rate` times as fast as would use it up just at the end of its days, in both."""

    severity: str
    rate: float
    long_ms: int
    short_ms: int


RATIO = (
    Rule("critical", 14.4, HOUR_MS, 5 * MINUTE_MS),  # 2 % of a month's budget in an hour
    Rule("critical", 6.0, 6 * HOUR_MS, 30 * MINUTE_MS),  # 5 % in six hours
    Rule("warning", 1.0, 3 * DAY_MS, 6 * HOUR_MS),  # 10 % in three days
)
SPENT = (
    Rule("critical", 1.0, DAY_MS, HOUR_MS),  # a day's money is gone, and it goes on
    Rule("warning", 6.0, HOUR_MS, 5 * MINUTE_MS),  # a quarter of it in an hour
)


class Counts(NamedTuple):
    """n events of which `bad` were, or `bad` dollars spent."""

    n: float = 0.0
    bad: float = 0.0


class Firing(NamedTuple):
    """An alert that is due, and why."""

    rule: Rule
    long: Counts
    short: Counts
    since_ms: int  # when it began


def measure(objective: Objective, block: Block) -> Counts:
    """What a block of traffic says of an objective."""
    if objective.usd_per_day:
        return Counts(0.0, block.cost_usd)
    if objective.kind == "feedback_low":
        scores = block.scores.get(objective.metric)
        return Counts(scores.count, scores.count - min(max(scores.sum, 0.0), scores.count)) if scores else Counts()
    if objective.metric in TIMINGS.values():
        times = block.timings.get(objective.metric)
        return Counts(times.count, times.count - times.below(objective.limit_ms)) if times else Counts()
    return Counts(block.requests, getattr(block, objective.metric))


class Series:
    """Counts by time: fine slots of the last hours, and coarse ones of all `span_ms`."""

    def __init__(self, span_ms: int) -> None:
        self.span_ms = span_ms
        self._fine: dict[int, Counts] = {}
        self._coarse: dict[int, Counts] = {}

    def put(self, since_ms: int, until_ms: int, found: Iterable[tuple[int, Counts]]) -> None:
        """What there is in [since_ms, until_ms), in place of what was known of it: so it may be read again, and more
        may have come meanwhile. Both are multiples of FINE_MS; of COARSE_MS, where it is older than FINE_FOR_MS."""
        fine = self._fine
        for slot in range(since_ms, until_ms, FINE_MS):
            fine.pop(slot, None)
        for start, (n, bad) in found:
            slot = start // FINE_MS * FINE_MS
            before = fine.get(slot, Counts())
            fine[slot] = Counts(before.n + n, before.bad + bad)
        for slot in range(since_ms // COARSE_MS * COARSE_MS, until_ms, COARSE_MS):
            total = _sum(fine, slot, slot + COARSE_MS, FINE_MS)
            if total.n or total.bad:
                self._coarse[slot] = total
            else:
                self._coarse.pop(slot, None)

    def trim(self, now: int) -> None:
        for slots, kept_ms in ((self._fine, FINE_FOR_MS), (self._coarse, self.span_ms)):
            for start in [start for start in slots if start < now - kept_ms - COARSE_MS]:
                del slots[start]

    def sum(self, now: int, window_ms: int) -> Counts:
        """Over the window that ends now; a long one begins with a whole coarse slot."""
        if window_ms <= HOUR_MS:
            return _sum(self._fine, now - window_ms, now, FINE_MS)
        return _sum(self._coarse, (now - window_ms) // COARSE_MS * COARSE_MS, now, COARSE_MS)

    def began(self, now: int, bad: Callable[[Counts], bool]) -> int:
        """When the first of the coarse slots began that have been bad without a break until now; as fine as known."""
        start = now
        for slot in range(now // COARSE_MS * COARSE_MS, now - self.span_ms, -COARSE_MS):
            if slot in self._coarse and not bad(self._coarse[slot]):
                break
            start = slot if slot in self._coarse else start
        within = range(start, start + COARSE_MS, FINE_MS)
        return next((slot for slot in within if slot in self._fine and bad(self._fine[slot])), start)


def judge(objective: Objective, series: Series, now: int, known_ms: int) -> Firing | None:
    """The most severe alert that is due at the end of a block. known_ms: what came before is not read yet."""
    for rule in SPENT if objective.usd_per_day else RATIO:
        if now - rule.long_ms < known_ms:
            continue
        most, short = reachable(objective, rule.rate), series.sum(now, rule.short_ms)
        if burn_rate(objective, short, rule.short_ms) < most:
            continue
        long = series.sum(now, rule.long_ms)
        if burn_rate(objective, long, rule.long_ms) >= most and more_than_chance(objective, long):
            since = series.began(now, lambda c: burn_rate(objective, c, COARSE_MS) >= 1)
            return Firing(rule, long, short, since)
    return None


def burn_rate(objective: Objective, counts: Counts, window_ms: int) -> float:
    """How many times as fast as allowed the budget is used up; 0 where nothing happened."""
    allowed = objective.usd_per_day * window_ms / DAY_MS if objective.usd_per_day else counts.n * objective.budget
    return counts.bad / allowed if allowed else 0.0


def more_than_chance(objective: Objective, counts: Counts) -> bool:
    """Whether a service that just keeps its objective would be seen as bad as this with a chance of at most CHANCE:
    Chernoff's bound on the tail of the binomial, exp(-n KL(bad / n, budget)). Money is no matter of chance."""
    if objective.usd_per_day:
        return True
    p, q = min(counts.bad / counts.n, 1.0) if counts.n else 0.0, objective.budget
    if p <= q:
        return False
    divergence = p * math.log(p / q) + ((1 - p) * math.log((1 - p) / (1 - q)) if p < 1 else 0.0)
    return counts.n * divergence >= -math.log(CHANCE)


def reachable(objective: Objective, rate: float) -> float:
    """A rate that can be: with a budget of a fifth, all being bad is a rate of 5. Half-way there is fast."""
    return min(rate, (1 + 1 / objective.budget) / 2) if objective.budget else rate


def _sum(slots: dict[int, Counts], since_ms: int, until_ms: int, length_ms: int) -> Counts:
    found = [slots[start] for start in range(since_ms, until_ms, length_ms) if start in slots]
    return Counts(sum([c.n for c in found]), sum([c.bad for c in found]))
