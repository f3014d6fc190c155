"""Evaluates a model on a split: exact match, per-class scores, perplexity, calibration, each with a 95 % interval.

The report is a folder: report.json (all values), predictions.jsonl (one line a row, by row id). `compare` takes two of
them over the same rows.
"""

import json
import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple
from urllib.parse import parse_qs

import msgspec
import numpy as np
from msgspec import Meta, Struct, field
from numpy.typing import NDArray

from longrein.core.errors import Error
from longrein.core.plugins import load
from longrein.core.step import Context
from longrein.core.text import language
from longrein.core.training import Prediction

VERSION = 1
Z = 1.959963984540054  # two-sided 95 %
BINS = 10
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`evaluate:` of a model in longrein.yaml."""

    split: str = "test"
    limit: Annotated[int, Meta(ge=1)] | None = None  # rows, from the start of the split
    classes: Annotated[int, Meta(ge=0)] = 500  # scores by class where there are at most so many different outputs
    slices: list[str] = field(default_factory=lambda: ["language"])  # columns to score apart; language by script
    resamples: Annotated[int, Meta(ge=100)] = 1000  # of the bootstrap
    max_tokens: Annotated[int, Meta(ge=1)] | None = None  # of an answer; None: twice the longest output
    seed: Annotated[int, Meta(ge=0)] = 0
    trainer: str = "torch"  # whose predict is asked
    options: dict[str, Any] = field(default_factory=dict)  # its own


class Value(NamedTuple):
    """A value and its 95 % interval."""

    value: float
    low: float
    high: float


class Scored(NamedTuple):
    """The rows of a report, one column each."""

    row: Ints  # row ids
    target: list[str]
    answer: list[str]
    confidence: Floats
    target_logprob: Floats
    target_tokens: Ints

    @property
    def correct(self) -> NDArray[np.bool_]:
        return np.array([a.strip() == t.strip() for a, t in zip(self.answer, self.target, strict=True)], dtype=bool)

    def at(self, index: Ints) -> "Scored":
        def pick(texts: list[str]) -> list[str]:
            return [texts[i] for i in index]

        return Scored(
            self.row[index],
            pick(self.target),
            pick(self.answer),
            self.confidence[index],
            self.target_logprob[index],
            self.target_tokens[index],
        )


def run(context: Context) -> None:
    """Inputs: "model", "dataset", and "prompt" where the model has one. Output: a report with the model's name."""
    try:
        config = msgspec.convert(context.config, Config)
    except msgspec.ValidationError as error:
        raise Error("invalid", f"evaluate of {context.name!r}: {error}", "see `longrein schema`") from error
    rows = _rows(context, config)
    options = {"system": _system(context), "max_tokens": config.max_tokens, "threads": context.cpus, **config.options}
    predictions = []
    for prediction in load("trainer", config.trainer).predict(context.path("model"), rows, options):
        predictions.append(prediction)
        if len(predictions) % 200 == 0 or len(predictions) == len(rows):
            context.progress(len(predictions), len(rows), "rows")
    scored = _scored(rows, predictions)
    report = score(scored, config)
    report["slices"] = _slices(rows, scored, config)
    model, dataset = context.inputs["model"], context.inputs["dataset"]
    head = {
        "split": config.split,
        "n": len(rows),
        "subject": {"model": model.digest},
        "dataset": {"ref": dataset.ref, "digest": dataset.digest},
    }
    context.metrics({name: value["value"] for name, value in report["metrics"].items()})
    folder = context.scratch / "report"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "report.json").write_text(json.dumps(head | report, ensure_ascii=False, indent=1), "utf-8")
    with (folder / "predictions.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(_lines(rows, predictions))
    context.put("report", context.name, folder, head | {"metrics": report["metrics"], "slices": report["slices"]})


def score(scored: Scored, config: Config) -> dict[str, Any]:
    """All values of the rows: {"metrics": {name: {value, low, high}}, "classes": {…}, "reliability": […]}."""
    correct = scored.correct
    resample = Resample(len(correct), config.resamples, config.seed)
    metrics = {
        "exact_match": proportion(int(correct.sum()), len(correct)),
        "perplexity": resample(lambda i: perplexity(scored.target_logprob[i], scored.target_tokens[i])),
        "calibration_error": resample(lambda i: calibration_error(scored.confidence[i], correct[i])),
    }
    classes: dict[str, Any] = {}
    names = sorted(set(scored.target))
    if 2 <= len(names) <= min(config.classes, len(correct) // 2):
        at = {name: i for i, name in enumerate(names)}
        target = np.array([at[t] for t in scored.target])
        answer = np.array([at.get(a.strip(), at.get(a, len(names))) for a in scored.answer])
        metrics["macro_f1"] = resample(lambda i: macro_f1(target[i], answer[i], len(names)))
        scores = class_scores(target, answer, len(names))
        classes = {
            name: {"precision": p, "recall": r, "f1": f, "n": int(n)}
            for name, p, r, f, n in zip(names, *(column.tolist() for column in scores), strict=True)
        }
    return {
        "metrics": {name: value._asdict() for name, value in metrics.items()},
        "classes": classes,
        "reliability": reliability(scored.confidence, correct),
    }


def compare(before: Path, after: Path, resamples: int = 1000, seed: int = 0) -> dict[str, Any]:
    """Two report folders over the rows that both have: {"n", "metrics": {name: {before, after, difference, low, high}}}.

    Differences are after − before, with paired bootstrap intervals; exact_match also has McNemar's exact `p`, and how
    many rows were `fixed` and `broken`. Errors: `invalid` where they share no row.
    """
    a, b = read(before), read(after)
    rows, at_a, at_b = np.intersect1d(a.row, b.row, return_indices=True)
    if not len(rows):
        raise Error("invalid", "the two reports have no row in common", "evaluate both models on the same dataset")
    a, b = a.at(at_a), b.at(at_b)
    if a.target != b.target:
        raise Error("invalid", "the two reports have different outputs for the same rows", "evaluate both again")
    right_a, right_b = a.correct, b.correct
    measures: dict[str, tuple[Callable[[Ints], float], Callable[[Ints], float]]] = {
        "exact_match": (lambda i: float(right_a[i].mean()), lambda i: float(right_b[i].mean())),
        "perplexity": tuple(
            lambda i, s=s: perplexity(s.target_logprob[i], s.target_tokens[i])  # type: ignore[misc]
            for s in (a, b)
        ),
    }
    resample, every = Resample(len(rows), resamples, seed), np.arange(len(rows))
    metrics: dict[str, Any] = {}
    for name, (old, new) in measures.items():
        change = resample(lambda i, old=old, new=new: new(i) - old(i))  # type: ignore[misc]
        metrics[name] = {
            "before": old(every),
            "after": new(every),
            "difference": change.value,
            "low": change.low,
            "high": change.high,
        }
    fixed, broken = int((~right_a & right_b).sum()), int((right_a & ~right_b).sum())
    metrics["exact_match"] |= {"fixed": fixed, "broken": broken, "p": mcnemar(fixed, broken)}
    return {"n": len(rows), "metrics": metrics}


def read(report: Path) -> Scored:
    """The rows of a report folder. Errors: `corrupt`."""
    try:
        lines = (report / "predictions.jsonl").read_text("utf-8").splitlines()
        values = [json.loads(line) for line in lines]
        return _columns(values)
    except (OSError, ValueError, KeyError) as error:
        raise Error("corrupt", f"the report {report} cannot be read: {error}", "evaluate again") from error


def proportion(successes: int, n: int) -> Value:
    """Successes in n trials with Wilson's score interval (Wilson 1927)."""
    p = successes / n
    middle, half = (p + Z * Z / (2 * n)), Z * math.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n))
    scale = 1 + Z * Z / n
    return Value(p, max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale))


