"""What answers are worth: scores with 95 % intervals, and two reports compared row by row. Pure numpy."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from longrein.core.errors import Error

Z = 1.959963984540054  # two-sided 95 %
BINS = 10
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Statistic = Callable[[Ints], float]  # of the rows with these indices


class Value(NamedTuple):
    """A value and its 95 % interval."""

    value: float
    low: float
    high: float


class Rows(NamedTuple):
    """The lines of predictions.jsonl, one column each."""

    row: Ints  # row ids
    target: list[str]
    answer: list[str]
    correct: Bools  # equal but for white space at the ends
    confidence: Floats
    target_logprob: Floats
    target_tokens: Ints
    slices: list[dict[str, str]]

    @classmethod
    def of(cls, lines: Sequence[Mapping[str, Any]]) -> "Rows":
        target, answer = [v["target"].strip() for v in lines], [v["answer"].strip() for v in lines]
        return cls(
            np.array([v["row"] for v in lines], np.int64),
            target,
            answer,
            np.array([a == t for a, t in zip(answer, target, strict=True)], np.bool_),
            np.array([v["confidence"] for v in lines], np.float64),
            np.array([v["target_logprob"] for v in lines], np.float64),
            np.array([v["target_tokens"] for v in lines], np.int64),
            [v["slices"] for v in lines],
        )

    @classmethod
    def read(cls, report: Path) -> "Rows":
        """The rows of a report folder. Errors: `corrupt`."""
        try:
            with (report / "predictions.jsonl").open(encoding="utf-8") as file:
                return cls.of([json.loads(line) for line in file])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Error("corrupt", f"the report {report} cannot be read: {error}", "evaluate again") from error


def report(rows: Rows, most_classes: int, resamples: int, seed: int) -> dict[str, Any]:
    """{"metrics": {name: {value, low, high}}, "classes": {name: {…}}, "reliability": […], "slices": {…}}.

    Scores by class are there when the outputs are class-like: at least two rows to each of at most `most_classes`.
    """
    n = len(rows.row)
    interval = Bootstrap(n, resamples, seed)
    metrics = {
        "exact_match": proportion(int(rows.correct.sum()), n),
        "perplexity": interval(lambda i: perplexity(rows.target_logprob[i], rows.target_tokens[i])),
        "calibration_error": interval(lambda i: calibration_error(rows.confidence[i], rows.correct[i])),
    }
    names = sorted(set(rows.target))
    by_class: dict[str, Any] = {}
    if 2 <= len(names) <= min(most_classes, n // 2):
        number = {name: i for i, name in enumerate(names)}
        target = np.array([number[t] for t in rows.target])
        answer = np.array([number.get(a, len(names)) for a in rows.answer])
        metrics["macro_f1"] = interval(lambda i: macro_f1(target[i], answer[i], len(names)))
        columns = zip(*(column.tolist() for column in class_scores(target, answer, len(names))), strict=True)
        by_class = {
            name: {"precision": precision, "recall": recall, "f1": f1, "n": there}
            for name, (precision, recall, f1, there) in zip(names, columns, strict=True)
        }
    return {
        "metrics": {name: value._asdict() for name, value in metrics.items()},
        "classes": by_class,
        "reliability": reliability(rows.confidence, rows.correct),
        "slices": {name: found for name in rows.slices[0] if len(found := by_slice(rows, name)) > 1},
    }


def by_slice(rows: Rows, name: str) -> dict[str, dict[str, float]]:
    """Exact match of each value that the slice has: {value: {value, low, high, n}}."""
    values = np.array([s[name] for s in rows.slices])
    found = {}
    for value in np.unique(values):
        own = rows.correct[values == value]
        found[str(value)] = {**proportion(int(own.sum()), len(own))._asdict(), "n": len(own)}
    return found


def compare(before: Path, after: Path, resamples: int = 1000, seed: int = 0) -> dict[str, Any]:
    """Two report folders over the rows that both have: {"n", "metrics": {name: {before, after, difference, …}}}.

    Differences are after − before, with paired bootstrap intervals. exact_match also has how many rows were `fixed` and
    `broken`, and McNemar's `p`. Errors: `invalid` where they share no row or the rows' outputs differ.
    """
    old, new = Rows.read(before), Rows.read(after)
    shared, at_old, at_new = np.intersect1d(old.row, new.row, return_indices=True)
    if not len(shared):
        raise Error("invalid", "the two reports have no row in common", "evaluate both models on the same dataset")
    if any(old.target[i] != new.target[j] for i, j in zip(at_old, at_new, strict=True)):
        raise Error("invalid", "the two reports have different outputs for the same rows", "evaluate both models again")
    right_old, right_new = old.correct[at_old], new.correct[at_new]
    logprob_old, logprob_new = old.target_logprob[at_old], new.target_logprob[at_new]
    tokens_old, tokens_new = old.target_tokens[at_old], new.target_tokens[at_new]
    pairs: dict[str, tuple[Statistic, Statistic]] = {
        "exact_match": (lambda i: float(right_old[i].mean()), lambda i: float(right_new[i].mean())),
        "perplexity": (
            lambda i: perplexity(logprob_old[i], tokens_old[i]),
            lambda i: perplexity(logprob_new[i], tokens_new[i]),
        ),
    }
    metrics = {name: _difference(*pair, len(shared), resamples, seed) for name, pair in pairs.items()}
    fixed, broken = int((~right_old & right_new).sum()), int((right_old & ~right_new).sum())
    metrics["exact_match"] |= {"fixed": fixed, "broken": broken, "p": mcnemar(fixed, broken)}
    return {"n": len(shared), "metrics": metrics}


def _difference(before: Statistic, after: Statistic, n: int, resamples: int, seed: int) -> dict[str, float]:
    every = np.arange(n)
    change = Bootstrap(n, resamples, seed)(lambda i: after(i) - before(i))
    low, high = change.low, change.high
    return {"before": before(every), "after": after(every), "difference": change.value, "low": low, "high": high}


def proportion(successes: int, n: int) -> Value:
    """Successes in n trials with Wilson's score interval (Wilson 1927)."""
    p, scale = successes / n, 1 + Z * Z / n
    middle, half = p + Z * Z / (2 * n), Z * math.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n))
    return Value(p, max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale))


