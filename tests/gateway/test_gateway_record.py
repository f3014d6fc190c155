"""The way of records to disk and of traffic to the ledger; metrics; the routing table."""

import contextlib
import errno
import os
import resource
import signal
import subprocess
import sys

import pytest
import sqlalchemy as sa

from longrein.core.errors import Error
from longrein.core.histogram import Histogram as Exponential
from longrein.core.ledger import Block, Ledger
from longrein.core.ledger.traffic import BLOCK_MS, MOST_TEAMS, OTHER
from longrein.core.record import Segment
from longrein.data import seal
from longrein.data.requests import RequestLog
from longrein.gateway import metrics
from longrein.gateway import tally as tally_module
from longrein.gateway.record import Record, Recorder
from longrein.gateway.routing import read
from longrein.gateway.tally import Tally
from longrein.ops.monitor.catalogue import BY_NAME, TRAFFIC, Metric

FOREVER = 1 << 62


def record(i, **more):
    return Record(**{"id": f"req-{i:012x}{i:012x}", "ts_ms": i, "endpoint": "支持", "status": 200, **more})


def test_records_reach_the_log_whatever_is_in_them(tmp_path):
    recorder = Recorder(tmp_path)
    for i in range(2500):
        recorder.put(record(i, input="nul \0, 卡 and \u2028\n", output="half \ud83d"))
    recorder.flush()
    log = RequestLog(tmp_path)
    assert len(log.find(limit=5000)) == 2500
    assert log.get(record(7).id)["input"] == "nul \0, 卡 and \u2028\n" and log.get(record(7).id)["output"] == "half ?"
    recorder.close()


