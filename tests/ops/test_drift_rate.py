"""The promise of the default detector: without a change its evidence grows by at most one a value, on average, so that
false alarms keep the declared rate. Shown by many simulated streams, with seeds of their own."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from longrein.core import plugins

Draw = Callable[[Any, int], Any]
STREAMS: dict[str, Draw] = {
    "normal": lambda draw, n: draw.normal(size=n),
    "heavy tails": lambda draw, n: draw.standard_cauchy(n),
    "few values": lambda draw, n: draw.choice(3, n, p=[0.9, 0.09, 0.01]).astype(float),
    "rare ones": lambda draw, n: (draw.random(n) < 0.003).astype(float),
    "infinities": lambda draw, n: np.where(draw.random(n) < 0.1, np.inf, draw.random(n)),
    "a bag in any order": lambda draw, n: draw.permutation(np.arange(n) ** 2.0),  # exchangeable, not independent
}


def made(seed: int, **options: Any) -> Any:
    return plugins.load("detector", "conformal")({"seed": seed, **options})


@pytest.mark.parametrize("kind", STREAMS)
@pytest.mark.parametrize("learned", [0, 300])
def test_evidence_grows_by_at_most_one_a_value_on_average(kind: str, learned: int) -> None:
    """By the truncated mean, since the mean itself is of heavy tails; and by Markov's inequality, at any level."""
    runs, size = 300, 600
    last = []
    for seed in range(runs):
        draw = np.random.default_rng((seed, 7))
        values, detector = STREAMS[kind](draw, learned + size), made(seed)
        none = np.zeros(len(values), np.int64)
        detector.learn(values[:learned], none[:learned])
        last.append(float(detector.observe(values[learned:], none[learned:])[-1]))
    assert np.mean(np.minimum(last, 20 * size)) <= 1.3 * size
    for factor in (5, 20, 100):
        found = np.mean(np.array(last) >= factor * size)
        assert found <= 1 / factor + 3 * np.sqrt(1 / factor / runs)


@pytest.mark.parametrize("seasons", [1, 24])
def test_false_alarms_come_no_more_often_than_declared(seasons: int) -> None:
    """With seasons, each has a distribution of its own: then it is like with like."""
    run_length, size = 500, 4000
    alarms = seen = 0
    for seed in range(60):
        draw = np.random.default_rng((seed, 8))
        hours = np.arange(size) // 20 % seasons
        values = draw.normal(size=size) + hours * 5.0
        start = 0
        while start < size:
            detector = made(seed + alarms, seasons=seasons)
            found = np.flatnonzero(detector.observe(values[start:], hours[start:]) >= run_length)
            if not len(found):
                break
            alarms, start = alarms + 1, start + int(found[0]) + 1
        seen += size
    assert alarms <= seen / run_length * 1.1


def test_a_season_never_seen_before_says_nothing_wrong() -> None:
    draw, detector = np.random.default_rng(0), made(0, seasons=3)
    detector.learn(draw.normal(size=500), np.zeros(500, np.int64))
    detector.learn(draw.normal(size=100), np.full(100, -1))  # training rows: of no hour
    evidence = detector.observe(draw.normal(size=3000) + 50, np.arange(3000) % 2 + 1)
    assert evidence.max() < 20_000


@pytest.mark.parametrize(("shift", "most"), [(0.5, 120), (1.0, 40), (2.0, 15), (-1.0, 40)])
def test_a_change_is_found_soon(shift: float, most: int) -> None:
    """Median delays at a run length of 20,000; with the best bet for a known shift d about 2 ln 20,000 / d²."""
    delays = []
    for seed in range(40):
        draw, detector = np.random.default_rng((seed, 9)), made(seed)
        none = np.zeros(2000, np.int64)
        detector.learn(draw.normal(size=2000), none)
        detector.observe(draw.normal(size=500), none[:500])
        found = np.flatnonzero(detector.observe(draw.normal(size=1000) + shift, none[:1000]) >= 20_000)
        delays.append(int(found[0]) + 1 if len(found) else 1001)
    assert np.median(delays) <= most


def test_another_spread_or_shape_is_found_though_the_mean_stays() -> None:
    for other in (lambda d, n: d.normal(size=n) * 2.5, lambda d, n: d.choice([-1.0, 1.0], n)):
        draw, detector = np.random.default_rng(1), made(1)
        none = np.zeros(1000, np.int64)
        detector.learn(draw.normal(size=1000), none)
        assert detector.observe(other(draw, 1000), none)[-1] >= 20_000
