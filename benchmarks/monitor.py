"""What monitoring costs a request, and how right its percentiles are; beside prometheus_client and OpenTelemetry's SDK.

    python -m venv /tmp/otel && /tmp/otel/bin/pip install opentelemetry-sdk
    python benchmarks/monitor.py [--requests 200000] [--otel /tmp/otel/bin/python]

Each does the same for every request: seven counters and five histograms, by endpoint, release and team. Ours includes
what nobody else does: the digest of the answer, the look for a refusal, and the blocks written to a ledger.
"""

import argparse
import json
import math
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import prometheus_client

from longrein.core.ledger import Ledger
from longrein.core.record import Record
from longrein.gateway.said import Said
from longrein.gateway.tally import Tally
from longrein.ops.monitor.series import read

ANSWER = "Your parcel left our warehouse this morning and should be with you by tomorrow evening. " * 4
WORDS = ANSWER.split(" ")
PIECE = 5_000  # requests between two flushes
TRUTH = (0.5, 0.95, 0.99)

OTEL = """
import json, random, sys, time
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
count, exponential = int(sys.argv[1]), sys.argv[2] == "exponential"
views = []
if exponential:
    from opentelemetry.sdk.metrics import Histogram
    from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation, View
    views = [View(instrument_type=Histogram, aggregation=ExponentialBucketHistogramAggregation())]
meter = MeterProvider([InMemoryMetricReader()], views=views).get_meter("bench")
counters = [meter.create_counter(f"c{i}") for i in range(7)]
histograms = [meter.create_histogram(f"h{i}") for i in range(5)]
rng = random.Random(1)
values = [[rng.lognormvariate(5, 1) for _ in range(5)] for _ in range(1000)]
before = time.process_time()
for i in range(count):
    where = {"endpoint": "support", "release": "ab" * 6, "team": f"team {i % 8}"}
    for counter in counters:
        counter.add(1, where)
    for histogram, value in zip(histograms, values[i % 1000]):
        histogram.record(value, where)
print(json.dumps((time.process_time() - before) / count * 1e6))
"""


class Seen(NamedTuple):
    us: float  # CPU time a request
    errors: list[float]  # of the percentiles, in shares of the true ones
    note: str = ""


def requests(count: int) -> list[Record]:
    rng = random.Random(1)
    made = []
    for i in range(count):
        total = rng.lognormvariate(6, 0.8)
        made.append(Record(
            id=f"chatcmpl-{i:012x}{i:012x}", ts_ms=i, endpoint="support", release="ab" * 32, team=f"team {i % 8}",
            user=f"user {i}", status=200 if i % 50 else 503, finish_reason="stop", prompt_tokens=100,
            completion_tokens=60, cached_tokens=20, queue_ms=total / 20, ttft_ms=total / 5, total_ms=total,
            cost_usd=1e-4 * total,
        ))  # fmt: skip
    return made


def ours(records: list[Record]) -> tuple[Seen, float, float]:
    """All of it; then the words alone, and the ledger alone, in CPU microseconds a request."""
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(f"sqlite:///{folder}/ledger.db")
        tally = Tally(ledger)
        words = count = flush = 0.0
        for start in range(0, len(records), PIECE):
            piece = records[start : start + PIECE]
            before = time.process_time()
            for record in piece:
                said = Said()
                for word in WORDS:
                    said.add(word)
                record.output_digest, record.refusal = said.digest, said.declined
            words += time.process_time() - before
            before = time.process_time()
            tally.add(piece)
            count += time.process_time() - before
            before = time.process_time()
            tally.flush()
            tally.served()
            flush += time.process_time() - before
        tally.close()
        (point,) = read(ledger, 0)
        found = [point.block.timings["latency_ms"].quantile(q) for q in TRUTH]
    n = len(records) / 1e6
    return Seen((words + count + flush) / n, _errors(records, found)), words / n, flush / n