KILLED = """
import os, signal, sys
from pathlib import Path
from longrein.gateway.record import Record, Recorder
recorder = Recorder(Path(sys.argv[1]))
for i in range(100):
    recorder.put(Record(id=f"req-{i:012x}{i:012x}", ts_ms=i))
recorder.flush()
os.write(recorder._segment._file.fileno(), b'{"id": "torn')
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_after_a_kill_all_that_was_flushed_is_read_and_sealed(tmp_path):
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)])
    assert done.returncode == -signal.SIGKILL
    log = RequestLog(tmp_path)
    assert len(log.find(limit=1000)) == 100 and log.get(record(99).id)["ts_ms"] == 99
    seal.keep(tmp_path, {}, 0)
    assert list(tmp_path.glob("*.jsonl")) == [] and len(list(tmp_path.glob("*.parquet"))) == 1
    assert len(log.find(limit=1000)) == 100 and log.get(record(99).id)["ts_ms"] == 99


def test_a_full_disk_loses_nothing_until_memory_is_full_and_stops_nobody(tmp_path, monkeypatch):
    recorder = Recorder(tmp_path, most=10)
    with recorder._writing:  # a disk that hangs
        for i in range(25):
            recorder.put(record(i))
    assert recorder.dropped == 15
    recorder.flush()
    full = os.open("/dev/full", os.O_WRONLY)
    whole = os.dup(recorder._segment._file.fileno())
    os.dup2(full, recorder._segment._file.fileno())
    recorder.put(record(100))
    with pytest.raises(OSError) as told:
        recorder.flush()
    assert told.value.errno == errno.ENOSPC
    os.dup2(whole, recorder._segment._file.fileno())
    recorder.put(record(101))
    recorder.close()
    os.close(full), os.close(whole)
    assert len(RequestLog(tmp_path).find()) == 12 and recorder.dropped == 15


def test_a_disk_that_fills_in_the_middle_of_a_write_keeps_no_line_twice(tmp_path):
    segment = Segment(tmp_path, "w")
    segment.append(b'{"id":"req-1","ts_ms":1}\n')
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (segment.path.stat().st_size + 30, before[1]))  # one line and a piece
        with pytest.raises(OSError):
            segment.append(b'{"id":"req-2","ts_ms":2}\n{"id":"req-3","ts_ms":3}\n')
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert segment.path.read_bytes().count(b"\n") == 1
    segment.append(b'{"id":"req-2","ts_ms":2}\n{"id":"req-3","ts_ms":3}\n')
    assert segment.path.read_bytes().count(b"req-2") == 1 and len(RequestLog(tmp_path).find()) == 3


def test_a_torn_line_does_not_spoil_the_next(tmp_path):
    segment = Segment(tmp_path, "w")
    os.write(segment._file.fileno(), b'{"id": "req-torn", "ts_')
    segment._torn = True  # as an error while writing leaves it
    segment.append(b'{"id":"req-1","ts_ms":1}\n')
    assert [r["id"] for r in RequestLog(tmp_path).find()] == ["req-1"]


def test_an_idle_process_leaves_no_empty_segment(tmp_path):
    Recorder(tmp_path).close()
    assert list(tmp_path.iterdir()) == []


def test_traffic_is_counted_by_block_release_and_kind(ledger: Ledger):
    tally = Tally(ledger)
    ok = {"release": "r1", "total_ms": 30.0, "ttft_ms": 10.0, "prompt_tokens": 5, "completion_tokens": 11}
    tally.add([
        record(1, **ok, cost_usd=0.25, cached_tokens=3, finish_reason="stop", queue_ms=5.0),
        record(2, **ok, guards=["pii:masked"], refusal=True, cached=True), record(3, release="r1", status=429),
        record(4, release="r1", status=499), record(5, release="r1", status=503), record(6, release="r1", status=400),
        record(7, release="r2", arm="shadow"), record(8, endpoint=""),
    ])  # fmt: skip
    tally.score("支持", "r1", "", "helpful", 1)
    tally.flush()
    tally.flush()
    tally.close()
    one, shadow = ledger.traffic.blocks("支持", until_ms=FOREVER)
    assert (one.requests, one.errors, one.refused, one.cancelled, one.guarded) == (6, 1, 1, 1, 1)
    assert (one.refusals, one.cached, one.tokens_cached) == (1, 1, 3)
    assert (one.tokens_in, one.tokens_out, one.cost_usd) == (10, 22, 0.25)
    assert one.statuses == {"200": 2, "429": 1, "499": 1, "503": 1, "400": 1}
    assert one.finishes == {"stop": 1, "other": 5}
    assert one.timings.pop("cost_usd").sum == 0.25 and one.timings.pop("queue_ms").sum == 5
    assert {k: (h.count, round(h.quantile(0.5))) for k, h in one.timings.items()} == {
        "latency_ms": (2, 30), "ttft_ms": (2, 10), "token_ms": (2, 2)
    }  # fmt: skip
    assert one.scores["helpful"].mean == 1 and (shadow.release, shadow.arm) == ("r2", "shadow")


def test_made_up_teams_users_models_and_reasons_grow_neither_memory_nor_the_ledger(ledger: Ledger, monkeypatch):
    monkeypatch.setattr(tally_module, "now_ms", lambda: 1_700_000_000_000)
    monkeypatch.setattr(tally_module, "EVERY_S", 3600)
    tally = Tally(ledger)
    for start in range(0, 100_000, 1000):
        tally.add(
            record(1, endpoint="support", team=f"team {i}", user=f"user {i}", finish_reason=f"reason {i}")
            for i in range(start, start + 1000)
        )
    assert len(tally._blocks) == MOST_TEAMS + 1
    tally.close()
    found = {b.team: b for b in ledger.traffic.blocks("support", until_ms=FOREVER, teams=True)}
    assert len(found) == MOST_TEAMS + 1 and found[OTHER].requests == 100_000 - MOST_TEAMS
    (whole,) = ledger.traffic.blocks("support", until_ms=FOREVER)
    assert whole.requests == 100_000 and whole.finishes == {OTHER: 100_000}


@contextlib.contextmanager
def away(ledger):
    """The ledger answers, but not to those who write traffic."""
    with ledger.db.engine.connect() as connection:
        connection.execute(sa.text("ALTER TABLE traffic RENAME TO away"))
    try:
        yield
    finally:
        with ledger.db.engine.connect() as connection:
            connection.execute(sa.text("ALTER TABLE away RENAME TO traffic"))


def test_traffic_is_held_while_the_ledger_is_away_and_written_when_it_is_back(ledger: Ledger, monkeypatch):
    monkeypatch.setattr(tally_module, "EVERY_S", 3600)
    tally = Tally(ledger)
    with away(ledger):
        for _ in range(2):
            tally.add([record(1)])
            with pytest.raises((Error, sa.exc.SQLAlchemyError)):
                tally.flush()
    tally.close()
    assert sum(b.requests for b in ledger.traffic.blocks("支持", until_ms=FOREVER)) == 2


def answered(tally):
    """The requests that /metrics tells."""
    return sum(number for _, number in tally.served().parts[0].rows())


def test_a_clock_set_back_does_not_write_over_what_was_counted(ledger: Ledger, monkeypatch):
    now = [1_700_000_000_000]
    monkeypatch.setattr(tally_module, "now_ms", lambda: now[0])
    monkeypatch.setattr(tally_module, "EVERY_S", 3600)
    tally = Tally(ledger)
    for jump in (0, BLOCK_MS, -BLOCK_MS, -BLOCK_MS):
        now[0] += jump
        tally.add([record(1)])
        tally.flush()
        tally.add([record(2)])
        tally.flush()
    tally.close()
    found = ledger.traffic.blocks("支持", until_ms=FOREVER)
    assert sum(b.requests for b in found) == 8 and len(found) == 3
    assert answered(tally) == 8


def test_memory_is_bounded_while_the_ledger_is_away(ledger: Ledger, monkeypatch):
    now = [1_700_000_000_000]
    monkeypatch.setattr(tally_module, "now_ms", lambda: now[0])
    monkeypatch.setattr(tally_module, "EVERY_S", 3600)
    monkeypatch.setattr(tally_module, "MOST", 5)
    tally = Tally(ledger)

    with away(ledger):
        for _ in range(20):
            now[0] += BLOCK_MS
            tally.add([record(1)])
            with pytest.raises((Error, sa.exc.SQLAlchemyError)):
                tally.flush()
    assert len(tally._blocks) == 5 and tally.dropped == 15 and answered(tally) == 20
    tally.close()
    assert sum(b.requests for b in ledger.traffic.blocks("支持", until_ms=FOREVER)) == 5


def test_a_histogram_counts_up_to_and_with_its_bounds():
    metric = Metric("h", "histogram", "s", "H.", ("e",), lambda _: (), 1e-3, (-10, 9))
    histogram = metrics.Histogram(metric)
    seen = Exponential([0.0, 0.5, 250.0, 499.0, 520.0, 1e9])
    histogram.add(('quote " and \\ and 卡',), seen)
    histogram.add(('quote " and \\ and 卡',), seen)
    lines = list(histogram.render())
    labels = 'e="quote \\" and \\\\ and 卡"'
    assert f'h_bucket{{{labels},le="0.0009765625"}} 4' in lines
    assert f'h_bucket{{{labels},le="0.25"}} 6' in lines
    assert f'h_bucket{{{labels},le="0.5"}} 8' in lines
    assert f'h_bucket{{{labels},le="1"}} 10' in lines
    assert f'h_bucket{{{labels},le="512"}} 10' in lines
    assert f'h_bucket{{{labels},le="+Inf"}} 12' in lines and f"h_count{{{labels}}} 12" in lines


def test_prometheus_can_read_the_metrics(echo):
    parser = pytest.importorskip("prometheus_client.parser")
    import httpx

    world, gateway = echo
    world.client(gateway).chat.completions.create(model="support", messages=[{"role": "user", "content": "a b"}])
    text = httpx.get(f"{gateway.url}/metrics").text
    found = {family.name: family for family in parser.text_string_to_metric_families(text)}
    (requests,) = found["longrein_requests"].samples
    release = world.ledger.assets.get("release:support@prod").digest[:12]
    assert requests.labels == {"endpoint": "support", "release": release, "status": "200"} and requests.value == 1
    assert "longrein_inflight" in found and all(family.documentation for family in found.values())
    tokens = {s.labels["direction"]: s.value for s in found["longrein_tokens"].samples}
    assert tokens == {"in": 2, "out": 3}
    assert found["longrein_first_token_seconds"].samples[-1].value == 1
    assert found["longrein_request_seconds"].type == "histogram" and found["longrein_queue_seconds"].samples
    assert found["longrein_finish_reasons"].samples[0].labels["reason"] == "stop"
    assert found["longrein_engine_words"].samples[0].value == 3
    assert found["longrein_machine_memory_bytes"].samples[0].value > 0
    assert found["longrein_ledger_up"].samples[0].value == 1
    strict = pytest.importorskip("prometheus_client.openmetrics.parser").text_string_to_metric_families
    asked = httpx.get(
        f"{gateway.url}/metrics", headers={"accept": "application/openmetrics-text;version=1.0.0,*/*;q=.1"}
    )
    assert asked.headers["content-type"].startswith("application/openmetrics-text")
    assert {family.name for family in strict(asked.text)} >= set(found) - {"longrein_machine_cpu_share"}


@pytest.mark.parametrize("name", [m.name for m in TRAFFIC])
def test_all_that_blocks_tell_is_in_the_metrics_and_openmetrics_parsers_agree(name):
    parser = pytest.importorskip("prometheus_client.parser")
    one = Block("支持", "r1" * 20, 0, team="a b", requests=2, tokens_in=5, tokens_out=7, tokens_cached=3, cost_usd=0.5,
                refusals=1, guarded=1, cached=1, statuses={"200": 2}, finishes={"stop": 2})  # fmt: skip
    for timing in ("latency_ms", "ttft_ms", "token_ms", "queue_ms", "cost_usd"):
        one.time(timing, 2.0)
    one.score("helpful", 1)
    counted = metrics.Metrics()
    served = metrics.Served()
    served.count(one)
    served.count(Block("支持", "r1" * 20, 0, arm="shadow", requests=9, statuses={"200": 9}))
    counted.served = lambda: served
    found = {family.name: family for family in parser.text_string_to_metric_families(counted.render())}
    strict = pytest.importorskip("prometheus_client.openmetrics.parser").text_string_to_metric_families
    assert {f.name: f.samples for f in strict(counted.render(openmetrics=True))}.items() >= {
        name: found[name].samples
    }.items()
    family, metric = found[name], BY_NAME[name]
    assert family.type == metric.kind and family.documentation == metric.help
    for sample in family.samples:
        assert sample.labels["endpoint"] == "支持" and sample.labels["release"] == "r1r1r1r1r1r1"
        assert sample.labels.get("team") == ("a b" if "team" in metric.labels else None)
    assert sum(s.value for s in found["longrein_requests"].samples) == 2


def test_labels_that_anybody_may_make_up_stay_few():
    served = metrics.Served()
    for i in range(1000):
        block = Block("e", "r", 0, team=f"team {i}", statuses={"200": 1})
        block.score(f"metric {i}", 1)
        served.count(block)
    sizes = [len(part.rows()) for part in served.parts]
    assert max(sizes) == MOST_TEAMS + 1
    assert sum(number for _, number in served.parts[0].rows()) == 1000


def test_a_counter_without_labels():
    counter = metrics.Counter("c_total", "C.")
    counter.add(())
    assert list(counter.render())[-1] == "c_total 1"


def test_the_table_names_what_the_lifecycle_wants(ledger: Ledger):
    assert dict(read(ledger).routes) == {}
    ledger.work.want({"endpoints": {"a": {"log_text": True}, "b": {}}}, actor="test")
    release = ledger.assets.put("release", "a", "0" * 64, meta={"engine": "torch"}, actor="test")
    ledger.aliases.move("release", "a", "prod", release, actor="test")
    table = read(ledger)
    assert table.routes["b"].stable is None and table.log_text == {"a"}
    assert table.routes["a"].stable.ref == "release:a@1"
    assert table.head == ledger.events.head()
