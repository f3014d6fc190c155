"""Exponential histograms: how exact, mergeable, and calm about hostile numbers."""

import json
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longrein.core.histogram import EDGE, Histogram, bounds, middle

numbers = st.floats(allow_nan=False, allow_infinity=False)


@given(st.one_of(numbers, st.floats(min_value=1e-9, max_value=1e9)))
def test_a_number_lies_within_its_buckets_bounds(value):
    (key,) = Histogram([value]).counts
    low, high = bounds(key)
    if abs(key) in (1, 2 * EDGE):  # the outermost hold everything beyond too
        return
    assert low * (1 - 1e-12 * (value > 0)) <= value <= high * (1 + 1e-12 * (value > 0)) or low <= value <= high
    assert abs(middle(key) - value) <= 0.011 * abs(value)


@pytest.mark.parametrize("power", range(-20, 21))
def test_a_power_of_two_belongs_to_the_bucket_it_ends(power):
    (key,) = Histogram([2.0**power]).counts
    assert bounds(key)[1] == 2.0**power
    (above,) = Histogram([math.nextafter(2.0**power, math.inf) * (1 + 1e-9)]).counts
    assert above == key + 1


def test_keys_grow_with_their_values():
    values = [-1e300, -5.0, -1e-3, -1e-300, 0.0, 1e-300, 1e-3, 1.0, 5.0, 1e300]
    keys = [next(iter(Histogram([v]).counts)) for v in values]
    assert keys == sorted(keys) and len(set(keys)) == len(keys)
    assert keys[0] == -2 * EDGE and keys[-1] == 2 * EDGE


def test_quantiles_are_within_a_hundredth():
    random.seed(7)
    values = sorted(random.lognormvariate(3, 1.5) for _ in range(20_001))
    histogram = Histogram(values)
    for q in (0.0, 0.01, 0.5, 0.9, 0.99, 1.0):
        exact = values[max(0, math.ceil(q * len(values)) - 1)]
        assert histogram.quantile(q) == pytest.approx(exact, rel=0.011)
    assert histogram.mean == pytest.approx(sum(values) / len(values))
    assert histogram.below(values[10_000]) == pytest.approx(10_001, rel=0.02)


@given(st.lists(numbers), st.lists(numbers))
def test_merging_is_as_recording_all_in_one(some, others):
    merged = Histogram(some)
    merged.merge(Histogram(others))
    whole = Histogram([*some, *others])
    assert merged.counts == whole.counts and merged.count == len(some) + len(others)
    assert Histogram.from_json(json.loads(json.dumps(merged.as_json()))).counts == whole.counts


def test_what_is_no_number_counts_nowhere_and_infinities_at_the_edges():
    histogram = Histogram([math.nan, math.inf, -math.inf, -0.0, 0.0])
    assert histogram.counts == {2 * EDGE: 1, -2 * EDGE: 1, 0: 2}
    assert math.isfinite(histogram.sum) and histogram.quantile(0.5) == 0


def test_an_empty_one():
    assert Histogram().count == 0 and math.isnan(Histogram().quantile(0.5)) and math.isnan(Histogram().mean)
    assert Histogram().below(5) == 0 and Histogram() == Histogram.from_json(Histogram().as_json())


def test_yes_and_no_are_counts():
    votes = Histogram([True, False, True, True])
    assert votes.count == 4 and votes.count - votes.counts[0] == 3 and votes.mean == 0.75
