"""py3langid's model (Lui and Baldwin 2012, langid.py) walked in compiled code: naive Bayes over byte n-grams."""

import unicodedata
from functools import cache
from typing import NamedTuple

import numpy as np
from py3langid.langid import MODEL_FILE, LanguageIdentifier

from longrein.plugins._compiled import F32, I32, I64, U8, U32, compiled
from longrein.plugins.transform._near.index import joined

MOST_CHARS = 4096  # of a text, from its start, are looked at
EIGHT = np.uint32(8)


class Model(NamedTuple):
    labels: tuple[str, ...]  # of the columns; Serbian in two scripts comes twice, and counts for the first
    prior: F32
    weights: F32  # (features, columns)
    move: U32  # the automaton: row of a state, and byte, to the next state
    row: U32  # where a state's moves begin
    feature: I32  # that a state completes, or -1


@cache
def known() -> frozenset[str]:
    """Every language it knows."""
    return frozenset(LanguageIdentifier.from_model_file(MODEL_FILE).nb_classes)


@cache
def load(codes: frozenset[str]) -> Model:
    """The model restricted to some of its languages. About 60 MB and half a second, once a process."""
    full = LanguageIdentifier.from_model_file(MODEL_FILE)
    at = [n for n, code in enumerate(full.nb_classes) if code in codes]
    return Model(
        tuple(full.nb_classes[n] for n in at),
        full.nb_pc[at].astype(np.float32),
        full.nb_ptc[:, at].astype(np.float32),
        np.frombuffer(full.tk_nextmove, np.uint32),
        np.frombuffer(full.tk_row, np.uint16).astype(np.uint32) << EIGHT,
        np.array(full.tk_output, np.int32),
    )


def probabilities(model: Model, texts: list[str]) -> F32:
    """(texts, columns): as py3langid with norm_probs, the softmax at temperature √bytes. 0 everywhere: no evidence."""
    data, offsets = joined([_prepared(t) for t in texts])
    scores = np.zeros((len(texts), len(model.labels)), np.float32)
    if not len(scores):
        return scores
    seen = np.zeros(len(model.weights), np.int32)
    known = walk(data, offsets, model.move, model.row, model.feature, model.weights, model.prior, seen, scores)
    scores /= np.sqrt(np.maximum(1, np.diff(offsets)), dtype=np.float32)[:, None]
    scores = np.exp(scores - scores.max(1, keepdims=True))
    scores /= scores.sum(1, keepdims=True)
    for column, label in enumerate(model.labels):
        if (first := model.labels.index(label)) != column:
            scores[:, first] += scores[:, column]
            scores[:, column] = 0
    return np.where(known[:, None] > 0, scores, np.float32(0))


def _prepared(text: str) -> bytes:
    text = text[:MOST_CHARS]
    text = unicodedata.normalize("NFC", text.lower() if text.isupper() else text)
    return text.encode("utf-8", "surrogatepass")


@compiled
def walk(
    data: U8, offsets: I64, move: U32, row: U32, feature: I32, weights: F32, prior: F32, seen: I32, out: F32
) -> I64:
    """Add Σ log(1 + count) · weights and the prior to `out` (texts, columns); distinct features of each text.
    seen: zeros, one for each feature, and zeros again afterwards."""
    many, columns = out.shape
    known = np.zeros(many, np.int64)
    longest = 0
    for i in range(many):
        longest = max(longest, offsets[i + 1] - offsets[i])
    found = np.empty(longest, np.int32)
    for i in range(many):
        state, count = np.int64(0), 0
        for at in range(offsets[i], offsets[i + 1]):
            state = np.int64(move[row[state] + data[at]])
            made = feature[state]
            if made >= 0:
                if seen[made] == 0:
                    found[count] = made
                    count += 1
                seen[made] += 1
        known[i] = count
        for column in range(columns):
            out[i, column] = prior[column]
        for n in range(count):
            weight = np.float32(np.log1p(np.float32(seen[found[n]])))
            for column in range(columns):
                out[i, column] += weight * weights[found[n], column]
            seen[found[n]] = 0
    return known
