"""Gates: the judgement itself, which is pure."""

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longrein.core.errors import Error
from longrein.models import gate
from longrein.models.gate import Config, Threshold, judge


def config(judge: str = "value", **thresholds: float) -> Config:
    return Config(metrics={"em": Threshold(**thresholds)}, judge=judge)  # type: ignore[arg-type]


def report(value: float, low: float | None = None, high: float | None = None) -> dict[str, dict[str, float]]:
    return {"em": {"value": value} | {k: v for k, v in (("low", low), ("high", high)) if v is not None}}


@pytest.mark.parametrize(
    ("config", "value", "production", "passes"),
    [
        (config(min=0.8), 0.8, None, True),
        (config(min=0.8), 0.79999, None, False),
        (config(max=0.8), 0.8, None, True),
        (config(max=0.8), 0.80001, None, False),
        (config(min=0.5, max=0.6), 0.7, None, False),
        (config(max_drop=0.1), 0.2, None, True),  # nothing is in production: nothing to fall behind
        (config(max_drop=0.125), 0.75, 0.875, True),
        (config(max_drop=0.125), 0.74, 0.875, False),
        (config(max_rise=0.125), 1.0, 0.875, True),
        (config(max_rise=0.125), 1.01, 0.875, False),
        (config(min=0.0), math.nan, None, False),
        (config(max=1.0), math.nan, None, False),
        (config(max_drop=1.0), math.nan, 0.5, False),
        (config(max_drop=1.0), 0.5, math.nan, False),
        (config(min=0.0), math.inf, None, True),
    ],
)
def test_a_threshold(config: Config, value: float, production: float | None, passes: bool) -> None:
    passed, reasons = judge(config, report(value), None if production is None else report(production))
    assert passed is passes
    assert all(r[0] in "✓✗" and "em" in r for r in reasons) and any(r[0] == "✗" for r in reasons) is not passes


def test_confidence_judges_the_worse_end() -> None:
    assert judge(config(min=0.8), report(0.9, 0.7, 0.95), None)[0]
    assert not judge(config("confident", min=0.8), report(0.9, 0.7, 0.95), None)[0]
    assert not judge(config("confident", max=0.92), report(0.9, 0.7, 0.95), None)[0]
    assert not judge(config("confident", max_drop=0.1), report(0.9, 0.7, 0.95), report(0.9))[0]
    assert judge(config("confident", min=0.8), report(0.9), None)[0]  # a report without an interval


def test_all_metrics_must_hold() -> None:
    both = Config(metrics={"em": Threshold(min=0.5), "f1": Threshold(min=0.5)})
    assert not judge(both, report(0.9) | {"f1": {"value": 0.1}}, None)[0]
    assert judge(both, report(0.9) | {"f1": {"value": 0.9}}, None) == (True, ["✓ em 0.9 ≥ 0.5", "✓ f1 0.9 ≥ 0.5"])


def test_what_cannot_be_compared_does_not_pass() -> None:
    passed, reasons = judge(config(max_drop=0.5), report(0.9), {"f1": {"value": 0.1}})
    assert not passed and "lacks it" in reasons[0]
    with pytest.raises(Error) as caught:
        judge(config(min=0.5), {"em_": {"value": 0.9}}, None)
    assert caught.value.code == "invalid" and "'em_'" in caught.value.hint


def test_a_digest_stands_for_the_definition() -> None:
    digests = [
        gate.digest(c)
        for c in (config(min=0.5), config(min=0.5, max=1.0), config(min=0.6), config("confident", min=0.5))
    ]
    assert len(set(digests)) == 4 and gate.digest(config(min=0.5)) == digests[0]
    assert gate.digest(msgspec.convert({"metrics": {"em": {"min": 0.5}}, "judge": "value"}, Config)) == digests[0]
    assert [config(min=1.0).compares(), config(max_drop=1.0).compares(), config(max_rise=0.0).compares()] == [
        False,
        True,
        True,
    ]


@pytest.mark.parametrize("value", [{}, {"metrics": {}}, {"metrics": {"em": {}}}, {"metrics": {"em": {"mni": 1}}}])
def test_a_gate_that_holds_nothing_is_none(value: object) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(value, Config)


numbers = st.floats(allow_nan=True, allow_infinity=True)


@given(numbers, numbers, numbers)
def test_better_never_loses(value: float, better: float, limit: float) -> None:
    if better > value and judge(config(min=limit), report(value), None)[0]:
        assert judge(config(min=limit), report(better), None)[0]
