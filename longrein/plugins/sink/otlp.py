"""Sends requests as traces and metrics by OTLP over HTTP: a collector, Jaeger, Langfuse, Phoenix, MLflow, Tempo, …

The messages are of the package opentelemetry-proto, without the SDK: that one times what its own process does, holds
it in memory and samples as it goes, while requests here are over and on disk, counted and sampled already.
https://opentelemetry.io/docs/specs/otlp/#otlphttp
"""

import email.utils
import gzip
import platform
import re
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from http.client import HTTPException
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import msgspec
from google.protobuf.message import DecodeError, Message
from msgspec import Meta
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics_service
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as trace_service
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, InstrumentationScope, KeyValue
from opentelemetry.proto.metrics.v1 import metrics_pb2 as pb
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1 import trace_pb2

from longrein.core import trace
from longrein.core.errors import Error
from longrein.core.histogram import EDGE, SCALE, Histogram
from longrein.core.ports import Point
from longrein.core.record import Record
from longrein.core.secret import Secrets
from longrein.plugins.sink import _otel_names as names

VERSION = 1
AGAIN = frozenset({429, 502, 503, 504})  # the statuses that OTLP calls retryable
MAX_ANSWER_BYTES = 1 << 20
_name, _value = re.compile(r"[\w!#$%&'*+.^`|~-]+", re.ASCII), re.compile(r"[\x20-\x7e]*")
MS = 1_000_000  # nanoseconds


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options; ${NAME} in the url and the headers is a variable of the environment."""

    url: str  # http://host:4318; what follows it, /v1/traces and /v1/metrics, comes from here
    headers: dict[str, str] = {}
    timeout_s: Annotated[float, Meta(gt=0)] = 10.0
    compression: Literal["gzip", "none"] = "gzip"
    service: str = "longrein"  # service.name


class Otlp:
    def __init__(self, options: Mapping[str, Any], instance: str) -> None:
        self.config = msgspec.convert(dict(options), Config)
        self.secrets = Secrets()
        self.url = self.secrets.fill(self.config.url).rstrip("/")
        if urlsplit(self.url).scheme not in ("http", "https"):
            raise Error("invalid", f"{self.config.url!r} is no address of a collector", "url: http://host:4318")
        self.headers: dict[str, str] = self.secrets.fill(self.config.headers)
        for name, value in self.headers.items():
            if not (_name.fullmatch(name) and _value.fullmatch(value)):
                raise Error("invalid", f"the header {name!r} cannot be sent as it is", "use printable ASCII")
        self._opener = urllib.request.build_opener(_NoRedirect)
        about = {"service.name": self.config.service, "service.instance.id": instance, "host.name": platform.node()}
        self.about = Resource(attributes=_attributes(about.items()))
        self.scope = InstrumentationScope(name="longrein")

    def traces(self, records: Sequence[Record]) -> int:
        spans = trace_pb2.ScopeSpans(scope=self.scope, spans=map(_span, records), schema_url=names.SCHEMA_URL)
        whole = trace_pb2.ResourceSpans(resource=self.about, scope_spans=[spans])
        answer = trace_service.ExportTraceServiceResponse()
        self._post("traces", trace_service.ExportTraceServiceRequest(resource_spans=[whole]), answer)
        return answer.partial_success.rejected_spans

    def metrics(self, points: Sequence[Point], start_ms: int, now: int) -> int:
        grouped: dict[str, list[Point]] = {}
        for point in points:
            grouped.setdefault(point.name, []).append(point)
        metrics = [_metric(name, group, start_ms * MS, now * MS) for name, group in grouped.items()]
        scoped = pb.ScopeMetrics(scope=self.scope, metrics=metrics, schema_url=names.SCHEMA_URL)
        whole = pb.ResourceMetrics(resource=self.about, scope_metrics=[scoped])
        answer = metrics_service.ExportMetricsServiceResponse()
        self._post("metrics", metrics_service.ExportMetricsServiceRequest(resource_metrics=[whole]), answer)
        return answer.partial_success.rejected_data_points

    def _post(self, signal: str, message: Message, answer: Message) -> None:
        body = message.SerializeToString()
        headers = {"Content-Type": "application/x-protobuf", "User-Agent": "longrein", **self.headers}
        if self.config.compression == "gzip":
            body, headers["Content-Encoding"] = gzip.compress(body, 1), "gzip"
        request = urllib.request.Request(f"{self.url}/v1/{signal}", body, headers)
        try:
            with self._opener.open(request, timeout=self.config.timeout_s) as response:
                answer.ParseFromString(response.read(MAX_ANSWER_BYTES))
        except DecodeError:  # it took them, and says so in words of its own
            return
        except urllib.error.HTTPError as error:
            with error:
                said = self.secrets.hide(error.read(300).decode("utf-8", "replace").strip())
            text = f"{self._shown} refused {signal} with {error.code}: {said}"
            if error.code in AGAIN:
                raise Error("unavailable", text, retry_after_s=_seconds(error.headers.get("Retry-After"))) from error
            raise Error("invalid", text, "see its url and headers in longrein.yaml") from error
        except (OSError, HTTPException) as error:
            raise Error("unavailable", f"{self._shown} does not answer: {error}", "is it up?") from error

    @property
    def _shown(self) -> str:
        return self.secrets.hide(self.url)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A POST would become a GET, and the headers' secrets would go elsewhere."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def _span(r: Record) -> trace_pb2.Span:
    """One request: the time from arrival to end, and in it the engine's first step and the first token."""
    of = trace.of(r.id, r.trace)
    begun = r.ts_ms * MS
    events = [
        (name, ms) for name, ms in ((names.STARTED, r.queue_ms), (names.FIRST_TOKEN, r.ttft_ms)) if ms is not None
    ]
    return trace_pb2.Span(
        trace_id=bytes.fromhex(of.id), span_id=bytes.fromhex(of.span), parent_span_id=bytes.fromhex(of.parent),
        flags=0x100 | (0x200 if of.parent else 0) | 1,  # whether the parent is remote is known; sampled
        name=f"{r.operation} {r.endpoint}".rstrip(), kind=trace_pb2.Span.SPAN_KIND_SERVER,
        start_time_unix_nano=begun, end_time_unix_nano=begun + int(r.total_ms * MS),
        attributes=_attributes(_told(r)),
        events=[trace_pb2.Span.Event(name=name, time_unix_nano=begun + int(ms * MS)) for name, ms in events],
        status=trace_pb2.Status(code=trace_pb2.Status.STATUS_CODE_ERROR, message=r.error) if r.status >= 500 else None,
    )  # fmt: skip


