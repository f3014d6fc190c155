"""What an alarm says of itself: since when, how large, in which features, of which kind of request, with examples.

Two sets of requests are compared: of the reference, and those since the change began. What tells them apart in a text
is its distance from all reference texts where the new ones are of a new kind, and else a linear score that is learned
on one half and measured on the other.
"""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np

from longrein.ops.drift.reference import F64, Texts, clusters
from longrein.ops.drift.text import F32, SIZE, telling
from longrein.ops.drift.watch import Kept, Watch

FEW = 8  # requests since the change, below which nothing is told of its kind
RIDGE = 30.0
NEAR = 4  # suspects that make likeness
KINDS, EACH = 4, 15  # at most so many, of about so many requests
EXAMPLES = 5


class Feature(msgspec.Struct, frozen=True, kw_only=True):
    """How one feature changed."""

    name: str
    evidence: float
    before: float  # its mean
    after: float
    auc: float  # the chance that a value since the change is greater than one before; 0.5: no difference


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of request that looks changed, by its text."""

    words: list[str]  # that are more frequent in it than before; none where texts are not known
    before: float  # its share of requests
    after: float
    examples: list[str]  # ids


class Drift(msgspec.Struct, frozen=True, kw_only=True):
    since_ms: int
    requests: int  # since then
    evidence: float
    features: list[Feature]  # those with the most evidence first
    text: str = ""  # which text tells the most
    auc: float = 0.5  # how well its witness tells requests since the change from those before
    share: float = 0.0  # of the requests since the change, those that are of no kind there was before: at least
    kinds: list[Kind] = []  # of those since the change that look changed, the most frequent first
    before: list[str] = []  # ids of requests that are most typical of before
    after: list[str] = []  # … and of after


class Witness:
    """Tells requests like those since a change from those before it."""

    def __init__(self, text: str, likeness: Callable[[F32], F64], before: F32) -> None:
        """likeness: of vectors to those since the change. What is above 95 % of those before is like them."""
        self.text, self._likeness = text, likeness
        self._threshold = float(np.quantile(likeness(before), 0.95))

    def like(self, kept: Sequence[Kept]) -> list[bool]:
        there = [k for k in kept if self.text in k.vectors]
        found = iter(self._likeness(_vectors(self.text, there)) > self._threshold if there else ())
        return [self.text in k.vectors and bool(next(found)) for k in kept]


def explain(watch: Watch) -> tuple[Drift, Witness | None]:
    """What is known of the change that there is the most evidence of, alarmed or not."""
    since_ms, requests = watch.since()
    strongest = next(iter(watch.features), "")
    after = [kept for kept in watch.recent if strongest in kept.values][-requests or len(watch.recent) :]
    features = [_feature(name, evidence, watch.before, after) for name, evidence in watch.features.items()]
    drift = Drift(since_ms=since_ms, requests=requests, evidence=watch.evidence, features=features)
    texts = watch.reference.texts if watch.reference else {}
    told = [found for name, text in texts.items() if (found := _text(name, text, watch.before, after))]
    best = max(told, key=lambda t: float(t[0]["auc"]), default=None)
    return (msgspec.structs.replace(drift, **best[0]), best[1]) if best else (drift, None)


def _feature(name: str, evidence: float, before: Sequence[Kept], after: Sequence[Kept]) -> Feature:
    then, now = (np.array([k.values[name] for k in kept if name in k.values]) for kept in (before, after))
    means = [float(v.mean()) if len(v) else 0.0 for v in (then, now)]
    return Feature(name=name, evidence=evidence, before=means[0], after=means[1], auc=_auc(then, now))


def _text(
    name: str, reference: Texts, before: Sequence[Kept], after: Sequence[Kept]
) -> tuple[dict[str, Any], Witness] | None:
    """Either requests are unlike any before, or of what there was before there is another mix: the better witness."""
    before, after = ([k for k in kept if name in k.vectors] for kept in (before, after))
    if len(before) < FEW or len(after) < FEW:
        return None
    vectors = _vectors(name, before), _vectors(name, after)
    scores = reference.distance(vectors[0]), reference.distance(vectors[1])
    likeness = _novelty(reference, *vectors)
    mix = _mix_scores(*vectors)
    if _auc(*mix) > _auc(*scores):
        direction = _direction(*vectors)
        scores, likeness = mix, lambda found: np.asarray(found @ direction, np.float64)
    witness = Witness(name, likeness, vectors[0])
    order = [np.argsort(likeness(found), kind="stable") for found in vectors]
    facts = {
        "text": name,
        "auc": _auc(*scores),
        "share": _share(*scores),
        "kinds": _kinds(witness, before, after),
        "before": [before[i].id for i in order[0][:EXAMPLES]],
        "after": [after[i].id for i in order[1][::-1][:EXAMPLES]],
    }
    return facts, witness


def _novelty(reference: Texts, before: F32, after: F32) -> Callable[[F32], F64]:
    """Far from the reference, and near those since the change that are: one that is far alone may be so by chance."""
    far = reference.distance(after)
    suspects = after[far >= min(np.quantile(reference.distance(before), 0.8), far.max())]

    def likeness(vectors: F32) -> F64:
        near = np.sort(vectors @ suspects.T, axis=1)[:, ::-1]
        near = near[:, 1:NEAR] if near.shape[1] >= NEAR else near[:, -1:]  # the nearest may be the request itself
        return np.asarray(reference.distance(vectors) + near.mean(axis=1) / 2)

    return likeness


def _direction(before: F32, after: F32) -> F32:
    """The least-squares separation, with as much weight on either set."""
    rows = np.concatenate([before, after]).astype(np.float64)
    weights = np.concatenate([np.full(len(v), 0.5 / len(v)) for v in (before, after)]) * len(rows)
    target = np.concatenate([np.full(len(before), -1.0), np.full(len(after), 1.0)])
    centred = rows - np.average(rows, axis=0, weights=weights)
    scatter = (centred * weights[:, None]).T @ centred + RIDGE * np.eye(rows.shape[1])
    found = np.linalg.solve(scatter, (centred * weights[:, None]).T @ target)
    return np.asarray(found, np.float32)


def _mix_scores(before: F32, after: F32) -> tuple[F64, F64]:
    """Of each by a witness that did not see it: two halves, each scored by the other's."""
    scores = np.empty(len(before)), np.empty(len(after))
    for half in (0, 1):
        direction = _direction(before[half::2], after[half::2])
        for score, vectors in zip(scores, (before, after), strict=True):
            score[1 - half :: 2] = vectors[1 - half :: 2] @ direction
    return scores


