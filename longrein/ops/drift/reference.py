"""What traffic is like when nothing is wrong, and how unlike it each request is: one number a feature.

A text gives three: its distance from its nearest neighbours among reference texts, which new topics raise; how rare its
terms are, which does so where texts are long and unlike each other; and which topic it belongs to, which a new mix of
old topics moves. Half of the reference are the neighbours and make the topics;
the other half is measured against them as all later requests are: measured alike, they are exchangeable.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from math import log1p
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from longrein.core.text import language
from longrein.ops.drift.text import F32, MOST, SIZE, TERMS, Vectors, embed, rarity

F64 = npt.NDArray[np.float64]
NEIGHBOURS = 2000  # reference texts that new ones are compared with, at most
NEAREST = 3
TOPICS = 16
LABELS = 64  # told apart; all others are one
RARITY, TOPIC = " rarity", " topic"  # "input rarity" and "input topic" are features of the text "input"


class Sample(NamedTuple):
    """What is known of one request; what is absent is no evidence of anything."""

    id: str
    at_ms: int = 0  # Unix; 0: not known, as of training rows
    texts: Mapping[str, str] = {}
    numbers: Mapping[str, float] = {}
    labels: Mapping[str, str] = {}


def sample(
    id: str, at_ms: int = 0, input: str = "", output: str | None = None,
    numbers: Mapping[str, float] = {}, labels: Mapping[str, str] = {},
) -> Sample:  # fmt: skip
    """A request by its texts, with their lengths and the language it was asked in. numbers: `refusal`, `correct`, …;
    labels: the answer itself where it is one of a few."""
    texts = {"input": input} | ({} if output is None else {"output": output})
    lengths = {f"{name} length": log1p(len(text)) for name, text in texts.items()}
    return Sample(id, at_ms, texts, lengths | dict(numbers), {"input language": language(input[:MOST]), **labels})


class Texts:
    """The reference of one text of each request."""

    def __init__(self, weights: F32, neighbours: F32, topics: F32) -> None:
        self.weights, self.neighbours, self.topics = weights, neighbours, topics

    @classmethod
    def fit(cls, texts: Sequence[str]) -> Self:
        weights = rounded(rarity(texts))
        vectors = rounded(embed(texts[:NEIGHBOURS], weights).directions)
        topics = clusters(vectors, min(TOPICS, max(1, len(vectors) // 20)))
        order = np.argsort(-np.bincount(np.argmax(vectors @ topics.T, axis=1), minlength=len(topics)), kind="stable")
        return cls(weights, vectors, rounded(topics[order]))

    def distance(self, vectors: F32) -> F64:
        """From the nearest neighbours: 0 to 2."""
        near, rows = vectors @ self.neighbours.T, np.arange(len(vectors))
        closest = np.zeros(len(vectors))
        for _ in range(NEAREST):  # a partition takes longer
            place = np.argmax(near, axis=1)
            closest += near[rows, place]
            near[rows, place] = -1.0
        return np.asarray(1.0 - closest / NEAREST)

    def topic(self, vectors: F32) -> F64:
        """The number of the nearest topic; 0 is the most frequent one."""
        return np.asarray(np.argmax(vectors @ self.topics.T, axis=1), np.float64)

    def dump(self) -> list[bytes]:
        return [a.astype(np.float16).tobytes() for a in (self.weights, self.neighbours, self.topics)]

    @classmethod
    def restore(cls, state: Sequence[bytes]) -> Self:
        weights, neighbours, topics = (np.frombuffer(b, np.float16).astype(np.float32) for b in state)
        assert len(weights) == TERMS
        return cls(weights, neighbours.reshape(-1, SIZE), topics.reshape(-1, SIZE))


class Reference:
    """Texts' neighbours and topics, and labels in the order of how frequent they were."""

    def __init__(self, texts: Mapping[str, Texts], labels: Mapping[str, Sequence[str]]) -> None:
        self.texts = dict(texts)
        self.labels = {name: {label: i for i, label in enumerate(known)} for name, known in labels.items()}

    @classmethod
    def fit(cls, samples: Sequence[Sample]) -> Self:
        """From one half of the reference; at least one sample."""
        texts = {n: [s.texts[n] for s in samples if n in s.texts] for n in _names(s.texts for s in samples)}
        labels = {n: Counter(s.labels[n] for s in samples if n in s.labels) for n in _names(s.labels for s in samples)}
        return cls(
            {name: Texts.fit(found) for name, found in texts.items()},
            {name: [label for label, _ in found.most_common(LABELS)] for name, found in labels.items()},
        )

    def embed(self, samples: Sequence[Sample]) -> dict[str, Vectors]:
        """Each text; zeros where a sample has none."""
        found = {}
        for name, texts in self.texts.items():
            there = np.array([name in s.texts for s in samples], bool)
            known = embed((s.texts[name] for s in samples if name in s.texts), texts.weights)
            directions, rarity = np.zeros((len(samples), SIZE), np.float32), np.zeros(len(samples), np.float32)
            directions[there], rarity[there] = rounded(known.directions), known.rarity
            found[name] = Vectors(directions, rarity)
        return found

    def measure(self, samples: Sequence[Sample], vectors: Mapping[str, Vectors]) -> dict[str, F64]:
        """The value of each feature in each sample; NaN where there is none."""
        features: dict[str, F64] = {}
        for name, texts in self.texts.items():
            absent = np.array([name not in s.texts for s in samples], bool)
            directions, rarity = vectors[name]
            features[name] = np.where(absent, np.nan, texts.distance(directions))
            features[name + RARITY] = np.where(absent, np.nan, rarity.astype(np.float64))
            features[name + TOPIC] = np.where(absent, np.nan, texts.topic(directions))
        for name, codes in self.labels.items():
            values = [codes.get(s.labels[name], len(codes)) if name in s.labels else np.nan for s in samples]
            features[name] = np.array(values, np.float64)
        for name in _names(s.numbers for s in samples):
            features[name] = np.array([s.numbers.get(name, np.nan) for s in samples], np.float64)
        return features

    def dump(self) -> dict[str, Any]:
        return {
            "texts": {name: texts.dump() for name, texts in self.texts.items()},
            "labels": {name: list(codes) for name, codes in self.labels.items()},
        }

    @classmethod
    def restore(cls, state: Mapping[str, Any]) -> Self:
        return cls({name: Texts.restore(texts) for name, texts in state["texts"].items()}, state["labels"])


def clusters(vectors: F32, k: int, rounds: int = 10) -> F32:
    """k centres of length 1 (spherical k-means; Dhillon and Modha, 2001), begun far from each other; deterministic."""
    centres = vectors[:1]
    nearest = vectors @ centres[0]
    for _ in range(1, min(k, len(vectors))):
        centres = np.concatenate([centres, vectors[[int(np.argmin(nearest))]]])
        nearest = np.maximum(nearest, vectors @ centres[-1])
    for _ in range(rounds):
        mine = np.argmax(vectors @ centres.T, axis=1)
        sums = np.zeros_like(centres)
        np.add.at(sums, mine, vectors)
        sizes = np.linalg.norm(sums, axis=1, keepdims=True)
        centres = np.where(sizes > 0, sums / np.maximum(sizes, 1e-9), centres)
    return np.asarray(centres, np.float32)


def rounded(values: F32) -> F32:
    """As float16 says it, so that what is restored is what was."""
    return values.astype(np.float16).astype(np.float32)


def _names(found: Iterable[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for names in found for name in names))
