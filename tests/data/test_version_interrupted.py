"""data.version: a disk that fills, kill -9 in a merge and in a collection, two who commit at once."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from longrein import workspace as workspaces
from longrein.core.errors import Error
from longrein.data import checkout, collect, revise, version

HERE = Path(__file__).parents[2]
LIFECYCLE = "project: p\ndatasets:\n  notes: {sources: [data/*.jsonl], input: text}\n"

FULL = """
import sys
from pathlib import Path
from longrein.core.errors import Error
from longrein.core.store import Store
from longrein.data import version
from tests.data import test_version_columns as columns
from tests.data.test_version_delta import commit, rows_of, texts
store = Store(Path(sys.argv[1]) / "store")
rows = rows_of(texts(4000))
first = commit(store, rows)
def edit(seed): commit(store, rows_of(texts(4000, seed)))
def add(seed):
    wide = [r | {"label": t, "vector": [1.0, 2.0, 3.0, 4.0]} for r, t in zip(rows, texts(4000, seed))]
    version.add_columns(store, first.uri, iter(columns.values(wide)))
for work in (add, edit):
    try:
        for seed in range(1, 20): work(seed)
    except Error as error:
        assert error.code == "no_space", error
    else:
        raise SystemExit("the disk did not fill")
    (store.root / "draft.arrow").unlink(missing_ok=True)
    version.verify(store, first.digest, first.uri)
print("whole")
"""


def test_a_disk_that_fills(tmp_path):
    """A small file system that only this process sees."""
    mount = f"mount -t tmpfs -o size=6m tmpfs {tmp_path}"
    if (
        shutil.which("unshare") is None
        or subprocess.run(["unshare", "-rm", "sh", "-c", mount], capture_output=True).returncode
    ):
        pytest.skip("no file system can be mounted here")
    command = ["unshare", "-rm", "sh", "-c", f'{mount} && exec "$0" -c "$1" {tmp_path}', sys.executable, FULL]
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True)
    assert done.stdout == "whole\n", done.stderr


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A dataset, and a branch of it in which a row has changed."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data/a.jsonl").write_text("".join(json.dumps({"text": f"row {i}"}) + "\n" for i in range(60)))
    (tmp_path / "longrein.yaml").write_text(LIFECYCLE)
    lr = workspaces.open(tmp_path)
    assert not lr.apply().steps[0].reasons
    revise.branch(lr.ledger, lr.store, "dataset:notes@1", "trial", actor="a")
    edited(lr, "trial", tmp_path / "out", 5)
    edited(lr, "notes", tmp_path / "ours", 9)
    return tmp_path


def edited(lr: workspaces.Workspace, name: str, out: Path, line: int) -> None:
    found = lr.dataset_asset(name)
    checkout.write(lr.store, found.uri, out, ref=found.ref, digest=found.digest)
    lines = (out / "rows.jsonl").read_text().splitlines(keepends=True)
    lines[line] = lines[line].replace("row", "changed row", 1)
    (out / "rows.jsonl").write_text("".join(lines))
    revise.commit(lr.ledger, lr.store, name, out, actor="a")


KILLED = """
import os, signal, sys
import lance
from longrein import workspace as workspaces
from longrein.core.ledger.assets import Assets
from longrein.data import collect, revise
what, lr = sys.argv[2], workspaces.open(sys.argv[1])
def die(*a, **k): os.kill(os.getpid(), signal.SIGKILL)
real = lance.LanceDataset.commit
def after(*a, **k): real(*a, **k); die()
if what == "commit": lance.LanceDataset.commit = staticmethod(die)
elif what == "committed": lance.LanceDataset.commit = staticmethod(after)
elif what == "record": Assets.put = die
elif what == "cleanup": lance.LanceDataset.cleanup_old_versions = die
else: collect.shutil.rmtree = collect.Path.unlink = die
if what in ("cleanup", "paths"):
    found = collect.find(lr.ledger, lr.store, lr.home / "work", keep=1, grace_s=-1e9)
    assert found.versions and found.paths
    collect.remove(lr.ledger, lr.store, found, actor="a")
else:
    revise.merge(lr.ledger, lr.store, "dataset:trial", "dataset:notes", actor="a")
"""


@pytest.mark.parametrize("what", ["commit", "committed", "record"])
def test_killed_in_a_merge(place, what):
    lr = workspaces.open(place)
    before = {a.ref: a for a in lr.ledger.assets.recent("dataset", "notes", limit=9)}
    done = subprocess.run([sys.executable, "-c", KILLED, str(place), what], cwd=HERE, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert {a.ref for a in lr.ledger.assets.recent("dataset", "notes", limit=9)} == before.keys()
    for one in before.values():
        version.verify(lr.store, one.digest, one.uri)
    made = revise.merge(lr.ledger, lr.store, "dataset:trial", "dataset:notes", actor="a").asset
    texts = [r["input"] for r in version.rows(lr.store, made.uri)]
    assert made.ref == "dataset:notes@3" and len(texts) == 60 and sum("changed" in t for t in texts) == 2


@pytest.mark.parametrize("what", ["cleanup", "paths"])
def test_killed_in_a_collection(place, what):
    lr = workspaces.open(place)
    (lr.store.root / "staging").mkdir(exist_ok=True)
    (lr.store.root / "staging" / "left").write_text("half")
    done = subprocess.run([sys.executable, "-c", KILLED, str(place), what], cwd=HERE, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    again = collect.find(lr.ledger, lr.store, lr.home / "work", keep=1, grace_s=-1e9)
    collect.remove(lr.ledger, lr.store, again, actor="a")
    assert not (lr.store.root / "staging" / "left").exists()
    for name in ("notes", "trial"):
        newest = lr.dataset_asset(name)
        version.verify(lr.store, newest.digest, newest.uri)


def test_two_commit_the_same_checkout_edited_in_two_ways(place, tmp_path):
    """One wins; the other is told, and has lost nothing."""
    lr = workspaces.open(place)
    for name in ("one", "two"):
        newest = lr.dataset_asset("notes")
        checkout.write(lr.store, newest.uri, tmp_path / name, ref=newest.ref, digest=newest.digest)
        file = tmp_path / name / "rows.jsonl"
        file.write_text(file.read_text().replace('"row 3"', f'"{name}"'))
    command = [sys.executable, "-m", "longrein.cli.main", "commit", "notes"]
    running = [subprocess.Popen([*command, str(tmp_path / n), "-C", str(place)], stderr=subprocess.PIPE, text=True,
                                stdout=subprocess.DEVNULL) for n in ("one", "two")]  # fmt: skip
    said = [process.communicate()[1] for process in running]
    codes = [process.returncode for process in running]
    assert sorted(codes) == [0, 4], said
    lost = ("one", "two")[codes.index(4)]
    assert "commit under a new name" in said[codes.index(4)]
    assert f'"{lost}"' in (tmp_path / lost / "rows.jsonl").read_text()
    newest = lr.dataset_asset("notes")
    version.verify(lr.store, newest.digest, newest.uri)
    with pytest.raises(Error, match="came after"):
        revise.commit(lr.ledger, lr.store, "notes", tmp_path / lost, actor="a")
