"""A client's trace goes on through the gateway: into its record, to the upstream, and to a sink."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from collector import Collector, attributes
from mock_upstream import Mock, say
from test_upstream import release
from world import World

from longrein.control import export
from longrein.control.export import Export
from longrein.control.observer import Observer

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture
def mock() -> Iterator[Mock]:
    mock = Mock(say("hello there"))
    yield mock
    mock.close()


def until(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 30
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)  # waits for what another thread does
    return value


def test_a_trace_goes_through(world: World, mock: Mock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "EVERY_S", 0.05)
    world.promote(release(world, "support", mock))
    world.promote(world.release("echo", "v1"))
    with Collector().listening() as collector, world.serve() as gateway:
        sinks = {"otel": {"url": collector.url, "traces": 0.0, "every_s": 0.1}}
        world.ledger.work.want({"project": "test", "endpoints": world.endpoints, "sinks": sinks}, actor="test")
        observer = Observer(world.ledger, world.store, world.folder, actor="eye", parts=[Export])
        observer.look()
        until(lambda: list((world.folder / ".longrein" / "sinks").glob("*.json")))

        def ask(model: str, **headers: str) -> str:
            body = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
            key = {"authorization": f"Bearer {world.key}"}
            answer = httpx.post(f"{gateway.url}/v1/chat/completions", json=body, headers=key | headers, timeout=30)
            assert answer.status_code == 200
            return answer.headers["x-request-id"]

        followed, lost = ask("support", traceparent=PARENT), ask("support", traceparent="rubbish")
        local, alone = ask("echo", traceparent=PARENT), ask("support")
        until(lambda: len(collector.spans) == 2)
        spans = {attributes(span)["gen_ai.response.id"]: span for span in collector.spans}
        assert set(spans) == {followed, local}  # what clients follow; of the rest, here, none
        assert {s.trace_id.hex() for s in spans.values()} == {PARENT[3:35]}
        asked = [a.headers.get("traceparent") for a in mock.asked if a.path.endswith("/chat/completions")]
        assert asked == [f"00-{PARENT[3:35]}-{spans[followed].span_id.hex()}-01", None, None]
        records = {id: world.requests.get(id)["trace"] for id in (followed, lost, local, alone)}
        assert records == {followed: PARENT, lost: "", local: PARENT, alone: ""}
        until(lambda: sum(p.count for p in collector.metrics.get("gen_ai.server.request.duration", [])) == 4)
        told = {attributes(p)["gen_ai.request.model"] for p in collector.metrics["gen_ai.server.request.duration"]}
        assert told == {"support", "echo"}
        observer.close()
