"""How a new release moves into an endpoint's traffic: the strategies, and the pure machine that takes their steps.

The machine is (strategy, state, what was seen) → state. It knows no clock and no ledger: control.rollout brings both.
"""

from collections.abc import Iterable, Mapping, Sequence
from statistics import NormalDist
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from msgspec import Meta

from longrein.core.evidence import Counts
from longrein.core.ledger.traffic import BLOCK_MS
from longrein.models.experiment.assign import BUCKETS, buckets
from longrein.models.experiment.judge import Arm, Decision, Judge, Judgement

FAILURES = 3  # so often an engine may fail to start, or end by itself, before its release is taken back
FINAL = ("promoted", "rolled_back")
LEARNED = 20  # values of the goal that each arm needs before a bandit moves

Percent = Annotated[float, Meta(gt=0, le=100)]
Seconds = Annotated[float, Meta(ge=0, le=365 * 86400)]


class Strategy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="strategy"):
    """What all strategies share."""

    keep_warm_s: Seconds = 600.0  # how long what was in production stays live afterwards; 0 saves its memory

    @property
    def tag(self) -> str:
        """Its name in longrein.yaml."""
        return str(self.__struct_config__.tag)

    def as_data(self) -> dict[str, Any]:
        return dict(msgspec.to_builtins(self))


class BlueGreen(Strategy, frozen=True, tag="blue_green"):
    """Warm the new release, switch to it whole, keep the old one warm for a while."""


class Gradual(Strategy, frozen=True):
    """A strategy that watches both releases side by side, and is over when the judgement decides."""

    judge: Judgement = Judgement()  # what is watched, when it is enough, and what happens when that is never

    def __post_init__(self) -> None:
        if self.judge.block_s * 1000 % BLOCK_MS:
            raise ValueError(f"judge.block_s needs to be a multiple of {BLOCK_MS // 1000}: traffic is counted so")

    def first(self) -> tuple[int, int]:
        """(weight, shadow) to begin with, in buckets."""
        raise NotImplementedError

    def moved(self, state: "State") -> "State":
        """The state after one more block without a decision."""
        return state

    def outlook(self, state: "State") -> str:
        """What has to happen for it to go on."""
        return "until it is decided"


