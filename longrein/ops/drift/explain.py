"""What an alarm says of itself: since when, how large, in which features, of which kind of request, with examples.

Two sets of requests are compared: of the reference, and those since the change began. How far texts differ is told by a
witness, a linear score learned on one half to tell the sets apart and measured on the other.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from longrein.ops.drift.reference import F64, Sample, clusters
from longrein.ops.drift.text import F32, telling
from longrein.ops.drift.watch import Kept, Watch

FEW = 8  # requests since the change, below which nothing is told of its kind
RIDGE = 1.0
KINDS = 8
EXAMPLES = 5


class Feature(msgspec.Struct, frozen=True, kw_only=True):
    """How one feature changed."""

    name: str
    evidence: float
    before: float  # its mean
    after: float
    auc: float  # the chance that a value since the change is greater than one before; 0.5: no difference


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of request, by its text."""

    words: list[str]  # that are frequent in it and were not before; none where texts are not known
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
    share: float = 0.0  # of the requests since the change, those that are of no kind there was before: at least, about
    kinds: list[Kind] = []  # that grew, the most grown first
    before: list[str] = []  # ids of requests that are most typical of before
    after: list[str] = []  # … and of after


class Witness:
    """Tells requests like those since a change from those before it."""

    def __init__(self, text: str, direction: F32, threshold: float) -> None:
        self.text, self.direction, self.threshold = text, direction, threshold

    def belongs(self, watch: Watch, samples: Sequence[Sample]) -> list[bool]:
        """Whether each is more like those after than 95 % of those before were."""
        if not samples or watch.reference is None or self.text not in watch.reference.texts:
            return [False] * len(samples)
        found = watch.reference.embed(samples)[self.text] @ self.direction > self.threshold
        return [bool(f) and self.text in s.texts for f, s in zip(found, samples, strict=True)]


def explain(watch: Watch) -> tuple[Drift, Witness | None]:
    """What is known of the change that there is the most evidence of, alarmed or not."""
    since_ms, requests = watch.since()
    strongest = next(iter(watch.features), "")
    after = [kept for kept in watch.recent if strongest in kept.values][-requests or len(watch.recent) :]
    features = [_feature(name, evidence, watch.before, after) for name, evidence in watch.features.items()]
    drift = Drift(since_ms=since_ms, requests=requests, evidence=watch.evidence, features=features)
    if len(after) < FEW or len(watch.before) < FEW:
        return drift, None
    told = [_text(name, watch.before, after) for name in (watch.reference.texts if watch.reference else ())]
    best = max((t for t in told if t), key=lambda t: t[0].get("auc", 0.5), default=None)
    return (msgspec.structs.replace(drift, **best[0]), best[1]) if best else (drift, None)


def _feature(name: str, evidence: float, before: Sequence[Kept], after: Sequence[Kept]) -> Feature:
    then, now = (np.array([k.values[name] for k in kept if name in k.values]) for kept in (before, after))
    means = [float(v.mean()) if len(v) else 0.0 for v in (then, now)]
    return Feature(name=name, evidence=evidence, before=means[0], after=means[1], auc=_auc(then, now))


def _text(name: str, before: Sequence[Kept], after: Sequence[Kept]) -> tuple[dict[str, Any], Witness] | None:
    before, after = ([k for k in kept if name in k.vectors] for kept in (before, after))
    if len(before) < FEW or len(after) < FEW:
        return None
    vectors = [np.stack([k.vectors[name] for k in kept]).astype(np.float32) for kept in (before, after)]
    then, now = _scores(*vectors)
    direction = _direction(*vectors)
    order = [np.argsort(s, kind="stable") for s in (then, now)]
    facts = {
        "text": name,
        "auc": _auc(then, now),
        "share": _share(then, now),
        "kinds": _kinds(name, before, after, vectors),
        "before": [before[i].id for i in order[0][:EXAMPLES]],
        "after": [after[i].id for i in order[1][::-1][:EXAMPLES]],
    }
    return facts, Witness(name, direction, float(np.quantile(vectors[0] @ direction, 0.95)))


def _direction(before: F32, after: F32) -> F32:
    """The least-squares separation, with as much weight on either set."""
    rows = np.concatenate([before, after]).astype(np.float64)
    weights = np.concatenate([np.full(len(v), 0.5 / len(v)) for v in (before, after)]) * len(rows)
    target = np.concatenate([np.full(len(before), -1.0), np.full(len(after), 1.0)])
    centred = rows - np.average(rows, axis=0, weights=weights)
    scatter = (centred * weights[:, None]).T @ centred + RIDGE * np.eye(rows.shape[1])
    found = np.linalg.solve(scatter, (centred * weights[:, None]).T @ target)
    return np.asarray(found, np.float32)


def _scores(before: F32, after: F32) -> tuple[F64, F64]:
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
    threshold (Blanchard, Lee, Scott, "Semi-supervised novelty detection", 2010), where it holds enough to be told."""
    thresholds = np.quantile(before, np.linspace(0.1, 1.0, 19))
    then, now = (np.searchsorted(np.sort(v), thresholds, "right") / len(v) for v in (before, after))
    return float(max(0.0, 1.0 - (now / then).min()))


def _kinds(name: str, before: Sequence[Kept], after: Sequence[Kept], vectors: Sequence[F32]) -> list[Kind]:
    """Clusters of both together whose share has grown."""
    centres = clusters(np.concatenate(vectors), KINDS)
    mine = [np.argmax(v @ centres.T, axis=1) for v in vectors]
    then, now = (np.bincount(m, minlength=len(centres)) / len(m) for m in mine)
    found = []
    for i in np.argsort(then - now, kind="stable"):
        noise = np.sqrt(then[i] * (1 - then[i]) / len(before) + now[i] * (1 - now[i]) / len(after))
        if now[i] - then[i] <= 2 * noise:
            break
        members = [after[int(j)] for j in np.flatnonzero(mine[1] == i)]
        near = np.argsort(-(vectors[1][mine[1] == i] @ centres[i]), kind="stable")[:EXAMPLES]
        texts = [k.texts[name] for k in members if name in k.texts]
        words = telling([k.texts[name] for k in before if name in k.texts], texts)
        examples = [members[int(j)].id for j in near]
        found.append(Kind(words=words, before=float(then[i]), after=float(now[i]), examples=examples))
    return found


def as_json(drift: Drift) -> Mapping[str, Any]:
    """Plain JSON, as an alert's evidence."""
    found: Mapping[str, Any] = msgspec.to_builtins(drift)
    return found
