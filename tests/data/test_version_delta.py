"""data.version: a commit writes what changed, and gives the same version as if it had written all."""

import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from longrein.core.store import Store
from longrein.data import version
from longrein.data.row import finished, schema
from longrein.data.version import delta

SCHEMA = schema(False, False)


def rows_of(texts: list[str], source: str = "a.jsonl", mark: str = "0") -> list[dict[str, Any]]:
    return [
        finished({"input": t, "output": None, "source": source, "line": i, "split": "train"}, mark)
        for i, t in enumerate(texts, 1)
    ]


def commit(store: Store, rows: list[dict[str, Any]], name: str = "t", base: str = "", schema: pa.Schema = SCHEMA):
    store.root.mkdir(parents=True, exist_ok=True)
    draft = version.Draft(store.root / "draft.arrow", schema)
    for row in rows:
        draft.add(row, 100)
    return version.commit(store, name, draft, base)


def check(store: Store, made: version.Version, rows: list[dict[str, Any]]) -> None:
    plain = [{f.name: r.get(f.name) for f in SCHEMA} for r in rows]
    assert list(version.rows(store, made.uri)) == plain
    assert made.digest == digest_of(rows)
    version.verify(store, made.digest, made.uri)


def digest_of(rows: list[dict[str, Any]]) -> str:
    total = version.Digest(SCHEMA)
    total.update(pa.RecordBatch.from_pylist(rows, SCHEMA))
    return total.hexdigest()


def size(store: Store) -> int:
    return sum(p.stat().st_size for p in (store.root / "lance").rglob("*") if p.is_file())


def texts(n: int, seed: int = 0) -> list[str]:
    words = random.Random(seed)
    return [f"{i} " + words.randbytes(100).hex() for i in range(n)]


def edited(found: list[str], seed: int, share: float = 0.01) -> list[str]:
    """Changed, removed and inserted in equal parts."""
    dice, result = random.Random(seed), []
    for text in found:
        what = dice.random() / share
        if what < 0.33:
            continue
        result.append(f"{text} {seed}" if what < 0.66 else text)
        if 0.66 < what < 1:
            result.append(f"new {seed} {dice.random()}")
    return result


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_one_percent_changed_costs_about_one_percent(store):
    found = texts(20_000)
    first = commit(store, rows_of(found))
    before = size(store)
    changed = list(found)
    for i in range(0, len(found), 100):
        changed[i] += " changed"
    second = commit(store, rows_of(changed, mark="1"))
    assert size(store) - before < 0.06 * before  # few rows are compressed less well
    check(store, first, rows_of(found))
    check(store, second, rows_of(changed, mark="1"))


def test_shifted_lines_cost_a_column(store):
    found = texts(10_000)
    commit(store, rows_of(found))
    before = size(store)
    shifted = rows_of(["first", *found], mark="1")
    check(store, commit(store, shifted), shifted)
    assert size(store) - before < 0.05 * before


def test_many_commits_in_a_row(store):
    found, made = texts(2000), []
    for seed in range(40):
        rows = rows_of(found, mark=str(seed))
        made.append((commit(store, rows), rows))
        table = version.open(store, made[-1][0].uri)
        assert len(delta._runs(table)) <= delta.MOST_RUNS + 1
        found = edited(found, seed)
    for one, rows in made:
        check(store, one, rows)
    assert size(store) < 8 * made[0][0].bytes


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_edit_gives_the_same_as_writing_all(tmp_path_factory, data):
    store = Store(tmp_path_factory.mktemp("any"))
    some = st.lists(st.sampled_from("abcdefghijkl"), min_size=1, max_size=12)  # copies, moves, swaps
    old = data.draw(some)
    common = [f"same {i}" for i in range(30)]
    rows = rows_of([*common[:10], *old, *common[10:]])
    commit(store, rows)
    for n in range(data.draw(st.integers(1, 3))):
        rows = rows_of([*common[:10], *data.draw(some), *common[10:]], mark=str(data.draw(st.integers(0, n + 1))))
        check(store, commit(store, rows), rows)


def test_order_and_copies(store):
    found = texts(200)
    for turn in (found[100:] + found[:100], found[::-1], found + found, found[:50] * 4, found[:3], found):
        rows = rows_of(turn)
        check(store, commit(store, rows), rows)


def test_no_room_between_two_rows(store, monkeypatch):
    monkeypatch.setattr(delta, "GAP", 2)
    found = texts(100)
    commit(store, rows_of(found))
    for i in range(5):
        found.insert(50, f"again {i}")
        rows = rows_of(found)
        check(store, commit(store, rows), rows)


