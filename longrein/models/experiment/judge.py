"""Judges a release against the one that serves, block by block; wrong rollbacks stay rare however often one looks."""

import math
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from longrein.core.errors import Error, nearest
from longrein.core.evidence import Block, Counts, Histogram, Interval, Process, Ranks, Rates

Arm = Mapping[str, Counts | Histogram]  # metric -> what one arm saw in one block; metrics without data may be missing
Decided = Literal["continue", "degraded", "noninferior", "better", "undecided"]
Action = Literal["continue", "rollback", "promote", "hold"]
GROWTH = 1.02  # from one bucket of amounts to the next
WAIT = 15  # blocks for which what one arm has seen waits for the other arm


class Metric(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How one metric is judged. What is left out of a known metric is as KNOWN has it.

    Of a rate or a score, tolerance and margin are differences (.01: one point); of an amount, shares (.05: 5 %).
    """

    kind: Literal["rate", "amount", "score"] | None = None  # events per request; a positive quantity; any number
    better: Literal["lower", "higher"] | None = None  # lower, if not said
    tolerance: Annotated[float, Meta(ge=0, lt=1)] | None = None  # worse by no more than this is not degraded
    margin: Annotated[float, Meta(gt=0, lt=1)] | None = None  # proven to be worse by less than this is non-inferior
    noise: Annotated[float, Meta(ge=0, lt=1)] | None = None  # that an arm has by itself in a block, see docs


KNOWN = {
    "errors": Metric(kind="rate", better="lower", tolerance=0.002, margin=0.01, noise=0.2),
    "guard": Metric(kind="rate", better="lower", tolerance=0.002, margin=0.02, noise=0.2),
    "feedback": Metric(kind="rate", better="higher", tolerance=0.01, margin=0.1, noise=0.1),
    "quality": Metric(kind="rate", better="higher", tolerance=0.005, margin=0.08, noise=0.1),
    "latency": Metric(kind="amount", better="lower", tolerance=0.05, margin=0.1, noise=0.05),
    "ttft": Metric(kind="amount", better="lower", tolerance=0.05, margin=0.1, noise=0.05),
    "cost": Metric(kind="amount", better="lower", tolerance=0.05, margin=0.1, noise=0.05),
}
FILLED = {
    "rate": Metric(better="lower", tolerance=0.0, noise=0.2),
    "amount": Metric(better="lower", tolerance=0.0, noise=0.05),
    "score": Metric(better="lower", tolerance=0.0, noise=0.05),
}


class Judgement(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a release is judged while it is being moved in. Every key may be left out."""

    metrics: dict[str, Metric] = {}  # none: every known one that has data
    alpha: Annotated[float, Meta(gt=0, le=0.5)] = 0.05  # chance of a wrong rollback, and of a wrong promotion
    block_s: Annotated[float, Meta(gt=0)] = 20.0
    deadline_s: Annotated[float, Meta(gt=0)] = 3600.0
    undecided: Literal["promote", "rollback", "hold"] = "promote"  # at the deadline
    goal: str | None = None  # A/B: ends when this metric has told which arm is better

    def __post_init__(self) -> None:
        for name, metric in self.metrics.items():
            if metric.kind is None and name not in KNOWN:
                raise ValueError(f"The metric {name!r} needs a kind: rate, amount or score")
        if self.goal is not None and self.goal not in (self.metrics or KNOWN):
            raise ValueError(
                f"The goal {self.goal!r} is none of the metrics; {nearest(self.goal, self.metrics or KNOWN)}"
            )

    def resolved(self) -> dict[str, Metric]:
        """The metrics with everything filled in (a margin may be None: then nothing is to be proven of it)."""
        return {name: _filled(name, metric) for name, metric in (self.metrics or KNOWN).items()}


def _filled(name: str, metric: Metric) -> Metric:
    known = KNOWN.get(name)
    if known is None or metric.kind not in (None, known.kind):
        known = FILLED[metric.kind or "rate"]
    said = {field: value for field in Metric.__struct_fields__ if (value := getattr(metric, field)) is not None}
    return msgspec.structs.replace(known, **said)


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What one metric says so far."""

    metric: str
    worse: float  # e-value against "not worse than tolerated"
    worse_needed: float  # alone; together the metrics may need less
    noninferior: float | None  # e-value against "worse by the margin or more"
    noninferior_needed: float
    better: float | None  # e-value against "not better", of the goal
    effect: float  # of a rate: candidate - baseline; else: P(a candidate's value > a baseline's) - 1/2, ties half
    low: float  # of an interval that holds at all times together, at 1 - alpha
    high: float
    sentence: str


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What to do after a block, and why."""

    kind: Decided
    action: Action
    reason: str  # for the record and the people who read it
    blocks: int
    metrics: list[Evidence]


class _Track:
    """What is known of one metric."""

    def __init__(self, metric: Metric, state: Mapping[str, Any] | None = None) -> None:
        state = state or {}
        self.metric = metric
        self.stake: float = state.get("stake", 0.0)  # wealth it was given when it first had data
        self.worse, self.better, self.margin = (Process(**state.get(k, {})) for k in ("worse", "better", "margin"))
        self.interval = Interval(*state.get("interval", ()))
        self.baseline, self.candidate = (Counts(*state.get(k, (0, 0))) for k in ("baseline", "candidate"))
        self.waited: int = state.get("waited", 0)
        self.waiting = [_read(v) for v in state.get("waiting", [])]

    def dump(self) -> dict[str, Any]:
        return {
            **{k: getattr(self, k).dump() for k in ("worse", "better", "margin")},
            **{k: list(getattr(self, k)) for k in ("baseline", "candidate")},
            **{
                "interval": self.interval.dump(),
                "stake": self.stake,
                "waited": self.waited,
                "waiting": [_written(v) for v in self.waiting],
            },
        }

    def wait(self, baseline: Counts | Histogram | None, candidate: Counts | Histogram | None) -> list[Any]:
        """[baseline, candidate] once both have data; until then, and not for long, they wait for each other."""
        empty = Counts(0, 0) if self.metric.kind == "rate" else {}
        pair = [baseline or empty, candidate or empty]
        if self.waiting:
            pair = [_sum([old, new]) for old, new in zip(self.waiting, pair, strict=True)]
        if all(map(_size, pair)):
            self.waiting, self.waited = [], 0
            return pair
        self.waited += any(map(_size, pair))
        self.waiting, self.waited = ([], 0) if self.waited > WAIT else (pair if self.waited else [], self.waited)
        return []

    def observe(self, pair: list[Any], goals: tuple[float, float], blocks: float, left: float, goal: bool) -> None:
        """Bets on one block. goals: wealth wanted for `worse` and for `better` or `margin`; goal: which of the two."""
        look = self._rates if self.metric.kind == "rate" else self._ranks
        plain, worse, other = look(pair[0], pair[1], goal)
        self.worse.observe(worse, goals[0], left)
        if other:
            (self.better if goal else self.margin).observe(other, goals[1], left)
        self.interval.observe(plain.effect, plain.information * self._spread(), blocks)
        self.baseline += _counts(pair[0])
        self.candidate += _counts(pair[1])

    def _rates(self, baseline: Counts, candidate: Counts, goal: bool) -> tuple[Block, Block, Block | None]:
        """The block as it is, as the bets on worse see it, and as those on better (or on non-inferior) do."""
        m, guess = self.metric, self._guess()
        assert m.tolerance is not None and m.noise is not None
        plain = Rates(baseline, candidate, guess, 0.0, m.noise)
        if m.better == "higher":
            baseline, candidate, guess = _others(baseline), _others(candidate), 1 - guess
        worse = Rates(baseline, candidate, guess, m.tolerance, m.noise)
        allowed = 0.0 if goal else m.margin
        return plain, worse, None if allowed is None else Rates(candidate, baseline, guess, -allowed, m.noise)

    def _ranks(self, baseline: Histogram, candidate: Histogram, goal: bool) -> tuple[Block, Block, Block | None]:
        m, sign = self.metric, 1 if self.metric.better == "lower" else -1
        assert m.tolerance is not None and m.noise is not None
        plain = Ranks(baseline, candidate, m.noise)
        worse = Ranks(baseline, _eased(candidate, sign * m.tolerance, m.kind), m.noise, sign)
        if goal:
            return plain, worse, Ranks(baseline, candidate, m.noise, -sign)
        if m.margin is None:
            return plain, worse, None
        return plain, worse, Ranks(baseline, _eased(candidate, sign * m.margin, m.kind), m.noise, -sign)

    def _guess(self) -> float:
        """The rate to be expected, of both arms together; before there is any data, one bad event in twenty."""
        n, k = self.baseline + self.candidate
        return (k + (1 if self.metric.better == "lower" else 19)) / (n + 20)

    def _spread(self) -> float:
        """Variance of one event; that of ranks is in their information."""
        return self._guess() * (1 - self._guess()) if self.metric.kind == "rate" else 1.0

    def evidence(self, name: str, alpha: float, goal: bool) -> Evidence:
        most = 1.0 if self.metric.kind == "rate" else 0.5
        effect, low, high = (min(max(v, -most), most) for v in self.interval.bounds(alpha, self._spread()))
        return Evidence(
            metric=name,
            worse=self.worse.value,
            worse_needed=1 / (alpha * self.stake),
            noninferior=self.margin.value if self.metric.margin and not goal else None,
            noninferior_needed=1 / alpha,
            better=self.better.value if goal else None,
            effect=effect,
            low=low,
            high=high,
            sentence=self._sentence(name, effect, low, high),
        )

    def _sentence(self, name: str, effect: float, low: float, high: float) -> str:
        if self.metric.kind == "rate":
            rates = (100 * v.k / v.n for v in (self.candidate, self.baseline))
            return "{}: {:.2f} % against {:.2f} % (difference {:+.2f} points, {:+.2f} … {:+.2f})".format(
                name, *rates, 100 * effect, 100 * low, 100 * high
            )
        return "{}: a candidate's is the greater in {:.1f} % of pairs ({:.1f} … {:.1f})".format(
            name, *(50 + 100 * v for v in (effect, low, high))
        )


class Judge:
    """Feed it one block after another; its first decision counts.

    Guarantees, whatever the looks, the weights and the load: if in every block the candidate is in no metric worse than
    tolerated, a rollback has a chance of at most alpha; if it is worse by the margin or more in any, an early
    promotion has.
    """

    def __init__(self, config: Judgement) -> None:
        self.config = config
        self._tracks = {name: _Track(metric) for name, metric in config.resolved().items()}
        self._blocks = 0

    def observe(self, baseline: Arm, candidate: Arm) -> Decision:
        """What each arm saw in the `block_s` seconds that just ended. Errors: `invalid`, and nothing has changed."""
        for name, track in self._tracks.items():
            for arm in (baseline, candidate):
                if name in arm:
                    _check(name, track.metric, arm[name])
        total = max(self.config.deadline_s / self.config.block_s, 1.0)
        left = total - self._blocks
        self._blocks += 1
        ready = {}
        for name, track in self._tracks.items():
            if pair := track.wait(baseline.get(name), candidate.get(name)):
                ready[name] = pair
        self._share([name for name in ready if not self._tracks[name].stake])
        for name, pair in ready.items():
            track = self._tracks[name]
            track.observe(pair, (1 / (self.alpha * track.stake), 1 / self.alpha), total, left, name == self.config.goal)
        return self._decision(left <= 1)

    @property
    def alpha(self) -> float:
        """Of each of the two ways to be wrong: an A/B has two winners, between whom alpha is split."""
        return self.config.alpha / (2 if self.config.goal else 1)

    @property
    def wealth(self) -> float:
        """The e-value against "in no metric worse than tolerated"; 1 at the start."""
        staked = [t for t in self._tracks.values() if t.stake]
        return sum(t.stake * t.worse.value for t in staked) if staked else 1.0

    def _share(self, new: list[str]) -> None:
        """Metrics that have data for the first time get equal parts of the wealth."""
        old = [t for t in self._tracks.values() if t.stake]
        part = self.wealth / (len(old) + len(new)) if new else 0.0
        for track in old if new else []:
            track.stake *= len(old) / (len(old) + len(new))
        for name in new:
            self._tracks[name].stake = part

    def _decision(self, late: bool) -> Decision:
        kind, action = self._kind(late)
        metrics = [t.evidence(n, self.alpha, n == self.config.goal) for n, t in self._tracks.items() if t.stake]
        said = sorted(metrics, key=lambda e: -e.worse / e.worse_needed)
        reason = {
            "continue": "no decision yet",
            "degraded": f"worse than tolerated (evidence {self.wealth:.3g}, needed {1 / self.alpha:.3g})",
            "noninferior": "no metric is worse by its margin",
            "better": f"better in {self.config.goal}",
            "undecided": "the deadline has come without a decision",
        }[kind]
        if said:
            reason += "; " + (said[0].sentence if kind == "degraded" else "; ".join(e.sentence for e in metrics))
        return Decision(kind=kind, action=action, reason=reason, blocks=self._blocks, metrics=metrics)

    def _kind(self, late: bool) -> tuple[Decided, Action]:
        if self.wealth >= 1 / self.alpha:
            return "degraded", "rollback"
        if self.config.goal:
            if self._tracks[self.config.goal].better.value >= 1 / self.alpha:
                return "better", "promote"
        elif self._proven():
            return "noninferior", "promote"
        return ("undecided", self.config.undecided) if late else ("continue", "continue")

    def _proven(self) -> bool:
        """All metrics are non-inferior: of those the file names, or else of those with data."""
        asked = [t for t in self._tracks.values() if t.metric.margin and (self.config.metrics or t.stake)]
        return bool(asked) and all(t.margin.value >= 1 / self.alpha for t in asked)

    def dump(self) -> dict[str, Any]:
        """The state as plain JSON."""
        return {"blocks": self._blocks, "metrics": {name: track.dump() for name, track in self._tracks.items()}}

    @classmethod
    def load(cls, config: Judgement, state: Mapping[str, Any]) -> "Judge":
        """A judge that goes on where `dump` was taken; metrics that are new in the config begin."""
        judge = cls(config)
        judge._blocks = state["blocks"]
        judge._tracks = {n: _Track(t.metric, state["metrics"].get(n)) for n, t in judge._tracks.items()}
        return judge


def bucket(value: float) -> float:
    """The value that stands for all within 1 % of an amount > 0, so that histograms stay small."""
    return float(f"{GROWTH ** round(math.log(value) / math.log(GROWTH)):.6g}") if 0 < value < math.inf else value


def merge(arms: Iterable[Arm]) -> Arm:
    """What several workers saw of one arm, in any order."""
    parts: dict[str, list[Counts | Histogram]] = {}
    for arm in arms:
        for name, seen in arm.items():
            parts.setdefault(name, []).append(seen)
    return {name: _sum(parts[name]) for name in sorted(parts)}


def _sum(parts: list[Any]) -> Any:
    if isinstance(parts[0], Counts):
        return Counts(sum(p.n for p in parts), sum(p.k for p in parts))
    total: dict[float, int] = {}
    for part in parts:
        for value, times in part.items():
            total[value] = total.get(value, 0) + times
    return total


def _counts(seen: Any) -> Counts:
    return seen if isinstance(seen, Counts) else Counts(_size(seen), 0)


def _others(counts: Counts) -> Counts:
    return Counts(counts.n, counts.n - counts.k)


def _size(seen: Any) -> int:
    return seen.n if isinstance(seen, Counts) else sum(seen.values())


def _eased(values: Histogram, by: float, kind: str | None) -> Histogram:
    """Values made better by so much."""
    if by == 0:
        return values
    if kind == "score":
        return {value - by: times for value, times in values.items()}
    factor = 1 / (1 + by) if by > 0 else 1 - by
    return {value * factor: times for value, times in values.items()}


def _check(name: str, metric: Metric, seen: Any) -> None:
    if metric.kind == "rate":
        good = isinstance(seen, Counts) and 0 <= seen.k <= seen.n
        wanted = "Counts(n, k) with 0 <= k <= n"
    else:
        good = isinstance(seen, Mapping) and all(v == v and times >= 0 for v, times in seen.items())
        wanted = "a histogram {value: times} without NaN"
    if not good:
        raise Error(
            "invalid",
            f"metric {name!r} of kind {metric.kind} is not {wanted}: {seen!r}"[:300],
            "see docs/guides/judgement.md",
        )


def _written(seen: Any) -> Any:
    """As JSON, which has no infinity."""
    return list(seen) if isinstance(seen, Counts) else {str(value): times for value, times in seen.items()}


def _read(written: Any) -> Any:
    return Counts(*written) if isinstance(written, list) else {float(v): times for v, times in written.items()}
