"""Watches requests for drift: many features, one alarm, at a false-alarm rate that is declared and kept.

Each feature has a detector of its own (port `detector`), whose evidence grows by at most one a request on average while
nothing changes. So does a weighted mean over features, whatever depends on what: an alarm at N keeps the promise of at
least N requests, on average, before a false one, and another feature costs no second look. The same holds for the sum
over hosts that share the traffic, with N requests of them all.
"""

import zlib
from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Self

import msgspec
import numpy as np
import numpy.typing as npt

from longrein.core import plugins
from longrein.core.errors import Error
from longrein.core.ports import Detector
from longrein.ops.drift.reference import F64, RARITY, Reference, Sample

SEASONS = {"none": 1, "day": 24, "week": 168}  # how many kinds of hour are told apart, in UTC
HOUR_MS = 3_600_000
FEATURES = 64  # at most
LEARNED = 10_000  # samples of the reference that are looked at, at most
KEPT = 500  # requests of the reference, and of the newest, that are remembered for explanations
HEAVY = 4.0  # the weight of a text's distance and rarity; of all other features 1
MARKS = 512  # of times
BATCH = 256
VERSION = 2  # of what is dumped

F16 = npt.NDArray[np.float16]


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    run_length: int = 100_000  # requests until a false alarm, on average, or more
    reference: int = 1000  # requests that say what is normal, where nothing else was learned from
    seasons: Literal["none", "day", "week"] = "none"
    detector: str = "conformal"
    options: dict[str, Any] = {}  # the detector's
    texts: bool = False  # whether what is dumped may hold texts of requests; if not, learning begins anew when restored


class Kept(NamedTuple):
    """A request as it is remembered."""

    id: str
    at_ms: int
    values: dict[str, float]  # of its features
    vectors: dict[str, F16]
    texts: dict[str, str]  # in memory; dumped where that is allowed


class Times:
    """When the n-th value came, for ever more values: one in so many is remembered."""

    def __init__(self, count: int = 0, every: int = 1, marks: Sequence[tuple[int, int]] = ()) -> None:
        self.count, self._every, self._marks = count, every, [(n, ms) for n, ms in marks]

    def add(self, at_ms: int) -> None:
        if self.count % self._every == 0:
            self._marks.append((self.count, at_ms))
            if len(self._marks) > MARKS:
                self._marks = self._marks[::2]
                self._every *= 2
        self.count += 1

    def of(self, number: int) -> int:
        """0 when nothing came yet."""
        place = bisect_right(self._marks, number, key=lambda mark: mark[0])
        return self._marks[max(place - 1, 0)][1] if self._marks else 0

    def dump(self) -> tuple[int, int, list[tuple[int, int]]]:
        return self.count, self._every, self._marks


