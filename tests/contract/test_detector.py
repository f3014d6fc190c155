"""What every detector plugin keeps; found by itself, run over each (see longrein.core.ports.Detector)."""

import math
from typing import Any

import msgspec
import numpy as np
import pytest

from longrein.core import plugins

NAMES = plugins.names("detector")
NORMAL = np.random.default_rng(0).normal(size=3000)
SETTINGS = {"kswin": {"alpha": 1e-6}}  # its own cries wolf every hundred values
CHANGED = NORMAL[:600] + 3.0


def zeros(values: Any) -> Any:
    return np.zeros(len(values), np.int64)


def made(name: str, learned: Any = NORMAL[:1000]) -> Any:
    detector = plugins.load("detector", name)({"seasons": 2, **SETTINGS.get(name, {})})
    if len(learned):
        detector.learn(learned, zeros(learned))
    return detector


def observed(detector: Any, values: Any) -> Any:
    evidence = detector.observe(values, zeros(values))
    assert len(evidence) == len(values) and (not len(values) or evidence[-1] == detector.evidence)
    return evidence


@pytest.mark.parametrize("name", NAMES)
def test_a_change_is_noticed_and_dated(name: str) -> None:
    detector = made(name)
    assert observed(detector, NORMAL[1000:1300]).max() < 100_000
    assert observed(detector, CHANGED)[-1] >= 100_000
    assert abs(detector.since - 600) <= 150 and plugins.version("detector", name)


@pytest.mark.parametrize("name", NAMES)
def test_without_having_learned_the_first_values_are_what_is_normal(name: str) -> None:
    detector = made(name, [])
    assert observed(detector, NORMAL[:400]).max() < 100_000
    assert observed(detector, CHANGED)[-1] >= 100_000


@pytest.mark.parametrize("name", NAMES)
def test_cut_anywhere_dumped_and_restored_the_numbers_are_the_same(name: str) -> None:
    values = np.concatenate([NORMAL[1000:1200], CHANGED[:100]])
    whole = observed(made(name), values)
    for learned, expected in ((NORMAL[:1000], whole), ([], observed(made(name, []), values))):
        detector, found = made(name, learned), []
        for part in (values[:1], values[1:60], values[60:60], values[60:217], values[217:]):
            found += list(observed(detector, part))
            state = msgspec.msgpack.decode(msgspec.msgpack.encode(detector.dump()))
            detector, before = made(name, []), detector
            detector.restore(state)
            assert detector.evidence == before.evidence and detector.since == before.since
        assert found == list(expected)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("constant", [0.0, 1.0, -1e300, math.inf])
def test_constants_are_no_change(name: str, constant: float) -> None:
    for learned in (np.full(500, constant), []):
        detector = made(name, learned)
        assert observed(detector, np.full(5000, constant)).max() < 1000


@pytest.mark.parametrize("after", [-1.0, 1.0])
def test_a_change_from_constants_either_way(after: float) -> None:
    detector = made("conformal", np.zeros(500))
    assert observed(detector, np.zeros(500)).max() == 0
    assert observed(detector, np.full(30, after))[-1] >= 100_000


@pytest.mark.parametrize("name", NAMES)
def test_what_is_no_number_changes_nothing(name: str) -> None:
    detector = made(name)
    first = observed(detector, NORMAL[1000:1200])[-1]
    assert set(observed(detector, np.full(500, math.nan))) == {first}
    mixed = np.full(400, math.nan)
    mixed[::2] = NORMAL[1200:1400]
    whole = observed(made(name), NORMAL[1000:1400])
    assert list(observed(detector, mixed)[::2]) == list(whole[200:])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("hostile", [math.inf, -math.inf, 1e308, -1e308, 5e-324])
def test_numbers_beyond_all_bounds_are_survived(name: str, hostile: float) -> None:
    values = np.concatenate([np.full(20, hostile), NORMAL[:200]])
    detector = made(name, np.full(200, hostile))
    assert not np.isnan(observed(detector, values)).any()
    assert not np.isnan(observed(made(name, []), values)).any()
    assert 0 <= detector.since <= len(values)


@pytest.mark.parametrize("name", NAMES)
def test_an_option_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        plugins.load("detector", name)({"threshhold": 1})
