"""A linear classifier of texts over hashed n-grams, trained and asked in compiled code.

After fastText's supervised mode (Joulin et al. 2016, arXiv 1607.01759), which DCLM's filter is made with: words and
their pairs, characters and their pairs and triples where a script has no spaces; logistic regression by
AdaGrad (Duchi et al. 2011), the score calibrated on held-out texts (Platt 1999).
"""

import io
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from longrein.core.errors import Error
from longrein.plugins._compiled import F32, I64, U8, U32, U64, compiled
from longrein.plugins.transform._near.fold import tables
from longrein.plugins.transform._near.index import Column, joined
from longrein.plugins.transform._near.token import CHUNK, PRIME, START, mix, tokens

BITS = 20  # of a bucket's number: 4 MB of weights
MOST_BYTES = 1 << 16  # of a text, from its start, are looked at
MOST_GRAMS = 4096  # of a text, from its start, are learned from
EPOCHS, RATE = 5, np.float32(0.3)
HELD_OUT = 10  # one text in so many calibrates
BATCH = 1024
SHIFT = np.uint64(64 - BITS)
ONE = np.uint64(1)


class Model(NamedTuple):
    weights: F32  # (2^BITS,)
    bias: float
    slope: float  # of the calibration: chance = 1 / (1 + exp(-(slope · score + offset)))
    offset: float

    def chances(self, texts: list[str]) -> F32:
        """How likely each text is of the positive kind, were both kinds as frequent. 0.5 for one without words."""
        data, offsets = joined([_bytes(t) for t in texts])
        scores = np.zeros(len(texts), np.float32)
        if texts:
            ask(data, offsets, *tables(), self.weights, scores)
        found: F32 = 1 / (1 + np.exp(-(self.slope * (scores + self.bias) + self.offset)))
        return found

    def save(self) -> bytes:
        """What `load` reads: NumPy's .npz."""
        file = io.BytesIO()
        np.savez_compressed(file, weights=self.weights, rest=np.array([self.bias, self.slope, self.offset]))
        return file.getvalue()


def load(path: Path) -> Model:
    """Errors: `not_found`, `invalid` when it is no such file."""
    try:
        with np.load(path, allow_pickle=False) as file:
            weights, rest = file["weights"].astype(np.float32), file["rest"].astype(float).tolist()
        if weights.shape != (1 << BITS,) or len(rest) != 3:
            raise ValueError
    except FileNotFoundError as error:
        raise Error("not_found", f"there is no classifier {path}", "train one: positive: [good/*.jsonl]") from error
    except (OSError, ValueError, KeyError) as error:
        raise Error("invalid", f"{path} is no classifier that this version can read", "train it again") from error
    return Model(weights, *rest)


def train(positive: Iterable[str], negative: Iterable[str], scratch: Path | None = None) -> Model:
    """The same texts in the same order make the same model. n-grams wait on disk. Errors: `invalid`, too few texts."""
    ids, sizes, labels = Column(np.uint32, scratch), list[int](), list[int]()
    for label, texts in ((1, positive), (0, negative)):
        before = len(labels)
        for batch in _batches(texts):
            data, offsets = joined([_bytes(t) for t in batch])
            found, counts = grams(data, offsets, *tables())
            ids.append(found)
            sizes += counts.tolist()
            labels += [label] * len(batch)
        if len(labels) - before < 2 * HELD_OUT:
            raise Error(
                "invalid",
                f"{len(labels) - before} {'positive' if label else 'negative'} examples are too few to learn from",
                f"give {2 * HELD_OUT} at least, better some thousands",
            )
    bounds = np.concatenate(([0], np.cumsum(sizes, dtype=np.int64)))
    answers = np.array(labels, np.float32)
    weight = np.where(answers > 0, 0.5 / answers.mean(), 0.5 / (1 - answers.mean())).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(labels))
    held, learned = order[::HELD_OUT], np.concatenate([order[n::HELD_OUT] for n in range(1, HELD_OUT)])
    weights, squares, bias = (
        np.zeros(1 << BITS, np.float32),
        np.full(1 << BITS, 1e-6, np.float32),
        np.zeros(2, np.float32),
    )
    for epoch in range(EPOCHS):
        turn = np.random.default_rng(epoch + 1).permutation(learned)
        learn(ids.map(), bounds, answers, weight, turn, weights, squares, bias)
    scores = score(ids.map(), bounds, held, weights) + bias[0]
    return Model(weights, float(bias[0]), *_calibrated(scores, answers[held], weight[held]))


