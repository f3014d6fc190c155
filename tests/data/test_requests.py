"""The request log's files: found by id, filtered, followed, sealed, joined, forgotten, erased; killed at any point."""

import itertools
import multiprocessing
import os
import signal
import threading
from pathlib import Path

import msgspec
import pyarrow.parquet as pq
import pytest

from longrein.core.errors import Error
from longrein.core.record import Record, Segment
from longrein.data import seal
from longrein.data.requests import Query, RequestLog, Sealed, asked_ms

DAY = seal.DAY_MS
NOW = 1_700_000_000_000 // DAY * DAY + DAY // 2
number = itertools.count()


def record(ts_ms=NOW, **more):
    return Record(id=f"chatcmpl-{ts_ms:012x}{next(number):012x}", ts_ms=ts_ms, **{"status": 200, **more})


def write(folder, records, close=True):
    """A segment of its own."""
    segment = Segment(folder, f"w{next(number)}")
    segment.append(b"".join(msgspec.json.encode(r) + b"\n" for r in records))
    if close:
        segment.close()
    return segment


FULL = {
    "endpoint": "客服", "release": "ab" * 32, "arm": "shadow", "key_id": "k1", "team": "blue", "user": "ann",
    "session": "s1", "finish_reason": "stop", "error": "x", "limit": "y", "stream": True, "prompt_tokens": 3,
    "completion_tokens": 4, "cached_tokens": 1, "attempts": 2, "upstream": "http://a", "queue_ms": 0.5,
    "ttft_ms": 1.5, "total_ms": 2.5, "cost_usd": 0.001, "guards": ["pii:masked", "卡"], "input_digest": "d",
    "output_digest": "e", "input": "Wo ist mein Paket? \0\n", "output": "Unterwegs 卡",
}  # fmt: skip


@pytest.mark.parametrize("sealed", [False, True])
def test_every_field_comes_back_as_it_was(tmp_path, sealed):
    full, bare = record(**FULL), record()
    write(tmp_path, [full, bare])
    if sealed:
        seal.keep(tmp_path, {}, NOW)
        assert not list(tmp_path.glob("*.jsonl"))
    log = RequestLog(tmp_path)
    assert log.get(full.id) == msgspec.structs.asdict(full)
    assert log.get(bare.id) == msgspec.structs.asdict(bare)


@pytest.mark.parametrize("sealed", [False, True])
def test_filters(tmp_path, sealed):
    write(tmp_path, [
        record(NOW, endpoint="a", release="ab1", key_id="k", team="t", user="ann", session="s", input="Hello WORLD"),
        record(NOW + 1, endpoint="b", release="ab2", status=503, output="the world"),
        record(NOW + 2, endpoint="a", release="c", status=429),
    ])  # fmt: skip
    if sealed:
        seal.keep(tmp_path, {}, NOW)

    def found(**query):
        return [r["ts_ms"] - NOW for r in RequestLog(tmp_path).find(Query(**query))]

    assert found() == [2, 1, 0]
    assert found(endpoint="a") == [2, 0] and found(release="ab") == [1, 0] and found(release="ab1") == [0]
    assert found(status="5xx") == [1] and found(status="429") == [2] and found(status="9" * 30) == []
    assert found(key="k") == found(team="t") == found(user="ann") == found(session="s") == [0]
    assert found(text="world") == [1, 0] and found(text="w.rld") == [] and found(text="%") == []
    assert found(since_ms=NOW + 1, until_ms=NOW + 2) == [1] and found(endpoint="' OR 1=1") == []
    assert [r["ts_ms"] - NOW for r in RequestLog(tmp_path).find(limit=2)] == [2, 1]


@pytest.mark.parametrize("status", ["abc", "0xx", "-1", "5x", "²"])
def test_a_status_that_is_none(status):
    with pytest.raises(Error, match="status cannot be"):
        Query(status=status).statuses  # noqa: B018


@pytest.mark.parametrize("id", ["", "x", "chatcmpl-zzz", "é" * 24, "f" * 24, "chatcmpl-" + "0" * 24, "a" * 10_000])
def test_an_unknown_or_hostile_id(tmp_path, id):
    write(tmp_path, [record()])
    with pytest.raises(Error) as told:
        RequestLog(tmp_path).get(id)
    assert told.value.code == "not_found"


