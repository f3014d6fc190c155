"""A receiver of OTLP over HTTP in a thread: it decodes with the official classes, and answers as it is told."""

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics_service
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as trace_service

REQUESTS = {
    "/v1/traces": trace_service.ExportTraceServiceRequest,
    "/v1/metrics": metrics_service.ExportMetricsServiceRequest,
}


class Collector:
    """answers: what it says next, (status, headers, body) each; then 200."""

    def __init__(self) -> None:
        self.answers: dict[str, list[tuple[int, dict[str, str], bytes]]] = {"/v1/traces": [], "/v1/metrics": []}
        self.taken: dict[str, list[Any]] = {"/v1/traces": [], "/v1/metrics": []}  # decoded, of those answered with 200
        self.headers: list[Any] = []  # of each request
        self.url = ""

    @property
    def spans(self) -> list[Any]:
        return [
            s for r in self.taken["/v1/traces"] for rs in r.resource_spans for ss in rs.scope_spans for s in ss.spans
        ]

    @property
    def metrics(self) -> dict[str, list[Any]]:
        """The points told last, by the metric's name."""
        if not self.taken["/v1/metrics"]:
            return {}
        (whole,) = self.taken["/v1/metrics"][-1].resource_metrics
        found = {}
        for metric in whole.scope_metrics[0].metrics:
            found[metric.name] = list(getattr(metric, metric.WhichOneof("data")).data_points)
        return found

    @contextmanager
    def listening(self, port: int = 0) -> Iterator["Collector"]:
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                data = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    data = gzip.decompress(data)
                collector.headers.append(self.headers)
                message = REQUESTS[self.path]()
                message.ParseFromString(data)
                waiting = collector.answers[self.path]
                status, headers, body = waiting.pop(0) if waiting else (200, {}, b"")
                if status == 200:
                    collector.taken[self.path].append(message)
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        self.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield self
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


def attributes(of: Any) -> dict[str, Any]:
    """Of a span, a point or a resource, as plain values."""
    return {a.key: _plain(a.value) for a in of.attributes}


def _plain(value: Any) -> Any:
    kind = value.WhichOneof("value")
    return [_plain(v) for v in value.array_value.values] if kind == "array_value" else getattr(value, kind)
