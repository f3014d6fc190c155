"""The controller of batches: what it learns, its promises in simulated time, and that nothing upsets it."""

import csv
import random
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from served import COSTS, MOST, Engine, Request, poisson, serve

from longrein.core.generation import Limits, Load, Queued, Slo, Work
from longrein.ops.batching import Controller, Decision, StepTime

SLO = Slo(ttft_s=0.5, tpot_s=0.025)
Noise = Callable[[float], float]


def work(draw: random.Random, costs: tuple[float, ...] = COSTS, noise: Noise = lambda seconds: seconds) -> Work:
    batch, prefill = draw.randrange(0, 40), draw.choice([0, 0, 0, 50, 300])
    context = batch * draw.randrange(50, 300) + prefill
    seconds = sum(c * x for c, x in zip(costs, (1, batch, prefill, context), strict=True))
    return Work(batch, prefill, context, noise(seconds))


def learnt(works: list[Work]) -> StepTime:
    step = StepTime()
    for one in works:
        step.learn(one)
    return step


def under(requests: list[Request], slo: Slo | None = SLO, **engine: object) -> Engine:
    """Served as the controller decides."""
    controller = Controller(slo, MOST)
    return serve(requests, Engine(**engine), controller.decide, controller.learn)  # type: ignore[arg-type]


def under_cap(requests: list[Request], batch: int) -> Engine:
    """Served with a fixed cap, by clients that give up when the first token is late."""
    decision = Decision(Limits(batch, MOST.prefill_tokens, 0))
    return serve(requests, Engine(patience_s=SLO.ttft_s), lambda load: decision, lambda work: None)


def good(requests: list[Request]) -> int:
    return sum(r.good(SLO) for r in requests)


def mean_first(requests: list[Request]) -> float:
    return sum((r.first or 1e9) - r.at for r in requests) / len(requests)


# what a step costs


def test_the_costs_are_found() -> None:
    draw = random.Random(0)
    step = learnt([work(draw) for _ in range(1000)])
    assert step.theta == pytest.approx(COSTS, rel=0.02)


def test_pauses_do_not_count_for_much() -> None:
    draw = random.Random(0)
    step = learnt([work(draw, noise=lambda s: s * (200 if draw.random() < 0.01 else 1)) for _ in range(2000)])
    assert step(20, 100, 3000) == pytest.approx(
        sum(c * x for c, x in zip(COSTS, (1, 20, 100, 3000), strict=True)), rel=0.1
    )


def test_a_machine_that_slows_down_is_followed() -> None:
    draw = random.Random(0)
    slow = tuple(c * 8 for c in COSTS)
    step = learnt([work(draw) for _ in range(1000)] + [work(draw, slow) for _ in range(2500)])
    assert step.theta == pytest.approx(slow, rel=0.1)


def test_what_does_not_vary_stays() -> None:
    """Days of decoding alone, then a prompt: its cost is still known."""
    draw = random.Random(0)
    step = learnt([work(draw) for _ in range(1000)])
    for _ in range(20_000):
        step.learn(Work(8, 0, 1000, 1.5e-3 + 8 * 0.25e-3 + 1000 * 0.5e-6))
    assert step.theta[2] == pytest.approx(COSTS[2], rel=0.1)
    assert step(8, 0, 1000) == pytest.approx(4e-3, rel=0.02)


floats = st.floats(allow_nan=True, allow_infinity=True)
counts = st.integers(0, 10**6)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.builds(Work, counts, counts, counts, floats, st.integers(0, 50)), max_size=60),
    st.lists(st.builds(Queued, st.uuids().map(str), st.integers(-3, 0), counts, st.floats(0, 1e6)), max_size=20),
    st.integers(0, 64),
    st.floats(1e-4, 1e3),
    st.floats(1e-4, 1e3),
)
def test_whatever_is_seen_decisions_are_sound(
    works: list[Work], waiting: list[Queued], running: int, ttft_s: float, tpot_s: float
) -> None:
    """A clock that jumps, steps of no length, queues of any kind."""
    controller = Controller(Slo(ttft_s=ttft_s, tpot_s=tpot_s), MOST)
    for one in works:
        controller.learn(one)
    decision = controller.decide(Load(running, 0, 0, waiting))
    assert min(controller.step.theta) >= 0 and max(controller.step.theta) < float("inf")
    limits = decision.limits
    assert 1 <= limits.batch <= MOST.batch and 1 <= limits.prefill_tokens <= MOST.prefill_tokens
    assert 0 <= limits.offline <= MOST.offline
    assert {id for id, _ in decision.refused} <= {q.id for q in waiting if q.priority == 0}
    assert all(late_s > 0 for _, late_s in decision.refused)


