"""E-processes: fair under the null to the last digit where it can be enumerated, and by simulation where it cannot."""

import itertools
import json
import math
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longrein.core.evidence import Counts, Interval, Process, Ranks, Rates

small = st.integers(1, 5)
rate = st.floats(0.001, 0.999)


def binomial(n: int, p: float) -> list[float]:
    return [math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)]


@given(small, small, rate, st.floats(-0.5, 0.5), st.floats(1e-3, 0.9), rate, rate, st.floats(0, 0.3))
def test_bet_on_rates_is_an_e_variable(
    n: int, m: int, guess: float, shift: float, effect: float, p: float, below: float, noise: float
) -> None:
    """Exactly, for all rates the null allows, whatever was guessed."""
    p = max(p, -shift)
    q = min(p + shift, 1.0) * below
    mean = sum(
        a * b * math.exp(Rates(Counts(n, k), Counts(m, j), guess, shift, noise).bet(effect))
        for k, a in enumerate(binomial(n, p))
        for j, b in enumerate(binomial(m, q))
    )
    assert 0 < mean <= 1 + 1e-9


@given(small, small, rate, st.floats(-0.5, 0.5), rate)
def test_bet_on_rates_is_fair_at_the_edge_of_the_null(n: int, m: int, guess: float, shift: float, p: float) -> None:
    q = p + shift
    if not 0 <= q <= 1:
        return
    mean = sum(
        a * b * math.exp(Rates(Counts(n, k), Counts(m, j), guess, shift).bet(0.1))
        for k, a in enumerate(binomial(n, p))
        for j, b in enumerate(binomial(m, q))
    )
    assert mean <= 1 + 1e-9


@given(st.lists(st.integers(0, 4), min_size=2, max_size=9), st.data(), st.floats(0.01, 0.5), st.sampled_from([1, -1]))
def test_bet_on_ranks_is_an_e_variable(values: list[int], data: st.DataObject, effect: float, sign: int) -> None:
    """Over all ways to deal the values to the arms, ties or not."""
    n = data.draw(st.integers(1, len(values) - 1))
    dealt = list(itertools.combinations(range(len(values)), n))
    total = 0.0
    for chosen in dealt:
        first = Counter(float(values[i]) for i in chosen)
        second = Counter(float(v) for i, v in enumerate(values) if i not in chosen)
        total += math.exp(Ranks(first, second, 0.0, sign).bet(effect))
    assert total / len(dealt) <= 1 + 1e-9


def test_ranks_are_mann_whitney() -> None:
    block = Ranks({1.0: 2, 2.0: 1}, {1.0: 1, 2.0: 1, math.inf: 1})
    assert block.effect == pytest.approx((2 / 2 + (2 + 0.5) + 3) / 9 - 0.5)
    assert Ranks({1.0: 2, 2.0: 1}, {1.0: 1, 2.0: 1, math.inf: 1}, sign=-1).effect == -block.effect
    assert block.information == pytest.approx(12 * 9 / 7)


def test_noise_weakens_large_blocks_and_leaves_small_ones() -> None:
    def grown(n: int, noise: float) -> float:
        return Rates(Counts(n, n // 100), Counts(n, n // 50), 0.015, 0.0, noise).bet(0.01)

    assert grown(100, 0.1) > 0.95 * grown(100, 0.0) > 0
    assert grown(100_000, 0.1) < 0.1 * grown(100_000, 0.0)


def simulate(runs: int, draw: random.Random, extra: float, worse: float = 0.0, blocks: int = 40) -> float:
    """Share of runs in which the wealth reaches 20 at any look. The weight ramps up, the common rate wanders."""
    found = 0
    for _ in range(runs):
        process, seen = Process(), Counts(0, 0)
        for block in range(blocks):
            m, n = 3 + block // 3, 30 - block // 3
            p = 0.05 + 0.15 * draw.random()
            arms = [Counts(s, sum(draw.random() < r for _ in range(s))) for s, r in ((n, p), (m, p + extra + worse))]
            guess = (seen.k + 1) / (seen.n + 20)
            process.observe(Rates(arms[0], arms[1], guess, extra), 20.0, blocks - block)
            seen += arms[0] + arms[1]
            assert process.value >= 0
            if process.value >= 20:
                found += 1
                break
    return found / runs


def test_false_alarms_are_bounded_at_every_look() -> None:
    """At the edge of the null, without and with a tolerance. Chance alone would break it once in a hundred seeds."""
    assert simulate(150, random.Random(1), 0.0) <= 0.1
    assert simulate(150, random.Random(2), 0.05) <= 0.1


def test_degradation_is_found() -> None:
    assert simulate(40, random.Random(3), 0.0, worse=0.15) >= 0.95


def test_deadline_makes_the_process_nearly_as_sharp_as_a_single_look() -> None:
    """An effect of 2.5 standard errors: looking once at .05 finds it in 80 % of cases, the best fixed bet in 49 %."""

    class Normal:
        information = 1.0

        def __init__(self, effect: float) -> None:
            self.effect = effect

        def bet(self, effect: float) -> float:
            return effect * (self.effect - effect / 2)

    draw = random.Random(4)
    found = {0.0: 0, 2.5: 0}
    for true in found:
        for _ in range(200):
            process = Process()
            for block in range(100):
                process.observe(Normal(draw.gauss(true / 10, 1.0)), 20.0, 100 - block)
                if process.value >= 20:
                    found[true] += 1
                    break
    assert found[0.0] <= 16 and found[2.5] >= 120


@given(
    st.lists(
        st.tuples(st.integers(1, 10**9), st.integers(1, 10**9), st.floats(0, 1), st.floats(0, 1)),
        min_size=1,
        max_size=6,
    ),
    st.floats(-0.9, 0.9),
    st.floats(0, 0.9),
    st.floats(-5, 50),
)
@settings(deadline=None)
def test_wealth_is_a_number_whatever_comes(
    blocks: list[tuple[int, int, float, float]], shift: float, noise: float, left: float
) -> None:
    process, interval, seen = Process(), Interval(), Counts(0, 0)
    for n, m, a, b in blocks:
        first, second = Counts(n, int(n * a)), Counts(m, int(m * b))
        block = Rates(first, second, (seen.k + 1) / (seen.n + 20), shift, noise)
        process.observe(block, 20.0, left)
        interval.observe(block.effect, block.information, 180)
        seen += first + second
        assert 0 <= process.value < math.inf
        estimate, low, high = interval.bounds(0.05)
        assert low <= high and not math.isnan(estimate)


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), min_size=2, max_size=20), st.data())
def test_dump_goes_on_where_it_was(counts: list[tuple[int, int]], data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(counts)))
    straight, broken = Process(), Process()
    for i, (k, j) in enumerate(counts):
        if i == cut:
            broken = Process(**json.loads(json.dumps(broken.dump())))
        for process in (straight, broken):
            process.observe(Rates(Counts(20, k), Counts(20, j), 0.3), 60.0, len(counts) - i)
    assert straight.value == broken.value


def test_interval_holds_at_all_times() -> None:
    draw = random.Random(5)
    missed = 0
    for _ in range(300):
        interval = Interval()
        for _ in range(200):
            interval.observe(draw.gauss(0.1, 0.5), 4.0, 200)
            _, low, high = interval.bounds(0.05)
            if not low <= 0.1 <= high:
                missed += 1
                break
    assert missed <= 25
    assert high - low < 0.35
    assert Interval().bounds(0.05) == (0.0, -math.inf, math.inf)