def _calibrated(scores: F32, answers: F32, weight: F32) -> tuple[float, float]:
    """Slope and offset by Newton's method, the answers smoothed as Platt does."""
    counts = float((answers > 0).sum()), float((answers <= 0).sum())
    target = np.where(answers > 0, (counts[0] + 1) / (counts[0] + 2), 1 / (counts[1] + 2))
    x = np.stack([scores, np.ones_like(scores)], 1).astype(float)
    found = np.array([1.0, 0.0])
    for _ in range(50):
        chance = 1 / (1 + np.exp(-np.clip(x @ found, -30, 30)))
        slope = x.T @ (weight * (chance - target))
        bend = (x * (weight * chance * (1 - chance))[:, None]).T @ x + 1e-6 * np.eye(2)
        found -= np.clip(np.linalg.solve(bend, slope), -1, 1)
    return float(max(found[0], 1e-3)), float(found[1])


def _batches(texts: Iterable[str]) -> Iterable[list[str]]:
    batch = list[str]()
    for text in texts:
        batch.append(text)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _bytes(text: str) -> bytes:
    return text[:MOST_BYTES].encode("utf-8", "surrogatepass")[:MOST_BYTES]


@compiled
def bucketed(found: U64, last: U64, at: int, out: U32) -> int:
    """Buckets of the 1-, 2- and 3-grams that end in the tokens `found`; where they end in `out`, filled from `at`.
    last: the two tokens before, carried on. A word makes no triple."""
    for i in range(len(found)):
        one = found[i]
        out[at] = mix(one) >> SHIFT
        at += 1
        if last[1]:
            pair = mix(last[1] * PRIME + one)
            out[at] = pair >> SHIFT
            at += 1
            if last[0] and one & ONE and last[1] & ONE and last[0] & ONE:
                out[at] = mix(pair + last[0] * PRIME) >> SHIFT
                at += 1
        last[0], last[1] = last[1], one
    return at


@compiled
def grams_of(data: U8, at: int, end: int, fold: U32, expand: U32, room: U64, ids: U32) -> int:
    """Fill `ids` with a text's buckets, as many as fit; how many. room: CHUNK + 3 numbers."""
    word, last, out, count = room[:1], room[1:3], room[3:], 0
    word[0], last[0], last[1] = START, np.uint64(0), np.uint64(0)
    while at < end and count + 3 * CHUNK <= len(ids):
        at, made = tokens(data, at, end, fold, expand, word, out)
        count = bucketed(out[:made], last, count, ids)
    return count


@compiled
def grams(data: U8, offsets: I64, fold: U32, expand: U32) -> tuple[U32, I64]:
    """Buckets of texts, one text after another, at most MOST_GRAMS of each; and how many of each."""
    many, room, ids = len(offsets) - 1, np.zeros(CHUNK + 3, np.uint64), np.zeros(MOST_GRAMS + 3 * CHUNK, np.uint32)
    counts, out, total = np.zeros(many, np.int64), np.zeros(many * MOST_GRAMS, np.uint32), 0
    for i in range(many):
        counts[i] = min(MOST_GRAMS, grams_of(data, offsets[i], offsets[i + 1], fold, expand, room, ids))
        out[total : total + counts[i]] = ids[: counts[i]]
        total += counts[i]
    return out[:total].copy(), counts


@compiled
def ask(data: U8, offsets: I64, fold: U32, expand: U32, weights: F32, out: F32) -> None:
    """The score of each text, before bias and calibration, to `out`."""
    room, ids = np.zeros(CHUNK + 3, np.uint64), np.zeros(3 * MOST_BYTES + 3 * CHUNK, np.uint32)
    for i in range(len(out)):
        count = grams_of(data, offsets[i], offsets[i + 1], fold, expand, room, ids)
        total = np.float32(0)
        for n in range(count):
            total += weights[ids[n]]
        out[i] = total / np.sqrt(np.float32(max(count, 1)))


@compiled
def score(ids: U32, bounds: I64, which: I64, weights: F32) -> F32:
    """Scores of some texts, before the bias."""
    out = np.zeros(len(which), np.float32)
    for i in range(len(which)):
        start, end = bounds[which[i]], bounds[which[i] + 1]
        total = np.float32(0)
        for n in range(start, end):
            total += weights[ids[n]]
        out[i] = total / np.sqrt(np.float32(max(end - start, 1)))
    return out


@compiled
def learn(ids: U32, bounds: I64, answers: F32, weight: F32, order: I64, weights: F32, squares: F32, bias: F32) -> None:
    """One pass of AdaGrad over texts in an order; bias: [its value, its squared gradients]."""
    for i in order:
        start, end = bounds[i], bounds[i + 1]
        if start == end:
            continue
        scale, total = np.float32(1 / np.sqrt(end - start)), np.float32(0)
        for n in range(start, end):
            total += weights[ids[n]]
        off = np.float32(1 / (1 + np.exp(-(total * scale + bias[0]))) - answers[i]) * weight[i]
        bias[1] += off * off
        bias[0] -= RATE * off / np.sqrt(bias[1] + 1e-6)
        step = off * scale
        for n in range(start, end):
            squares[ids[n]] += step * step
            weights[ids[n]] -= RATE * step / np.sqrt(squares[ids[n]])
