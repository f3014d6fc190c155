"""The request log summed by columns: the same whichever files the records are in."""

import random
import shutil

import msgspec
import pyarrow.parquet as pq
import pytest

from longrein.core.errors import Error
from longrein.core.record import Record, Segment
from longrein.core.usage import SUMMED, Sum
from longrein.data import seal
from longrein.data.requests import Sealed
from longrein.data.spending import OTHERS, repeated, sums

START_MS = 1_699_920_000_000  # the beginning of a day
DAY_MS = 86_400_000
FOREVER = 1 << 60


def record(i, **more):
    draw = random.Random(i)
    fields = {
        "id": f"chatcmpl-{START_MS + i * 1000:012x}{i:012x}", "ts_ms": START_MS + i * 1000, "endpoint": f"e{i % 3}",
        "release": f"{i % 5:064x}", "user": f"用户{i % 7}", "status": 200 if i % 11 else 499, "prompt_tokens": i % 50,
        "completion_tokens": i % 20, "prefill_ms": draw.random(), "decode_ms": draw.random() * 9,
        "cost_usd": draw.random() if i % 4 else None, "cached": i % 13 == 0, "saved_usd": 0.5 if i % 13 == 0 else None,
        "tags": [f"feature=f{i % 2}", "x=y"] if i % 3 else ["feature_2=no"],
    }  # fmt: skip
    return Record(**{**fields, **more})


def write(folder, records, name="w"):
    segment = Segment(folder, name)
    for one in records:
        segment.append(msgspec.json.encode(one) + b"\n")
    segment.close()


def by_hand(records, group):
    found = {}
    for r in records:
        own = found.setdefault((r.endpoint, group(r)), Sum(endpoint=r.endpoint, group=group(r)))
        engine, cost = r.prefill_ms + r.decode_ms, r.cost_usd or 0.0
        own.add(Sum(
            endpoint="", group="", requests=1, answered=r.status == 200, cached=r.cached,
            unknown=r.cost_usd is None and not r.cached and r.prompt_tokens + r.completion_tokens > 0,
            tokens_in=r.prompt_tokens, tokens_out=r.completion_tokens, engine_s=engine / 1000,
            prefill_usd=cost * r.prefill_ms / engine if engine else 0.0,
            decode_usd=cost * r.decode_ms / engine if engine else 0.0,
            tokens_usd=0.0 if engine else cost, saved_usd=r.saved_usd or 0.0,
        ))  # fmt: skip
    return found


GROUPS = {
    "endpoint": lambda r: r.endpoint,
    "release": lambda r: r.release,
    "user": lambda r: r.user,
    "key": lambda r: "",
    "day": lambda r: str(r.ts_ms // DAY_MS * DAY_MS),
    "feature": lambda r: r.tags[0].removeprefix("feature=") if len(r.tags) == 2 else "",
    "no_such_tag": lambda r: "",
}


@pytest.mark.parametrize("by", GROUPS)
def test_sums_are_those_of_the_records_sealed_or_not(tmp_path, by):
    records = [record(i) for i in range(3000)]
    write(tmp_path, records[:1000])
    write(tmp_path, records[900:2000])  # written twice after an error
    seal.keep(tmp_path, {}, START_MS)
    write(tmp_path, [record(i, prefill_ms=0.0, decode_ms=0.0) for i in range(2000, 3000)], "open")
    with next(tmp_path.glob("*open*")).open("ab") as file:
        file.write(b'{"id": "torn')
    records[2000:] = [record(i, prefill_ms=0.0, decode_ms=0.0) for i in range(2000, 3000)]
    found = {(one.endpoint, one.group): one for one in sums(tmp_path, by, 0, FOREVER)}
    expected = by_hand(records, GROUPS[by])
    assert found.keys() == expected.keys()
    for key, one in expected.items():
        for name in SUMMED:
            assert getattr(found[key], name) == pytest.approx(getattr(one, name)), (key, name)


def test_a_file_that_is_sealed_while_it_is_read_counts_once(tmp_path):
    write(tmp_path, [record(i) for i in range(500)])
    copy = tmp_path / "copy"
    shutil.copytree(tmp_path, copy)
    seal.keep(copy, {}, START_MS)
    shutil.copy(next(copy.glob("*.parquet")), tmp_path)  # as between the two steps of sealing
    assert sum(one.requests for one in sums(tmp_path, "endpoint", 0, FOREVER)) == 500


def test_times_and_values_and_files_older_than_the_columns(tmp_path):
    records = [record(i) for i in range(1000)]
    write(tmp_path, records[:500])
    seal.keep(tmp_path, {}, START_MS)
    [file] = Sealed.all(tmp_path)
    old = pq.read_table(file.path).drop_columns(["tags", "prefill_ms", "decode_ms", "saved_usd"])
    pq.write_table(old, file.path)
    write(tmp_path, records[500:])
    values = {records[7].id: 2.5, records[700].id: -1.0, "chatcmpl-unknown": 9.0}
    found = sums(tmp_path, "feature", 0, FOREVER, values)
    assert sum(one.requests for one in found) == 1000 and sum(one.value_usd for one in found) == 1.5
    assert sum(one.valued for one in found) == 1
    until = START_MS + 100_000
    assert sum(one.requests for one in sums(tmp_path, "user", START_MS + 50_000, until)) == 50
    assert sums(tmp_path, "user", 0, START_MS) == [] == sums(tmp_path / "nowhere", "user", 0, FOREVER)
    file.path.write_bytes(b"no parquet")
    with pytest.raises(Error) as error:
        sums(tmp_path, "user", 0, FOREVER)
    assert error.value.code == "corrupt"


def test_one_person_is_forgotten_and_what_they_cost_is_not(tmp_path):
    write(tmp_path, [record(i) for i in range(700)])
    seal.keep(tmp_path, {}, START_MS)
    seal.erase(tmp_path, user="用户3")
    found = sums(tmp_path, "user", 0, FOREVER)
    assert "用户3" not in {one.group for one in found}
    assert sum(one.requests for one in found if not one.group) == 100
    assert {one.group for one in sums(tmp_path, "feature", 0, FOREVER)} == {"", "f0", "f1"}


def test_groups_without_end_are_summed_as_one(tmp_path):
    write(tmp_path, [record(i, user=f"user{i}", cost_usd=i / 1000) for i in range(2000)])
    found = sums(tmp_path, "user", 0, FOREVER, most=20)
    groups = {one.group for one in found}
    assert len(groups) == 21 and groups >= {OTHERS, "user1999", "user1980"}
    assert sum(one.requests for one in found) == 2000
    assert sum(one.engine_usd for one in found) == pytest.approx(sum(i / 1000 for i in range(2000)))


def test_what_was_asked_again_soon(tmp_path):
    write(tmp_path, [record(i, endpoint="e", release="r", input_digest=f"{i % 100}") for i in range(1000)])
    assert repeated(tmp_path, "e", 0, FOREVER, 100.0) == (1000, 900)
    assert repeated(tmp_path, "e", 0, FOREVER, 99.0) == (1000, 0)
    assert repeated(tmp_path, "other", 0, FOREVER, 99.0) == (0, 0)
