"""The contract of the port "sink", over every plugin, and OpenTelemetry's words by OpenTelemetry's own classes."""

import math
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest
from collector import Collector, attributes
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from longrein.core import plugins, trace
from longrein.core.errors import Error
from longrein.core.histogram import EDGE, SCALE, Histogram, bounds
from longrein.core.ports import Point
from longrein.core.record import Record
from longrein.plugins.sink import _otel_names as names

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
ANSWERED = Record(
    id="chatcmpl-018f0a0b0c0d112233445566", ts_ms=1_700_000_000_000, endpoint="客服", release="ab" * 32, engine="torch",
    key_id="k1", team="web", user="ann", session="s1", trace=PARENT, status=200, finish_reason="stop", stream=True,
    prompt_tokens=12, completion_tokens=3, cached_tokens=4, queue_ms=1.5, ttft_ms=20.25, total_ms=50.5, cost_usd=0.002,
    guards=["pii:masked"], input='[{"content":"be kind","role":"system"},{"content":"在吗","role":"user"}]',
    output="在的",
)  # fmt: skip
FAILED = Record(id="cmpl-018f0a0b0c0e112233445566", ts_ms=1_700_000_000_001, endpoint="客服", status=503,
                finish_reason="error", error="unavailable", total_ms=0.2)  # fmt: skip


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector().listening() as one:
        yield one


@pytest.fixture(params=plugins.names("sink"))
def make(request: pytest.FixtureRequest) -> Any:
    assert request.param == "otlp", f"say how to test the sink {request.param!r}"
    return lambda url, **options: plugins.load("sink", request.param)({"url": url, **options}, "host/shop")


def test_requests_arrive_as_spans(make: Any, collector: Collector) -> None:
    assert make(collector.url).traces([ANSWERED, FAILED]) == 0
    first, second = collector.spans
    assert (first.trace_id.hex(), first.parent_span_id.hex()) == (PARENT[3:35], PARENT[36:52])
    assert first.span_id.hex() == trace.of(ANSWERED.id, PARENT).span and second.parent_span_id == b""
    assert len(second.trace_id) == 16 and first.kind == Span.SPAN_KIND_SERVER
    assert (first.name, second.name) == ("chat 客服", "text_completion 客服")
    assert first.start_time_unix_nano == 1_700_000_000_000 * 10**6
    assert first.end_time_unix_nano - first.start_time_unix_nano == 50_500_000
    assert [(e.name, e.time_unix_nano - first.start_time_unix_nano) for e in first.events] == [
        (names.STARTED, 1_500_000), (names.FIRST_TOKEN, 20_250_000),
    ]  # fmt: skip
    told = attributes(first)
    assert told["gen_ai.operation.name"] == "chat" and told["gen_ai.request.model"] == "客服"
    assert told["gen_ai.usage.input_tokens"] == 12 and told["gen_ai.usage.output_tokens"] == 3
    assert told["gen_ai.response.finish_reasons"] == ["stop"] and told["http.response.status_code"] == 200
    assert told["longrein.cost_usd"] == 0.002 and told["longrein.guards"] == ["pii:masked"]
    assert '"role":"system"' in told["gen_ai.input.messages"] and "在的" in told["gen_ai.output.messages"]
    assert "error.type" not in told and first.status.code == Status.STATUS_CODE_UNSET
    assert attributes(second)["error.type"] == "unavailable" and second.status.code == Status.STATUS_CODE_ERROR
    about = attributes(collector.taken["/v1/traces"][0].resource_spans[0].resource)
    assert (about["service.name"], about["service.instance.id"]) == ("longrein", "host/shop")


def test_metrics_arrive_bucket_by_bucket(make: Any, collector: Collector) -> None:
    values = [0.0, 0.001, 0.0012, 0.5, 1.0, 1.0, 1.5, 512.0, 1e-30]
    points = [
        Point("duration_s", {"endpoint": "a", "operation": "chat"}, Histogram(values)),
        Point("duration_s", {"endpoint": "b", "operation": "chat"}, Histogram()),
        Point("cost_usd", {"endpoint": "a"}, 0.25),
    ]
    assert make(collector.url).metrics(points, 1_000, 61_000) == 0
    point, empty = collector.metrics["gen_ai.server.request.duration"]
    assert attributes(point) == {"gen_ai.request.model": "a", "gen_ai.operation.name": "chat"} and empty.count == 0
    assert (point.start_time_unix_nano, point.time_unix_nano) == (1_000 * 10**6, 61_000 * 10**6)
    assert (point.count, point.zero_count, point.sum) == (9, 1, pytest.approx(sum(values)))
    assert point.zero_count + sum(point.positive.bucket_counts) == point.count
    base = 2.0**2.0**-point.scale
    upper = [  # bucket i holds (base**i, base**(i+1)]: https://opentelemetry.io/docs/specs/otel/metrics/data-model/
        base ** (point.positive.offset + i + 1) for i, n in enumerate(point.positive.bucket_counts) for _ in range(n)
    ]
    for value, bound in zip(sorted(values)[2:], upper[1:], strict=True):
        assert bound / base < value * (1 + 1e-9) and value <= bound * (1 + 1e-9)
    smallest = min(Histogram([1e-30]).counts)  # past the outermost bucket: counted there
    assert upper[0] == pytest.approx(bounds(smallest)[1])
    (cost,) = collector.metrics["longrein.cost"]
    assert cost.as_double == 0.25 and math.isclose(cost.start_time_unix_nano, 10**9)
    metric = collector.taken["/v1/metrics"][0].resource_metrics[0].scope_metrics[0].metrics
    assert all(m.exponential_histogram.aggregation_temporality == 2 for m in metric if m.name.startswith("gen_ai"))
    assert next(m for m in metric if m.name == "longrein.cost").sum.is_monotonic


