"""Reads the ledger's blocks of traffic as series: by endpoint, release and team, over any time, in steps of any length.

Percentiles are exact to 1.1 %, whatever is merged (core.histogram); the block that is still open is included.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from longrein.core.errors import Error, nearest
from longrein.core.histogram import Histogram
from longrein.core.ledger import Block, Ledger, now_ms
from longrein.core.ledger.traffic import KEPT
from longrein.ops.monitor.catalogue import ENGINE, grows

BY = ("endpoint", "release", "team")
QUANTILES = (0.5, 0.95, 0.99)
TIMINGS = {"latency_ms": "latency", "ttft_ms": "first_token", "token_ms": "token", "queue_ms": "queue"}
COUNTS = (
    "requests", "errors", "refused", "cancelled", "guarded", "refusals", "cached", "tokens_in", "tokens_out",
    "tokens_cached",
)  # fmt: skip


class Point(NamedTuple):
    """What was seen of one group in [start_ms, end_ms)."""

    start_ms: int
    end_ms: int
    group: tuple[str, ...]  # values of `by`; a release is its digest
    block: Block  # merged

    @property
    def seconds(self) -> float:
        return max((self.end_ms - self.start_ms) / 1000, 1e-3)


def read(
    ledger: Ledger, since_ms: int, until_ms: int | None = None, *, endpoint: str | None = None,
    by: Sequence[str] = ("endpoint",), step_ms: int = 0,
) -> list[Point]:  # fmt: skip
    """Points in the order of time, then of groups. Only what clients saw counts: no copies for a shadow.

    until_ms: None is now. endpoint: None is all of them; "" the machines, by `release`. step_ms: 0 is one step for all
    of the time. Steps begin at multiples of their length and are at least as long as the blocks that are left of that
    time (a day: 10 s, two weeks: 5 min, then an hour). Errors: `invalid`.
    """
    now = now_ms()
    until = now if until_ms is None else until_ms
    for name in by:
        if name not in BY:
            raise Error("invalid", f"traffic is not told by {name!r}", nearest(name, BY))
    blocks = [
        block for block in ledger.traffic.blocks(endpoint, _floor(since_ms, now), until, teams="team" in by)
        if not block.arm and (endpoint is not None or block.endpoint)
    ]  # fmt: skip
    step = step_ms and max(step_ms, *(b.length_ms for b in blocks), 1)
    found: dict[tuple[int, tuple[str, ...]], Block] = {}
    for block in blocks:
        start = block.start_ms // step * step if step else since_ms
        key = start, tuple(getattr(block, name) for name in by)
        (found.get(key) or found.setdefault(key, Block("", "", start))).merge(block)
    return [
        Point(max(start, since_ms), min(start + step if step else until, until), group, block)
        for (start, group), block in sorted(found.items(), key=lambda item: item[0])
    ]


def numbers(point: Point) -> dict[str, Any]:
    """A point in words of the field: counts, rates, shares of all requests, percentiles in ms, cost, scores.

    What nothing is known of is None: cost where no price is declared, percentiles of nothing.
    """
    block, seconds = point.block, point.seconds
    priced = block.timings.get("cost_usd")
    told: dict[str, Any] = {name: getattr(block, name) for name in COUNTS}
    told |= {
        "requests_per_s": block.requests / seconds,
        "tokens_per_s": block.tokens_out / seconds,
        "error_share": _share(block.errors, block.requests),
        "refusal_share": _share(block.refusals, block.requests),
        "cost_usd": block.cost_usd if block.cost_usd or priced else None,
        "cost_usd_mean": _known(priced.mean) if priced else None,
    }
    for timing, name in TIMINGS.items():
        histogram = block.timings.get(timing) or Histogram()
        told |= {f"{name}_p{q * 100:g}_ms": _known(histogram.quantile(q)) for q in QUANTILES}
    told["scores"] = {name: {"mean": _known(h.mean), "count": h.count} for name, h in sorted(block.scores.items())}
    told["statuses"], told["finishes"] = block.statuses, block.finishes
    told["gauges"] = {name: gauge(name, h) for name, h in sorted(block.gauges.items())}
    return told


def gauge(name: str, seen: Histogram) -> dict[str, float | None]:
    """Samples in short. Of what grows, what it grew by; of everything else, what it was and was at most."""
    if grows(name):
        return {"sum": seen.sum}
    high, most = (_whole(name, seen.quantile(q)) for q in (0.95, 1.0))
    return {"mean": _known(seen.mean), "p95": _known(high), "max": _known(most)}


def spark(values: Iterable[float | None]) -> str:
    """A line of little bars, the highest being the greatest value; a gap where nothing is known."""
    values = [v if v is not None and math.isfinite(v) else None for v in values]
    top = max((v for v in values if v is not None), default=0.0)
    bars = "▁▂▃▄▅▆▇█"
    return "".join(" " if v is None else bars[min(int(v / top * 8), 7) if top > 0 else 0] for v in values)


def _floor(since_ms: int, now: int) -> int:
    """Where the block that holds a time may begin: the older, the longer they are."""
    length = next((length for length, kept, _ in KEPT if now - since_ms <= kept), KEPT[-1][0])
    return since_ms // length * length


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _whole(name: str, value: float) -> float:
    """Of what is counted, the count that a bucket stands for."""
    counted = name in ENGINE and ENGINE[name].unit == "1" and not name.endswith("_share")
    return float(round(value)) if counted and value < 40 and abs(value - round(value)) < 0.011 * value else value


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None
