"""The quality classifier on people's labels, and what it does with its options."""

import csv
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from longrein.core import plugins
from longrein.core.errors import Error
from longrein.core.ports import RowWise, Survey, Verdict
from longrein.data import ingest

pytest.importorskip("numba")
from longrein.plugins.transform import classify
from longrein.plugins.transform._classify import model

COLD = Path(os.environ.get("LONGREIN_DATA", "../shared/data")) / "cold"
NOUNS = "river bridge council harbour letter winter merchant valley library history".split()  # noqa: SIM905
JUNK = "click free casino bonus login register subscribe cheap pills deal".split()  # noqa: SIM905


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "longrein" / "classify"


def made(words: list[str], many: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    return [f"the {' of the '.join(draw.choices(words, k=6))}" for _ in range(many)]


@pytest.fixture
def files(tmp_path: Path) -> dict[str, list[str]]:
    for name, words in (("good", NOUNS), ("bad", JUNK)):
        lines = [json.dumps({"text": t, "url": "x"}) for t in made(words, 200, 1)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    return {"positive": [str(tmp_path / "good.jsonl")], "negative": [str(tmp_path / "b*.jsonl")]}


def apply(texts: list[str], **options: Any) -> list[Verdict]:
    transform = plugins.load("transform", "classify")({"columns": ["text"]} | options)
    rows = [{"input": t, "output": None} for t in texts]
    if isinstance(transform, Survey):
        transform.survey(iter(rows))
    return list(transform.apply(iter(rows)))


@pytest.mark.skipif(not COLD.exists(), reason="shared data not present")
def test_it_agrees_with_people_s_labels():
    def labelled(name: str) -> Iterator[tuple[str, bool]]:
        with (COLD / f"{name}.csv").open(encoding="utf-8-sig") as file:
            yield from ((row["TEXT"], row["label"] == "0") for row in csv.DictReader(file))

    train = list(labelled("train"))
    found = model.train((t for t, good in train if good), (t for t, good in train if not good))
    tested = list(labelled("test"))
    chances = found.chances([t for t, _ in tested])
    kept = [good for (_, good), chance in zip(tested, chances, strict=True) if chance >= 0.5]
    precision, recall = sum(kept) / len(kept), sum(kept) / sum(good for _, good in tested)
    assert precision > 0.85 and recall > 0.76  # .87 and .79; logistic regression of scikit-learn on TF-IDF the same
    sure = [good for (_, good), chance in zip(tested, chances, strict=True) if chance > 0.8]
    unsure = [good for (_, good), chance in zip(tested, chances, strict=True) if 0.4 < chance < 0.6]
    assert sum(sure) / len(sure) > 0.9 and 0.4 < sum(unsure) / len(unsure) < 0.7  # a chance means what it says


def test_it_drops_what_is_unlike_the_good_examples(files):
    good, bad = made(NOUNS, 20, 2), made(JUNK, 20, 3)
    verdicts = apply(good + bad, **files)
    assert [v.reason for v in verdicts] == [""] * 20 + ["low_quality"] * 20
    assert verdicts[-1].detail.endswith("; at least 0.5000 stays")


def test_the_score_is_a_column_that_near_dedup_can_go_by(files):
    verdicts = apply(["the river of the bridge", "", "你好"], **files, score="quality", threshold=0)
    scores = [json.loads(v.row["extra"])["quality"] for v in verdicts]
    assert all(v.reason == "" for v in verdicts) and scores[0] > 0.7 and abs(scores[1] - 0.5) < 0.3


def test_share_keeps_the_best(files):
    texts = made(NOUNS, 30, 4) + made(JUNK, 70, 5)
    assert sum(not v.reason for v in apply(texts, **files, share=0.3)) == 30
    assert sum(not v.reason for v in apply(texts, **files, share=1)) == 100
    assert apply([], **files, share=0.3) == []


def test_without_bad_examples_the_dataset_is_them(files):
    texts = made(NOUNS, 40, 6) + made(JUNK, 160, 7)
    verdicts = apply(texts, positive=files["positive"], share=0.2)
    kept = [not v.reason for v in verdicts]
    assert sum(kept[:40]) >= 35 and sum(kept) == 40


def test_a_model_is_made_once_and_is_the_same_again(files, cache, tmp_path):
    texts = made(NOUNS + JUNK, 50, 8)
    first = apply(texts, **files)
    (kept,) = cache.glob("*.npz")
    kept.write_bytes(b"broken")
    assert apply(texts, **files) == first and kept.stat().st_size > 1000
    classify.train(made(NOUNS, 200, 1), made(JUNK, 200, 1), tmp_path / "edu.npz")
    assert apply(texts, model=str(tmp_path / "edu.npz")) == first


def test_which_may_run_in_parallel(files):
    load = plugins.load("transform", "classify")
    assert isinstance(load(files), RowWise) and not isinstance(load(files), Survey)
    assert isinstance(load(files | {"share": 0.5}), Survey) and not isinstance(load(files | {"share": 0.5}), RowWise)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "either `positive`"),
        ({"positive": ["a"], "model": "b"}, "either `positive`"),
        ({"model": "none.npz"}, "no classifier none.npz"),
        ({"model": __file__}, "no classifier that this version can read"),
        ({"positive": ["none*"], "negative": ["none*"]}, "no file matches"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(Error, match=message):
        list(plugins.load("transform", "classify")(options).apply([{"input": "text"}]))


def test_too_few_examples(tmp_path):
    (tmp_path / "few.txt").write_text("one\ntwo\n")
    with pytest.raises(Error, match="2 positive examples are too few"):
        apply(["text"], positive=[str(tmp_path / "few.txt")], negative=[str(tmp_path / "few.txt")])


def test_odd_texts(files):
    texts = ["", "\ud800", "😀" * 100, "a" * 1_000_000, "你" * 300_000, "\x00", "مرحبا " * 50]
    assert all(0 <= json.loads(v.row["extra"])["q"] <= 1 for v in apply(texts, **files, threshold=0, score="q"))


def test_its_examples_are_files_of_the_project(files, project):
    """In a dataset: globs from the project's folder, and a changed example is another dataset."""
    for name in ("good", "bad"):
        project.write(f"{name}.jsonl", Path(files["positive"][0]).with_name(f"{name}.jsonl").read_bytes())
    project.write("data/a.jsonl", "\n".join(json.dumps({"text": t}) for t in made(NOUNS, 9, 2) + made(JUNK, 9, 3)))
    options = {"positive": ["good.jsonl"], "negative": ["bad.jsonl"], "columns": ["text"], "score": "quality"}
    config = {"sources": ["data/*"], "input": "text", "keep": ["quality"], "transforms": [{"classify": options}]}
    output = project.ingest(**config)
    assert output.meta["dropped"] == {"low_quality": 9}
    assert all(json.loads(row["extra"])["quality"] >= 0.5 for row in project.rows(output))
    named = ingest.sources_digest(msgspec.convert(config, ingest.Config), project.root)
    assert sorted(named) == ["bad.jsonl", "data/a.jsonl", "good.jsonl"]