class Resample:
    """Percentile bootstrap intervals (Efron 1979) over the same seeded resamples for every statistic."""

    def __init__(self, n: int, resamples: int, seed: int) -> None:
        self.n, self.resamples, self.seed = n, resamples, seed

    def __call__(self, statistic: Callable[[Ints], float]) -> Value:
        rng = np.random.default_rng(self.seed)
        drawn = [statistic(rng.integers(0, self.n, self.n)) for _ in range(self.resamples)]
        low, high = np.percentile(drawn, [2.5, 97.5])
        return Value(statistic(np.arange(self.n)), float(low), float(high))


def perplexity(logprob: Floats, tokens: Ints) -> float:
    """exp of the mean negative log-likelihood of a target token, natural logarithms."""
    return float(np.exp(-logprob.sum() / tokens.sum()))


def calibration_error(confidence: Floats, correct: NDArray[np.bool_], bins: int = BINS) -> float:
    """Expected calibration error (Naeini et al. 2015) over equally wide bins: mean |accuracy − confidence|."""
    at = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    gap = np.bincount(at, weights=correct - confidence, minlength=bins)
    return float(np.abs(gap).sum() / len(confidence))


def reliability(confidence: Floats, correct: NDArray[np.bool_], bins: int = BINS) -> list[dict[str, float]]:
    """What a reliability diagram shows: for each bin that has rows its mean confidence, accuracy and rows."""
    at = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    return [
        {"confidence": float(confidence[at == b].mean()), "accuracy": float(correct[at == b].mean()), "n": int(n)}
        for b, n in enumerate(np.bincount(at, minlength=bins))
        if n
    ]


