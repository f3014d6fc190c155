"""near_dedup against a dataset version: signed once, looked up from then on, in the plan and in the lineage."""

import json
import random
from pathlib import Path

import pytest

from longrein import workspace as workspaces
from longrein.data import collect, near, reproduce, trace

LIFECYCLE = """project: p
datasets:
  old: {sources: [old/*.jsonl], input: text}
"""
NEW = '  new: {sources: [new/*.jsonl], input: text, transforms: [{near_dedup: {against: ["dataset:old@1"]}}]}\n'


@pytest.fixture
def place(tmp_path: Path) -> Path:
    dice, words = random.Random(1), [f"word{i}" for i in range(500)]
    texts = [" ".join(dice.choices(words, k=40)) for _ in range(60)]
    fresh = [" ".join(dice.choices(words, k=40)) for _ in range(9)]
    for name, found in (("old", texts), ("new", [texts[3] + " more", *fresh, texts[7]])):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in found))
    (tmp_path / "longrein.yaml").write_text(LIFECYCLE)
    assert not workspaces.open(tmp_path).apply().steps[0].reasons
    (tmp_path / "longrein.yaml").write_text(LIFECYCLE + NEW)
    return tmp_path


def test_what_is_near_an_earlier_version_goes(place):
    lr = workspaces.open(place)
    assert not [p.reasons for p in lr.apply().steps if p.reasons]
    made = lr.dataset_asset("new@1")
    assert made.meta["rows"] == 9
    gone = trace.sources(lr.store, made, "new/a.jsonl")["dropped"]
    assert [r["line"] for r in gone] == [1, 11] and "of old/a.jsonl:4, similarity" in gone[0]["detail"]
    assert "dataset:old@1" in [a.ref for a in lr.lineage("dataset:new@1").assets]
    (kept,) = (lr.store.root / near.FOLDER).iterdir()
    written = (kept / "heads.npy").stat().st_mtime_ns
    with (place / "new/b.jsonl").open("w") as file:
        file.write((place / "old/a.jsonl").read_text().splitlines(keepends=True)[0])
        file.write('{"text": "something else altogether"}\n')
    assert not [p.reasons for p in lr.apply().steps if p.reasons]
    assert lr.dataset_asset("new@2").meta["rows"] == 10 and (kept / "heads.npy").stat().st_mtime_ns == written
    told = reproduce.reproduce(lr.ledger, lr.store, place, lr.dataset_asset("new@2"), place / "aside")
    assert told["same"] is True and (kept / "heads.npy").is_file()


def test_the_index_goes_with_its_version(place):
    lr = workspaces.open(place)
    lr.apply()
    (kept,) = (lr.store.root / near.FOLDER).iterdir()
    found = collect.find(lr.ledger, lr.store, lr.home / "work", grace_s=-9)
    assert kept not in found.paths
    with (place / "old/a.jsonl").open("a") as file:
        file.write('{"text": "another"}\n')
    lr.apply()
    found = collect.find(lr.ledger, lr.store, lr.home / "work", keep=1, grace_s=-9)
    assert kept not in found.paths or "dataset:old@1" in found.assets
    digest = lr.dataset_asset("old@2").digest
    assert near.unused(lr.store, [digest]) == [kept]


def test_a_version_that_is_none(place):
    lr = workspaces.open(place)
    (place / "longrein.yaml").write_text(LIFECYCLE + NEW.replace("old@1", "old@7"))
    step = lr.plan().steps[-1]
    assert step.status == "after" and "dataset:old@7 comes first" in step.reasons
    (place / "longrein.yaml").write_text(LIFECYCLE + NEW.replace("near_dedup", "decontaminate"))
    (failed,) = [p for p in lr.apply().steps if p.status == "failed"]
    assert "compares with files" in failed.error["message"]
