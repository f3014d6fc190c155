"""data.version: columns added to a version, a label or an embedding, without writing the rest again."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from longrein import workspace as workspaces
from longrein.core.errors import Error
from longrein.core.store import Store
from longrein.data import checkout, revise, version
from longrein.data.row import schema
from tests.data.test_version_delta import commit, edited, rows_of, size, texts

LABEL = pa.schema([("row_id", pa.string()), ("label", pa.string()), ("vector", pa.list_(pa.float32(), 4))])
WHOLE = pa.schema([*schema(False, False), *list(LABEL)[1:]])


def labelled(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [r | {"label": f"标签 {r['input'][:3]}", "vector": [float(len(r["input"])), 0.1, -1.5, 3]} for r in rows]


def values(rows: list[dict[str, Any]], batch: int = 700) -> list[pa.RecordBatch]:
    return pa.Table.from_pylist([{n: r[n] for n in LABEL.names} for r in rows], LABEL).to_batches(batch)


def whole(rows: list[dict[str, Any]]) -> str:
    total = version.Digest(WHOLE)
    total.update(pa.RecordBatch.from_pylist(rows, WHOLE))
    return total.hexdigest()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_only_the_column_is_written(store):
    rows = rows_of(texts(20_000))
    first = commit(store, rows)
    before, full = size(store), labelled(rows)
    made = version.add_columns(store, first.uri, values(full))
    assert size(store) - before < 0.15 * before
    assert made.digest == whole(full) and made.rows == len(rows)
    version.verify(store, made.digest, made.uri)
    version.verify(store, first.digest, first.uri)
    assert list(version.rows(store, made.uri, limit=2)) == [
        {n: (pytest.approx(r[n]) if n == "vector" else r.get(n)) for n in WHOLE.names} for r in full[:2]
    ]


def test_it_is_what_a_machine_that_writes_all_gets(store, tmp_path):
    """After many small commits, with deletions, moved rows and runs; from values in another order, with others' ids."""
    found = texts(2000)
    for seed in range(5):
        made = commit(store, rows_of(found, mark=str(seed)))
        found = edited(found, seed, 0.05)
    rows = list(version.rows(store, made.uri))
    full = labelled(rows)
    strange = labelled(rows_of(["somebody else's"]))
    added = version.add_columns(store, made.uri, values([*strange, *reversed(full)]))
    other = commit(Store(tmp_path / "other"), full, schema=WHOLE)
    assert added.digest == other.digest == whole(full)
    version.verify(store, added.digest, added.uri)


def test_rows_without_values_have_nulls_and_copies_have_the_same(store):
    rows = rows_of(["a", "b", "a", "c"])
    first = commit(store, rows)
    twice = [{**labelled(rows)[0], "label": name} for name in ("first", "second")]
    made = version.add_columns(store, first.uri, [*values(twice), *values([])])
    found = [r["label"] for r in version.rows(store, made.uri)]
    assert found == ["first", None, "first", None]
    again = version.add_columns(store, first.uri, values(twice))
    assert again.digest == made.digest


def test_on_top_of_an_earlier_version_and_more_than_once(store):
    rows = rows_of(texts(500))
    first = commit(store, rows)
    second = commit(store, rows_of(texts(500, 1)))
    made = version.add_columns(store, first.uri, values(labelled(rows)))
    assert made.digest == whole(labelled(rows))
    score = pa.table({"row_id": [r["row_id"] for r in rows], "score": [i / 7 for i in range(500)]}).to_batches()
    more = version.add_columns(store, made.uri, score)
    assert version.columns_of(version.open(store, more.uri)).names == [*WHOLE.names, "score"]
    for one in (first, second, made, more):
        version.verify(store, one.digest, one.uri)


def test_an_edit_afterwards_shares_the_column(store):
    full = labelled(rows_of(texts(5000)))
    first = commit(store, full, schema=WHOLE)
    before = size(store)
    full[7]["label"], full[9]["vector"] = "another", [1.0, 2.0, 3.0, 4.0]
    made = commit(store, full, schema=WHOLE)
    assert size(store) - before < 0.06 * before and made.digest == whole(full) != first.digest


