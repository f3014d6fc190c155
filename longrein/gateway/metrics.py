"""What the gateway counts, shown in Prometheus' text format; names and texts are those of longrein.ops.monitor."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

from longrein.core.histogram import Histogram as Exponential
from longrein.core.histogram import middle
from longrein.core.ledger.alerts import Alert
from longrein.core.ledger.traffic import MOST_NAMES, MOST_TEAMS, OTHER, Block
from longrein.ops.monitor.catalogue import (
    ENGINE,
    GATEWAY,
    MACHINE,
    PER_RELEASE,
    TRAFFIC,
    Gauge,
    Metric,
    gauge_name,
    grows,
)

Labels = tuple[str, ...]


class Counter:
    """A number for each combination of label values; a gauge when it may fall."""

    def __init__(self, name: str, help: str, labels: Labels = (), kind: str = "counter") -> None:
        self.name, self.help, self.labels, self.kind = name, help, labels, kind
        self.values: dict[Labels, float] = {}

    @classmethod
    def known(cls, name: str) -> "Counter":
        """One of the catalogue."""
        kind, help, labels = GATEWAY[name]
        return cls(name, help, labels, kind)

    def add(self, values: Labels, amount: Any = 1) -> None:
        self.values[values] = self.values.get(values, 0) + amount

    def rows(self) -> list[Any]:
        return list(self.values.items())

    def add_rows(self, rows: Iterable[Any]) -> None:
        for values, number in rows:
            self.add(tuple(values), number)

    def render(self) -> Iterable[str]:
        for values, number in self.values.items():
            yield f"{self.name}{_labels(self.labels, values)} {_number(number)}"


class Histogram:
    """Exponential histograms folded into buckets of powers of two, which is exact but for those that a bound cuts: what
    lies within 1.1 % of it may count on its other side. kind: "summary" leaves the buckets out."""

    def __init__(self, metric: Metric) -> None:
        self.name, self.help, self.labels, self.kind = metric.name, metric.help, metric.labels, metric.kind
        self.scale, self.lowest = metric.scale, metric.octaves[0]
        self.bounds = [2.0**e for e in range(metric.octaves[0], metric.octaves[1] + 1)]
        self.counts: dict[Labels, list[int]] = {}
        self.sums: dict[Labels, float] = {}

    def add(self, values: Labels, seen: Any) -> None:
        found: Exponential = seen
        counts = self.counts.setdefault(values, [0] * (len(self.bounds) + 1))
        for key, count in found.counts.items():
            mantissa, exponent = math.frexp(max(middle(key) * self.scale, self.bounds[0]))
            exponent -= mantissa == 0.5  # a power of two belongs to the bucket it bounds
            counts[min(max(exponent - self.lowest, 0), len(self.bounds))] += count
        self.sums[values] = self.sums.get(values, 0.0) + found.sum * self.scale

    def rows(self) -> list[Any]:
        return [(values, list(counts), self.sums[values]) for values, counts in list(self.counts.items())]

    def add_rows(self, rows: Iterable[Any]) -> None:
        for values, counts, sum_ in rows:
            values = tuple(values)
            mine = self.counts.setdefault(values, [0] * (len(self.bounds) + 1))
            self.counts[values] = [a + b for a, b in zip(mine, counts, strict=True)]
            self.sums[values] = self.sums.get(values, 0.0) + sum_

    def render(self) -> Iterable[str]:
        for values, counts in self.counts.items():
            if self.kind == "histogram":
                total = 0
                for bound, count in zip([*map(_number, self.bounds), "+Inf"], counts, strict=True):
                    total += count
                    yield f"{self.name}_bucket{_labels((*self.labels, 'le'), (*values, bound))} {total}"
            yield f"{self.name}_sum{_labels(self.labels, values)} {_number(self.sums[values])}"
            yield f"{self.name}_count{_labels(self.labels, values)} {sum(counts)}"


class Served:
    """What blocks of traffic add up to since the process began, by the metrics of the catalogue."""

    def __init__(self) -> None:
        self.parts = [
            Counter(m.family, m.help, m.labels) if m.kind == "counter" else Histogram(m) for m in TRAFFIC
        ]  # fmt: skip
        self._teams: set[str] = set()
        self._names: set[str] = set()

    def count(self, block: Block) -> None:
        if block.arm:  # copies, and failures that another release made good: no client saw them
            return
        team = _bounded(block.team, self._teams, MOST_TEAMS)
        where = {"endpoint": block.endpoint, "release": block.release[:12], "team": team}
        for metric, part in zip(TRAFFIC, self.parts, strict=True):
            values = tuple(where[label] for label in metric.labels if label in where)
            for own, seen in metric.of(block):
                if metric.kind == "summary":
                    own = (_bounded(own[0], self._names, MOST_NAMES),)
                if not isinstance(seen, (int, float)) or seen:
                    part.add((*values, *own), seen)


class Metrics:
    """All that one gateway process counts."""

    def __init__(self) -> None:
        self.refused = Counter.known("longrein_refused_total")
        self.feedback = Counter.known("longrein_feedback_total")
        self.restarts = Counter.known("longrein_engine_restarts_total")
        self.inflight = Counter.known("longrein_inflight")
        self.lost = Counter.known("longrein_log_dropped_total")
        self.dropped: Callable[[], int] = int  # what the recorder says of that
        self.look: Callable[[], Mapping[Labels, float]] = dict  # what is under way now
        self.served: Callable[[], Served] = Served  # what was answered so far
        self.others: Callable[[], Iterable[State]] = tuple  # what the other processes on this port have counted

    def render(self, gauges: "Iterable[Counter | Histogram]" = (), openmetrics: bool = False) -> str:
        """What this process and the others have counted, and gauges that are the same for all; in Prometheus' own text
        format, or as OpenMetrics, which names the families of counters without "_total"."""
        whole = Metrics()
        parts = [*whole.counters(Served()), whole.inflight]
        for state in (self.state(), *self.others()):
            rows = {**state["counters"], **state["gauges"]}
            for part in parts:
                part.add_rows(rows.get(part.name, ()))
        lines = (line for part in [*parts, *gauges] for line in [*_head(part, openmetrics), *part.render()])
        return "\n".join([*lines, *(["# EOF"] if openmetrics else [])]) + "\n"

    def state(self) -> "State":
        """As plain JSON, for another process to add."""
        self.inflight.values = dict(self.look())
        self.lost.values = {(): self.dropped()}
        counted = {part.name: part.rows() for part in self.counters(self.served())}
        return {"gauges": {self.inflight.name: self.inflight.rows()}, "counters": counted}

    def counters(self, served: Served) -> "list[Counter | Histogram]":
        return [*served.parts, self.refused, self.restarts, self.feedback, self.lost]


State = Mapping[str, Mapping[str, Any]]


def limit_gauges(used: Mapping[tuple[str, str], tuple[float, float]]) -> list[Counter]:
    """{(subject, limit): (used, at most)} as metrics."""
    found = [Counter.known("longrein_limit_used"), Counter.known("longrein_limit_most")]
    for gauge, values in zip(found, zip(*used.values(), strict=True), strict=False):
        gauge.values = dict(zip(used, values, strict=True))
    return found if used else []


def watch_gauges(alerts: Iterable[Alert], drift: Iterable[Mapping[str, Any]]) -> list[Counter]:
    """What observers say: alerts that fire, and rows of the ledger's drift. Evidence of several hosts adds up."""
    firing = Counter.known("longrein_alerts_firing")
    for alert in alerts:
        firing.add((alert.kind, alert.subject, alert.severity))
    evidence, needed = Counter.known("longrein_drift_evidence"), Counter.known("longrein_drift_needed")
    streams: dict[tuple[str, str, str], float] = {}
    for row in drift:
        for stream in row["state"]["streams"]:
            of = (row["endpoint"], stream["group"], stream["key"])
            streams[of] = streams.get(of, 0.0) + stream["evidence"]
            needed.values[of[:2]] = stream["needed"]
    for of, amount in streams.items():
        evidence.values[of[:2]] = max(amount, evidence.values.get(of[:2], 0.0))
    return [firing, evidence, needed]


