"""checkout, commit, branch, merge, tag, gc, reproduce: a dataset's life by hand, as people type it."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from longrein import workspace as workspaces
from longrein.core.errors import Error
from longrein.data import collect, revise, version

LIFECYCLE = """project: notes
datasets:
  notes: {sources: [data/*.jsonl], input: text, output: label, keep: [id], transforms: [normalize, dedup]}
"""


def write(folder: Path, count: int = 60, **changed: str) -> None:
    rows = [{"id": i, "text": changed.get(f"n{i}", f"note number {i}  "), "label": "ab"[i % 2]} for i in range(count)]
    (folder / "data").mkdir(parents=True, exist_ok=True)
    (folder / "data/notes.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), "utf-8")


@pytest.fixture(scope="session")
def _notes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("notes") / "notes"
    write(folder)
    (folder / "longrein.yaml").write_text(LIFECYCLE, "utf-8")
    assert not workspaces.open(folder).apply().steps[0].reasons
    return folder


@pytest.fixture
def notes(_notes: Path, tmp_path: Path) -> Path:
    """A project with one dataset version."""
    import shutil

    shutil.copytree(_notes, tmp_path / "notes")
    return tmp_path / "notes"


def rows(folder: Path, ref: str) -> list[dict[str, Any]]:
    return list(workspaces.open(folder).dataset(ref))


def edit(path: Path, change: Any) -> None:
    """Let `change` work on the rows of a JSONL checkout."""
    found = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    change(found)
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in found), "utf-8")


@pytest.mark.parametrize("format", ["jsonl", "csv", "parquet"])
def test_what_is_checked_out_is_committed_unchanged(call, notes, tmp_path, format):
    out = tmp_path / "out"
    made = call("checkout", "notes@1", out, "--format", format, "-C", notes, "--json").data
    assert made["rows"] == 60 and (out / f"rows.{format}").is_file()
    again = call("commit", "notes", out, "-C", notes, "--json").data
    assert (again["ref"], again["digest"]) == ("dataset:notes@1", made["digest"])


def test_an_edited_checkout_is_the_next_version(call, notes, tmp_path):
    out = tmp_path / "out"
    call("checkout", "dataset:notes", out, "-C", notes)

    def change(found):
        found[3]["output"] = "B 改"
        del found[10]
        found.append({"input": "brand new", "output": "a"})

    edit(out / "rows.jsonl", change)
    done = call("commit", "notes", out, "-m", "by hand", "-C", notes)
    assert done.code == 0 and "dataset:notes@2: 60 rows" in done.out
    found = call("diff", "dataset:notes@1", "dataset:notes@2", "-C", notes, "--json").data["rows"]
    assert [found[k] for k in ("added", "removed", "changed", "same")] == [1, 1, 1, 58]
    new = rows(notes, "notes@2")[-1]
    assert (new["source"], new["line"], new["language"], new["split"] != "") == ("rows.jsonl", 60, "en", True)
    asset = workspaces.open(notes).asset("dataset:notes@2")
    assert asset.meta["message"] == "by hand" and asset.meta["parent"] == "dataset:notes@1"
    version.verify(workspaces.open(notes).store, asset.digest, asset.uri)
    stale = call("commit", "notes", out, "-C", notes)
    assert stale.code == 4 and "dataset:notes@2 came after dataset:notes@1" in stale.err


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"input": "x", "label": "y"}', "the column 'label' is not one"),
        ('{"output": "y"}', "it has no input"),
        ('{"input": ', "line 61"),
        ('{"input": 3, "output": "a"}', "does not fit"),
    ],
)
def test_a_bad_edit_keeps_nothing(call, notes, tmp_path, line, said):
    out = tmp_path / "out"
    call("checkout", "dataset:notes", out, "-C", notes)
    with (out / "rows.jsonl").open("a") as file:
        file.write(line + "\n")
    done = call("commit", "notes", out, "-C", notes)
    assert done.code == 2 and said in done.err and "dataset:notes@2" not in call("ls", "dataset:notes", "-C", notes).out


def test_where_a_checkout_may_go(call, notes, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    assert call("checkout", "notes", tmp_path / "mine", "-C", notes).code == 4
    assert (tmp_path / "mine" / "letter.txt").read_text() == "dear"
    assert "did you mean 'parquet'" in call("checkout", "notes", tmp_path / "x", "--format", "parket", "-C", notes).err
    assert call("commit", "notes", tmp_path / "mine", "-C", notes).code == 3
    for format in ("csv", "jsonl"):
        assert call("checkout", "notes", tmp_path / "again", "--format", format, "-C", notes).code == 0
    there = sorted(p.name for p in (tmp_path / "again").iterdir())
    assert there == [".lines", "checkout.json", "croissant.json", "rows.jsonl"]


def test_branch_and_merge(call, notes, tmp_path):
    assert call("branch", "notes@1", "trial", "-C", notes).code == 0
    assert call("branch", "notes@1", "trial", "-C", notes).code == 4
    space = workspaces.open(notes)
    assert space.asset("dataset:trial@1").uri == space.asset("dataset:notes@1").uri  # no bytes of its own

    def commit(name, change):
        call("checkout", name, tmp_path / "out" / name, "-C", notes)
        edit(tmp_path / "out" / name / "rows.jsonl", change)
        assert call("commit", name, tmp_path / "out" / name, "-C", notes).code == 0

    def theirs(found):
        found[5]["output"] = "theirs"
        found[7]["output"] = "both"
        del found[20]
        found.append({"input": "from the trial", "output": "t"})

    def ours(found):
        found[6]["output"] = "ours"
        found[7]["output"] = "both"
        found.insert(0, {"input": "first", "output": "o"})

    commit("trial", theirs)
    commit("notes", ours)
    done = call("merge", "trial", "notes", "-C", notes, "--json")
    assert done.code == 0, done.err
    found = rows(notes, "notes")
    answers = {r["input"]: r["output"] for r in found}
    assert len(found) == 61 and "note number 20" not in answers
    assert [answers[f"note number {i}"] for i in (5, 6, 7)] == ["theirs", "ours", "both"]
    assert (found[0]["input"], found[-1]["input"]) == ("first", "from the trial")
    parents = {a.ref for a in space.lineage("dataset:notes").assets}
    assert {"dataset:trial@2", "dataset:notes@2", "dataset:notes@1"} <= parents


@pytest.mark.parametrize(("prefer", "on", "answer"), [("ours", "input", "N"), ("theirs", "id", "T")])
def test_conflicts_are_shown_and_decided(call, notes, tmp_path, prefer, on, answer):
    call("branch", "notes@1", "trial", "-C", notes)
    for name, said in (("trial", "T"), ("notes", "N")):
        call("checkout", name, tmp_path / "out" / name, "-C", notes)
        edit(tmp_path / "out" / name / "rows.jsonl", lambda found, said=said: found[4].update(output=said))
        call("commit", name, tmp_path / "out" / name, "-C", notes)
    done = call("merge", "trial", "notes", "-C", notes)
    assert done.code == 4 and "1 rows were changed on both sides" in done.err
    assert "ours   note number 4 ⇒ N" in done.err and "theirs note number 4 ⇒ T" in done.err
    assert call("merge", "trial", "notes", "--prefer", prefer, "--on", on, "-C", notes).code == 0
    assert rows(notes, "notes")[4]["output"] == answer
    assert call("merge", "trial", "notes", "-C", notes).code == 0  # decided once and for all
    assert rows(notes, "notes")[4]["output"] == answer


def test_versions_without_a_common_one_are_not_merged(notes):
    space = workspaces.open(notes)
    space.ledger.assets.put("dataset", "else", "ab" * 32, uri=space.asset("dataset:notes").uri)
    with pytest.raises(Error, match="no version in common"):
        revise.merge(space.ledger, space.store, "dataset:else@1", "dataset:notes@1", actor="me")


def test_tag(call, notes):
    assert call("tag", "dataset:notes@1", "gold", "-C", notes).out == "dataset:notes@gold is dataset:notes@1 now\n"
    assert len(rows(notes, "notes@gold")) == 60
    assert call("tag", "dataset:notes@1", "latest", "-C", notes).code == 2
    assert "is gone" in call("tag", "dataset:notes@1", "gold", "--delete", "-C", notes).out
    assert call("show", "dataset:notes@gold", "-C", notes).code == 3


def apply(folder: Path, **changed: str) -> None:
    write(folder, **changed)
    workspaces.open(folder).apply()


def test_garbage(call, notes):
    for turn in range(3):
        apply(notes, n1=f"turn {turn}")
    space = workspaces.open(notes)
    call("tag", "dataset:notes@2", "gold", "-C", notes)
    assert call("gc", "--dry-run", "-C", notes).out == "nothing to remove\n"
    stray = space.store.root / "sha256" / "ab" / ("ab" * 32)
    stray.parent.mkdir(parents=True, exist_ok=True)
    stray.write_bytes(b"x" * 1000)
    fresh = call("gc", "--keep", 1, "--dry-run", "-C", notes, "--json").data
    assert fresh["assets"] == ["dataset:notes@3", "dataset:notes@1"] and fresh["versions"] == {}  # too young to go
    found = collect.find(space.ledger, space.store, space.home / "work", keep=1, grace_s=-60)
    assert sorted(found.versions["lance/notes.lance"])[0] == 1 and stray in found.paths and found.bytes >= 1000
    before = [list(space.dataset(f"notes@{n}")) for n in (2, 4)]
    collect.remove(space.ledger, space.store, found, actor="me")
    assert [list(space.dataset(f"notes@{n}")) for n in (2, 4)] == before and not stray.exists()
    for n in (2, 4):
        asset = space.asset(f"dataset:notes@{n}")
        version.verify(space.store, asset.digest, asset.uri)
        assert list(version.rows(space.store, asset.meta["rejected"])) == []
    with pytest.raises(Error, match="no longer holds"):
        rows(notes, "notes@1")
    assert "gone: longrein apply rebuilds it" in call("show", "dataset:notes@1", "-C", notes).out
    assert space.ledger.events.recent(kind="store.collected")
    assert not collect.find(space.ledger, space.store, space.home / "work", keep=1, grace_s=-60).versions
    apply(notes)  # the first version's content again
    assert list(space.dataset("notes@1")) and space.ledger.events.verify()


def test_scratch_of_what_still_may_go_on_stays(notes):
    space = workspaces.open(notes)
    work = space.home / "work" / ("c" * 20)
    (work / "checkpoint").mkdir(parents=True)
    (work / "checkpoint" / "state").write_bytes(b"x" * 10)
    (work / "log.txt").write_text("…")
    assert not collect.find(space.ledger, space.store, space.home / "work").paths
    old = time.time() - 8 * 86_400
    for path in (work / "checkpoint", work / "checkpoint" / "state", work / "log.txt"):
        os.utime(path, (old, old))
    assert collect.find(space.ledger, space.store, space.home / "work").paths == [work / "checkpoint"]


def test_reproduce(call, notes, tmp_path):
    done = call("reproduce", "notes@1", "-C", notes)
    assert done.code == 0 and "is reproduced: digest" in done.out and "still have that digest" in done.out
    assert not list((notes / ".longrein/work").glob("reproduce-*"))
    write(notes, n4="another text")
    done = call("reproduce", "notes@1", "-C", notes)
    assert done.code == 1 and "data/notes.jsonl changed since" in done.out and "bring the source files back" in done.err
    (notes / "data/notes.jsonl").unlink()
    assert "data/notes.jsonl gone since" in call("reproduce", "notes@1", "-C", notes).out
    call("checkout", "notes", tmp_path / "out", "-C", notes)
    edit(tmp_path / "out" / "rows.jsonl", lambda found: found.pop())
    call("commit", "notes", tmp_path / "out", "-C", notes)
    done = call("reproduce", "notes@2", "-C", notes)
    assert done.code == 0 and "was made by hand from dataset:notes@1" in done.out


def test_a_row_and_where_it_came_from(call, notes, tmp_path):
    apply(notes, n2="a longer  note", n9="note number 7")
    row = next(r for r in rows(notes, "notes@2") if r["line"] == 3)
    assert (row["input"], row["touched"]) == ("a longer note", "normalize")
    for name in (row["row_id"], row["row_id"][:10], "data/notes.jsonl:3"):
        found = call("why", "dataset:notes@2", "--row", name, "-C", notes, "--json").data
        (one,) = found["rows"]
        assert (one["since"], one["line"], one["source"]) == ("dataset:notes@2", 3, "data/notes.jsonl")
        assert one["source_digest"] == workspaces.open(notes).asset("dataset:notes@2").meta["sources"][0]["digest"]
    told = call("why", "notes@2", "--row", "data/notes.jsonl:1", "-C", notes).out
    assert "since dataset:notes@1" in told and "changed by normalize" in told and "data.ingest" in told
    dropped = call("why", "notes@2", "--row", "data/notes.jsonl:10", "-C", notes)
    assert dropped.code == 3 and "was dropped by dedup: duplicate (of data/notes.jsonl:8)" in dropped.err
    assert call("why", "notes@2", "--row", "0" * 32, "-C", notes).code == 3
    assert call("why", "notes@2", "--row", "x' OR 1=1 --", "-C", notes).code == 2


def test_a_source_and_what_became_of_it(call, notes):
    apply(notes, n9="note number 7", n5="")
    (one,) = call("lineage", "dataset:notes@2", "--rows", "-C", notes, "--json").data["sources"]
    assert (one["source"], one["rows"], one["kept"]) == ("data/notes.jsonl", 60, 58)
    assert one["dropped"] == {"blank": 1, "duplicate": 1}
    assert "58" in call("lineage", "dataset:notes@2", "--rows", "-C", notes).out
    found = call("lineage", "dataset:notes@2", "--source", "data/notes.jsonl:10", "-C", notes, "--json").data
    assert found["kept"] == [] and [r["reason"] for r in found["dropped"]] == ["duplicate"]
    found = call("lineage", "notes@2", "--source", "data/notes.jsonl", "-C", notes)
    assert "data/notes.jsonl:1 " in found.out and "duplicate" in found.out
    assert call("lineage", "notes@2", "--source", "data/other.jsonl", "-C", notes).code == 3