@pytest.mark.parametrize(
    ("batches", "said"),
    [
        ([], "no values to add"),
        ([pa.record_batch({"label": ["x"]})], "row_id, which is missing"),
        ([pa.record_batch({"row_id": ["x"]})], "no new columns"),
        ([pa.record_batch({"row_id": ["x"], "input": ["x"]})], "a column 'input' already"),
        ([pa.record_batch({"row_id": ["x"], "_order": [1]})], "cannot be a column's name"),
        ([pa.record_batch({"row_id": ["x"], "a.b": [1]})], "cannot be a column's name"),
        ([pa.record_batch({"row_id": [1], "a": [1]})], "row_id is text"),
        ([pa.record_batch({"row_id": ["x" * 40, None, "é"], "a": [1, 2, 3]})], "none of the row ids"),
        (
            [pa.record_batch({"row_id": ["x"], "a": [1]}), pa.record_batch({"row_id": ["x"], "a": ["1"]})],
            "other columns",
        ),
    ],
)
def test_what_is_refused_leaves_all_as_it_was(store, batches, said):
    first = commit(store, rows_of(["a", "b"]))
    with pytest.raises(Error, match=said):
        version.add_columns(store, first.uri, batches)
    version.verify(store, first.digest, first.uri)
    assert not list(store.root.glob("draft-*"))


def test_a_damaged_version_is_told(store):
    rows = rows_of(texts(2000))
    first = commit(store, rows)
    (file,) = (store.root / "lance/t.lance/data").iterdir()
    content = bytearray(file.read_bytes())
    content[content.find(b"1000 ") + 20] ^= 1
    file.write_bytes(content)
    with pytest.raises(Error) as raised:
        version.add_columns(store, first.uri, values(labelled(rows)))
    assert raised.value.code == "corrupt"


KILLED = """
import os, signal, sys
from pathlib import Path
import lance
from longrein.core.store import Store
from longrein.data import version
from tests.data import test_version_columns as t
store, place = Store(Path(sys.argv[1])), sys.argv[3]
def die(*a, **k): os.kill(os.getpid(), signal.SIGKILL)
real = lance.LanceDataset.commit
def after(*a, **k): real(*a, **k); die()
if place == "staging": t.version.Digest = die
elif place == "fragment": lance.fragment.LanceFragment.merge_columns = die
elif place == "commit": lance.LanceDataset.commit = staticmethod(die)
else: lance.LanceDataset.commit = staticmethod(after)
batches = t.values(t.labelled(t.rows_of(t.texts(3000))))
def some():
    for i, batch in enumerate(batches):
        if place == "staging" and i: die()
        yield batch
version.add_columns(store, sys.argv[2], some())
"""


@pytest.mark.parametrize("place", ["staging", "fragment", "commit", "after"])
def test_killed_in_the_middle(store, place):
    rows = rows_of(texts(3000))
    first = commit(store, rows)
    command = [sys.executable, "-c", KILLED, str(store.root), first.uri, place]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    version.verify(store, first.digest, first.uri)
    made = version.add_columns(store, first.uri, values(labelled(rows)))
    assert made.digest == whole(labelled(rows))
    after = rows_of(edited(texts(3000), 1))
    version.verify(store, commit(store, after).digest, commit(store, after).uri)


def test_in_a_project(project, tmp_path):
    """The version after, who made it and from what; diff and checkout show the column; an edit of it is committed."""
    project.write("data/a.jsonl", "".join(json.dumps({"text": f"row {i}"}) + "\n" for i in range(50)))
    project.write("longrein.yaml", "project: p\ndatasets:\n  notes: {sources: [data/*.jsonl], input: text}\n")
    lr = workspaces.open(project.root, actor="ada")
    assert not lr.apply().steps[0].reasons
    rows = list(lr.dataset("notes@1"))
    made = lr.add_columns("notes@1", values(labelled(rows)), message="by hand")
    assert made.ref == "dataset:notes@2" and made.meta["parent"] == "dataset:notes@1"
    run = lr.ledger.runs.get(made.run_id)
    assert (run.actor, run.config["message"]) == ("ada", "by hand")
    assert [a.ref for e, a in lr.ledger.assets.of_run(made.run_id) if e.direction == "in"] == ["dataset:notes@1"]
    told = version.diff(lr.store, lr.asset("dataset:notes@1").uri, made.uri)
    assert told["columns_added"] == ["label", "vector"] and told["same"] == 50
    out = tmp_path / "out"
    checkout.write(lr.store, made.uri, out, ref=made.ref, digest=made.digest)
    lines = [json.loads(line) for line in (out / "rows.jsonl").read_text("utf-8").splitlines()]
    assert lines[0]["label"] == "标签 row" and len(lines[0]["vector"]) == 4
    same = revise.commit(lr.ledger, lr.store, "notes", out, actor="ada")
    assert same.digest == made.digest
    lines[4]["vector"][0] = 0.25
    (out / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in lines), "utf-8")
    after = revise.commit(lr.ledger, lr.store, "notes", out, actor="ada")
    assert after.ref == "dataset:notes@3" and [r["vector"][0] for r in lr.dataset("notes@3")][4] == 0.25
    for format in ("csv", "parquet", "hf", "webdataset"):
        checkout.write(lr.store, made.uri, out, format)
