"""data.version: open, read, find, compare and check versions."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longrein.core.errors import Error
from longrein.core.store import Store
from longrein.data import similar, version
from longrein.data.version import Digest

SCHEMA = pa.schema(
    [
        ("text", pa.string()),
        ("number", pa.int64()),
        ("truth", pa.bool_()),
        ("vector", pa.list_(pa.float32(), 2)),
        ("talk", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
    ]
)
VALUES = st.fixed_dictionaries(
    {
        "text": st.none() | st.text(max_size=5),
        "number": st.none() | st.integers(-5, 5),
        "truth": st.none() | st.booleans(),
        "vector": st.none() | st.lists(st.floats(0, 1, width=32), min_size=2, max_size=2),
        "talk": st.none()
        | st.lists(
            st.none()
            | st.fixed_dictionaries({"role": st.none() | st.text(max_size=2), "content": st.text(max_size=3)}),
            max_size=2,
        ),
    }
)


def digest_of(rows: list[dict[str, Any]], *cuts: int, schema: pa.Schema = SCHEMA) -> str:
    whole = pa.RecordBatch.from_pylist(rows, schema)
    total = Digest(schema)
    for start, end in zip([0, *cuts], [*cuts, len(rows)], strict=True):
        total.update(whole.slice(start, end - start))
    return total.hexdigest()


@given(st.lists(VALUES, max_size=6), st.data())
def test_the_digest_does_not_see_batches(rows, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(rows)), max_size=3)))
    assert digest_of(rows, *cuts) == digest_of(rows)


@given(st.lists(VALUES, max_size=4), st.lists(VALUES, max_size=4))
def test_the_digest_sees_everything_else(one, other):
    same = pa.RecordBatch.from_pylist(one, SCHEMA).to_pylist() == pa.RecordBatch.from_pylist(other, SCHEMA).to_pylist()
    assert (digest_of(one) == digest_of(other)) == same


def test_the_digest_does_not_see_the_layout():
    rows = [{"a": "x", "b": 1}, {"a": None, "b": 2}, {"a": "x", "b": 3}]
    plain = pa.schema([("a", pa.string()), ("b", pa.int64())])
    for kind in (pa.large_string(), pa.dictionary(pa.int32(), pa.string())):
        assert digest_of(rows, schema=plain) == digest_of(rows, schema=pa.schema([("a", kind), ("b", pa.int64())]))
    hidden = pa.array(["x", "secret", "x"]).filter(pa.array([True, True, True]))
    masked = pa.StringArray.from_buffers(3, *hidden.buffers()[1:], pa.py_buffer(b"\x05"))  # null over "secret"
    total = Digest(plain)
    total.update(pa.record_batch([masked, pa.array([1, 2, 3])], schema=plain))
    assert total.hexdigest() == digest_of(rows, schema=plain)


def test_a_known_digest():
    """Golden: what two machines must agree on. It changes only with a note in the changelog."""
    schema = pa.schema([("input", pa.string()), ("line", pa.int64())])
    rows = [{"input": "hello", "line": 1}, {"input": "你好", "line": 2}, {"input": None, "line": 3}]
    assert digest_of(rows, schema=schema) == "a0bd30fb7c14d5c4aca78eab0fda502cb604193158a0f2a47cfc3979014bf3ea"


@pytest.fixture
def versions(project) -> tuple[Any, str, str]:
    rows = [{"id": i, "text": f"request {i} about the kettle", "label": "a"} for i in range(40)]
    project.write("data/a.jsonl", "".join(json.dumps(r) + "\n" for r in rows))
    first = project.ingest(output="label", split={"column": "label"})
    rows[3]["label"] = "b"
    rows[5]["text"] = "something else entirely"
    del rows[10]
    rows.append({"id": 99, "text": "a new one", "label": "a"})
    project.write("data/a.jsonl", "".join(json.dumps(r) + "\n" for r in rows))
    second = project.ingest(output="label", keep=["id"], split={"column": "label"})
    return project, first.uri, second.uri


def test_rows_by_split_columns_and_limit(versions):
    project, first, second = versions
    assert [r["split"] for r in version.rows(project.store, second, split="b")] == ["b"]
    some = list(version.rows(project.store, first, columns=["line"], limit=3))
    assert some == [{"line": 1}, {"line": 2}, {"line": 3}]
    with pytest.raises(Error, match="no column 'lines'"):
        list(version.rows(project.store, first, columns=["lines"]))
    assert sum(b.num_rows for b in version.batches(project.store, first)) == 40


def test_find_by_id_and_by_place(versions):
    project, first, _ = versions
    (row,) = version.find(project.store, first, source="data/a.jsonl", line=7)
    assert row["input"] == "request 6 about the kettle"
    assert version.find(project.store, first, row_id=row["row_id"]) == [row]
    assert len(version.find(project.store, first, source="data/a.jsonl")) == 40
    assert version.find(project.store, first, row_id="0" * 32) == []
    assert version.find(project.store, first, row_id="' OR true --") == []
    with pytest.raises(Error, match="say which row"):
        version.find(project.store, first)


def test_diff(versions):
    project, first, second = versions
    found = version.diff(project.store, first, second, samples=3)
    counts = {k: found[k] for k in ("rows", "added", "removed", "changed", "moved", "same")}
    assert counts == {"rows": [40, 40], "added": 2, "removed": 2, "changed": 1, "moved": 0, "same": 37}
    (pair,) = found["samples"]["changed"]
    assert (pair["before"]["output"], pair["after"]["output"]) == ("a", "b")
    assert {r["input"] for r in found["samples"]["added"]} == {"something else entirely", "a new one"}
    assert {r["line"] for r in found["samples"]["removed"]} == {6, 11}
    assert found["columns_added"] == ["extra"]
    nothing = version.diff(project.store, first, first)
    assert (nothing["same"], nothing["added"], nothing["removed"], nothing["moved"]) == (40, 0, 0, 0)


def test_diff_tells_rows_that_moved_to_another_split(project):
    project.write("data/a.jsonl", "".join(json.dumps({"text": f"row {i}"}) + "\n" for i in range(100)))
    first, second = project.ingest(seed=1), project.ingest(seed=2)
    found = version.diff(project.store, first.uri, second.uri)
    assert found["moved"] > 0 and found["moved"] + found["same"] == 100 and not found["added"]


def test_nearest(project):
    texts = ["where is my parcel", "i want a refund", "我的快递到哪了", "我要退款", "parcel refund", "", "🙂"]
    project.write("data/a.jsonl", "".join(json.dumps({"text": t or "x"}) + "\n" for t in texts))
    made = project.ingest(split={"train": 1.0})
    best = version.nearest(project.store, made.uri, "Where is the parcel?", 2)
    assert [row["input"] for _, row in best] == ["where is my parcel", "parcel refund"]
    assert version.nearest(project.store, made.uri, "我要退款", 1)[0][0] == pytest.approx(1.0)
    assert version.nearest(project.store, made.uri, "我想退款", 1)[0][1]["input"] == "我要退款"
    assert version.nearest(project.store, made.uri, "", 3) == []
    assert version.nearest(project.store, made.uri, "zzzz", 3) == []
    assert version.nearest(project.store, made.uri, "parcel", 3, split="test") == []


@given(st.text("abc ", max_size=6), st.lists(st.text("abc ", max_size=8), max_size=200), st.integers(1, 5))
def test_the_nearest_are_those_with_the_greatest_cosine(text, texts, k):
    query = similar.Query(text)
    every = sorted(((float(s), i) for i, s in enumerate(query.scores(texts)) if s > 0), key=lambda p: (-p[0], p[1]))
    assert [s for s, _ in query.best(texts, k)] == pytest.approx([s for s, _ in every[:k]])
    assert all(s <= 1 + 1e-9 for s, _ in every)


def test_verify_finds_changed_and_broken_files(project):
    project.write("data/a.jsonl", "".join(json.dumps({"text": f"row {i}"}) + "\n" for i in range(3000)))
    made = project.ingest()
    version.verify(project.store, made.digest, made.uri)
    with pytest.raises(Error, match="does not match its digest"):
        version.verify(project.store, "0" * 64, made.uri)
    (file,) = (project.store.root / "lance/tickets.lance/data").iterdir()
    content = bytearray(file.read_bytes())
    at = content.find(b"row 1")
    content[max(at, 0) + 4] ^= 1
    file.write_bytes(content)
    with pytest.raises(Error) as raised:
        version.verify(project.store, made.digest, made.uri)
    assert raised.value.code == "corrupt"
    file.write_bytes(content[:100])
    with pytest.raises(Error) as raised:
        version.verify(project.store, made.digest, made.uri)
    assert raised.value.code == "corrupt"


def test_building_again_mends_a_damaged_version(project):
    project.write("data/a.jsonl", "".join(json.dumps({"text": f"row {i}"}) + "\n" for i in range(300)))
    made = project.ingest()
    (file,) = (project.store.root / "lance/tickets.lance/data").iterdir()
    file.write_bytes(file.read_bytes()[:50])
    again = project.ingest()
    assert again.digest == made.digest and again.uri != made.uri
    version.verify(project.store, again.digest, again.uri)
    assert project.ingest().uri == again.uri


def test_many_commit_at_once(project):
    project.write("data/a.jsonl", "".join(json.dumps({"text": f"row {i}"}) + "\n" for i in range(500)))
    running = []
    for i in range(4):
        scratch = project.root / f".longrein/work/{i}"
        project.job(seed=i // 2).write(scratch)
        command = [sys.executable, "-m", "longrein.core.worker", str(scratch)]
        running.append((scratch, subprocess.Popen(command, cwd=Path(__file__).parents[2])))
    for scratch, process in running:
        assert process.wait() == 0, (scratch / "error.json").read_text()
        (output,) = json.loads((scratch / "result.json").read_text())["outputs"]
        version.verify(project.store, output["digest"], output["uri"])


@pytest.mark.parametrize("uri", ["lance/tickets.lance?version=9", "lance/none.lance?version=1"])
def test_a_version_that_is_gone(project, uri):
    project.write("data/a.jsonl", '{"text": "a"}\n')
    project.ingest()
    with pytest.raises(Error) as raised:
        version.open(project.store, uri)
    assert raised.value.code == "not_found"


@pytest.mark.parametrize("uri", ["lance/a.lance", "lance/a.lance?version=x", "../../etc?version=1"])
def test_a_uri_that_is_none(tmp_path: Path, uri):
    with pytest.raises(Error) as raised:
        version.open(Store(tmp_path), uri)
    assert raised.value.code == "invalid"


def test_large_rows_make_small_batches(project):
    text = json.dumps({"text": "x" * 3_000_000}) + "\n"
    project.write("data/a.jsonl", text * 12)
    made = project.ingest()
    assert len(project.rows(made)) == 12
    version.verify(project.store, made.digest, made.uri)


def test_row_ids_are_stable(project):
    project.write("data/a.jsonl", '{"text": "a"}\n{"text": "b"}\n')
    first = project.ingest()
    ids = [r["row_id"] for r in project.rows(first)]
    assert ids == ["8c90ca53b9426a1976dc1723fcd99f68", "ec0b5af621ea1785dcee28833cfeaedd"]
    assert version.open(project.store, first.uri).has_stable_row_ids
    project.write("data/a.jsonl", '\n{"text": "b"}\n')
    assert [r["row_id"] for r in project.rows(project.ingest())] == ids[1:]
