"""Mergeable histograms of any numbers: OpenTelemetry's base-2 exponential buckets at one fixed scale."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

SCALE = 5  # 32 buckets between a number and its double: no quantile is off by more than 1.1 %
PER_OCTAVE = 1 << SCALE
OCTAVES = 40  # from 2**-40 to 2**40, below and above zero; what lies outside counts in the outermost buckets
EDGE = OCTAVES * PER_OCTAVE
LARGEST = 2.0**OCTAVES
_log2, _ceil = math.log2, math.ceil


class Histogram:
    """Counts by bucket. Two of them merge exactly, so workers and blocks of time may each keep their own.

    A bucket's key grows with its values: 0 holds zero, k > 0 the values in (2**((k-1-EDGE)/32), 2**((k-EDGE)/32)],
    -k their negatives. The index of https://opentelemetry.io/docs/specs/otel/metrics/data-model/#exponentialhistogram
    is k - 1 - EDGE, always at scale 5: 2 · 2,560 + 1 keys at most, whatever is recorded.
    """

    __slots__ = ("counts", "sum")

    def __init__(self, values: Iterable[float] = ()) -> None:
        self.counts: dict[int, int] = {}
        self.sum = 0.0
        for value in values:
            self.record(value)

    def record(self, value: float, times: int = 1) -> None:
        """NaN counts nowhere; infinities and what else is too large count in the outermost bucket."""
        if 0.0 < value <= LARGEST:
            key = _ceil(_log2(value) * PER_OCTAVE) + EDGE
            if key < 1:
                key = 1
        elif value == 0.0:
            key = 0
        elif value > 0.0:
            key, value = 2 * EDGE, LARGEST
        elif value < 0.0:
            value = max(value, -LARGEST)
            key = -max(_ceil(_log2(-value) * PER_OCTAVE) + EDGE, 1)
        else:
            return
        counts = self.counts
        counts[key] = counts.get(key, 0) + times
        self.sum += value * times

    def merge(self, other: "Histogram") -> None:
        counts = self.counts
        for key, count in other.counts.items():
            counts[key] = counts.get(key, 0) + count
        self.sum += other.sum

    @property
    def count(self) -> int:
        return sum(self.counts.values())

    @property
    def mean(self) -> float:
        """NaN when empty."""
        count = self.count
        return self.sum / count if count else math.nan

    def quantile(self, q: float) -> float:
        """The value that a share q of all lies at or below, within 1.1 % of it; NaN when empty."""
        rank = max(1, _ceil(q * self.count))
        for key in sorted(self.counts):
            rank -= self.counts[key]
            if rank <= 0:
                return middle(key)
        return math.nan

    def below(self, limit: float) -> int:
        """How many lie at or below a limit; those in the limit's own bucket count as below."""
        of = Histogram([limit])
        key = next(iter(of.counts), None)
        return 0 if key is None else sum(n for k, n in self.counts.items() if k <= key)

    def as_json(self) -> dict[str, Any]:
        """Plain JSON: {"sum": number, "counts": {"key": count}}."""
        return {"sum": self.sum, "counts": {str(key): self.counts[key] for key in sorted(self.counts)}}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Histogram":
        self = cls()
        self.counts = {int(key): int(count) for key, count in value["counts"].items()}
        self.sum = float(value["sum"])
        return self

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Histogram) and self.counts == other.counts and math.isclose(self.sum, other.sum)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Histogram(count={self.count}, mean={self.mean:g}, median={self.quantile(0.5):g})"


def bounds(key: int) -> tuple[float, float]:
    """The values of a bucket: above the first, up to and with the second (mirrored below zero)."""
    if key == 0:
        return 0.0, 0.0
    low, high = (2.0 ** ((abs(key) - back - EDGE) / PER_OCTAVE) for back in (1, 0))
    return (low, high) if key > 0 else (-high, -low)


def middle(key: int) -> float:
    """What stands for a bucket's values: the geometric mean of its bounds."""
    low, high = bounds(key)
    return math.copysign(math.sqrt(low * high), key) if key else 0.0
