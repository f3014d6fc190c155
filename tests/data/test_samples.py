"""Requests and labels as rows: each text once, only what is labelled and kept, under the names that a dataset reads."""

import itertools
import json

import msgspec

from longrein.core.record import Record, Segment
from longrein.data import samples, seal
from longrein.data.ingest import Config
from longrein.data.requests import RequestLog

NOW = 1_700_000_000_000
number = itertools.count()


def answered(folder, *texts, **more):
    records = [
        Record(
            id=f"chatcmpl-{NOW + (n := next(number)):012x}{n:012x}", ts_ms=NOW + n, input=text,
            **{"status": 200, "endpoint": "desk", "output": "?", **more},
        )
        for text in texts
    ]  # fmt: skip
    segment = Segment(folder, f"w{next(number)}")
    segment.append(b"".join(msgspec.json.encode(r) + b"\n" for r in records))
    segment.close()
    return [r.id for r in records]


def say(ledger, id, label):
    ledger.feedback.put(id, [("correct", 0.0, "")], source="k", endpoint="desk", release="r", label=label)


def rows(ledger, log, **more):
    given = {"since_ms": 0, "labelled": True, "limit": 100, **more}
    return samples.gather(ledger, log, "desk", **given)


def test_labelled_requests_become_rows(ledger, tmp_path):
    log = RequestLog(tmp_path)
    messages = json.dumps([{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"},
                           {"role": "user", "content": "我的卡"}])  # fmt: skip
    ids = answered(log.folder, "where is it", "where is it", messages, "nobody knows", None)
    other = answered(log.folder, "elsewhere", endpoint="shop")
    for id in (*ids[:3], ids[4], *other):
        say(ledger, id, " track \n")
    found = rows(ledger, log)
    assert {(r["input"], r["label"], r["request_id"]) for r in found} == {
        ("where is it", "track", ids[1]), ("我的卡", "track", ids[2])
    }  # fmt: skip
    assert [r["request_id"] for r in rows(ledger, log, limit=1)] == [ids[2]]  # the newest
    assert [r["request_id"] for r in rows(ledger, log, but={ids[1], ids[2]})] == [ids[0]]
    assert [r["request_id"] for r in rows(ledger, log, ids=[ids[1], ids[3]])] == [ids[1]]
    assert {r["input"] for r in rows(ledger, log, labelled=False)} == {"where is it", "我的卡", "nobody knows"}
    assert rows(ledger, log, since_ms=1 << 60) == []


def test_what_was_erased_is_not_learnt_from(ledger, tmp_path):
    log = RequestLog(tmp_path)
    (id,) = answered(log.folder, "I am Bob", user="bob")
    say(ledger, id, "greeting")
    seal.erase(log.folder, user="bob")
    assert rows(ledger, log) == []


def test_rows_are_written_as_the_dataset_reads_them(tmp_path):
    config = msgspec.convert(
        {"sources": ["new/*.jsonl"], "input": "text", "output": "intent", "split": {"column": "part"}}, Config
    )
    given = [{"input": f"q{i}", "label": "卡", "request_id": f"r{i}", "answer": "\ud800"} for i in range(200)]
    path = tmp_path / "new" / "a.jsonl"
    assert samples.write(given, path, config) == 200
    read = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert [(r["text"], r["intent"], r["request_id"]) for r in read] == [(f"q{i}", "卡", f"r{i}") for i in range(200)]
    shares = {name: sum(r["part"] == name for r in read) for name in ("train", "validation", "test")}
    assert sum(shares.values()) == 200 and shares["train"] > 130 and min(shares.values()) > 5
    (path.parent / "b.jsonl").write_bytes(b'\xff\n[]\n{"request_id": 5}\n{"request_id": "x"}\n')
    assert samples.collected(path.parent) == {f"r{i}" for i in range(200)} | {"x"}
    assert not [p for p in path.parent.iterdir() if p.name.startswith(".")]