def test_the_newest_come_first_from_files_that_overlap(tmp_path):
    for batch in range(5):
        write(tmp_path, [record(NOW + i * 10 + batch) for i in range(20)])
        if batch % 2:
            seal.keep(tmp_path, {}, NOW)
    assert len(Sealed.all(tmp_path)) == 2 and len(list(tmp_path.glob("*.jsonl"))) == 1
    found = [r["ts_ms"] - NOW for r in RequestLog(tmp_path).find(limit=12)]
    assert found == [194, 193, 192, 191, 190, 184, 183, 182, 181, 180, 174, 173]


def test_a_segment_that_is_written_now_is_left_alone(tmp_path):
    live = write(tmp_path, [record(NOW)], close=False)
    write(tmp_path, [record(NOW + 1)])
    assert seal.keep(tmp_path, {}, NOW) == 1
    assert [p.name for p in tmp_path.glob("*.jsonl")] == [live.path.name]
    assert len(RequestLog(tmp_path).find()) == 2
    live.close()


def test_written_twice_counts_once(tmp_path):
    one = record()
    write(tmp_path, [one, one])
    write(tmp_path, [one])
    assert len(RequestLog(tmp_path).find()) == 1
    seal.keep(tmp_path, {}, NOW)
    assert [sum(map(len, s.tables())) for s in Sealed.all(tmp_path)] == [1]


def test_files_of_a_day_that_is_over_are_joined(tmp_path):
    for day in (0, 1):
        for i in range(3):
            write(tmp_path, [record(NOW + day * DAY + i, input="x")])
            seal.keep(tmp_path, {}, NOW)
    assert len(Sealed.all(tmp_path)) == 6
    seal.keep(tmp_path, {}, NOW + DAY)
    assert len(Sealed.all(tmp_path)) == 4
    assert [r["ts_ms"] for r in RequestLog(tmp_path).find()] == [NOW + d * DAY + i for d in (1, 0) for i in (2, 1, 0)]
    assert seal.keep(tmp_path, {}, NOW + DAY) == 0


SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["longrein.data.seal"])
KILL_AT = ("write", "replace", "unlink")


@pytest.mark.parametrize("call", KILL_AT)
def test_killed_while_sealing_nothing_is_lost_or_doubled(tmp_path, call):
    """A real process that is killed at each of the system calls that change files, in turn; then a whole run."""
    ids = []
    for _ in range(3):
        records = [record(NOW + next(number), input="x" * 100) for _ in range(50)]
        ids += [r.id for r in records]
        write(tmp_path, records)
        if len(ids) == 50:
            seal.keep(tmp_path, {}, NOW)
    for nth in range(1, 7):
        process = SERVER.Process(target=_die_at, args=(tmp_path, call, nth))
        process.start()
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
        assert {r["id"] for r in RequestLog(tmp_path).find(limit=1000)} == set(ids), (call, nth)
    seal.keep(tmp_path, {}, NOW + 2 * DAY)
    assert sum(len(t) for s in Sealed.all(tmp_path) for t in s.tables()) == 150
    assert sorted(p.suffix for p in tmp_path.iterdir()) == ["", ".parquet"]  # the lock, and all of it


def _die_at(folder, call, nth):
    """Seal in a process that is killed before the n-th call of os.replace, unlink or fsync."""
    count = itertools.count(1)
    owner, name = {"write": (os, "fsync"), "replace": (os, "replace"), "unlink": (Path, "unlink")}[call]
    before = getattr(owner, name)

    def dying(*args, **kwargs):
        if next(count) == nth:
            os.kill(os.getpid(), signal.SIGKILL)
        return before(*args, **kwargs)

    setattr(owner, name, dying)
    seal.keep(folder, {}, NOW + 2 * DAY)