class Watch:
    """Learns what is normal, from `learn` or from the first requests observed, and then weighs every request."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.reference: Reference | None = None
        self.before: list[Kept] = []  # of the reference
        self.recent: deque[Kept] = deque(maxlen=KEPT)
        self.seen = 0  # requests that were judged
        self._first: list[Sample] = []
        self._detectors: dict[str, Detector] = {}
        self._times: dict[str, Times] = {}

    @property
    def learning(self) -> int:
        """How many more requests it needs before it judges; 0 when it does."""
        return 0 if self.reference else max(self.config.reference - len(self._first), 1)

    @property
    def features(self) -> dict[str, float]:
        """The evidence of each, the strongest first."""
        found = {name: detector.evidence for name, detector in self._detectors.items()}
        return dict(sorted(found.items(), key=lambda item: -item[1]))

    @property
    def evidence(self) -> float:
        """Of a change: by chance it reaches N after N requests at the soonest, on average."""
        evidence = [d.evidence for d in self._detectors.values()]
        return float(self._weights() @ evidence) if evidence else 0.0

    @property
    def alarmed(self) -> bool:
        return self.evidence >= self.config.run_length

    def since(self) -> tuple[int, int]:
        """Of the feature with the most evidence: when its change began (Unix ms), and how many values it had since."""
        name = next(iter(self.features), "")
        if not name:
            return 0, 0
        back, times = self._detectors[name].since, self._times[name]
        return times.of(max(times.count - back, 0)), back

    def learn(self, samples: Sequence[Sample]) -> None:
        """From requests, or training rows, that are as they should be. At most once; two samples at least."""
        assert self.reference is None and len(samples) > 1
        order = np.random.default_rng(0).permutation(len(samples))[:LEARNED]
        half = len(order) // 2
        self.reference = Reference.fit([samples[i] for i in order[:half]])
        rest = [samples[i] for i in order[half:]]
        for start in range(0, len(rest), BATCH):
            batch = rest[start : start + BATCH]
            features, kept = self._measure(batch)
            self.before += kept[: KEPT - len(self.before)]
            for name, values in features.items():
                if detector := self._detector(name):
                    detector.learn(values, self._seasons(batch))

    def observe(self, samples: Sequence[Sample]) -> F64:
        """The evidence after each of these requests."""
        taken = 0
        if self.reference is None:
            taken = min(len(samples), self.learning)
            self._first += samples[:taken]
            if len(self._first) >= max(self.config.reference, 2):
                first, self._first = self._first, []
                self.learn(first)
        batches = [samples[i : i + BATCH] for i in range(taken, len(samples), BATCH)]
        return np.concatenate([np.zeros(taken), *(self._judge(batch) for batch in batches)])

    def _judge(self, batch: Sequence[Sample]) -> F64:
        features, kept = self._measure(batch)
        seasons = self._seasons(batch)
        for name, values in features.items():
            if self._detector(name) is None:
                continue
            add = self._times[name].add
            for i in np.flatnonzero(~np.isnan(values)).tolist():
                add(batch[i].at_ms)
        nothing = np.full(len(batch), np.nan)
        paths = [d.observe(features.get(name, nothing), seasons) for name, d in self._detectors.items()]
        self.recent.extend(kept)
        self.seen += len(batch)
        return np.asarray(self._weights() @ np.array(paths)) if paths else np.zeros(len(batch))

    def _weights(self) -> F64:
        """Of each feature; what tells of a new kind of request has the most."""
        assert self.reference
        heavy = {name + which for name in self.reference.texts for which in ("", RARITY)}
        found = np.array([HEAVY if name in heavy else 1.0 for name in self._detectors])
        return np.asarray(found / found.sum())

    def _measure(self, batch: Sequence[Sample]) -> tuple[dict[str, F64], list[Kept]]:
        assert self.reference
        vectors = self.reference.embed(batch)
        features = self.reference.measure(batch, vectors)
        columns = {name: found.tolist() for name, found in features.items()}
        small = {name: found.directions.astype(np.float16) for name, found in vectors.items()}
        kept = []
        for i, s in enumerate(batch):
            values = {name: column[i] for name, column in columns.items() if column[i] == column[i]}  # no NaN
            own = {name: found[i] for name, found in small.items() if name in s.texts}
            kept.append(Kept(s.id, s.at_ms, values, own, {name: text[:KEPT] for name, text in s.texts.items()}))
        return features, kept

    def _detector(self, name: str) -> Detector | None:
        """Made when the feature is first seen; None when there are too many."""
        if name not in self._detectors and len(self._detectors) < FEATURES:
            options = {"seasons": SEASONS[self.config.seasons], **self.config.options}
            self._detectors[name] = plugins.load("detector", self.config.detector)(options)
            self._times[name] = Times()
        return self._detectors.get(name)

    def _seasons(self, batch: Sequence[Sample]) -> npt.NDArray[np.int64]:
        kinds = SEASONS[self.config.seasons]
        return np.array([s.at_ms // HOUR_MS % kinds if s.at_ms or kinds == 1 else -1 for s in batch], np.int64)

    def dump(self) -> bytes:
        """All but the reference, to be kept often."""
        return msgspec.msgpack.encode(
            {
                "config": self._code(),
                "seen": self.seen,
                "first": [s._asdict() for s in self._first] if self.config.texts else [],
                "detectors": {name: d.dump() for name, d in self._detectors.items()},
                "times": {name: t.dump() for name, t in self._times.items()},
                "recent": [self._packed(k) for k in self.recent],
            }
        )

    def dump_reference(self) -> bytes:
        """What is fixed once it was learned; empty before."""
        if self.reference is None:
            return b""
        kept = [self._packed(k) for k in self.before]
        return msgspec.msgpack.encode({"config": self._code(), "before": kept, **self.reference.dump()})

    @classmethod
    def restore(cls, config: Config, reference: bytes, state: bytes) -> Self:
        """It goes on to the same numbers. Errors: `invalid` when they were dumped under another config, or are not
        what was dumped."""
        self = cls(config)
        try:
            told = msgspec.msgpack.decode(state)
            normal = msgspec.msgpack.decode(reference) if reference else {"config": told["config"]}
            if not told["config"] == normal["config"] == self._code():
                raise Error("invalid", "the state of drift detection is of another config", "begin to learn anew")
            self._first = [Sample(**s) for s in told["first"]]
            self.seen = told["seen"]
            if reference:
                self.reference = Reference.restore(normal)
                self.before = [_unpacked(k) for k in normal["before"]]
            for name, dumped in told["detectors"].items():
                detector = self._detector(name)
                assert detector
                detector.restore(dumped)
                self._times[name] = Times(*told["times"][name])
            self.recent.extend(_unpacked(k) for k in told["recent"])
        except (msgspec.DecodeError, KeyError, TypeError, ValueError, AttributeError, zlib.error) as error:
            raise Error("invalid", f"the state of drift detection cannot be read: {error}", "learn anew") from error
        return self

    def _code(self) -> list[Any]:
        config = self.config
        return [VERSION, config.seasons, config.detector, plugins.version("detector", config.detector), config.options]

    def _packed(self, kept: Kept) -> list[Any]:
        vectors = {name: vector.tobytes() for name, vector in kept.vectors.items()}
        return [kept.id, kept.at_ms, kept.values, vectors, kept.texts if self.config.texts else {}]


def _unpacked(packed: Sequence[Any]) -> Kept:
    id, at_ms, values, vectors, texts = packed
    return Kept(id, at_ms, values, {n: np.frombuffer(v, np.float16) for n, v in vectors.items()}, texts)
