"""Blocks of traffic, on both databases: written twice, merged over workers, joined as they age."""

import json

import pytest
import sqlalchemy as sa

from longrein.core.histogram import Histogram
from longrein.core.ledger import Block, Ledger
from longrein.core.ledger.schema import traffic
from longrein.core.ledger.traffic import BLOCK_MS, DAY_MS, KEPT, MOST_NAMES, MOST_TEAMS, OTHER

NOW = 1_700_000_000_000 // DAY_MS * DAY_MS


def block(start_ms=NOW, release="r1", requests=1, endpoint="support", latency=(), **more):
    made = Block(endpoint, release, start_ms, requests=requests, **more)
    for value in latency:
        made.time("latency_ms", value)
    return made


def total(blocks):
    return sum(b.requests for b in blocks)


def test_a_write_repeated_after_an_unknown_outcome_counts_once(ledger: Ledger):
    open_block = block(requests=3, cost_usd=0.5, latency=[1, 2, 3])
    for _ in range(2):
        ledger.traffic.put("w1", [open_block, block(release="")])
    open_block.requests += 1
    open_block.score("helpful", 1)
    ledger.traffic.put("w1", [open_block])
    none, found = ledger.traffic.blocks("support")
    assert (none.release, none.requests) == ("", 1)
    assert (found.requests, found.cost_usd, found.length_ms) == (4, 0.5, BLOCK_MS)
    assert found.timings == {"latency_ms": open_block.timings["latency_ms"]} and found.scores["helpful"].mean == 1


def test_histograms_are_kept_as_they_say_themselves(ledger: Ledger):
    seen = Histogram([0.0, -2.5, 1e-9, 3, float("inf"), float("nan")])
    made = block()
    made.gauges["x"] = seen
    ledger.traffic.put("w", [made])
    assert ledger.traffic.blocks("support")[0].gauges == {"x": seen}
    with ledger.db.read() as connection:
        (text,) = connection.execute(sa.select(traffic.c.gauges)).scalars()
    assert Histogram.from_json(json.loads(text)["x"]) == seen


def test_workers_are_merged_and_releases_arms_and_endpoints_are_not(ledger: Ledger):
    ledger.traffic.put("w1", [block(latency=[10.0]), block(release="r2"), block(arm="shadow"), block(NOW + BLOCK_MS)])
    ledger.traffic.put("w2", [block(latency=[20.0], errors=1, tokens_in=5), block(endpoint="客服")])
    found = ledger.traffic.blocks("support")
    assert [(b.start_ms - NOW, b.release, b.arm, b.requests) for b in found] == [
        (0, "r1", "", 2), (0, "r1", "shadow", 1), (0, "r2", "", 1), (BLOCK_MS, "r1", "", 1)
    ]  # fmt: skip
    assert found[0].timings["latency_ms"].sum == 30 and (found[0].errors, found[0].tokens_in) == (1, 5)
    assert [b.start_ms for b in ledger.traffic.blocks("support", NOW + 1, NOW + BLOCK_MS + 1)] == [NOW + BLOCK_MS]
    assert ledger.traffic.blocks("support", NOW, NOW) == [] == ledger.traffic.blocks("nobody")
    assert total(ledger.traffic.blocks("客服")) == 1


def test_teams_are_merged_unless_they_are_asked_for(ledger: Ledger):
    rows = [block(team=team, statuses={"200": 1}, finishes={"stop": 1}) for team in ("", "甲", "sales")]
    ledger.traffic.put("w1", rows)
    ledger.traffic.put("w2", rows)
    (whole,) = ledger.traffic.blocks("support")
    assert (whole.team, whole.requests, whole.statuses, whole.finishes) == ("", 6, {"200": 6}, {"stop": 6})
    assert [(b.team, b.requests) for b in ledger.traffic.blocks("support", teams=True)] == [
        ("", 2), ("sales", 2), ("甲", 2)
    ]  # fmt: skip


