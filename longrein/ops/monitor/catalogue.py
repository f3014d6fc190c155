"""What is measured: every metric once, with its name, its unit and where it comes from. /metrics, tables, `top`,
dashboards and exports take it from here."""

from collections.abc import Callable, Iterable, Mapping
from typing import Literal, NamedTuple

from longrein.core.histogram import Histogram
from longrein.core.ledger.traffic import Block

Kind = Literal["counter", "gauge", "histogram", "summary"]
PREFIX = "longrein_"
PER_RELEASE = ("endpoint", "release")
PER_TEAM = (*PER_RELEASE, "team")


class Metric(NamedTuple):
    """One metric. `of` gives what a block of traffic says of it: pairs of the values of its own labels, those behind
    endpoint, release and team, and a number or a histogram of numbers in `unit` / `scale`."""

    name: str  # as Prometheus knows it, without "_total"
    kind: Kind
    unit: str  # "1" for counts and shares
    help: str
    labels: tuple[str, ...]
    of: Callable[[Block], Iterable[tuple[tuple[str, ...], float | Histogram]]]
    scale: float = 1.0  # from what blocks hold to the unit
    octaves: tuple[int, int] = (-10, 9)  # a histogram's buckets in /metrics: powers of two of the unit, from and to

    @property
    def family(self) -> str:
        """The name of its series in Prometheus; a histogram's have more behind it."""
        return self.name + "_total" * (self.kind == "counter")


def _count(field: str) -> Callable[[Block], Iterable[tuple[tuple[str, ...], float]]]:
    return lambda block: [((), getattr(block, field))]


def _each(field: str) -> Callable[[Block], Iterable[tuple[tuple[str, ...], float | Histogram]]]:
    return lambda block: [((name,), value) for name, value in getattr(block, field).items()]


def _timing(name: str) -> Callable[[Block], Iterable[tuple[tuple[str, ...], float | Histogram]]]:
    return lambda block: [((), block.timings[name])] if name in block.timings else []


def _tokens(block: Block) -> Iterable[tuple[tuple[str, ...], float]]:
    return [(("in",), block.tokens_in), (("out",), block.tokens_out)]


def _metric(name: str, *more: object) -> Metric:
    return Metric(PREFIX + name, *more)  # type: ignore[arg-type]


# What the records of requests tell, and feedback: from blocks of traffic, see core.ledger.traffic.Block.
TRAFFIC: tuple[Metric, ...] = (
    _metric("requests", "counter", "1", "Requests for answers, by HTTP status.", (*PER_TEAM, "status"),
            _each("statuses")),
    _metric("tokens", "counter", "tokens", "Tokens read and written.", (*PER_TEAM, "direction"), _tokens),
    _metric("cached_tokens", "counter", "tokens", "Tokens of prompts that had been computed before.", PER_TEAM,
            _count("tokens_cached")),
    _metric("cost_usd", "counter", "USD", "What answers cost, where their price is known.", PER_TEAM,
            _count("cost_usd")),
    _metric("finish_reasons", "counter", "1", "Requests by how they ended.", (*PER_RELEASE, "reason"),
            _each("finishes")),
    _metric("refusals", "counter", "1", "Answers in which the model declined, by their first words.", PER_RELEASE,
            _count("refusals")),
    _metric("guarded", "counter", "1", "Requests in which a guard acted.", PER_RELEASE, _count("guarded")),
    _metric("cache_hits", "counter", "1", "Answers from the gateway's cache.", PER_RELEASE, _count("cached")),
    _metric("request_seconds", "histogram", "s", "From an answered request's arrival to its end.", PER_RELEASE,
            _timing("latency_ms"), 1e-3),
    _metric("first_token_seconds", "histogram", "s", "From arrival to the first token.", PER_RELEASE,
            _timing("ttft_ms"), 1e-3),
    _metric("token_seconds", "histogram", "s", "Mean time from one token of an answer to the next.", PER_RELEASE,
            _timing("token_ms"), 1e-3, (-14, 5)),
    _metric("queue_seconds", "histogram", "s", "What requests waited in the engine.", PER_RELEASE,
            _timing("queue_ms"), 1e-3, (-14, 9)),
    _metric("request_cost_usd", "histogram", "USD", "The cost of an answer.", PER_RELEASE, _timing("cost_usd"), 1.0,
            (-24, 3)),
    _metric("score", "summary", "1", "What feedback said of answers; yes is 1 and no is 0.", (*PER_RELEASE, "metric"),
            _each("scores")),
)  # fmt: skip
BY_NAME: Mapping[str, Metric] = {metric.name: metric for metric in TRAFFIC}


class Gauge(NamedTuple):
    """What is sampled. A counter's samples are what it grew by, so that the sum of a block's is what there was."""

    kind: Kind
    unit: str
    help: str


