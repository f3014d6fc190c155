"""One alarm of an endpoint: a watch over what it is asked, what a release answers, or what is said of that.

A stream has a key of what it holds for normal; under another key another begins. While its alert fires, it tells which
requests are like those since the change.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from math import isfinite, log10
from typing import Any, Self

import msgspec

from longrein.core.drift import Group
from longrein.core.errors import Error
from longrein.ops.drift.explain import Witness, explain
from longrein.ops.drift.reference import Sample
from longrein.ops.drift.watch import BATCH, Config, Kept, Watch

TRACE, TRACE_MS = 60, 60_000  # evidence as it was at the end of each of the last so many minutes
CEILING = 1e15  # of evidence as told: JSON knows no infinity
RECENT = 500  # requests that tell whether a change is gone
AS_BEFORE = 0.08  # share of them that may look changed then: 0.05 of those before the change do
FEWEST = 100  # samples that a stream may learn from
FEATURES = 8  # told, those with the most evidence


class Stream:
    """One watch, and what it told."""

    def __init__(self, group: Group, release: str, key: str, config: Config) -> None:
        """release: its digest; "" for what is asked."""
        self.group, self.release, self.key, self.config = group, release, key, config
        self.watch = Watch(config)
        self.note = f"the first {config.reference}"  # what is normal
        self.file = ""  # where its reference is kept
        self.peak = 0.0  # the most evidence that there was
        self.trace: list[tuple[int, float]] = []  # (minute, log10 of the evidence)
        self.alert = 0  # the id of the alert that fires; 0: none
        self.newest: deque[Sample] = deque(maxlen=config.reference)
        self.affected: list[str] = []  # ids that were not fetched yet
        self._is_like: Callable[[Kept], bool] = lambda _: False
        self._like: deque[bool] = deque(maxlen=RECENT)  # whether the newest look like those since the change

    @property
    def evidence(self) -> float:
        found = self.watch.evidence
        return min(found, CEILING) if isfinite(found) else CEILING

    @property
    def gone(self) -> bool:
        """Whether requests are again as they were before the change."""
        return len(self._like) == RECENT and sum(self._like) <= AS_BEFORE * RECENT

    def learn(self, samples: Sequence[Sample], note: str) -> None:
        """What is normal, for a start, and what that is. Errors: `invalid` for too few."""
        if len(samples) < FEWEST:
            raise Error("invalid", f"{note} are too few" if samples else note)
        self.watch.learn(samples)
        self.note = note

    def since(self) -> list[Sample]:
        """The newest, as far as they came after the change, if there is one."""
        back = self.watch.since()[1] if self.alert else 0
        return list(self.newest)[-max(back, FEWEST) if back else 0 :]

    def observe(self, samples: Sequence[Sample]) -> None:
        self.newest.extend(samples)
        for start in range(0, len(samples), BATCH):
            batch = samples[start : start + BATCH]
            seen = self.watch.seen
            path = self.watch.observe(batch)
            self.peak = max(self.peak, min(float(path.max()), CEILING))
            if self.alert and (judged := self.watch.seen - seen):
                self._judge(list(self.watch.recent)[-judged:])
        if samples:
            self._mark(samples[-1].at_ms)

    def alarm(self, alert: int) -> dict[str, Any]:
        """An alert fires for it; what it tells. All since the change that look like it are affected."""
        drift, witness = explain(self.watch)
        self._is_like = _by_text(witness) if witness else _by_value(self.watch)
        if self.alert != alert:
            self.alert = alert
            self._like.clear()
            self._judge(list(self.watch.recent)[-drift.requests or len(self.watch.recent) :])
        return self._told(msgspec.to_builtins(drift))

    def over(self) -> None:
        """The change is gone: from here on it is looked for anew, in comparison with the same."""
        watch = self.watch
        if watch.reference:
            self.watch = Watch.restore(self.config, watch.dump_reference(), Watch(self.config).dump())
            self.watch.recent.extend(watch.recent)
        self.peak, self.alert, self.affected = 0.0, 0, []

    def forget(self) -> None:
        """Texts of requests, wherever they are; who asked is not known here, so it is all of them."""
        if self.watch.learning:
            self.watch = Watch(self.config)
        self.watch.before = [one._replace(texts={}) for one in self.watch.before]
        recent = [one._replace(texts={}) for one in self.watch.recent]
        self.watch.recent.clear()
        self.watch.recent.extend(recent)
        self.newest.clear()
        self.file = ""  # to be written anew

    def told(self) -> dict[str, Any]:
        """Its state, as plain JSON."""
        since_ms, requests = self.watch.since()
        return {
            "group": self.group, "release": self.release, "key": self.key, "normal": self.note,
            "evidence": self.evidence, "peak": self.peak, "needed": self.config.run_length, "seen": self.watch.seen,
            "learning": self.watch.learning, "since_ms": since_ms, "since": requests,
            "features": {name: min(value, CEILING) for name, value in list(self.watch.features.items())[:FEATURES]},
            "trace": [level for _, level in self.trace],
        }  # fmt: skip

    def dump(self) -> "Dumped":
        parts = (self.group, self.release, self.key, self.note, self.file, self.peak, self.trace)
        return Dumped(*parts, self.watch.dump())

    @classmethod
    def restore(cls, dumped: "Dumped", config: Config, reference: bytes) -> Self:
        """Errors: `invalid` for what is of another config."""
        self = cls(dumped.group, dumped.release, dumped.key, config)
        self.watch = Watch.restore(config, reference, dumped.watch)
        self.note, self.file, self.peak, self.trace = dumped.note, dumped.file, dumped.peak, dumped.trace
        return self

    def _told(self, drift: dict[str, Any]) -> dict[str, Any]:
        """Requests are named by their ids: their texts are in the log, where they can be erased. Words are told where
        texts may be kept."""
        if not self.config.texts:
            drift["kinds"] = [kind | {"words": []} for kind in drift["kinds"]]
        drift |= {"evidence": self.evidence, "count": drift.pop("requests")}
        drift["features"] = [f | {"evidence": min(f["evidence"], CEILING)} for f in drift["features"]][:FEATURES]
        return drift | {"key": self.key, "release": self.release, "normal": self.note}

    def _judge(self, kept: Iterable[Kept]) -> None:
        for one in kept:
            like = self._is_like(one)
            self._like.append(like)
            if like:
                self.affected.append(one.id)

    def _mark(self, at_ms: int) -> None:
        minute, level = at_ms // TRACE_MS, log10(max(self.evidence, 1.0))
        if self.trace and self.trace[-1][0] >= minute:
            self.trace[-1] = (self.trace[-1][0], level)
        else:
            self.trace = [*self.trace[1 - TRACE :], (minute, round(level, 3))]


class Dumped(msgspec.Struct, array_like=True):
    """A stream on disk; its reference is a file beside."""

    group: Group
    release: str
    key: str
    note: str
    file: str
    peak: float
    trace: list[tuple[int, float]]
    watch: bytes


def _by_text(witness: Witness) -> Callable[[Kept], bool]:
    return lambda one: witness.like([one])[0]


def _by_value(watch: Watch) -> Callable[[Kept], bool]:
    """Where no text tells them apart: by the feature with the most evidence, on the side that its mean moved to."""
    name = next(iter(watch.features), "")
    before, after = ([k.values[name] for k in kept if name in k.values] for kept in (watch.before, watch.recent))
    middle = sum(before) / max(len(before), 1)
    up = sum(after) / max(len(after), 1) > middle
    return lambda one: name in one.values and (one.values[name] > middle) == up and one.values[name] != middle
