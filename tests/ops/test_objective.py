"""Burn rates on simulated days of traffic: silence inside the objective, and alerts within the textbook's times."""

import math
from collections.abc import Callable

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longrein.core.ledger import Block
from longrein.core.objective import Below, Config, Objective, objectives
from longrein.ops.monitor.objective import (
    COARSE_MS,
    DAY_MS,
    FINE_MS,
    HOUR_MS,
    MINUTE_MS,
    Counts,
    Firing,
    Series,
    burn_rate,
    judge,
    measure,
    more_than_chance,
)

START = 1_800_000_000_000 // DAY_MS * DAY_MS
AVAILABILITY = Objective("availability", "slo_burning", "errors", 0.001)


class Service:
    """Traffic on a clock of its own, looked at again and again."""

    def __init__(self, objective: Objective = AVAILABILITY, *, per_s: float = 10.0, seed: int = 0) -> None:
        self.objective, self.per_s, self.now = objective, per_s, START
        self.series = Series(28 * DAY_MS)
        self.random = np.random.default_rng(seed)
        self.told: list[tuple[int, Firing | None]] = []

    def run(self, for_ms: float, bad: float, *, every_ms: int = COARSE_MS, chance: bool = False) -> list[Firing | None]:
        """A share `bad` of what comes; of exactly so many, or as chance has it."""
        said = []
        for _ in range(int(for_ms // every_ms)):
            n = self.per_s * every_ms / 1000
            if chance:
                n = float(self.random.poisson(n))
                wrong = float(self.random.binomial(int(n), bad))
            else:
                wrong = n * bad
            self.series.put(self.now, self.now + every_ms, [(self.now, Counts(n, wrong))])
            self.now += every_ms
            if self.now % DAY_MS == 0:
                self.series.trim(self.now)
            said.append(judge(self.objective, self.series, self.now, START - 40 * DAY_MS))
            self.told.append((self.now, said[-1]))
        return said


def first(said: list[Firing | None], every_ms: int = COARSE_MS) -> float:
    """How long until the first alert, in ms."""
    return next((i * every_ms for i, firing in enumerate(said, 1) if firing), math.inf)


@pytest.mark.parametrize("per_s", [0.001, 0.01, 0.1, 100])
def test_no_alert_for_a_month_inside_the_objective(per_s: float) -> None:
    assert not any(Service(per_s=per_s).run(28 * DAY_MS, 0.0008, chance=True))


# burn rate, until it fires after weeks of health (the workbook: rate of the rule / rate of burning * its window)
TIMES = [
    (1000, HOUR_MS * 14.4 / 1000, "critical"),
    (100, HOUR_MS * 14.4 / 100, "critical"),
    (14.5, HOUR_MS, "critical"),
    (6.1, 6 * HOUR_MS, "critical"),
    (2, 1.05 * 3 * DAY_MS / 2, "warning"),  # a little more than 1: exactly 1 is what is allowed
    (1.1, 3 * DAY_MS, "warning"),
]


@pytest.mark.parametrize(("rate", "within_ms", "severity"), TIMES)
def test_an_alert_comes_within_the_time_of_the_book_and_goes(rate: float, within_ms: float, severity: str) -> None:
    service = Service(per_s=100)
    assert not any(service.run(4 * DAY_MS, 0.0))
    every = FINE_MS if within_ms < HOUR_MS else COARSE_MS
    said = service.run(within_ms + every + COARSE_MS, 0.001 * rate, every_ms=every)
    # a slower rule may speak first, as soon as the share of its long window is reached
    assert first(said, every) <= within_ms + every + COARSE_MS
    loudest = next(f for f in said if f and f.rule.severity == severity)
    assert loudest.rule.rate <= rate and loudest.long.bad
    after = service.run(7 * HOUR_MS, 0.0)
    quiet = next(i for i, f in enumerate(after) if f is None or f.rule.severity != "critical")
    assert quiet * COARSE_MS <= HOUR_MS  # what was critical ends soon after the trouble
    assert after[-1] is None


def test_it_tells_when_it_began() -> None:
    service = Service()
    service.run(2 * DAY_MS + MINUTE_MS, 0.0, every_ms=MINUTE_MS)
    began = service.now
    firing = service.run(2 * HOUR_MS, 0.05, every_ms=MINUTE_MS)[-1]
    assert firing and firing.since_ms == began


def test_one_bad_answer_of_few_is_no_alert_and_many_are() -> None:
    for n, bad, expected in [
        (1, 1, False),
        (10, 1, False),
        (10, 2, False),
        (10, 3, True),
        (100, 3, False),
        (100, 5, True),
    ]:
        assert more_than_chance(AVAILABILITY, Counts(n, bad)) is expected
    night = Service(per_s=0.002)  # an answer each eight minutes; of a thousand one may fail
    night.run(DAY_MS, 0.0)
    n = night.per_s * COARSE_MS / 1000
    night.series.put(night.now, night.now + COARSE_MS, [(night.now, Counts(n, n))])
    assert judge(AVAILABILITY, night.series, night.now + COARSE_MS, START) is None
    assert any(night.run(HOUR_MS, 1.0))


def test_a_budget_that_large_rates_cannot_reach() -> None:
    """A mean of 0.8: the budget is a fifth, and all answers bad are a rate of 5 only."""
    helpful = Objective("feedback.helpful", "feedback_low", "helpful", 0.2)
    service = Service(helpful, per_s=0.1)
    assert not any(service.run(4 * DAY_MS, 0.19))
    said = service.run(HOUR_MS, 1.0)
    assert any(f and f.rule.severity == "critical" for f in said)


def test_a_gap_is_neither_good_nor_bad() -> None:
    service = Service()
    service.run(DAY_MS, 0.0)
    service.now += 5 * HOUR_MS
    assert not any(service.run(MINUTE_MS * 30, 0.0))
    assert Series(DAY_MS).sum(START, HOUR_MS) == Counts() and judge(AVAILABILITY, Series(DAY_MS), START, 0) is None


def test_a_service_an_hour_old_is_judged_by_what_there_is() -> None:
    service = Service()
    said = service.run(HOUR_MS, 0.02)
    assert said[-1] and said[-1].rule.severity == "critical"
    assert judge(AVAILABILITY, service.series, service.now, service.now - MINUTE_MS) is None  # not all is read yet


def test_what_comes_late_counts_once() -> None:
    series = Series(28 * DAY_MS)
    for _ in range(3):  # read again and again
        series.put(START, START + FINE_MS, [(START, Counts(10, 1))])
    assert series.sum(START + HOUR_MS, HOUR_MS) == series.sum(START + HOUR_MS, 6 * HOUR_MS) == Counts(10, 1)
    series.put(START, START + FINE_MS, [(START, Counts(10, 1)), (START, Counts(5, 5))])  # another release was late
    assert series.sum(START + HOUR_MS, HOUR_MS) == series.sum(START + HOUR_MS, 6 * HOUR_MS) == Counts(15, 6)
    series.put(START, START + FINE_MS, [])
    assert series.sum(START + HOUR_MS, DAY_MS) == Counts()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 50), st.integers(0, 9)), max_size=40), st.integers(0, 400)
)
def test_windows_hold_what_lies_in_them(blocks: list[tuple[int, int, int]], end: int) -> None:
    series, kept = Series(28 * DAY_MS), dict[int, Counts]()
    for slot, n, bad in blocks:
        start = START + slot * FINE_MS
        kept[start] = Counts(n, bad)
        series.put(start, start + FINE_MS, [(start, kept[start])])
    now = START + end * FINE_MS
    inside = [c for start, c in kept.items() if now - HOUR_MS <= start < now]
    assert series.sum(now, HOUR_MS) == Counts(sum(c.n for c in inside), sum(c.bad for c in inside))
    aligned = now // COARSE_MS * COARSE_MS
    inside = [c for start, c in kept.items() if aligned - 6 * HOUR_MS <= start < aligned]
    assert series.sum(aligned, 6 * HOUR_MS) == Counts(sum(c.n for c in inside), sum(c.bad for c in inside))


