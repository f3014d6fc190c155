"""The default detector: a conformal test martingale in a Shiryaev-Roberts sum, valid without any tuning.

The rank of each value among all those before it is a p-value, uniform and independent as long as values are
exchangeable, whatever their distribution. Bets against uniformity multiply wealth; their fair odds make the
Shiryaev-Roberts sum grow by no more than one a value on average, so that the expected number of values until it
reaches N is at least N while nothing changes. Source: Vovk, Nouretdinov, Gammerman, "Conformal testing in a binary
model situation" and "Retrain or not retrain: conformal test martingales for change-point detection" (2021).

With seasons a value is ranked among those of its own season, the same hour of the day or the week: then it is enough
that those are exchangeable, and a season that has seen little says little, never something wrong.
"""

import zlib
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

from longrein.plugins._compiled import F64, I64
from longrein.plugins.detector._conformal.compiled import observe

VERSION = 1
SLOPES = (0.25, -0.25, 0.5, -0.5, 0.75, -0.75, 1.0, -1.0)  # bets 1 + s (1 - 2p)
POWERS = (0.1, 0.3, 0.5, 0.7, 0.9)  # bets e p^(e-1), on small p and on large
DECAYS = (1 - 1 / 50, 1 - 1 / 500)  # bets on the density of p as seen lately
CELLS = 16
LARGEST = 1e300  # values beyond count as this
ENOUGH = 100  # values from which the bins are cut when nothing was learned before


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    seasons: int = 1
    bins: int = 512
    seed: int = 0


class Conformal:
    def __init__(self, options: Mapping[str, Any]) -> None:
        self.config = config = msgspec.convert(dict(options), Config)
        self.evidence = 0.0
        self._edges: F64 | None = None
        self._first: list[tuple[float, int]] = []
        self._counts: I64 = np.zeros((config.seasons, 0), np.int64)
        self._learned = np.ones((len(DECAYS), CELLS))
        bets = len(SLOPES) + 2 * len(POWERS) + len(DECAYS)
        self._sums, self._peaks = np.zeros(bets), np.ones(bets)
        self._starts = np.zeros(bets, np.int64)
        self._random = np.array([config.seed], np.uint64)
        self._seen = 0

    @property
    def since(self) -> int:
        return self._seen - int(self._starts[np.argmax(self._sums)])

    def learn(self, values: F64, seasons: I64) -> None:
        """The bins are cut at quantiles of the first values learned."""
        known = ~np.isnan(values)
        values, seasons = values[known], seasons[known]
        if self._edges is None:
            if not len(values):
                return
            self._cut(values)
        told = seasons >= 0
        np.add.at(self._counts, (seasons[told], self._bins(values[told])), 1)

    def observe(self, values: F64, seasons: I64) -> F64:
        evidence = np.full(len(values), self.evidence)
        done = 0
        if self._edges is None:
            done = self._gather(values, seasons)
        if done < len(values):
            self._seen = observe(
                self._bins(values[done:]), seasons[done:], self._counts,
                np.array(SLOPES), np.array(POWERS), self._learned, np.array(DECAYS),
                self._sums, self._peaks, self._starts, self._random, self._seen, evidence[done:],
            )  # fmt: skip
            self.evidence = float(evidence[-1])
        return evidence

    def dump(self) -> dict[str, Any]:
        arrays = (self._learned, self._sums, self._peaks, self._starts, self._random)
        return {
            "edges": None if self._edges is None else self._edges.tobytes(),
            "counts": zlib.compress(self._counts.tobytes(), 1),
            "arrays": [a.tobytes() for a in arrays],
            "first": self._first,
            "seen": self._seen,
            "evidence": self.evidence,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        if state["edges"] is not None:
            self._edges = np.frombuffer(state["edges"]).copy()
        counts = np.frombuffer(zlib.decompress(state["counts"]), np.int64)
        self._counts = counts.reshape(self.config.seasons, -1).copy()
        arrays = (self._learned, self._sums, self._peaks, self._starts, self._random)
        for array, saved in zip(arrays, state["arrays"], strict=True):
            array[...] = np.frombuffer(saved, array.dtype).reshape(array.shape)
        self._first = [(float(v), int(s)) for v, s in state["first"]]
        self._seen, self.evidence = state["seen"], state["evidence"]

    def _gather(self, values: F64, seasons: I64) -> int:
        """Keep first values until there are enough to learn from; how many of these were taken."""
        done = 0
        while done < len(values) and len(self._first) < ENOUGH:
            if not np.isnan(values[done]):
                self._first.append((float(values[done]), int(seasons[done])))
            done += 1
        if len(self._first) == ENOUGH:
            first, self._first = self._first, []
            self.learn(np.array([v for v, _ in first]), np.array([s for _, s in first]))
        return done

    def _cut(self, values: F64) -> None:
        """Bins hold about as many values each, and some lie beyond them all."""
        bins = self.config.bins
        values = np.clip(values, -LARGEST, LARGEST)
        edges = np.quantile(values, np.linspace(0, 1, bins * 7 // 8), method="inverted_cdf")
        low, high = values.min(), values.max()
        wide = np.linspace(2 * low - high, 2 * high - low, bins // 8) if low < high else [np.nextafter(low, -np.inf)]
        self._edges = np.unique(np.concatenate([edges, wide]))
        self._counts = np.zeros((self.config.seasons, len(self._edges) + 1), np.int64)

    def _bins(self, values: F64) -> I64:
        assert self._edges is not None
        return np.where(np.isnan(values), -1, np.searchsorted(self._edges, values, "left")).astype(np.int64)


plugin = Conformal