class Step(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A share of the users, and how many of their requests must have been answered before the next step."""

    weight: Percent  # of the users
    requests: Annotated[int, Meta(ge=1)] = 100  # answered by the new release before the next step


STEPS = (Step(weight=5, requests=200), Step(weight=25, requests=500), Step(weight=50, requests=1000))


class Canary(Gradual, frozen=True, tag="canary"):
    """More and more users see the new release. What sees it once goes on seeing it."""

    steps: Annotated[tuple[Step, ...], Meta(min_length=1)] = STEPS

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(a.weight >= b.weight for a, b in zip(self.steps, self.steps[1:], strict=False)):
            raise ValueError("Each step needs a greater weight than the one before")

    def first(self) -> tuple[int, int]:
        return buckets(self.steps[0].weight), 0

    def moved(self, state: "State") -> "State":
        if state.answered < self.steps[state.step].requests or state.step + 1 == len(self.steps):
            return state
        step = state.step + 1
        weight = self.steps[step].weight
        return _replace(
            state, step=step, answered=0, weight=buckets(weight), reason=f"{state.answered} requests went well"
        )

    def outlook(self, state: "State") -> str:
        if state.step + 1 == len(self.steps):
            return "until it is proven no worse"
        left = max(self.steps[state.step].requests - state.answered, 0)
        return f"{self.steps[state.step + 1].weight:g} % after {left} more requests"


class AB(Gradual, frozen=True, tag="ab"):
    """Two releases at fixed weights until feedback, or another goal, has told which is better."""

    judge: Judgement = Judgement(goal="feedback", undecided="rollback")
    weight: Percent = 50  # of the users, for the new release

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_goal(self.judge)

    def first(self) -> tuple[int, int]:
        return buckets(self.weight), 0

    def outlook(self, state: "State") -> str:
        return f"until {self.judge.goal} has told which is better"


class Bandit(Gradual, frozen=True, tag="bandit"):
    """Weight moves to the release that does better in the goal, as Thompson sampling has it: each gets the share of
    users that is the chance of its being the better one (Thompson, 1933), and never less than `floor`."""

    judge: Judgement = Judgement(goal="feedback", undecided="rollback")
    floor: Annotated[float, Meta(gt=0, le=50)] = 10  # percent of the users

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_goal(self.judge)

    def first(self) -> tuple[int, int]:
        return BUCKETS // 2, 0

    def moved(self, state: "State") -> "State":
        (n, mean, variance), (m, other, spread) = (_moments(*sums) for sums in state.goal)
        if min(n, m) < LEARNED:
            return state
        assert self.judge.goal
        sign = 1 if self.judge.resolved()[self.judge.goal].better == "higher" else -1
        width = (variance / n + spread / m) ** 0.5
        chance = NormalDist().cdf(sign * (other - mean) / width) if width else 0.5
        low = buckets(self.floor)
        weight = min(max(round(chance * BUCKETS), low), BUCKETS - low)
        # A hundredth more or less is noise, and would only send users to and fro.
        if abs(weight - state.weight) < BUCKETS // 100:
            return state
        return _replace(state, weight=weight, reason=f"better with a chance of {chance:.0%}")

    def outlook(self, state: "State") -> str:
        return f"weights follow {self.judge.goal} until it has told which is better"


class Shadow(Gradual, frozen=True, tag="shadow"):
    """The new release gets copies of requests. Its answers are compared, and nobody sees them."""

    share: Percent = 10  # of the requests, to copy
    then: "Literal['promote', 'canary', 'ab', 'bandit'] | Canary | AB | Bandit" = "canary"  # once the copies went well

    def first(self) -> tuple[int, int]:
        return 0, buckets(self.share)

    def outlook(self, state: "State") -> str:
        then = self.then if isinstance(self.then, str) else self.then.tag
        return f"{then} once it is proven no worse"


Declared = BlueGreen | Canary | Shadow | AB | Bandit
Setting = Literal["blue_green", "canary", "shadow", "ab", "bandit"] | Declared  # `rollout:` of an endpoint


class Seen(NamedTuple):
    """A block of traffic that has ended: what the judgement is fed with."""

    end_ms: int
    stable: Arm
    candidate: Arm
    requests: tuple[int, int]  # of either arm


class State(msgspec.Struct, frozen=True, kw_only=True):
    """How far a rollout has come. weight and shadow are what it wants now, in buckets."""

    read_ms: int  # blocks that ended until then are in
    moved_ms: int  # when the weights last changed: blocks that began before do not count for the step
    weight: int = 0
    shadow: int = 0
    stage: int = 0  # 1: what comes after the shadow
    step: int = 0  # of a canary
    answered: int = 0  # by the candidate since moved_ms
    requests: tuple[int, int] = (0, 0)  # of the stable arm and the candidate, in this stage
    goal: tuple[tuple[float, float, float], tuple[float, float, float]] = ((0, 0, 0), (0, 0, 0))  # n, sum, squares
    judge: dict[str, Any] | None = None
    decision: dict[str, Any] | None = None  # the last one
    outcome: Literal["", "promoted", "rolled_back", "held"] = ""
    reason: str = ""


def declared(value: Any) -> Declared:
    """The strategy that `rollout:` means; from plain data too. None: the default. Errors: msgspec's."""
    if isinstance(value, Strategy):
        return value  # type: ignore[return-value]
    if value is None or isinstance(value, str):
        value = {"strategy": value or "blue_green"}
    found: Declared = msgspec.convert(value, Declared)
    return found


def start(strategy: Gradual, now_ms: int) -> State:
    weight, shadow = strategy.first()
    return State(read_ms=now_ms, moved_ms=now_ms, weight=weight, shadow=shadow)


def reweighed(state: State, weight: int, now_ms: int) -> State:
    """After somebody else set the weight (in buckets): it goes on from there."""
    return _replace(state, weight=weight, shadow=0, answered=0, moved_ms=now_ms)


def current(strategy: Gradual, state: State) -> Gradual:
    """The strategy of the stage it is in."""
    if state.stage and isinstance(strategy, Shadow):
        found = declared(strategy.then)
        assert isinstance(found, Gradual)
        return found
    return strategy


def observe(
    strategy: Gradual, state: State, now_ms: int, blocks: Iterable[Seen] = (), failures: Sequence[str] = (),
    blocked: str = "",
) -> State:  # fmt: skip
    """Take in what has come: blocks, each once and in order; why its engine failed, each time so far; why its gates no
    longer let it through. The state after a decision is final."""
    if blocked:
        return _over(state, "rolled_back", blocked)
    if len(failures) >= FAILURES:
        return _over(state, "rolled_back", f"its engine failed {len(failures)} times: {failures[-1]}")
    stage = state.stage
    for block in blocks:
        if state.outcome in FINAL or state.stage != stage:  # the rest is to be read as the next stage reads it
            break
        state = _observe(strategy, state, now_ms, block)
    return state


def outlook(strategy: Gradual, state: State) -> tuple[str, int, str]:
    """(what comes next, when the deadline is in ms since 1970, what happens then)."""
    now = current(strategy, state)
    if state.outcome == "held":
        return "a person decides: longrein promote, or longrein rollback", 0, ""
    blocks = (state.judge or {}).get("blocks", 0)
    left_ms = int((now.judge.deadline_s - blocks * now.judge.block_s) * 1000)
    return now.outlook(state), state.read_ms + left_ms, now.judge.undecided


def _observe(strategy: Gradual, state: State, now_ms: int, block: Seen) -> State:
    now = current(strategy, state)
    judge = Judge.load(now.judge, state.judge) if state.judge else Judge(now.judge)
    decision = judge.observe(block.stable, block.candidate)
    fresh = block.end_ms - now.judge.block_s * 1000 >= state.moved_ms
    state = _replace(
        state, read_ms=block.end_ms, judge=judge.dump(), decision=_plain(decision),
        requests=(state.requests[0] + block.requests[0], state.requests[1] + block.requests[1]),
        answered=state.answered + block.requests[1] * fresh, goal=_add(state.goal, now.judge.goal, block),
    )  # fmt: skip
    if decision.action == "rollback":
        return _over(state, "rolled_back", decision.reason)
    if decision.action == "promote":
        return _next(strategy, state, now_ms, decision.reason)
    if decision.action == "hold":
        return _replace(state, outcome="held", reason=decision.reason)
    after = now.moved(state)
    return after if after is state else _replace(after, moved_ms=now_ms)


def _next(strategy: Gradual, state: State, now_ms: int, reason: str) -> State:
    if state.stage or not isinstance(strategy, Shadow) or strategy.then == "promote":
        return _over(state, "promoted", reason)
    weight, shadow = current(strategy, _replace(state, stage=1)).first()
    return State(
        read_ms=state.read_ms, moved_ms=now_ms, stage=1, weight=weight, shadow=shadow, reason=f"in the shadow: {reason}"
    )


def _over(state: State, outcome: Literal["promoted", "rolled_back"], reason: str) -> State:
    return _replace(state, outcome=outcome, reason=reason, weight=0, shadow=0)


def _add(goal: Any, name: str | None, block: Seen) -> Any:
    if name is None:
        return goal
    return tuple(
        tuple(map(sum, zip(sums, _sums(arm.get(name)), strict=True)))
        for sums, arm in zip(goal, (block.stable, block.candidate), strict=True)
    )


def _sums(seen: Counts | Mapping[float, int] | None) -> tuple[float, float, float]:
    if seen is None:
        return 0, 0, 0
    values: Iterable[tuple[float, int]] = [(1, seen.k)] if isinstance(seen, Counts) else list(seen.items())
    n = seen.n if isinstance(seen, Counts) else sum(seen.values())
    return n, sum(v * k for v, k in values), sum(v * v * k for v, k in values)


def _moments(n: float, total: float, squares: float) -> tuple[float, float, float]:
    """(n, mean, variance), as one who had seen a success and a failure before (Laplace): never sure too early."""
    n, total, squares = n + 2, total + 1, squares + 1
    mean = total / n
    return n, mean, max(squares / n - mean * mean, 0.0)


def _check_goal(judge: Judgement) -> None:
    if judge.goal is None:
        raise ValueError("Needs judge.goal: the metric that tells which release is better")


def _plain(decision: Decision) -> dict[str, Any]:
    """As JSON has it: infinities are null there."""
    return dict(msgspec.json.decode(msgspec.json.encode(decision)))


_replace = msgspec.structs.replace
