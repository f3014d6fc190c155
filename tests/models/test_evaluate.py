"""Evaluation: answers equal transformers' own, scores equal scikit-learn's and SciPy's, reports compare row by row."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small
import torch
from scipy.stats import binomtest
from sklearn.metrics import precision_recall_fscore_support
from transformers import AutoModelForCausalLM, AutoTokenizer

from longrein.core import plugins
from longrein.core.errors import Error
from longrein.core.step import Context, Input, Output
from longrein.models import evaluate, score, train

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("project")


@pytest.fixture(scope="module")
def dataset(project: Path) -> Input:
    return small.write(project, small.requests())


@pytest.fixture(scope="module")
def models(project: Path, dataset: Input) -> list[Input]:
    """One that hardly learnt, and a better one."""
    made = []
    for epochs in (1, 4):
        context = small.context(project, small.QUICK | {"epochs": epochs}, f"train{epochs}", dataset=dataset)
        train.run(context)
        made.append(Input(f"model:support@{epochs}", context.outputs[0].digest, context.outputs[0].uri))
    return made


def judge(folder: Path, model: Input, dataset: Input, scratch: str = "report", **config: Any) -> tuple[Context, Output]:
    context = small.context(folder, {"resamples": 200, **config}, scratch, model=model, dataset=dataset)
    evaluate.run(context)
    return context, context.outputs[0]


def test_the_report(project: Path, dataset: Input, models: list[Input]) -> None:
    context, output = judge(project, models[1], dataset)
    rows = [r for r in small.requests() if r["split"] == "test"]
    assert (output.kind, output.name, output.meta["n"], output.meta["split"]) == (
        "report",
        "support",
        len(rows),
        "test",
    )
    assert output.meta["subject"] == {"model": models[1].digest}
    assert output.meta["dataset"] == {"ref": dataset.ref, "digest": dataset.digest}
    metrics = output.meta["metrics"]
    assert set(metrics) == {"exact_match", "macro_f1", "perplexity", "calibration_error"}
    assert all(m["low"] <= m["value"] <= m["high"] for name, m in metrics.items() if name != "calibration_error")
    assert metrics["exact_match"]["value"] > 0.7
    folder = project / "store" / output.uri
    lines = [json.loads(line) for line in (folder / "predictions.jsonl").read_text("utf-8").splitlines()]
    assert [(v["row"], v["target"]) for v in lines] == [
        (i, r["output"]) for i, r in enumerate(small.requests()) if r["split"] == "test"
    ]
    right = [v["answer"] == v["target"] for v in lines]
    assert metrics["exact_match"]["value"] == pytest.approx(sum(right) / len(right))
    report = json.loads((folder / "report.json").read_text("utf-8"))
    assert set(report["classes"]) == set(small.WORDS) and sum(c["n"] for c in report["classes"].values()) == len(rows)
    assert sum(b["n"] for b in report["reliability"]) == len(rows)
    assert set(report["slices"]["language"]) >= {"en", "zh"}
    assert [e["values"] for e in small.events(context.scratch, "metrics")][-1]["exact_match"] == report["metrics"][
        "exact_match"
    ]["value"]


def test_the_same_model_gives_the_same_report(project: Path, dataset: Input, models: list[Input]) -> None:
    assert judge(project, models[1], dataset, "one")[1].digest == judge(project, models[1], dataset, "two")[1].digest


def test_limit_split_and_a_column_to_slice_by(project: Path, dataset: Input, models: list[Input]) -> None:
    _, output = judge(project, models[1], dataset, "limited", split="train", limit=50, slices=["output", "nothing"])
    assert output.meta["n"] == 50
    assert set(output.meta["slices"]) == {"output"} and set(output.meta["slices"]["output"]) == set(small.WORDS)


def test_a_split_without_rows_is_refused(project: Path, dataset: Input, models: list[Input]) -> None:
    with pytest.raises(Error, match="no row with an output in its split 'held'") as caught:
        judge(project, models[1], dataset, split="held")
    assert "evaluations" in caught.value.hint


def test_pickled_models_are_refused(project: Path, dataset: Input, tmp_path: Path) -> None:
    (project / "store" / "bad").mkdir()
    (project / "store" / "bad" / "pytorch_model.bin").write_bytes(b"\x80\x04")
    with pytest.raises(Error, match="pickle"):
        judge(project, Input("model:bad@1", "b" * 64, "bad"), dataset)


@pytest.mark.parametrize("which", [0, 1])
def test_answers_are_those_of_transformers(project: Path, models: list[Input], which: int) -> None:
    """Text, tokens and probabilities of each greedy answer, and of the target, against `generate` and a forward."""
    folder = project / "store" / models[which].uri
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    rows = [r for r in small.requests(40, seed=5)] + [
        {"input": "", "output": "nothing"},
        {"input": "？", "output": "x" * 40},
    ]
    said = list(plugins.load("trainer", "torch").predict(folder, rows, {"max_tokens": 12}))
    for row, prediction in zip(rows, said, strict=True):
        asked = tokenizer.apply_chat_template(
            [{"role": "user", "content": row["input"]}],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        )
        start = asked["input_ids"].shape[1]
        out = model.generate(**asked, max_new_tokens=12, return_dict_in_generate=True, output_scores=True)
        tokens = out.sequences[0, start:]
        assert prediction.answer == tokenizer.decode(tokens, skip_special_tokens=True)
        assert prediction.tokens == len(tokens)
        logprobs = [s.log_softmax(-1)[0, t].item() for s, t in zip(out.scores, tokens, strict=True)]
        assert prediction.confidence == pytest.approx(math.exp(sum(logprobs)), rel=1e-3)
        target = tokenizer(row["output"] + tokenizer.eos_token, add_special_tokens=False, return_tensors="pt")[
            "input_ids"
        ]
        with torch.no_grad():
            logits = model(torch.cat([asked["input_ids"], target], 1)).logits[0, start - 1 : -1].log_softmax(-1)
        assert prediction.target_tokens == target.shape[1]
        assert prediction.target_logprob == pytest.approx(logits.gather(1, target.T).sum().item(), rel=1e-3, abs=1e-4)


def test_class_scores_equal_scikit_learn() -> None:
    target, answer = RNG.integers(0, 7, 500), RNG.integers(0, 8, 500)  # 7 is no class
    target[target == 6] = 5  # a class that nobody has
    answer[:300] = target[:300]
    mine = score.class_scores(target, answer, 7)
    theirs = precision_recall_fscore_support(target, answer, labels=range(7), zero_division=0)
    for ours, expected in zip(mine, theirs, strict=True):
        np.testing.assert_allclose(ours, expected)
    assert score.macro_f1(target, answer, 7) == pytest.approx(theirs[2][:6].mean())


@pytest.mark.parametrize(("k", "n"), [(0, 1), (1, 1), (0, 40), (37, 40), (4137, 4500)])
def test_proportions_equal_scipy(k: int, n: int) -> None:
    expected = binomtest(k, n).proportion_ci(method="wilson")
    assert score.proportion(k, n)[1:] == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize(("fixed", "broken"), [(0, 0), (1, 0), (5, 5), (30, 11), (900, 1000)])
def test_mcnemar_equals_scipy(fixed: int, broken: int) -> None:
    expected = binomtest(fixed, fixed + broken).pvalue if fixed + broken else 1.0
    assert score.mcnemar(fixed, broken) == pytest.approx(expected, rel=1e-9)


def test_calibration_error() -> None:
    confidence, correct = np.array([0.95, 0.85, 0.15, 1.0, 0.0]), np.array([True, False, False, True, False])
    # by bin: .9–1 (.95 and 1.0, both right) .025 · 2, .8–.9 .85, .1–.2 .15, 0–.1 0
    assert score.calibration_error(confidence, correct) == pytest.approx((0.05 + 0.85 + 0.15) / 5)
    sure = RNG.uniform(0, 1, 50_000)
    assert score.calibration_error(sure, RNG.uniform(0, 1, 50_000) < sure) < 0.02
    assert [b["n"] for b in score.reliability(confidence, correct)] == [1, 1, 1, 2]


def test_bootstrap_intervals_cover() -> None:
    """Of 95 % intervals of a mean about 95 % hold the true one."""
    hits = 0
    for seed in range(200):
        sample = np.random.default_rng(seed).normal(3.0, 1.0, 80)
        interval = score.Bootstrap(80, 300, seed)(lambda i, s=sample: float(s[i].mean()))
        assert interval.value == pytest.approx(sample.mean())
        hits += interval.low <= 3.0 <= interval.high
    assert 0.89 <= hits / 200 <= 0.99


def test_two_reports_are_compared_row_by_row(project: Path, dataset: Input, models: list[Input]) -> None:
    worse, better = (project / "store" / judge(project, m, dataset, f"c{i}")[1].uri for i, m in enumerate(models))
    found = score.compare(worse, better, resamples=200)
    change = found["metrics"]["exact_match"]
    assert change["difference"] == pytest.approx(change["after"] - change["before"])
    assert change["fixed"] - change["broken"] == round(change["difference"] * found["n"])
    assert 0 < change["low"] <= change["difference"] <= change["high"] and change["p"] < 0.05
    assert found["metrics"]["perplexity"]["high"] < 0
    same = score.compare(better, better, resamples=200)["metrics"]["exact_match"]
    assert (same["difference"], same["low"], same["high"], same["p"]) == (0, 0, 0, 1)


def test_reports_over_other_rows_are_not_compared(project: Path, dataset: Input, models: list[Input]) -> None:
    one, other = (
        project / "store" / judge(project, models[1], dataset, f"o{split}", split=split)[1].uri
        for split in ("test", "validation")
    )
    with pytest.raises(Error, match="no row in common"):
        score.compare(one, other)
    (project / "broken").mkdir()
    (project / "broken" / "predictions.jsonl").write_text('{"row": 1')
    with pytest.raises(Error, match="cannot be read") as caught:
        score.compare(one, project / "broken")
    assert caught.value.code == "corrupt"
