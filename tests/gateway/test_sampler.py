"""Samples of engines and of the machine: what grew, what fell, who samples, and that it reaches the ledger."""

import time

import httpx

from longrein.core.ledger import now_ms
from longrein.gateway import sampler
from longrein.gateway.sampler import HOST, Gauges, Sampler


def test_gauges_are_kept_as_they_are_and_counters_by_what_they_grew():
    gauges = Gauges()
    for i, (running, steps) in enumerate([(1, 100), (3, 110), (2, 130)]):
        numbers = {"running": running, "steps_total": steps, "batch_sizes": {"1": 5, "8": 10 * (i + 1)}, "name": "x"}
        gauges.sample(numbers, 10.0 + i)
    found = gauges.take()
    assert found["running"].sum == 6 and found["running"].count == 3
    assert found["steps_total"].sum == 30 and found["alive_s_total"].sum == 2
    assert found["batch"].count == 20 and found["batch"].mean == 8
    assert "name" not in found and gauges.take() == {}


def test_an_engine_begun_anew_counts_from_zero_and_a_clock_set_back_takes_no_time_away():
    gauges = Gauges()
    for total, now in [(100, 10.0), (120, 11.0), (7, 12.0), (9, 5.0)]:
        gauges.sample({"requests_total": total}, now)
    found = gauges.take()
    assert found["requests_total"].sum == 20 + 7 + 2 and found["alive_s_total"].sum == 2


def test_numbers_without_end_and_hostile_ones_stay_few():
    gauges = Gauges()
    gauges.sample({f"n{i}": float("nan") for i in range(10_000)} | {"batch_sizes": {}}, 1.0)
    assert len(gauges.take()) <= sampler.MOST + 1


def test_samples_reach_the_ledger_and_only_one_process_takes_them(world, monkeypatch):
    monkeypatch.setattr(sampler, "EVERY_S", 0.05)
    monkeypatch.setattr(sampler, "HAND_S", 0.2)
    world.promote(world.release("support", "v1"))
    with world.serve() as gateway:
        second = Sampler(gateway.fleet, gateway.tally, world.folder, gateway._loop)
        world.client(gateway).chat.completions.create(model="support", messages=[{"role": "user", "content": "a b"}])
        blocks, deadline = {}, time.monotonic() + 30
        while time.monotonic() < deadline and (len(blocks) < 2 or blocks["support"].gauges["words_total"].sum < 3):
            gateway.tally.flush()
            blocks = {b.endpoint: b for b in world.ledger.traffic.blocks(None, until_ms=now_ms() + 1) if b.gauges}
        second.close()
        assert second._gauges == {}  # the gateway's own holds the lock
        digest = world.ledger.assets.get("release:support@prod").digest
        assert blocks["support"].release == digest and blocks[""].release == HOST
        assert blocks[""].gauges["memory_bytes"].mean > 0 and blocks["support"].gauges["running"].count > 0
        assert "longrein_machine_cpu_share" in httpx.get(f"{gateway.url}/metrics").text
    third = Sampler(gateway.fleet, gateway.tally, world.folder, gateway._loop)
    assert sampler.lock(third._file)  # free again
    third._closing.set()
    third._thread.join()
