"""The judge: what it decides on traffic made up here, and that nothing but the traffic matters to it."""

import json
import math
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longrein.core.errors import Error
from longrein.core.evidence import Counts
from longrein.core.spec import Source
from longrein.models.experiment.judge import Arm, Decision, Judge, Judgement, Metric, bucket, merge


def arm(draw: random.Random, n: int = 20, errors: float = 0.01, latency: float = 1.0, quality: float = 0.85) -> Arm:
    """One block of n requests, every fifth of them judged."""
    return {
        "errors": Counts(n, sum(draw.random() < errors for _ in range(n))),
        "latency": Counter(bucket(latency * draw.lognormvariate(0, 0.5)) for _ in range(n)),
        "quality": Counts(n // 5, sum(draw.random() < quality for _ in range(n // 5))),
    }


DEFAULT = Judgement()


def hour(seed: int, config: Judgement = DEFAULT, sizes: tuple[int, int] = (20, 20), **bad: float) -> Decision:
    """An hour of traffic, or less if it is decided: the candidate is as bad as said."""
    draw = random.Random(seed)
    judge = Judge(config)
    while True:
        decision = judge.observe(arm(draw, sizes[0]), arm(draw, sizes[1], **bad))
        if decision.kind != "continue":
            return decision


def test_alike_releases_are_promoted_early_and_seldom_rolled_back() -> None:
    decisions = [hour(seed) for seed in range(16)]
    assert sum(d.action == "rollback" for d in decisions) <= 1
    early = [d for d in decisions if d.kind == "noninferior" and d.blocks < 180]
    assert len(early) >= 10 and all(d.action == "promote" for d in early)


@pytest.mark.parametrize(
    ("what", "value"),
    [("errors", 0.2), ("latency", 1.5), ("quality", 0.5)],
)
def test_clear_degradation_is_rolled_back_soon_and_named(what: str, value: float) -> None:
    for seed in range(5):
        decision = hour(seed, DEFAULT, (20, 20), **{what: value})
        assert (decision.kind, decision.action) == ("degraded", "rollback")
        assert decision.blocks <= 45
        worst = max(decision.metrics, key=lambda e: e.worse / e.worse_needed)
        assert worst.metric == what and what + ":" in decision.reason
        assert abs(worst.effect) > 0.05 and worst.low <= worst.effect <= worst.high


def test_a_small_canary_is_judged_against_a_large_baseline() -> None:
    assert hour(1, sizes=(200, 10), errors=0.1).kind == "degraded"


def test_worse_within_the_tolerance_is_no_degradation() -> None:
    tolerant = Judgement(metrics={"latency": Metric(tolerance=0.3, margin=0.9)})
    assert [hour(seed, tolerant, latency=1.25).kind for seed in range(5)] == ["noninferior"] * 5
    assert hour(1, Judgement(metrics={"latency": Metric(tolerance=0.0)}), latency=1.25).kind == "degraded"


def test_worse_than_the_margin_is_not_promoted_early() -> None:
    strict = Judgement(metrics={"errors": Metric(tolerance=0.5, margin=0.02)}, undecided="hold")
    assert {hour(seed, strict, errors=0.04).kind for seed in range(8)} == {"undecided"}


@pytest.mark.parametrize("action", ["promote", "rollback", "hold"])
def test_undecided_at_the_deadline_does_what_the_file_says(action: str) -> None:
    config = Judgement(deadline_s=60, undecided=action)  # type: ignore[arg-type]
    decision = hour(1, config)
    assert (decision.kind, decision.action, decision.blocks) == ("undecided", action, 3)
    assert "deadline" in decision.reason


@pytest.mark.parametrize(("better", "kind"), [(0.4, "better"), (0.15, "degraded")])
def test_a_b_ends_when_the_goal_is_decided(better: float, kind: str) -> None:
    config = Judgement(metrics={"bought": Metric(kind="rate", better="higher")}, goal="bought", deadline_s=36_000)
    draw = random.Random(1)
    judge = Judge(config)
    for _ in range(400):
        seen = [Counts(20, sum(draw.random() < p for _ in range(20))) for p in (0.27, better)]
        decision = judge.observe({"bought": seen[0]}, {"bought": seen[1]})
        if decision.kind != "continue":
            break
    assert decision.kind == kind


def test_an_a_b_without_difference_goes_on() -> None:
    config = Judgement(metrics={"stars": Metric(kind="score", better="higher", margin=0.5)}, goal="stars")
    draw = random.Random(2)
    judge = Judge(config)
    for _ in range(100):
        seen = [Counter(float(draw.randint(1, 5)) for _ in range(10)) for _ in range(2)]
        assert judge.observe({"stars": seen[0]}, {"stars": seen[1]}).kind == "continue"


def test_scores_are_judged_in_their_direction() -> None:
    for better, kind in (("higher", "degraded"), ("lower", "noninferior")):
        judge = Judge(Judgement(metrics={"stars": Metric(kind="score", better=better, margin=0.5)}))  # type: ignore[arg-type]
        draw = random.Random(3)
        while True:
            first, second = (Counter(float(draw.randint(1, m)) for _ in range(10)) for m in (5, 3))
            decision = judge.observe({"stars": first}, {"stars": second})
            if decision.kind != "continue":
                break
        assert decision.kind == kind


# -- what must not matter


def blocks(seed: int, many: int) -> Iterator[tuple[Arm, Arm]]:
    draw = random.Random(seed)
    for _ in range(many):
        yield arm(draw), arm(draw, 5, errors=0.03)


@given(st.integers(0, 30), st.integers(0, 100))
@settings(max_examples=10, deadline=None)
def test_dumped_half_way_it_decides_the_same(cut: int, seed: int) -> None:
    config = Judgement()
    straight, broken = Judge(config), Judge(config)
    for i, (b, c) in enumerate(blocks(seed, 30)):
        if i == cut:
            broken = Judge.load(config, json.loads(json.dumps(broken.dump())))
        assert straight.observe(b, c) == broken.observe(b, c)


def test_dumped_while_one_arm_waits_it_decides_the_same() -> None:
    config = Judgement()
    straight, broken = Judge(config), Judge(config)
    for judge in (straight, broken):
        judge.observe({"latency": {1.5: 3, math.inf: 1}, "errors": Counts(4, 1)}, {})
    broken = Judge.load(config, msgspec.json.decode(msgspec.json.encode(broken.dump())))
    after = [judge.observe({}, {"latency": {2.5: 3}, "errors": Counts(4, 1)}) for judge in (straight, broken)]
    assert after[0] == after[1]
    assert [e.metric for e in after[0].metrics] == ["errors", "latency"]


def test_scale_of_time_does_not_matter() -> None:
    fast, slow = Judge(Judgement(block_s=2, deadline_s=360)), Judge(Judgement(block_s=200, deadline_s=36_000))
    for b, c in blocks(1, 30):
        assert fast.observe(b, c) == slow.observe(b, c)


@given(st.permutations(range(6)), st.integers(1, 5))
@settings(max_examples=20, deadline=None)
def test_workers_may_report_in_any_order(order: list[int], cut: int) -> None:
    draw = random.Random(1)
    parts = [arm(draw) for _ in range(6)]
    mixed = [parts[i] for i in order]
    whole = merge(parts)
    assert merge(mixed) == merge([merge(mixed[:cut]), merge(mixed[cut:])]) == whole
    assert Judge(Judgement()).observe(whole, parts[0]) == Judge(Judgement()).observe(merge(mixed), parts[0])


@pytest.mark.parametrize("empty", [{}, {"errors": Counts(0, 0), "latency": {}, "quality": Counts(0, 0)}])
def test_empty_blocks_say_nothing(empty: Arm) -> None:
    judge = Judge(Judgement())
    assert judge.observe(empty, empty).metrics == []
    for b, c in blocks(1, 5):
        judge.observe(b, c)
    before = judge.wealth
    assert judge.observe(empty, empty).kind == "continue"
    assert judge.wealth == before


def test_what_one_arm_alone_has_seen_waits_a_while() -> None:
    judge = Judge(Judgement())
    judge.observe({"feedback": Counts(3, 2)}, {})
    assert (
        judge.observe({}, {"feedback": Counts(1, 0)}).metrics[0].sentence.startswith("feedback: 0.00 % against 66.67 %")
    )
    judge = Judge(Judgement())
    judge.observe({"feedback": Counts(3, 2)}, {})
    for _ in range(20):
        judge.observe({}, {})
    assert judge.observe({}, {"feedback": Counts(1, 0)}).metrics == []


def test_a_metric_that_comes_late_takes_its_equal_part_of_the_wealth() -> None:
    judge = Judge(Judgement())
    for b, c in blocks(5, 20):
        judge.observe(*({k: v for k, v in a.items() if k != "quality"} for a in (b, c)))
    before = judge.wealth
    decision = judge.observe({"cost": {1.0: 1}}, {"cost": {1.0: 1}})
    needed = {e.metric: e.worse_needed for e in decision.metrics}
    assert needed["cost"] == pytest.approx(20 * 3 / before)
    assert needed["errors"] == needed["latency"] == 20 * 3
    assert judge.wealth == pytest.approx(20 * sum(e.worse / e.worse_needed for e in decision.metrics))


def test_metrics_that_are_not_asked_for_are_left_alone() -> None:
    config = Judgement(metrics={"errors": Metric()})
    judge = Judge(config)
    decision = judge.observe({"errors": Counts(9, 0), "x": {}}, {"errors": Counts(9, 0), "latency": {1.0: 4}})
    assert [e.metric for e in decision.metrics] == ["errors"]


@pytest.mark.parametrize(
    "bad",
    [
        {"errors": Counts(1, 2)},
        {"errors": Counts(1, -1)},
        {"errors": {1.0: 2}},
        {"latency": {math.nan: 1}},
        {"latency": {1.0: -1}},
        {"latency": Counts(1, 1)},
    ],
)
def test_bad_data_is_refused_and_changes_nothing(bad: Arm) -> None:
    judge = Judge(Judgement())
    for b, c in blocks(1, 2):
        judge.observe(b, c)
    before = json.dumps(judge.dump())
    with pytest.raises(Error, match=r"metric '(errors|latency)'"):
        judge.observe({"quality": Counts(1, 1)}, {"quality": Counts(1, 1), **bad})
    assert json.dumps(judge.dump()) == before


def test_buckets_keep_one_percent() -> None:
    for value in (1e-9, 0.013, 1.0, 7.7, 1e12):
        assert bucket(value) == pytest.approx(value, rel=0.0101)
        assert bucket(bucket(value)) == bucket(value)
    assert [bucket(v) for v in (0.0, math.inf)] == [0.0, math.inf]


def test_infinite_latency_is_the_slowest() -> None:
    judge = Judge(Judgement(metrics={"latency": Metric()}))
    for _ in range(30):
        decision = judge.observe({"latency": {1.0: 5, 2.0: 5}}, {"latency": {1.0: 2, math.inf: 8}})
    assert decision.kind == "degraded"


# -- the file


def test_the_shortest_config_works() -> None:
    assert msgspec.convert({}, Judgement) == Judgement()
    known = Judgement(metrics={"errors": Metric(margin=0.05)}).resolved()["errors"]
    assert (known.kind, known.tolerance, known.margin) == ("rate", 0.002, 0.05)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("metrics: {speed: {margin: .1}}", "'speed' needs a kind"),
        ("goal: latencies", "did you mean 'latency'"),
        ("alpha: 0", "alpha"),
        ("metrics: {errors: {margin: 0}}", "margin"),
        ("undecided: maybe", "undecided"),
    ],
)
def test_a_bad_config_is_a_sentence(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "longrein.yaml"
    file.write_text(text + "\n", encoding="utf-8")
    source = Source(file)
    with pytest.raises(Error, match=says):
        source.convert((), source.value, Judgement)