# Of the engine of a release: what the port's `stats` tells (core.ports.Engine). Engines may tell more.
ENGINE: Mapping[str, Gauge] = {
    "running": Gauge("gauge", "1", "Requests that are being answered."),
    "waiting": Gauge("gauge", "1", "Requests that wait for a slot."),
    "slots_used": Gauge("gauge", "1", "Slots of the batch in use."),
    "slots_total": Gauge("gauge", "1", "Slots of the batch."),
    "kv_tokens": Gauge("gauge", "tokens", "Tokens in the key-value cache, of requests under way."),
    "kv_tokens_kept": Gauge("gauge", "tokens", "Tokens in it kept for requests that begin alike."),
    "kv_tokens_room": Gauge("gauge", "tokens", "Tokens that it can hold."),
    "kv_share": Gauge("gauge", "1", "Share of it in use."),
    "batch": Gauge("histogram", "1", "Requests that got a token in a step, up to the next power of two."),
    "step_s": Gauge("gauge", "s", "Time of a step, smoothed."),
    "steps_total": Gauge("counter", "1", "Steps computed."),
    "requests_total": Gauge("counter", "1", "Requests that ended."),
    "tokens_in_total": Gauge("counter", "tokens", "Tokens of prompts."),
    "tokens_out_total": Gauge("counter", "tokens", "Tokens generated."),
    "cached_tokens_total": Gauge("counter", "tokens", "Tokens of prompts that had been computed before."),
    "preemptions_total": Gauge("counter", "1", "Requests put back to make room for others."),
    "limit_batch": Gauge("gauge", "1", "Requests that may run at once, as the controller decided."),
    "limit_prefill_tokens": Gauge("gauge", "tokens", "Tokens of prompts that a step may take."),
    "limit_offline": Gauge("gauge", "1", "Requests behind online traffic that may run at once."),
    "busy_s_total": Gauge("counter", "s", "Time in which it computed."),
    "alive_s_total": Gauge("counter", "s", "Time in which it was there."),
    "connections": Gauge("gauge", "1", "Open connections to an upstream."),
    "replicas_up": Gauge("gauge", "1", "Replicas of an upstream that may be asked."),
    "retries_total": Gauge("counter", "1", "Requests asked of an upstream again."),
    "failures_total": Gauge("counter", "1", "Requests that an upstream failed."),
    "opened_total": Gauge("counter", "1", "Times that a replica was left alone for a while."),
}
# Of the machine that a gateway runs on: longrein.ops.monitor.probe.
MACHINE: Mapping[str, Gauge] = {
    "cpu_share": Gauge("gauge", "1", "Share of all processors in use."),
    "load": Gauge("gauge", "1", "Processes that run or wait for a processor, over a minute."),
    "memory_bytes": Gauge("gauge", "By", "Memory in use."),
    "memory_total_bytes": Gauge("gauge", "By", "Memory there is."),
    "disk_bytes": Gauge("gauge", "By", "Space in use on the project's disk."),
    "disk_total_bytes": Gauge("gauge", "By", "Space there is on it."),
    "open_files": Gauge("gauge", "1", "Files that this process holds open."),
    "rss_bytes": Gauge("gauge", "By", "Memory of this process."),
    "accelerators": Gauge("gauge", "1", "Accelerators that tell how they are."),
    "accelerator_share": Gauge("gauge", "1", "Share of time in which accelerators computed, their mean."),
    "accelerator_memory_bytes": Gauge("gauge", "By", "Their memory in use."),
    "accelerator_memory_total_bytes": Gauge("gauge", "By", "Their memory."),
    "accelerator_watts": Gauge("gauge", "W", "The power that they draw."),
    "accelerator_celsius": Gauge("gauge", "Cel", "The hottest one's temperature."),
}


def grows(key: str) -> bool:
    """Whether a number of an engine or a machine is one that only grows; `slots_total` is none."""
    known = ENGINE.get(key) or MACHINE.get(key)
    return known.kind == "counter" if known else key.endswith("_total")


def gauge_name(key: str, of: Literal["engine", "machine"]) -> str:
    """ "longrein_engine_running"; a counter's ends in _total."""
    return f"{PREFIX}{of}_{key}"


# What the gateway itself counts and is asked for.
GATEWAY: Mapping[str, tuple[Kind, str, tuple[str, ...]]] = {
    "longrein_refused_total": ("counter", "Requests without the right API key.", ("status",)),
    "longrein_feedback_total": ("counter", "Values of feedback that came.", ("endpoint", "outcome")),
    "longrein_engine_restarts_total": ("counter", "Engines that ended unexpectedly.", ("endpoint",)),
    "longrein_log_dropped_total": ("counter", "Records lost, the disk being slow or full.", ()),
    "longrein_inflight": ("gauge", "Answers under way.", PER_RELEASE),
    "longrein_endpoint_up": ("gauge", "1 when the endpoint answers.", ("endpoint",)),
    "longrein_ledger_up": ("gauge", "1 when the ledger could be read.", ()),
    "longrein_alerts_firing": ("gauge", "Alerts that fire.", ("kind", "subject", "severity")),
    "longrein_drift_evidence": ("gauge", "Evidence that something is not as it was.", ("endpoint", "watch")),
    "longrein_drift_needed": ("gauge", "How much of it raises an alert.", ("endpoint", "watch")),
    "longrein_limit_used": ("gauge", "Used and reserved in the window that is open.", ("subject", "limit")),
    "longrein_limit_most": ("gauge", "What the limit allows in a window.", ("subject", "limit")),
}