class Bootstrap(NamedTuple):
    """Percentile intervals (Efron 1979); the same seeded resamples for every statistic, so that they are paired."""

    n: int
    resamples: int
    seed: int

    def __call__(self, statistic: Statistic) -> Value:
        rng = np.random.default_rng(self.seed)
        drawn = [statistic(rng.integers(0, self.n, self.n)) for _ in range(self.resamples)]
        low, high = np.percentile(drawn, [2.5, 97.5])
        return Value(statistic(np.arange(self.n)), float(low), float(high))


def perplexity(logprob: Floats, tokens: Ints) -> float:
    """exp of the mean negative log-likelihood of a target token, natural logarithms."""
    return float(np.exp(-logprob.sum() / tokens.sum()))


def calibration_error(confidence: Floats, correct: Bools, bins: int = BINS) -> float:
    """Expected calibration error (Naeini et al. 2015), equally wide bins: the mean |accuracy − confidence|, 0 … 1."""
    gap = np.bincount(_bin(confidence, bins), weights=correct - confidence, minlength=bins)
    return float(np.abs(gap).sum() / len(confidence))


def reliability(confidence: Floats, correct: Bools, bins: int = BINS) -> list[dict[str, float]]:
    """A reliability diagram: mean confidence, accuracy and rows of each bin that has any."""
    at = _bin(confidence, bins)
    return [
        {"confidence": float(confidence[at == b].mean()), "accuracy": float(correct[at == b].mean()), "n": int(n)}
        for b, n in enumerate(np.bincount(at, minlength=bins))
        if n
    ]


def _bin(confidence: Floats, bins: int) -> Ints:
    return np.minimum((confidence * bins).astype(np.int64), bins - 1)


def class_scores(target: Ints, answer: Ints, classes: int) -> tuple[Floats, Floats, Floats, Ints]:
    """(precision, recall, F1, rows) of each class; an answer that is none of them is the number `classes`. 0/0 is 0."""
    hits = np.bincount(target[target == answer], minlength=classes)
    said, there = np.bincount(answer, minlength=classes)[:classes], np.bincount(target, minlength=classes)
    precision, recall = hits / np.maximum(said, 1), hits / np.maximum(there, 1)
    return precision, recall, 2 * hits / np.maximum(said + there, 1), there


def macro_f1(target: Ints, answer: Ints, classes: int) -> float:
    """Mean F1 of the classes that occur in `target`."""
    _, _, f1, there = class_scores(target, answer, classes)
    return float(f1[there > 0].mean())


def mcnemar(fixed: int, broken: int) -> float:
    """McNemar's exact two-sided p (1947): could changes be as likely in the one direction as in the other?"""
    n, least = fixed + broken, min(fixed, broken)
    logs = [
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2) for k in range(least + 1)
    ]
    return min(1.0, 2 * math.fsum(map(math.exp, logs)))