def _told(r: Record) -> Iterable[tuple[str, Any]]:
    yield "gen_ai.provider.name", names.PROVIDER
    yield names.OPERATION, r.operation
    for field, name in names.FIELDS.items():
        if value := getattr(r, field):
            yield name, value
    if r.finish_reason:
        yield names.FINISH, [r.finish_reason]
    if r.failure:
        yield names.ERROR, r.failure
    if r.ttft_ms is not None:
        yield names.FIRST_TOKEN_S, r.ttft_ms / 1000
    if r.input is not None:
        yield names.INPUT, names.messages(r.input, "user")
    if r.output is not None:
        yield names.OUTPUT, names.messages(r.output, "assistant", r.finish_reason)


def _metric(name: str, points: Sequence[Point], start: int, now: int) -> pb.Metric:
    known = names.METRICS[name]
    words = names.LABELS_OF.get(name, names.LABELS)
    labels = [_attributes((words[label], text) for label, text in point.labels.items()) for point in points]
    metric = pb.Metric(name=known.name, unit=known.unit, description=known.text)
    for point, attributes in zip(points, labels, strict=True):
        if isinstance(point.value, Histogram):
            metric.exponential_histogram.aggregation_temporality = pb.AGGREGATION_TEMPORALITY_CUMULATIVE
            metric.exponential_histogram.data_points.append(_exponential(point.value, attributes, start, now))
        else:
            metric.sum.aggregation_temporality, metric.sum.is_monotonic = pb.AGGREGATION_TEMPORALITY_CUMULATIVE, True
            number = pb.NumberDataPoint(as_double=point.value, start_time_unix_nano=start, time_unix_nano=now)
            number.attributes.extend(attributes)
            metric.sum.data_points.append(number)
    return metric


def _exponential(
    histogram: Histogram, attributes: Sequence[KeyValue], start: int, now: int
) -> pb.ExponentialHistogramDataPoint:
    """Bucket by bucket: our key k is OpenTelemetry's index k - 1 - EDGE, at the same scale."""
    positive = {key - 1 - EDGE: count for key, count in histogram.counts.items() if key > 0}
    first, last = min(positive, default=0), max(positive, default=-1)
    dense = [positive.get(index, 0) for index in range(first, last + 1)]
    return pb.ExponentialHistogramDataPoint(
        attributes=attributes, start_time_unix_nano=start, time_unix_nano=now, scale=SCALE,
        count=histogram.count, sum=histogram.sum, zero_count=histogram.counts.get(0, 0),
        positive=pb.ExponentialHistogramDataPoint.Buckets(offset=first, bucket_counts=dense),
    )  # fmt: skip


def _attributes(pairs: Iterable[tuple[str, Any]]) -> list[KeyValue]:
    return [KeyValue(key=key, value=_any(value)) for key, value in pairs]


def _any(value: Any) -> AnyValue:
    if isinstance(value, bool):
        return AnyValue(bool_value=value)
    if isinstance(value, int):
        return AnyValue(int_value=value)
    if isinstance(value, float):
        return AnyValue(double_value=value)
    if isinstance(value, list):
        return AnyValue(array_value=ArrayValue(values=map(_any, value)))
    return AnyValue(string_value=value.encode("utf-8", "replace").decode())


def _seconds(after: str | None) -> float:
    """Of Retry-After: seconds, or a date; 0 where it says nothing."""
    if not after:
        return 0.0
    try:
        return max(0.0, float(after))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(after).timestamp() - time.time())
    except ValueError:
        return 0.0


plugin = Otlp