def test_memory_has_a_bound() -> None:
    service = Service()
    service.run(40 * DAY_MS, 0.0)
    assert len(service.series._fine) + len(service.series._coarse) < 9_000


def test_money() -> None:
    cost = Objective("cost", "cost_exceeded", "cost_usd", 0.0, usd_per_day=24.0)
    series, now, said = Series(28 * DAY_MS), START, []
    for hour in range(48):
        for _ in range(12):
            series.put(now, now + COARSE_MS, [(now, Counts(0, (1.5 if 24 <= hour < 44 else 0.5) / 12))])
            now += COARSE_MS
        said.append(judge(cost, series, now, START - DAY_MS))
    fired = [hour for hour, f in enumerate(said) if f]
    assert (
        fired == list(range(35, 44)) and said[40] and said[40].rule.severity == "critical"
    )  # 12 * 0.5 + 12 * 1.5 = 24
    series = Series(28 * DAY_MS)
    for _ in range(12):
        series.put(now, now + COARSE_MS, [(now, Counts(0, 10 / 12))])
        now += COARSE_MS
    spike = judge(cost, series, now, START - DAY_MS)
    assert spike and burn_rate(cost, spike.long, HOUR_MS) == pytest.approx(10)


def block(**counts: float) -> Block:
    made = Block("support", "r1", START, **counts)
    return made