def test_on_top_of_an_earlier_version(store):
    found = texts(5000)
    first = commit(store, rows_of(found))
    commit(store, rows_of(texts(5000, 1)))
    before = size(store)
    rows = rows_of(edited(found, 3))
    third = commit(store, rows, "other", first.uri)
    check(store, third, rows)
    assert third.uri.startswith("lance/t.lance?") and size(store) - before < 0.1 * before


def test_what_is_filtered_keeps_its_order(store):
    rows = rows_of(texts(1000))
    commit(store, rows)
    for i, row in enumerate(rows):
        if i % 50 == 0:
            row["split"] = "test"
    made = commit(store, rows)
    test = [r["line"] for r in version.rows(store, made.uri, split="test")]
    assert test == list(range(1, 1001, 50))
    assert [r["line"] for r in version.rows(store, made.uri, columns=["line"], limit=120)] == list(range(1, 121))
    assert [r["line"] for r in version.find(store, made.uri, source="a.jsonl")] == list(range(1, 1001))


def test_a_damaged_version_is_not_shared(store):
    found = texts(2000)
    commit(store, rows_of(found))
    (file,) = (store.root / "lance/t.lance/data").iterdir()
    content = bytearray(file.read_bytes())
    content[content.find(b"1000 ") + 20] ^= 1
    file.write_bytes(content)
    rows = rows_of([*found, "one more"])
    check(store, commit(store, rows), rows)


def test_other_columns_are_written_anew(store):
    rows = rows_of(texts(50))
    commit(store, rows)
    wider = schema(False, True)
    made = commit(store, [r | {"extra": "{}"} for r in rows], schema=wider)
    assert version.columns_of(version.open(store, made.uri)).names == wider.names


COMMIT = """
import sys
from pathlib import Path
from tests.data.test_version_delta import commit, edited, rows_of, texts
from longrein.core.store import Store
import longrein.data.version.delta as delta, longrein.data.version.write as write
import os, signal
def die(*_, **__): os.kill(os.getpid(), signal.SIGKILL)
target, name = sys.argv[2].split(":")
real = getattr(globals()[target] if target != "lance" else delta.lance.LanceDataset, name)
if sys.argv[3] == "after":
    def then(*a, **k):
        real(*a, **k)
        die()
else:
    then = die
if target == "lance":
    delta.lance.LanceDataset.commit = staticmethod(then)
else:
    setattr(globals()[target], name, then)
commit(Store(Path(sys.argv[1])), rows_of(edited(texts(3000), 1), mark="1"))
"""


@pytest.mark.parametrize(
    ("place", "when"),
    [
        ("delta:_appended", "before"), ("delta:_appended", "after"), ("delta:_changed", "after"),
        ("lance:commit", "before"), ("lance:commit", "after"), ("write:digest_of", "before"),
    ],
)  # fmt: skip
def test_killed_in_the_middle(store, place, when):
    rows = rows_of(texts(3000))
    first = commit(store, rows)
    command = [sys.executable, "-c", COMMIT, str(store.root), place, when]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    check(store, first, rows)
    after = rows_of(edited(texts(3000), 1), mark="1")
    check(store, commit(store, after), after)
    check(store, first, rows)


def test_many_at_once(store):
    """Each on top of what it finds: none is lost, none holds another's rows."""
    rows = rows_of(texts(2000))
    commit(store, rows)
    script = """
import sys
from pathlib import Path
from tests.data.test_version_delta import check, commit, edited, rows_of, texts
from longrein.core.store import Store
from longrein.data import version
from tests.data import test_version_delta as t
store, seed = Store(Path(sys.argv[1])), int(sys.argv[2])
for turn in range(4):
    rows = rows_of(edited(texts(2000), seed * 100 + turn), mark=str(seed))
    draft = version.Draft(store.root / f"draft{seed}.arrow", t.SCHEMA)
    for row in rows: draft.add(row, 100)
    check(store, version.commit(store, "t", draft), rows)
"""
    here = Path(__file__).parents[2]
    command = [sys.executable, "-c", script, str(store.root)]
    running = [subprocess.Popen([*command, str(i)], cwd=here, stderr=subprocess.PIPE, text=True) for i in range(3)]
    for process in running:
        _, err = process.communicate()
        assert process.returncode == 0, err
    check(store, commit(store, rows), rows)
