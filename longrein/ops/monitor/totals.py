"""What was answered since a time, in sums and histograms that only grow: cumulative, as OpenTelemetry calls it."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from longrein.core.histogram import Histogram
from longrein.core.ports import Point
from longrein.core.record import Record

SERIES = 10_000  # more than these are of no use to anybody: then all begins anew
LABELS = ("endpoint", "release", "arm", "operation", "error", "what")


class Key(NamedTuple):
    """One series. Labels that are "" are left out."""

    name: str
    endpoint: str
    release: str
    arm: str
    operation: str
    error: str = ""
    what: str = ""


class Totals:
    """start_ms: since when it counts."""

    def __init__(self, start_ms: int) -> None:
        self.start_ms = start_ms
        self.sums: dict[Key, float] = {}
        self.histograms: dict[Key, Histogram] = {}

    def add(self, r: Record) -> None:
        """One request that has ended. Its times are in seconds here."""
        if len(self.sums) + len(self.histograms) > SERIES:
            self.start_ms, self.sums, self.histograms = r.ts_ms, {}, {}
        of = (r.endpoint, r.release[:12], r.arm, r.operation)
        self._record(Key("duration_s", *of, error=r.failure), r.total_ms / 1000)
        if r.queue_ms is not None:
            self._record(Key("queue_s", *of), r.queue_ms / 1000)
        if r.status == 200 and r.ttft_ms is not None:
            self._record(Key("first_token_s", *of), r.ttft_ms / 1000)
            if r.completion_tokens > 1:
                self._record(Key("token_s", *of), (r.total_ms - r.ttft_ms) / 1000 / (r.completion_tokens - 1))
        if r.prompt_tokens or r.completion_tokens:
            self._record(Key("tokens", *of, what="input"), r.prompt_tokens)
            self._record(Key("tokens", *of, what="output"), r.completion_tokens)
        if r.cost_usd:
            self._sum(Key("cost_usd", *of), r.cost_usd)
        if r.cached:
            self._sum(Key("cached", *of), 1)
        for guard in r.guards:
            self._sum(Key("guarded", *of, what=guard), 1)

    def drop(self, why: str, count: int) -> None:
        """Traces that will not be sent."""
        if count:
            self._sum(Key("dropped", "", "", "", "", what=why), count)

    def points(self) -> list[Point]:
        """All of it, by name."""
        both: list[tuple[Key, float | Histogram]] = [*self.sums.items(), *self.histograms.items()]
        return [Point(key.name, _labels(key), value) for key, value in sorted(both, key=lambda pair: pair[0])]

    def as_json(self) -> dict[str, Any]:
        return {
            "start_ms": self.start_ms, "sums": [[*key, value] for key, value in self.sums.items()],
            "histograms": [[*key, value.as_json()] for key, value in self.histograms.items()],
        }  # fmt: skip

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Totals":
        self = cls(value["start_ms"])
        self.sums = {Key(*key): float(number) for *key, number in value["sums"]}
        self.histograms = {Key(*key): Histogram.from_json(one) for *key, one in value["histograms"]}
        return self

    def _record(self, key: Key, value: float) -> None:
        (self.histograms.get(key) or self.histograms.setdefault(key, Histogram())).record(value)

    def _sum(self, key: Key, value: float) -> None:
        self.sums[key] = self.sums.get(key, 0.0) + value


def _labels(key: Key) -> dict[str, str]:
    return {name: value for name in LABELS if (value := getattr(key, name))}