# what comes of it


@pytest.mark.parametrize("rate", [22, 35])
def test_under_overload_it_serves_more_in_time_than_any_cap(rate: int) -> None:
    ours = poisson(rate, 40)
    under(ours)
    caps = {}
    for batch in (8, 16, 24, 32, 64):
        theirs = poisson(rate, 40)
        under_cap(theirs, batch)
        caps[batch] = good(theirs)
    assert good(ours) >= 1.3 * caps[64]
    assert good(ours) >= 0.95 * max(caps.values())
    served = [r for r in ours if not r.refused]
    assert sum(r.good(SLO) for r in served) >= 0.97 * len(served)  # a promise is kept


@pytest.mark.parametrize(("name", "kept"), [("conv", 0.95), ("code", 0.9)])  # answers of code have seven tokens
def test_real_arrivals(data: Path, name: str, kept: float) -> None:
    with (data / "azure-llm-traces" / f"{name}.csv").open() as file:
        rows = list(csv.DictReader(file))[:1200]
    times = [datetime.fromisoformat(row["TIMESTAMP"][:26]).timestamp() for row in rows]

    def requests() -> list[Request]:
        pairs = enumerate(zip(times, rows, strict=True))
        sizes = ((i, t, int(r["ContextTokens"]) // 4, int(r["GeneratedTokens"]) // 4) for i, (t, r) in pairs)
        return [Request(str(i), (t - times[0]) / 5, max(p, 1), max(a, 2)) for i, t, p, a in sizes]

    ours, theirs = requests(), requests()
    under(ours)
    under_cap(theirs, 64)
    assert good(ours) >= 1.3 * good(theirs)
    served = [r for r in ours if not r.refused]
    assert sum(r.good(SLO) for r in served) >= kept * len(served)


def test_at_low_load_nothing_is_refused_or_slower() -> None:
    ours, theirs = poisson(4, 60), poisson(4, 60)
    under(ours)
    under_cap(theirs, 64)
    assert not any(r.refused for r in ours)
    assert mean_first(ours) <= 1.02 * mean_first(theirs)
    assert max(r.last for r in ours) == pytest.approx(max(r.last for r in theirs), abs=0.01)


def test_noise_and_pauses_cost_little() -> None:
    draw = random.Random(3)
    quiet, noisy = poisson(22, 40), poisson(22, 40)
    under(quiet)
    under(noisy, noise=lambda s: s * draw.lognormvariate(0, 0.2) * (10 if draw.random() < 0.002 else 1))
    assert good(noisy) >= 0.85 * good(quiet)


def test_a_machine_that_becomes_three_times_slower() -> None:
    """Half the way a neighbour comes: what is admitted then is still served in time."""
    requests = poisson(12, 60)
    under(requests, costs=lambda now: [c * (3 if now > 30 else 1) for c in COSTS])
    after = [r for r in requests if r.at > 33 and not r.refused]
    assert len(after) > 30
    assert sum(r.good(SLO) for r in after) >= 0.9 * len(after)


def test_without_an_objective_nothing_changes() -> None:
    requests = poisson(40, 10)
    engine = under(requests, slo=None)
    assert not any(r.refused for r in requests) and all(r.made == r.answer for r in requests)
    controller = Controller(None, MOST)
    assert controller.decide(engine.load()) == Decision(MOST)


def test_who_is_never_refused() -> None:
    """Priority traffic, which goes first, and the offline lane, which ends when there is room."""
    online, first, offline = poisson(35, 20), poisson(2, 20, 1, priority=-1), poisson(2, 20, 2, priority=5)
    under(online + first + offline)
    assert any(r.refused for r in online)
    assert not any(r.refused for r in first + offline)
    assert all(r.made == r.answer for r in first + offline)
    assert good(first) >= 0.95 * len(first)


def test_the_offline_lane_takes_what_is_idle_only() -> None:
    alone, beside, offline = poisson(10, 40), poisson(10, 40), poisson(8, 20, 2, priority=5)
    under(alone)
    engine = under(beside + offline)
    assert good(beside) >= 0.97 * good(alone)
    assert all(r.made == r.answer for r in offline)
    assert sum(r.last < 40 for r in offline) > len(offline) / 4  # it did not only wait for the end
    assert engine.preemptions >= 0


def test_a_prompt_that_is_late_by_itself_is_served_when_there_is_room() -> None:
    requests = [*poisson(2, 20), Request("long", 21.0, 20_000, 5)]
    under(requests)
    assert requests[-1].made == 5 and not requests[-1].refused
