"""Series read from the ledger: merged by what is asked for, in steps, with what is open still; on both databases."""

import math
import random

import pytest

from longrein.core.errors import Error
from longrein.core.histogram import Histogram
from longrein.core.ledger import Block, Ledger, now_ms
from longrein.core.ledger.traffic import BLOCK_MS, DAY_MS
from longrein.ops.monitor.series import numbers, read, spark

NOW = now_ms() // BLOCK_MS * BLOCK_MS


def block(start_ms=NOW, release="r1", team="", endpoint="客服", latency=(), **more):
    made = Block(endpoint, release, start_ms, team=team, **{"requests": len(latency) or 1, **more})
    for value in latency:
        made.time("latency_ms", value)
    return made


def test_the_open_block_counts_and_percentiles_are_those_of_all_values(ledger: Ledger):
    rng = random.Random(7)
    values = [rng.lognormvariate(5, 1) for _ in range(3000)]
    for worker in range(3):
        ledger.traffic.put(f"w{worker}", [block(NOW - BLOCK_MS * i, latency=values[worker::3][i::2]) for i in range(2)])
    (point,) = read(ledger, NOW - 60_000)
    found = numbers(point)
    assert found["requests"] == 3000 and found["requests_per_s"] == pytest.approx(3000 / point.seconds)
    for q in (50, 95, 99):
        exact = sorted(values)[math.ceil(q / 100 * 3000) - 1]
        assert found[f"latency_p{q}_ms"] == pytest.approx(exact, rel=0.0112)
    assert found["first_token_p50_ms"] is None and found["cost_usd"] is None and found["error_share"] == 0


def test_groups_and_steps(ledger: Ledger):
    rows = [
        block(NOW - i * BLOCK_MS, release, team, tokens_out=10)
        for i in range(6)
        for release in ("r1", "r2")
        for team in ("sales", "")
    ]
    ledger.traffic.put("w", [*rows, block(endpoint="other"), block(arm="shadow"), block(arm="missed")])
    points = read(ledger, NOW - 5 * BLOCK_MS, endpoint="客服", by=("release", "team"))
    assert [(p.group, p.block.requests) for p in points] == [
        (("r1", ""), 6), (("r1", "sales"), 6), (("r2", ""), 6), (("r2", "sales"), 6)
    ]  # fmt: skip
    steps = read(ledger, NOW - 5 * BLOCK_MS, endpoint="客服", step_ms=20_000)
    assert sum(p.block.requests for p in steps) == 24 and {p.start_ms % 20_000 for p in steps[1:]} == {0}
    assert all(p.end_ms - p.start_ms <= 20_000 for p in steps)
    assert [p.group for p in read(ledger, NOW, by=("endpoint",))] == [("other",), ("客服",)]
    assert len(read(ledger, NOW - 5 * BLOCK_MS, endpoint="客服", step_ms=1)) == 6  # no shorter than blocks are


def test_what_was_joined_long_ago_is_read_as_well_and_steps_are_no_shorter(ledger: Ledger):
    old = (NOW - 20 * DAY_MS) // DAY_MS * DAY_MS
    ledger.traffic.put("w", [block(old + i * BLOCK_MS, latency=[5.0]) for i in range(720)])
    while ledger.traffic.compact(NOW):
        pass
    points = read(ledger, old, old + DAY_MS, step_ms=60_000)
    assert [(p.end_ms - p.start_ms, p.block.requests) for p in points] == [(3_600_000, 360)] * 2
    inside = read(ledger, old + 1_800_000, old + DAY_MS)  # the block that holds the time is told whole
    assert inside[0].block.requests == 720


def test_cost_scores_and_samples_in_short(ledger: Ledger):
    made = block(cost_usd=0.5)
    made.time("cost_usd", 0.5)
    made.score("helpful", 1)
    made.score("helpful", 0)
    made.gauges = {
        "running": Histogram([8.0, 3.0]),
        "steps_total": Histogram([5.0, 7.0]),
        "slots_total": Histogram([8]),
    }
    ledger.traffic.put("w", [made])
    found = numbers(read(ledger, NOW)[0])
    assert found["cost_usd"] == 0.5 == found["cost_usd_mean"]
    assert found["scores"] == {"helpful": {"mean": 0.5, "count": 2}}
    assert found["gauges"] == {
        "running": {"mean": 5.5, "p95": 8.0, "max": 8.0}, "steps_total": {"sum": 12.0},
        "slots_total": {"mean": 8.0, "p95": 8.0, "max": 8.0},
    }  # fmt: skip


def test_what_cannot_be_asked(ledger: Ledger):
    with pytest.raises(Error, match="not told by 'user'"):
        read(ledger, NOW, by=("user",))
    assert read(ledger, NOW + DAY_MS) == [] == read(ledger, 0, 1)


def test_all_of_the_time_in_short_steps_is_as_many_points_as_there_are_blocks(ledger: Ledger):
    ledger.traffic.put("w", [block(NOW - i * DAY_MS) for i in range(400)])
    while ledger.traffic.compact(NOW):
        pass
    assert sum(p.block.requests for p in read(ledger, 0, step_ms=1)) == 400
    assert len(read(ledger, 0, step_ms=1)) == 400


def test_bars():
    assert spark([0, 1, 2, 4, None, float("nan")]) == "▁▃▅█  "
    assert spark([]) == "" and spark([0, 0]) == "▁▁" and spark([None]) == " "