def test_all_endpoints_and_the_machine_can_be_read_at_once(ledger: Ledger):
    machine = block(endpoint="", release="host")
    machine.gauges["cpu"] = Histogram([0.5])
    ledger.traffic.put("w1", [block(), block(endpoint="客服"), machine])
    found = ledger.traffic.blocks(None)
    assert [b.endpoint for b in found] == ["", "support", "客服"] and found[0].gauges["cpu"].sum == 0.5


def test_teams_without_end_stay_few_once_blocks_are_joined(ledger: Ledger):
    old = (NOW - 2 * DAY_MS) // 300_000 * 300_000
    ledger.traffic.put("w1", [
        block(old + i * BLOCK_MS, team=f"t{i}-{k}", requests=1 + (k == 0)) for i in range(30) for k in range(20)
    ])  # fmt: skip
    while ledger.traffic.compact(NOW):
        pass
    found = {b.team: b.requests for b in ledger.traffic.blocks("support", teams=True)}
    assert len(found) <= MOST_TEAMS + 1 and sum(found.values()) == 630 and found[OTHER] == 630 - 30 * 2 - 70
    assert all(found[f"t{i}-0"] == 2 for i in range(30))


def test_names_of_scores_without_end_stay_few():
    made, other = block(), block()
    for i in range(1000):
        made.score(f"name {i}", 1)
        other.score(f"another {i}", 1)
    made.merge(other)
    assert len(made.scores) == MOST_NAMES + 1 and sum(h.count for h in made.scores.values()) == 2000


def test_blocks_that_have_not_ended_are_not_shown_unless_asked_for(ledger: Ledger):
    later = 4_000_000_000_000
    ledger.traffic.put("w1", [block(later)])
    assert ledger.traffic.blocks("support") == []
    assert total(ledger.traffic.blocks("support", until_ms=later + 1)) == 1


def test_old_blocks_are_joined_and_at_last_forgotten(ledger: Ledger):
    old, recent = NOW - 2 * DAY_MS, NOW - DAY_MS // 2
    for worker in ("w1", "w2"):
        rows = [block(old + i * BLOCK_MS, latency=[5.0]) for i in range(90)]
        ledger.traffic.put(worker, [*rows, block(recent, release="r2"), block(NOW - 500 * DAY_MS, release="r0")])
    while ledger.traffic.compact(NOW):
        pass
    found = ledger.traffic.blocks("support", until_ms=NOW)
    assert [(b.release, b.length_ms, b.requests) for b in found] == [
        *[("r1", 300_000, 60)] * 3, ("r2", BLOCK_MS, 2)
    ]  # fmt: skip
    assert found[0].timings["latency_ms"].count == 60
    ledger.traffic.put("w3", [block(old + BLOCK_MS)])  # a gateway that was cut off until now
    while ledger.traffic.compact(NOW):
        pass
    assert [b.requests for b in ledger.traffic.blocks("support", until_ms=NOW)] == [61, 60, 60, 2]
    while ledger.traffic.compact(NOW + 30 * DAY_MS):
        pass
    assert [(b.length_ms, b.requests) for b in ledger.traffic.blocks("support", until_ms=NOW)] == [
        (3_600_000, 181), (3_600_000, 2)
    ]  # fmt: skip
    while ledger.traffic.compact(NOW + 1000 * DAY_MS):
        pass
    assert ledger.traffic.blocks("support", until_ms=NOW) == []


def test_one_pass_of_joining_is_bounded(ledger: Ledger):
    ledger.traffic.put("w1", [block(NOW - 3 * DAY_MS + i * 300_000) for i in range(50)])
    assert ledger.traffic.compact(NOW, windows=10) == 10
    assert total(ledger.traffic.blocks("support", until_ms=NOW)) == 50


def test_each_age_becomes_the_next():
    assert [length for length, _, _ in KEPT[1:]] == [longer for _, _, longer in KEPT[:-1]]
    assert all(longer % length == 0 for length, _, longer in KEPT)


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan"), 1e308])
def test_hostile_numbers_stay_readable(ledger: Ledger, value):
    made = block()
    made.score("卡 \0'\"", value)
    ledger.traffic.put("w1", [made])
    assert ledger.traffic.blocks("support")[0].requests == 1
