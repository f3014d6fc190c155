"""What traces and metrics over OTLP cost a request, beside OpenTelemetry's own SDK, in one run.

    python benchmarks/otlp.py [--requests 50000]

The same requests, attributes and six histograms go to the same collector: a process that reads what it is sent and
answers 200. Ours follows the request log from the observer, so a request itself pays nothing; what is counted is the
observer's CPU, the reading of the log and all. The SDK (opentelemetry-sdk, OTLP over HTTP with gzip, its batches as
they are by default, its queue large enough to lose nothing) is called where a request ends; counted are that thread's
CPU and the whole process's. Every request is sent as a trace, then one in ten. Prints a table and one line of JSON.
"""

import argparse
import json
import multiprocessing
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from longrein.control.export import Exporter  # noqa: E402
from longrein.control.nouns import Lifecycle  # noqa: E402
from longrein.control.observer import Site  # noqa: E402
from longrein.core.record import Record, Segment  # noqa: E402
from longrein.ops.monitor.sink import Config  # noqa: E402
from longrein.plugins.sink import _otel_names as names  # noqa: E402

ENDPOINTS, RELEASES = 4, 2
NOW = 1_800_000_000_000


def records(count: int) -> list[Record]:
    return [
        Record(
            id=f"chatcmpl-{NOW + i:012x}{i:012x}", ts_ms=NOW + i, endpoint=f"endpoint-{i % ENDPOINTS}",
            release=f"{i % RELEASES:064x}", engine="torch", key_id="k1", team="web", status=200, finish_reason="stop",
            stream=True, prompt_tokens=100 + i % 400, completion_tokens=20 + i % 80, queue_ms=0.5 + i % 7,
            ttft_ms=20.0 + i % 97, total_ms=300.0 + i % 1009, cost_usd=0.0001, output_digest="ab" * 32,
            input_digest="cd" * 32,
        )
        for i in range(count)
    ]  # fmt: skip


def ours(url: str, asked: list[Record], share: float) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        site = Site(None, None, Path(folder), Lifecycle(project="bench"), "bench")  # type: ignore[arg-type]
        sink = Exporter(site, "otel", Config(url=url, traces=share))
        segment = Segment(site.home / "requests", "w")
        sink.attempt(NOW)
        segment.append(b"".join(msgspec.json.encode(r) + b"\n" for r in asked))
        begun = time.process_time()
        sink.attempt(NOW + 1_000)
        sink.attempt(NOW + 60_000)
        spent = time.process_time() - begun
        assert not sink.problems and not sink.waiting
        sink.close()
    return {"request_us": 0.0, "process_us": 1e6 * spent / len(asked)}


def sdk(url: str, asked: list[Record], share: float) -> dict[str, float]:
    from opentelemetry import trace
    from opentelemetry.exporter.otlp.proto.http import Compression
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.metrics import Histogram, MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation, View
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import TraceIdRatioBased

    about = Resource({"service.name": "bench"})
    tracing = TracerProvider(sampler=TraceIdRatioBased(share), resource=about)
    exporter = OTLPSpanExporter(f"{url}/v1/traces", compression=Compression.Gzip)
    tracing.add_span_processor(BatchSpanProcessor(exporter, max_queue_size=len(asked) + 1_000))
    reader = PeriodicExportingMetricReader(
        OTLPMetricExporter(f"{url}/v1/metrics", compression=Compression.Gzip), 10_000
    )
    view = View(instrument_type=Histogram, aggregation=ExponentialBucketHistogramAggregation())
    metering = MeterProvider([reader], about, views=[view])
    tracer, meter = tracing.get_tracer("bench"), metering.get_meter("bench")
    made = {
        n: meter.create_histogram(names.METRICS[n].name) for n in ("duration_s", "first_token_s", "token_s", "queue_s")
    }
    tokens, cost = meter.create_histogram(names.METRICS["tokens"].name), meter.create_counter("longrein.cost")
    begun, here = time.process_time(), time.thread_time()
    for r in asked:
        labels = {"gen_ai.request.model": r.endpoint, "gen_ai.response.model": r.release[:12],
                  "gen_ai.operation.name": "chat"}  # fmt: skip
        span = tracer.start_span(f"chat {r.endpoint}", kind=trace.SpanKind.SERVER, start_time=r.ts_ms * 10**6)
        if span.is_recording():
            for field, name in names.FIELDS.items():
                if value := getattr(r, field):
                    span.set_attribute(name, value)
            span.add_event(names.STARTED, timestamp=r.ts_ms * 10**6)
            span.add_event(names.FIRST_TOKEN, timestamp=r.ts_ms * 10**6)
        span.end(r.ts_ms * 10**6 + int(r.total_ms * 10**6))
        assert r.ttft_ms is not None and r.queue_ms is not None
        made["duration_s"].record(r.total_ms / 1000, labels)
        made["first_token_s"].record(r.ttft_ms / 1000, labels)
        made["token_s"].record((r.total_ms - r.ttft_ms) / 1000 / (r.completion_tokens - 1), labels)
        made["queue_s"].record(r.queue_ms / 1000, labels)
        tokens.record(r.prompt_tokens, {**labels, "gen_ai.token.type": "input"})
        tokens.record(r.completion_tokens, {**labels, "gen_ai.token.type": "output"})
        cost.add(r.cost_usd or 0.0, labels)
    on_request = time.thread_time() - here
    tracing.force_flush(300_000)
    metering.force_flush(300_000)
    spent = time.process_time() - begun
    tracing.shutdown()
    metering.shutdown()
    return {"request_us": 1e6 * on_request / len(asked), "process_us": 1e6 * spent / len(asked)}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


def collect(port: Any) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    port.put(server.server_port)
    server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=50_000)
    asked = records(parser.parse_args().requests)
    context = multiprocessing.get_context("spawn")
    port = context.Queue()
    collector = context.Process(target=collect, args=(port,), daemon=True)
    collector.start()
    url = f"http://127.0.0.1:{port.get()}"
    found: dict[str, dict[str, float]] = {}
    sides: list[tuple[str, Callable[[str, list[Record], float], dict[str, float]]]] = [("longrein", ours), ("sdk", sdk)]
    for share in (1.0, 0.1):
        for name, side in sides:
            side(url, asked[:500], share)  # warm
            found[f"{name} {share:g}"] = side(url, asked, share)
    collector.terminate()
    print(f"{len(asked):,} requests, {platform.processor() or platform.machine()}\n")
    print(f"{'traces sent':>14} {'':10} {'on the request':>15} {'all CPU':>10}")
    for key, cost in found.items():
        name, share_text = key.split()
        print(f"{float(share_text):14.0%} {name:10} {cost['request_us']:12.1f} µs {cost['process_us']:7.1f} µs")
    print(json.dumps({"requests": len(asked), **found}))


if __name__ == "__main__":
    main()