def class_scores(target: Ints, answer: Ints, classes: int) -> tuple[Floats, Floats, Floats, Ints]:
    """(precision, recall, F1, rows) of each class; an answer outside them is the number `classes`. 0/0 counts as 0."""
    hits = np.bincount(target[target == answer], minlength=classes)
    said, there = np.bincount(answer, minlength=classes)[:classes], np.bincount(target, minlength=classes)
    precision, recall = hits / np.maximum(said, 1), hits / np.maximum(there, 1)
    return precision, recall, 2 * hits / np.maximum(said + there, 1), there


def macro_f1(target: Ints, answer: Ints, classes: int) -> float:
    """Mean F1 of the classes that occur in `target`."""
    _, _, f1, there = class_scores(target, answer, classes)
    return float(f1[there > 0].mean())


def mcnemar(fixed: int, broken: int) -> float:
    """McNemar's exact two-sided p (1947): are changes in one direction as likely as in the other?"""
    n, least = fixed + broken, min(fixed, broken)
    if n == 0:
        return 1.0
    log_terms = [math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) for k in range(least + 1)]
    return min(1.0, 2 * math.fsum(math.exp(t - n * math.log(2)) for t in log_terms))


def _rows(context: Context, config: Config) -> list[dict[str, Any]]:
    """The split's rows with an output; of `messages` the last one is the output."""
    given = context.inputs["dataset"]
    query = parse_qs(given.uri.partition("?")[2])
    options: dict[str, Any] = {"version": int(query["version"][0])} if "version" in query else {}
    rows = []
    for record in load("reader", "lance").read(context.path("dataset"), options):
        row = record.row
        if row.get("split") != config.split:
            continue
        if row.get("messages"):
            row["output"] = row["messages"][-1]["content"]
        if row.get("output") is not None:
            rows.append(row)
        if len(rows) == config.limit:
            break
    if not rows:
        raise Error("invalid", f"{given.ref} has no row with an output in split {config.split!r}", "set evaluate.split")
    return rows


def _system(context: Context) -> str:
    if "prompt" not in context.inputs:
        return ""
    return str(json.loads(context.path("prompt").read_text("utf-8")).get("system", ""))


def _slices(rows: list[dict[str, Any]], scored: Scored, config: Config) -> dict[str, Any]:
    """Exact match of each value of each slicing column, where there are at least two."""
    found: dict[str, Any] = {}
    for column in config.slices:
        values = [_slice(row, column) for row in rows]
        correct, names = scored.correct, sorted(set(values))
        if 2 <= len(names) <= config.classes:
            own = np.array(values)
            found[column] = {
                name: {**proportion(int(correct[own == name].sum()), int((own == name).sum()))._asdict()}
                | {"n": int((own == name).sum())}
                for name in names
            }
    return found


def _slice(row: Mapping[str, Any], column: str) -> str:
    if column == "language" and column not in row:
        return language(row.get("input") or " ".join(m["content"] for m in row.get("messages") or []))
    return str(row.get(column))


def _scored(rows: list[dict[str, Any]], predictions: list[Prediction]) -> Scored:
    return _columns(json.loads(line) for line in _lines(rows, predictions))


def _lines(rows: list[dict[str, Any]], predictions: list[Prediction]) -> Iterator[str]:
    for row, p in zip(rows, predictions, strict=True):
        value = {"row": row["_rowid"], "target": row["output"], **p._asdict()}
        yield json.dumps(value, ensure_ascii=False) + "\n"


def _columns(values: Iterable[Mapping[str, Any]]) -> Scored:
    values = list(values)
    return Scored(
        np.array([v["row"] for v in values], np.int64),
        [v["target"] for v in values],
        [v["answer"] for v in values],
        np.array([v["confidence"] for v in values], np.float64),
        np.array([v["target_logprob"] for v in values], np.float64),
        np.array([v["target_tokens"] for v in values], np.int64),
    )
