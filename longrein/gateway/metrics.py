"""Counters and histograms of the gateway in plain dictionaries, shown in Prometheus' text format."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

LOWEST, HIGHEST = -10, 9  # histogram buckets: powers of two from 1 ms to 512 s
BOUNDS = [2.0**e for e in range(LOWEST, HIGHEST + 1)]
Labels = tuple[str, ...]


class Counter:
    """A number for each combination of label values; a gauge when it may fall."""

    def __init__(self, name: str, help: str, labels: Labels = (), kind: str = "counter") -> None:
        self.name, self.help, self.labels, self.kind = name, help, labels, kind
        self.values: dict[Labels, float] = {}

    def add(self, values: Labels, amount: float = 1) -> None:
        self.values[values] = self.values.get(values, 0) + amount

    def rows(self) -> list[Any]:
        return list(self.values.items())

    def add_rows(self, rows: Iterable[Any]) -> None:
        for values, number in rows:
            self.add(tuple(values), number)

    def render(self) -> Iterable[str]:
        yield from _head(self.name, self.help, self.kind)
        for values, number in self.values.items():
            yield f"{self.name}{_labels(self.labels, values)} {_number(number)}"


class Histogram:
    """Durations in seconds, counted in buckets of powers of two."""

    def __init__(self, name: str, help: str, labels: Labels = ()) -> None:
        self.name, self.help, self.labels = name, help, labels
        self.counts: dict[Labels, list[int]] = {}
        self.sums: dict[Labels, float] = {}

    def observe(self, values: Labels, seconds: float) -> None:
        counts = self.counts.get(values)
        if counts is None:
            counts = self.counts[values] = [0] * (len(BOUNDS) + 1)
            self.sums[values] = 0.0
        mantissa, exponent = math.frexp(max(seconds, BOUNDS[0]))
        exponent -= mantissa == 0.5  # a power of two belongs to the bucket it bounds
        counts[min(max(exponent - LOWEST, 0), len(BOUNDS))] += 1
        self.sums[values] += seconds

    def rows(self) -> list[Any]:
        return [(values, list(counts), self.sums[values]) for values, counts in list(self.counts.items())]

    def add_rows(self, rows: Iterable[Any]) -> None:
        for values, counts, sum_ in rows:
            values = tuple(values)
            mine = self.counts.setdefault(values, [0] * (len(BOUNDS) + 1))
            self.counts[values] = [a + b for a, b in zip(mine, counts, strict=True)]
            self.sums[values] = self.sums.get(values, 0.0) + sum_

    def render(self) -> Iterable[str]:
        yield from _head(self.name, self.help, "histogram")
        for values, counts in self.counts.items():
            total = 0
            for bound, count in zip([*map(_number, BOUNDS), "+Inf"], counts, strict=True):
                total += count
                yield f"{self.name}_bucket{_labels((*self.labels, 'le'), (*values, bound))} {total}"
            yield f"{self.name}_sum{_labels(self.labels, values)} {_number(self.sums[values])}"
            yield f"{self.name}_count{_labels(self.labels, values)} {total}"


class Metrics:
    """What the gateway counts."""

    def __init__(self) -> None:
        per_release = ("endpoint", "release")
        self.requests = Counter(
            "longrein_requests_total", "Requests for answers, by HTTP status.", (*per_release, "status")
        )
        self.tokens = Counter("longrein_tokens_total", "Tokens read and written.", (*per_release, "direction"))
        self.latency = Histogram("longrein_request_seconds", "From the request's arrival to its end.", per_release)
        self.first = Histogram("longrein_first_token_seconds", "From arrival to the first token.", per_release)
        self.refused = Counter("longrein_refused_total", "Requests without the right API key.", ("status",))
        self.feedback = Counter("longrein_feedback_total", "Values of feedback that came.", ("endpoint", "outcome"))
        self.restarts = Counter("longrein_engine_restarts_total", "Engines that ended unexpectedly.", ("endpoint",))

        self.inflight = Counter("longrein_inflight", "Answers under way.", per_release, "gauge")
        self.lost = Counter("longrein_log_dropped_total", "Records lost, the disk being slow or full.")
        self.dropped: Callable[[], int] = int  # what the recorder says of that
        self.look: Callable[[], Mapping[Labels, float]] = dict  # what is under way now
        self.others: Callable[[], Iterable[State]] = tuple  # what the other processes on this port have counted

    def parts(self) -> "list[Counter | Histogram]":
        return [
            self.requests, self.tokens, self.latency, self.first, self.refused, self.restarts, self.feedback,
            self.lost, self.inflight,
        ]  # fmt: skip

    def render(self, gauges: Iterable[Counter] = ()) -> str:
        """What this process and the others have counted, and gauges that are the same for all."""
        whole = Metrics()
        for state in (self.state(), *self.others()):
            whole.add(state)
        parts = [*whole.parts(), *gauges]
        return "\n".join(line for part in parts for line in part.render()) + "\n"

    def state(self) -> "State":
        """As plain JSON, for another process to `add`."""
        self.inflight.values = dict(self.look())
        self.lost.values = {(): self.dropped()}
        rows = {part.name: part.rows() for part in self.parts()}
        return {"gauges": {self.inflight.name: rows.pop(self.inflight.name)}, "counters": rows}

    def add(self, state: "State") -> None:
        rows = {**state["counters"], **state["gauges"]}
        for part in self.parts():
            part.add_rows(rows.get(part.name, ()))


State = Mapping[str, Mapping[str, Any]]


def limit_gauges(used: Mapping[tuple[str, str], tuple[float, float]]) -> list[Counter]:
    """{(subject, limit): (used, at most)} as metrics."""
    names = ("subject", "limit")
    found = [Counter("longrein_limit_used", "Used and reserved in the window that is open.", names, "gauge"),
             Counter("longrein_limit_most", "What the limit allows in a window.", names, "gauge")]  # fmt: skip
    for gauge, values in zip(found, zip(*used.values(), strict=True), strict=False):
        gauge.values = dict(zip(used, values, strict=True))
    return found if used else []


def engine_gauges(stats: Mapping[Labels, Mapping[str, Any]]) -> list[Counter]:
    """The numbers in {(endpoint, release): engine stats} as metrics; those that end in _total only grow."""
    found: dict[str, Counter] = {}
    for values, numbers in stats.items():
        for key, number in numbers.items():
            if isinstance(number, (int, float)):
                kind = "counter" if key.endswith("_total") else "gauge"
                name, text = f"longrein_engine_{key}", "See the statistics of the engine port."
                found.setdefault(key, Counter(name, text, ("endpoint", "release"), kind)).values[values] = number
    return list(found.values())


def _head(name: str, help: str, kind: str) -> list[str]:
    return [f"# HELP {name} {help}", f"# TYPE {name} {kind}"]


def _labels(names: Labels, values: Labels) -> str:
    if not names:
        return ""
    pairs = (f'{n}="{_escape(v)}"' for n, v in zip(names, values, strict=True))
    return "{" + ",".join(pairs) + "}"


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(float(value))
