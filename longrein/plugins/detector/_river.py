"""Detectors of river (https://riverml.xyz) behind the port: they say that there was a change, and promise no rate."""

import math
import pickle
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from river.base import DriftDetector

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
LARGEST = 1e100  # whose square is still a number
FAR = 10.0  # standard deviations: what lies beyond counts as that


class River:
    """One of them, on values in standard deviations from the mean of what was learned. Seasons are not told apart."""

    def __init__(self, detector: DriftDetector) -> None:
        self.evidence = 0.0
        self._detector = detector
        self._moments = [0.0, 0.0, 0.0]  # count, mean, sum of squares (Welford, 1962)
        self._seen = self._since = 0

    @property
    def since(self) -> int:
        return self._seen - self._since

    def learn(self, values: F64, seasons: I64) -> None:
        for value in np.clip(values[np.isfinite(values)], -LARGEST, LARGEST).tolist():
            self._moments[0] += 1
            step = value - self._moments[1]
            self._moments[1] += step / self._moments[0]
            self._moments[2] += step * (value - self._moments[1])
        for value in values[~np.isnan(values)].tolist():
            self._update(value)  # a detector that notices something begins anew

    def observe(self, values: F64, seasons: I64) -> F64:
        evidence = np.empty(len(values))
        for i, value in enumerate(values.tolist()):
            if not math.isnan(value):
                self._seen += 1
                if self._update(value) and not self.evidence:
                    self.evidence, self._since = math.inf, self._seen - 1
            evidence[i] = self.evidence
        return evidence

    def dump(self) -> dict[str, Any]:
        """The detector pickled: it is read from the project's own folder only."""
        numbers = {"moments": self._moments, "evidence": self.evidence, "seen": self._seen, "since": self._since}
        return {"detector": pickle.dumps(self._detector), **numbers}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._detector = pickle.loads(state["detector"])
        self._moments, self.evidence = state["moments"], state["evidence"]
        self._seen, self._since = state["seen"], state["since"]

    def _update(self, value: float) -> bool:
        count, mean, squares = self._moments
        deviation = math.sqrt(squares / count) if count and squares else 1.0
        self._detector.update(min(max((value - mean) / deviation, -FAR), FAR))
        return bool(self._detector.drift_detected)
