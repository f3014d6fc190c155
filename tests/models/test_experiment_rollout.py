"""Rollouts as a pure machine, under a clock of its own: any traffic, any order of looks, any kill."""

import random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longrein.core.evidence import Counts
from longrein.models.experiment import rollout
from longrein.models.experiment.assign import BUCKETS, bucket, buckets, unit
from longrein.models.experiment.rollout import FAILURES, FINAL, Gradual, Seen, State, declared, observe, start

QUIET = {"judge": {"deadline_s": 600}}


def gradual(strategy: str, **options: Any) -> Gradual:
    found = declared({"strategy": strategy, **options})
    assert isinstance(found, Gradual)
    return found


class Traffic:
    """Requests at a steady pace, split as the state says, with so many errors in each arm and so much praise."""

    def __init__(self, errors: tuple[float, float] = (0.01, 0.01), praise: tuple[float, float] = (0.5, 0.5)) -> None:
        self.errors, self.praise, self.random = errors, praise, random.Random(1)

    def block(self, strategy: Gradual, state: State, requests: int = 400) -> Seen:
        end = state.read_ms + int(rollout.current(strategy, state).judge.block_s * 1000)
        share = (state.weight or state.shadow) / BUCKETS
        counts = round(requests * (1 - share)), round(requests * share)
        return Seen(end, *(self.arm(i, n) for i, n in enumerate(counts)), counts)

    def arm(self, which: int, n: int) -> Any:
        bad = sum(self.random.random() < self.errors[which] for _ in range(n))
        good = sum(self.random.random() < self.praise[which] for _ in range(n // 4))
        latency: dict[float, int] = {}
        for _ in range(n):
            value = round(self.random.lognormvariate(4.6, 0.3))
            latency[value] = latency.get(value, 0) + 1
        return {"errors": Counts(n, bad), "latency": latency, "feedback": Counts(n // 4, good)}

    def run(self, strategy: Gradual, blocks: int = 400) -> list[State]:
        """Every state on the way, each as JSON would keep it, until it is over."""
        states = [start(strategy, 0)]
        while states[-1].outcome not in FINAL and len(states) < blocks:
            block = self.block(strategy, states[-1])
            states.append(kept(observe(strategy, states[-1], block.end_ms + 3000, [block])))
        return states


def kept(state: State) -> State:
    return msgspec.json.decode(msgspec.json.encode(msgspec.to_builtins(state)), type=State)


def test_a_good_canary_climbs_and_is_promoted_before_its_deadline() -> None:
    strategy = gradual("canary")
    states = Traffic().run(strategy)
    weights = [s.weight for s in states[:-1]]
    assert weights == sorted(weights) and set(weights) == {500, 2500, 5000}
    assert states[-1].outcome == "promoted" and "no metric is worse" in states[-1].reason
    assert states[-1].read_ms < strategy.judge.deadline_s * 1000 and states[-1].weight == 0


def test_each_step_answers_its_requests_under_its_own_weight() -> None:
    """Blocks that began before the weight was raised do not count, in whatever heap they are seen."""
    strategy = gradual("canary", steps=[{"weight": 50, "requests": 300}, {"weight": 60, "requests": 300}], **QUIET)
    state = start(strategy, 0)
    block = Traffic().block(strategy, state, 100)
    late = [block._replace(end_ms=20_000 * i) for i in range(1, 20)]
    state = observe(strategy, state, 400_000, late)
    assert (state.step, state.moved_ms, state.answered) == (1, 400_000, 0)
    state = observe(strategy, state, 430_000, [block._replace(end_ms=400_000)])
    assert state.answered == 0
    assert observe(strategy, state, 430_000, [block._replace(end_ms=420_000)]).answered == 50


@pytest.mark.parametrize("strategy", ["canary", "shadow", "ab", "bandit"])
def test_a_release_that_errs_is_taken_back_under_every_strategy(strategy: str) -> None:
    last = Traffic((0.01, 0.3)).run(gradual(strategy))[-1]
    assert last.outcome == "rolled_back" and "errors" in last.reason
    assert (last.weight, last.shadow) == (0, 0)


def test_a_shadow_that_does_well_goes_on_as_the_file_says() -> None:
    strategy = gradual("shadow", share=20, then={"strategy": "canary", "steps": [{"weight": 10}, {"weight": 30}]})
    states = Traffic().run(strategy)
    shadows = [s for s in states if not s.stage]
    assert {(s.weight, s.shadow) for s in shadows} == {(0, 2000)}
    after = [s for s in states if s.stage]
    assert (after[0].weight, after[0].shadow, after[0].requests) == (1000, 0, (0, 0))
    assert states[-1].outcome == "promoted"
    at_once = Traffic().run(gradual("shadow", then="promote"))
    assert at_once[-1].outcome == "promoted" and not at_once[-1].stage


def test_an_ab_ends_by_itself_when_feedback_has_told() -> None:
    better = Traffic(praise=(0.3, 0.7)).run(gradual("ab", weight=30))
    assert {s.weight for s in better[:-1]} == {3000}
    assert better[-1].outcome == "promoted" and "better in feedback" in better[-1].reason
    worse = Traffic(praise=(0.7, 0.3)).run(gradual("ab", weight=30))
    assert worse[-1].outcome == "rolled_back" and "feedback" in worse[-1].reason


def test_a_bandit_moves_weight_to_the_better_arm_and_keeps_its_floor() -> None:
    strategy = gradual("bandit", floor=15, judge={"goal": "feedback", "alpha": 1e-6})
    liked = [s.weight for s in Traffic(praise=(0.4, 0.6)).run(strategy, 20)[:-1]]
    assert liked[0] == 5000 and max(liked) == 8500
    disliked = [s.weight for s in Traffic(praise=(0.5, 0.45)).run(strategy, 40)[:-1]]
    assert min(disliked) == 1500 and all(1500 <= w <= 8500 for w in disliked)


@pytest.mark.parametrize(
    ("undecided", "outcome"), [("promote", "promoted"), ("rollback", "rolled_back"), ("hold", "held")]
)
def test_undecided_at_the_deadline_is_what_the_file_says(undecided: str, outcome: str) -> None:
    strategy = gradual("canary", judge={"deadline_s": 60, "undecided": undecided})
    state = start(strategy, 0)
    for end in (20_000, 40_000, 60_000):
        assert state.outcome == ""
        state = observe(strategy, state, end, [Seen(end, {}, {}, (0, 0))])
    assert state.outcome == outcome
    if outcome == "held":  # it goes on with the weight it has, and is still taken back if it turns out worse
        assert state.weight == 500
        traffic = Traffic((0.0, 1.0))
        while state.outcome == "held":
            state = observe(strategy, state, 0, [traffic.block(strategy, state)])
        assert state.outcome == "rolled_back"


def test_an_engine_that_keeps_failing_and_a_gate_that_changed_its_mind_end_it() -> None:
    strategy = gradual("canary")
    state = start(strategy, 0)
    assert observe(strategy, state, 0, [], ["broken"] * (FAILURES - 1)) == state
    failed = observe(strategy, state, 0, [], ["x", "y", "out of memory"])
    assert failed.outcome == "rolled_back" and failed.reason == "its engine failed 3 times: out of memory"
    assert observe(strategy, state, 0, [], [], "gate quality: has not judged").outcome == "rolled_back"


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["canary", "shadow", "ab", "bandit"]),
    st.lists(st.tuples(*[st.integers(0, 60)] * 6), min_size=1, max_size=12),
    st.lists(st.integers(1, 4), max_size=12),
    st.randoms(use_true_random=False),
)
def test_whatever_comes_it_is_seen_the_same_however_it_is_cut_and_killed(
    name: str, traffic: list[tuple[int, ...]], cuts: list[int], chance: random.Random
) -> None:
    """Weights stay in bounds, what is final stays, and a machine that is killed and started again from what was kept
    arrives where one that saw block after block does."""
    options = {"strategy": "shadow", "then": "promote"} if name == "shadow" else {"strategy": name}
    strategy = gradual(**options)
    blocks = []
    for i, (n, bad, m, worse, liked, better) in enumerate(traffic):
        arms = [
            {"errors": Counts(k, min(k, e)), "feedback": Counts(60, f)} if k else {}
            for k, e, f in ((n, bad, liked), (m, worse, better))
        ]
        blocks.append(Seen(20_000 * (i + 1), arms[0], arms[1], (n, m)))
    one = start(strategy, 0)
    for block in blocks:
        before, one = one, kept(observe(strategy, one, 0, [block]))
        assert 0 <= one.weight <= BUCKETS and 0 <= one.shadow <= BUCKETS
        assert before.outcome not in FINAL or one == before
        assert name != "bandit" or one.outcome in FINAL or 1000 <= one.weight <= 9000
    other, rest = start(strategy, 0), blocks
    while rest and other.outcome not in FINAL:
        size = cuts.pop() if cuts else 1
        seen = observe(strategy, other, 0, rest[:size])
        if chance.random() < 0.7:  # else killed before it was written
            other, rest = kept(seen), rest[size:]
    assert other == one


def test_the_same_unit_has_the_same_bucket_everywhere_and_weights_only_add() -> None:
    assert [bucket("s", u) for u in ("user:ann", "", "汉字", "\ud800")] == [7652, 5810, 641, 3410]
    drawn = [bucket("release", f"user:{i}") for i in range(20_000)]
    seen: set[int] = set()
    for percent in (1, 5, 25, 50, 100):
        now = {i for i, b in enumerate(drawn) if b < buckets(percent)}
        assert seen <= now and abs(len(now) / 20_000 - percent / 100) < 0.015
        seen = now
    other = [bucket("another", f"user:{i}") for i in range(20_000)]
    both = sum(a < 1000 and b < 1000 for a, b in zip(drawn, other, strict=True))
    assert 150 < both < 250  # independent: one in a hundred


def test_a_session_goes_before_its_user_and_what_has_neither_is_dealt_by_request() -> None:
    assert unit("s1", "ann", "r1") == unit("s1", "bob", "r2") != unit("", "s1", "r1")
    assert unit("", "ann", "r1") == unit("", "ann", "r2")
    assert unit("", "", "r1") != unit("", "", "r2")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("nope", "Invalid value 'nope'"),
        ({"strategy": "canary", "goal": 1}, "unknown field `goal`"),
        ({"strategy": "canary", "steps": []}, "length >= 1"),
        ({"strategy": "canary", "steps": [{"weight": 20}, {"weight": 10}]}, "greater weight"),
        ({"strategy": "canary", "steps": [{"weight": 101}]}, "<= 100"),
        ({"strategy": "canary", "judge": {"block_s": 15}}, "multiple of 10"),
        ({"strategy": "ab", "judge": {"alpha": 0.1}}, "Needs judge.goal"),
        ({"strategy": "bandit", "floor": 60}, "<= 50"),
        ({"strategy": "shadow", "then": "blue_green"}, "Invalid"),
        ({"strategy": "blue_green", "steps": []}, "unknown field `steps`"),
        ({"steps": []}, "missing required field `strategy`"),
    ],
)
def test_a_strategy_that_makes_no_sense_is_refused(value: Any, message: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=message):
        declared(value)