def test_our_buckets_are_those_of_opentelemetrys_own_sdk() -> None:
    mapping = pytest.importorskip("opentelemetry.sdk.metrics._internal.exponential_histogram.mapping.logarithm_mapping")
    indices, random = mapping.LogarithmMapping(SCALE), Random(7)
    values = [10 ** random.uniform(-9, 9) for _ in range(5_000)] + [2.0**e for e in range(-30, 31)]
    for value in values:
        (key,) = Histogram([value]).counts
        assert key - 1 - EDGE == indices.map_to_index(value), value


def test_what_a_collector_may_say(make: Any, collector: Collector) -> None:
    sink = make(collector.url, headers={"x-team": "a"}, compression="none")
    partly = ExportTraceServiceResponse(partial_success={"rejected_spans": 1, "error_message": "too old"})
    collector.answers["/v1/traces"] = [
        (200, {}, partly.SerializeToString()), (200, {}, b"<html>no protobuf</html>"), (429, {"Retry-After": "7"}, b""),
        (503, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, b""), (503, {"Retry-After": "soon"}, b""),
        (400, {}, b"what?"), (302, {"Location": f"{collector.url}/v1/traces"}, b""),
    ]  # fmt: skip
    assert sink.traces([ANSWERED]) == 1 and sink.traces([ANSWERED]) == 0
    for code, after in (
        ("unavailable", 7),
        ("unavailable", 0),
        ("unavailable", 0),
        ("invalid", None),
        ("invalid", None),
    ):
        with pytest.raises(Error) as error:
            sink.traces([ANSWERED])
        assert (error.value.code, error.value.details.get("retry_after_s")) == (code, after)
    assert collector.headers[0]["x-team"] == "a" and "Content-Encoding" not in collector.headers[0]


def test_a_collector_that_is_not_there_and_secrets(make: Any, collector: Collector, monkeypatch: Any) -> None:
    with pytest.raises(Error) as error:
        make("http://127.0.0.1:9").traces([ANSWERED])
    assert error.value.code == "unavailable"
    monkeypatch.setenv("PROXY_KEY", "s3cr3t")
    collector.answers["/v1/traces"] = [(403, {}, b"s3cr3t is no key")]
    with pytest.raises(Error) as error:
        make(collector.url, headers={"Authorization": "Bearer ${PROXY_KEY}"}).traces([ANSWERED])
    assert collector.headers[0]["Authorization"] == "Bearer s3cr3t" and "s3cr3t" not in error.value.message
    with pytest.raises(Error, match="is no address"):
        make("collector:4318")
    for header in ({"x-key": "a\r\nx-evil: b"}, {"x-key": "钥匙"}, {"x key": "a"}):
        with pytest.raises(Error, match="cannot be sent"):
            make(collector.url, headers=header)


def test_the_names_are_the_conventions(make: Any) -> None:
    """Of those that begin with gen_ai, all but our own event are known to OpenTelemetry's package of them."""
    known = pytest.importorskip("opentelemetry.semconv._incubating.attributes.gen_ai_attributes")
    metrics = pytest.importorskip("opentelemetry.semconv._incubating.metrics.gen_ai_metrics")
    told = [
        *names.FIELDS.values(),
        *names.LABELS.values(),
        names.INPUT,
        names.OUTPUT,
        names.FINISH,
        names.FIRST_TOKEN_S,
    ]
    assert {n for n in told if n.startswith("gen_ai.")} <= _texts(known)
    assert {m.name for m in names.METRICS.values() if m.name.startswith("gen_ai.")} <= _texts(metrics)


def _texts(module: Any) -> set[str]:
    return {value for value in vars(module).values() if isinstance(value, str)}


@pytest.mark.parametrize("text, meant", [
    ("hello", [("user", "hello")]), ("[no json", [("user", "[no json")]), ("{}", [("user", "{}")]),
    ("", [("user", "")]),
    ('["a","b"]', [("user", "a"), ("user", "b")]), ("[[1,2]]", [("user", "1")]),
    ('[{"role":"user","content":[{"type":"text","text":"hi"},{"type":"image_url","image_url":{}}]}]', [("user", "hi")]),
    ('[{"role":"assistant","content":null}]', [("assistant", None)]), ("[null]", [("user", None)]),
])  # fmt: skip
def test_whatever_was_asked_is_told(text: str, meant: list[tuple[str, str]]) -> None:
    import msgspec

    found = msgspec.json.decode(names.messages(text, "user"))
    assert [(m["role"], m["parts"][0].get("content") if m["parts"] else None) for m in found] == meant


def test_mlflow_takes_them(collector: Collector) -> None:
    """A receiver that is not ours: MLflow reads the same bytes into a trace of its own."""
    pytest.importorskip("mlflow")
    from mlflow.entities.span import Span as MlflowSpan

    plugins.load("sink", "otlp")({"url": collector.url}, "here").traces([ANSWERED])
    span = MlflowSpan.from_otel_proto(collector.spans[0])
    assert span.name == "chat 客服" and span.attributes["gen_ai.usage.output_tokens"] == 3