def _auc(before: F64, after: F64) -> float:
    """P(after > before), ties counting half (Mann-Whitney)."""
    if not len(before) or not len(after):
        return 0.5
    ordered = np.sort(before)
    below = np.searchsorted(ordered, after, "left") + np.searchsorted(ordered, after, "right")
    return float(below.mean() / (2 * len(before)))


def _share(before: F64, after: F64) -> float:
    """How much of `after` cannot be of the distribution before: one minus the least ratio of their shares below a
    threshold (Blanchard, Lee, Scott, "Semi-supervised novelty detection", 2010), two standard errors aside."""
    thresholds = np.quantile(before, np.linspace(0.1, 0.9, 9))
    then, now = ((np.searchsorted(np.sort(v), thresholds, "right") + 1) / (len(v) + 2) for v in (before, after))
    errors = np.sqrt(now * (1 - now) / len(after) + then * (1 - then) / len(before))
    return float(max(0.0, 1.0 - ((now + 2 * errors) / then).min()))


def _kinds(witness: Witness, before: Sequence[Kept], after: Sequence[Kept]) -> list[Kind]:
    """Clusters of those since the change that the witness tells, the largest first."""
    then, now = ([k for k, like in zip(kept, witness.like(kept), strict=True) if like] for kept in (before, after))
    if not now:
        return []
    vectors = [_vectors(witness.text, kept) for kept in (then, now)]
    centres = clusters(vectors[1], min(KINDS, 1 + len(now) // EACH))
    mine = [np.argmax(found @ centres.T, axis=1) for found in vectors]
    old, found = [k.texts[witness.text] for k in before if witness.text in k.texts], []
    for i in np.argsort(-np.bincount(mine[1], minlength=len(centres)), kind="stable"):
        close = np.argsort(-(vectors[1] @ centres[i]), kind="stable")
        members = [now[int(j)] for j in close if mine[1][j] == i]
        new = [k.texts[witness.text] for k in members if witness.text in k.texts]
        shares = {"before": float((mine[0] == i).sum() / len(before)), "after": len(members) / len(after)}
        examples = [k.id for k in members[:EXAMPLES]]
        found.append(Kind(words=telling(old, new) if old else [], examples=examples, **shares))
    return found


def _vectors(name: str, kept: Sequence[Kept]) -> F32:
    return np.array([k.vectors[name] for k in kept], np.float32).reshape(len(kept), SIZE)