MEASURES: list[tuple[Config, Callable[[Block], None], Counts]] = [
    (Config(availability=0.99), lambda b: None, Counts(8, 2)),
    (Config(throttled=0.01), lambda b: None, Counts(8, 3)),
    (Config(guard=0.01), lambda b: None, Counts(8, 4)),
    (Config(latency=2), lambda b: [b.time("latency_ms", ms) for ms in (100, 1999, 2100, 9000, 1e12)], Counts(5, 3)),
    (Config(ttft=Below(below_s=0.5, share=0.9)), lambda b: b.time("ttft_ms", 700), Counts(1, 1)),
    (Config(tpot=0.05), lambda b: b.time("token_ms", 20), Counts(1, 0)),
    (Config(latency=2), lambda b: None, Counts(0, 0)),
    (Config(feedback={"有用": 0.8}), lambda b: [b.score("有用", v) for v in (1, 1, 0, 0.5)], Counts(4, 1.5)),
    (Config(feedback={"stars": 0.8}), lambda b: [b.score("stars", v) for v in (5, -5, math.nan, 4)], Counts(3, 0)),
    (Config(usd_per_day=1), lambda b: None, Counts(0, 0.25)),
]


@pytest.mark.parametrize(("config", "fill", "expected"), MEASURES)
def test_what_a_block_says(config: Config, fill: Callable[[Block], None], expected: Counts) -> None:
    made = block(requests=8, errors=2, refused=3, guarded=4, cost_usd=0.25)
    fill(made)
    (objective,) = objectives(config)
    assert measure(objective, made) == expected


def test_objectives_as_they_are_written() -> None:
    written = """{"availability": 0.999, "latency": {"below_s": 2, "share": 0.9}, "ttft": 0.5,
        "feedback": {"helpful": 0.8}, "guard": 0.05, "usd_per_day": 5}"""
    found = {o.name: o for o in objectives(msgspec.json.decode(written, type=Config))}
    assert {name: o.budget for name, o in found.items()} == {
        "availability": 0.001, "guard": 0.05, "latency": 0.1, "ttft": 0.05, "feedback.helpful": 0.2, "cost": 0.0
    }  # fmt: skip
    assert (found["latency"].limit_ms, found["ttft"].limit_ms) == (2000, 500)
    kinds = {name: o.kind for name, o in found.items()}
    assert (kinds["guard"], kinds["cost"], kinds["feedback.helpful"]) == (
        "guard_spike",
        "cost_exceeded",
        "feedback_low",
    )
    for wrong in ('{"availability": 1}', '{"latency": 0}', '{"usd_per_day": -1}', '{"latncy": 1}', '{"guard": 5}'):
        with pytest.raises(msgspec.ValidationError):
            msgspec.json.decode(wrong, type=Config)