def test_texts_then_records_are_forgotten(tmp_path):
    write(tmp_path, [record(NOW, endpoint=e, input="asked", output="told") for e in ("short", "long", "other")])
    seal.keep(tmp_path, {}, NOW)
    policies = {"short": (1.0, 10.0), "long": (100.0, 1000.0)}

    def left(days):
        seal.keep(tmp_path, policies, NOW + int(days * DAY))
        return {r["endpoint"]: (r["input"], r["output"]) for r in RequestLog(tmp_path).find()}

    whole, bare = ("asked", "told"), (None, None)
    assert left(0.9) == {"short": whole, "long": whole, "other": whole}
    assert left(2) == {"short": bare, "long": whole, "other": whole}
    assert left(31) == {"long": whole, "other": bare}
    assert left(101) == {"long": bare, "other": bare}
    assert left(401) == {"long": bare}
    assert left(1001) == {} and Sealed.all(tmp_path) == []


def test_a_person_is_erased_everywhere_and_others_are_not(tmp_path):
    old, new, live = (record(NOW + i, **{**FULL, "user": u}) for i, u in ((0, "ann"), (1, "bob"), (2, "ann")))
    write(tmp_path, [old, new])
    seal.keep(tmp_path, {}, NOW)
    segment = write(tmp_path, [live], close=False)
    assert seal.erase(tmp_path, user="ann") == 1
    log = RequestLog(tmp_path)
    for id in (old.id, live.id):
        row = log.get(id)
        assert row["erased"] and row["prompt_tokens"] == 3 and row["release"] == "ab" * 32
        assert {k: row[k] for k in ("user", "session", "input", "output", "input_digest", "output_digest")} == {
            "user": "", "session": "", "input": None, "output": None, "input_digest": "", "output_digest": ""
        }  # fmt: skip
    assert log.get(new.id) == msgspec.structs.asdict(new)
    segment.close()
    seal.keep(tmp_path, {}, NOW)
    assert log.get(live.id)["erased"] and b"Paket" not in b"".join(
        str(pq.read_table(s.path, columns=["user", "input"]).filter(pq.ParquetFile(s.path).read()["erased"])).encode()
        for s in Sealed.all(tmp_path)
    )
    assert seal.erase(tmp_path, session="s1") == 1 and log.get(new.id)["erased"]
    assert seal.erase(tmp_path, user="nobody") == 0


def test_two_who_seal_at_once_do_it_once(tmp_path):
    for i in range(4):
        write(tmp_path, [record(NOW + i)])
    threads = [threading.Thread(target=seal.keep, args=(tmp_path, {}, NOW)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(len(t) for s in Sealed.all(tmp_path) for t in s.tables()) == 4


def test_a_file_of_an_older_version_lacks_columns_and_is_read(tmp_path):
    import pyarrow as pa

    one = record()
    table = pa.table({"id": [one.id], "ts_ms": [NOW], "endpoint": ["a"], "status": [200], "gone": ["x"]})
    pq.write_table(table, tmp_path / f"{NOW}-{NOW}-old.parquet")
    row = RequestLog(tmp_path).get(one.id)
    assert row["endpoint"] == "a" and row["guards"] == [] and row["attempts"] == 1 and "gone" not in row
    assert RequestLog(tmp_path).find(Query(user="ann", text="x")) == []


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / f"{NOW}-{NOW}-bad.parquet").write_bytes(b"PAR1 not at all")
    with pytest.raises(Error, match=r"bad\.parquet") as told:
        RequestLog(tmp_path).find()
    assert told.value.code == "corrupt"


def test_following_shows_what_is_written_from_now_on_across_segments(tmp_path):
    write(tmp_path, [record(input="before")])
    following = RequestLog(tmp_path).follow(Query(endpoint="a"), every_s=0.01)
    found = []
    reader = threading.Thread(target=lambda: found.extend(next(following)["input"] for _ in range(2)))
    segment = write(tmp_path, [], close=False)
    reader.start()
    while reader.is_alive():  # until both have been seen, however late the reader began to look
        segment.append(msgspec.json.encode(record(endpoint="b", input="other")) + b"\n")
        segment.append(msgspec.json.encode(record(endpoint="a", input="mine")) + b"\n")
        write(tmp_path, [record(endpoint="a", input="mine")])
        reader.join(0.02)
    assert found == ["mine", "mine"]
    segment.close()


def test_an_empty_folder_or_none(tmp_path):
    assert RequestLog(tmp_path / "none").find() == [] and seal.keep(tmp_path / "none", {}, NOW) == 0
    assert asked_ms("chatcmpl-" + "0" * 10 + "ff" + "0" * 12) == 255
