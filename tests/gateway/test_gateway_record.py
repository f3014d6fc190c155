"""The request log's way to the ledger, on both databases; metrics; the routing table."""

import pytest

from longrein.core.ledger import Ledger
from longrein.gateway.metrics import BOUNDS, Counter, Histogram
from longrein.gateway.record import Record, Recorder
from longrein.gateway.routing import read


def record(i, **more):
    return Record(id=f"req-{i}", ts_ms=i, endpoint="支持", status=200, **more)


def test_records_reach_the_ledger_whatever_is_in_them(ledger: Ledger, tmp_path):
    recorder = Recorder(ledger, tmp_path / "spill")
    for i in range(1200):
        recorder.put(record(i, input="nul \0, 卡 and \u2028"))
    recorder.close()
    assert len(ledger.requests.recent(limit=2000)) == 1200
    assert ledger.requests.get("req-7")["input"] == "nul \ufffd, 卡 and \u2028"


def test_what_was_kept_on_disk_is_written_once(ledger: Ledger, tmp_path):
    """As after a kill between writing to the ledger and removing the file."""
    spill = tmp_path / "spill"
    recorder = Recorder(ledger, spill)
    recorder._keep([record(1), record(2)])
    recorder.put(record(1))
    recorder.close()
    assert sorted(r["id"] for r in ledger.requests.recent()) == ["req-1", "req-2"]
    assert list(spill.iterdir()) == []


def test_a_full_buffer_goes_to_disk_and_comes_back(ledger: Ledger, tmp_path):
    recorder = Recorder(ledger, tmp_path / "spill", limit=10)
    with recorder._writing:  # a ledger that does not answer
        for i in range(25):
            recorder.put(record(i))
        assert len(list((tmp_path / "spill").glob("*.jsonl"))) == 2
    recorder.close()
    assert len(ledger.requests.recent()) == 25


def test_a_damaged_file_is_set_aside(ledger: Ledger, tmp_path):
    recorder = Recorder(ledger, tmp_path / "spill")
    (tmp_path / "spill" / "0-bad.jsonl").write_bytes(b'{"id": \xff')
    recorder._keep([record(1)])
    recorder.close()
    assert ledger.requests.get("req-1")
    assert [f.name for f in (tmp_path / "spill").iterdir()] == ["0-bad.damaged"]


def test_a_histogram_counts_up_to_and_with_its_bounds():
    histogram = Histogram("h", "H.", ("e",))
    for seconds in (0.0, BOUNDS[0], 0.5, 0.50001, 1e9):
        histogram.observe(('quote " and \\ and 卡',), seconds)
    lines = list(histogram.render())
    labels = 'e="quote \\" and \\\\ and 卡"'
    assert f'h_bucket{{{labels},le="0.0009765625"}} 2' in lines
    assert f'h_bucket{{{labels},le="0.5"}} 3' in lines
    assert f'h_bucket{{{labels},le="1"}} 4' in lines
    assert f'h_bucket{{{labels},le="512"}} 4' in lines
    assert f'h_bucket{{{labels},le="+Inf"}} 5' in lines and f"h_count{{{labels}}} 5" in lines


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
    tokens = {s.labels["direction"]: s.value for s in found["longrein_tokens"].samples}
    assert tokens == {"in": 2, "out": 3}
    assert found["longrein_first_token_seconds"].samples[-1].value == 1
    assert found["longrein_engine_words"].samples[0].value == 3
    assert found["longrein_ledger_up"].samples[0].value == 1


def test_a_counter_without_labels():
    counter = Counter("c_total", "C.")
    counter.add(())
    assert list(counter.render())[-1] == "c_total 1"


def test_the_table_names_what_the_lifecycle_wants(ledger: Ledger):
    assert dict(read(ledger).targets) == {}
    ledger.work.want({"endpoints": {"a": {"log_text": True}, "b": {}}}, actor="test")
    release = ledger.assets.put("release", "a", "0" * 64, meta={"engine": "torch"}, actor="test")
    ledger.aliases.move("release", "a", "prod", release, actor="test")
    table = read(ledger)
    assert table.targets["b"] is None and table.log_text == {"a"}
    assert table.targets["a"].ref == "release:a@1"
    assert table.head == ledger.events.head()