def prometheus(records: list[Record]) -> Seen:
    registry = prometheus_client.CollectorRegistry()
    by = ["endpoint", "release", "team"]
    asked = prometheus_client.Counter("requests", "r", [*by, "status"], registry=registry)
    counters = [prometheus_client.Counter(f"c{i}", "c", by, registry=registry) for i in range(6)]
    names = ("latency", "first", "token", "queue", "cost")
    histograms = [prometheus_client.Histogram(name, name, by, registry=registry) for name in names]
    before = time.process_time()
    for r in records:
        where = (r.endpoint, r.release[:12], r.team)
        asked.labels(*where, str(r.status)).inc()
        amounts = (r.prompt_tokens, r.completion_tokens, r.cached_tokens, r.cost_usd or 0.0, r.refusal, 1)
        for counter, amount in zip(counters, amounts, strict=True):
            counter.labels(*where).inc(amount)
        if r.status == 200:
            first, queue, cost = r.ttft_ms or 0.0, r.queue_ms or 0.0, r.cost_usd or 0.0
            seen = (r.total_ms / 1e3, first / 1e3, (r.total_ms - first) / 59e3, queue / 1e3, cost)
            for histogram, value in zip(histograms, seen, strict=True):
                histogram.labels(*where).observe(value)
    us = (time.process_time() - before) / len(records) * 1e6
    found = [1000 * _quantile(registry, q) for q in TRUTH]
    return Seen(us, _errors(records, found))


def _quantile(registry: Any, q: float) -> float:
    """As PromQL's histogram_quantile does: between the bounds of a bucket in a straight line."""
    counts: dict[float, float] = {}
    for family in registry.collect():
        for sample in family.samples:
            if sample.name == "latency_bucket":
                bound = float(sample.labels["le"])
                counts[bound] = counts.get(bound, 0) + sample.value
    bounds = sorted(counts)
    rank, low = q * counts[math.inf], 0.0
    for i, bound in enumerate(bounds):
        if counts[bound] >= rank:
            below = counts[bounds[i - 1]] if i else 0.0
            return (
                bounds[i - 1] if bound == math.inf else low + (bound - low) * (rank - below) / (counts[bound] - below)
            )
        low = bound
    return math.nan


def _errors(records: list[Record], found: list[float]) -> list[float]:
    values = sorted(r.total_ms for r in records if r.status == 200)
    true = [values[math.ceil(q * len(values)) - 1] for q in TRUTH]
    return [abs(f - t) / t for f, t in zip(found, true, strict=True)]


def otel(python: str, count: int, kind: str) -> Seen:
    done = subprocess.run([python, "-c", OTEL, str(count), kind], capture_output=True, text=True, check=True)
    return Seen(json.loads(done.stdout), [])


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=200_000)
    parser.add_argument("--otel", default="", metavar="PYTHON", help="one that has opentelemetry-sdk")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args(arguments)
    records = requests(given.requests)
    rows: dict[str, list[Seen]] = {}
    for _ in range(given.rounds):
        seen, words, ledger = ours(records)
        rows.setdefault("Longrein, all of it", []).append(seen)
        parts = Seen(seen.us - words, seen.errors, f"of it the ledger and /metrics {ledger:.2f}")
        rows.setdefault("Longrein, counting alone", []).append(parts)
        rows.setdefault("prometheus_client", []).append(prometheus(records))
        for kind in ("explicit", "exponential") if given.otel and Path(given.otel).exists() else ():
            rows.setdefault(f"OpenTelemetry SDK, {kind} buckets", []).append(otel(given.otel, given.requests, kind))
    for name, seen_ in rows.items():
        best = sorted(seen_)[len(seen_) // 2]
        errors = " / ".join(f"{100 * e:.2g}" for e in best.errors) or "–"
        print(f"{name:40} {best.us:7.2f} µs a request   p50 / p95 / p99 off by {errors} %   {best.note}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