def engine_gauges(stats: Mapping[Labels, Mapping[str, Any]]) -> "list[Counter | Histogram]":
    """The numbers in {(endpoint, release): engine stats} as metrics; those that end in _total only grow."""
    batch = ENGINE["batch"]
    about = Metric(gauge_name("batch", "engine"), batch.kind, batch.unit, batch.help, PER_RELEASE, _none, 1.0, (0, 12))
    sizes = Histogram(about)
    for values, numbers in stats.items():
        if told := numbers.get("batch_sizes"):
            seen = Exponential()
            for size, steps in told.items():
                seen.record(float(size), steps)
            sizes.add(values, seen)
    found = _gauges(stats, "engine", ENGINE, PER_RELEASE)
    return [*found, sizes] if sizes.counts else found


def machine_gauges(host: str, numbers: Mapping[str, float]) -> "list[Counter | Histogram]":
    return _gauges({(host,): numbers}, "machine", MACHINE, ("host",))


def _gauges(
    stats: Mapping[Labels, Mapping[str, Any]], of: Literal["engine", "machine"], known: Mapping[str, Gauge],
    labels: Labels,
) -> "list[Counter | Histogram]":  # fmt: skip
    found: dict[str, Counter] = {}
    for values, numbers in stats.items():
        for key, number in numbers.items():
            if isinstance(number, (int, float)) and key.isascii() and key.isidentifier():
                kind = "counter" if grows(key) else "gauge"
                text = known[key].help if key in known else "See the statistics of the engine port."
                counter = found.setdefault(key, Counter(gauge_name(key, of), text, labels, kind))
                counter.values[values] = number
    return list(found.values())


def _none(block: Block) -> Iterable[Any]:
    return ()


def _bounded(value: str, known: set[str], most: int) -> str:
    """Itself, while there are few: a label with values without end would fill this memory, and Prometheus'."""
    if value in known or not value:
        return value
    if len(known) >= most:
        return OTHER
    known.add(value)
    return value


def _head(part: Counter | Histogram, openmetrics: bool) -> list[str]:
    name = part.name.removesuffix("_total") if openmetrics and part.kind == "counter" else part.name
    return [f"# HELP {name} {part.help}", f"# TYPE {name} {part.kind}"]


def _labels(names: Labels, values: Labels) -> str:
    """A label that is empty is as good as none."""
    pairs = [f'{n}="{_escape(v)}"' for n, v in zip(names, values, strict=True) if v]
    return "{" + ",".join(pairs) + "}" if pairs else ""


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    if value != value or value in (math.inf, -math.inf):
        return "NaN" if value != value else "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) else repr(float(value))
