"""The request path: read, check, route, ask the engine, answer whole or as a stream, record.

No database is asked on the way. A client that hangs up cancels its request in the engine at once.
"""

import asyncio
import hashlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import aclosing
from typing import Any

import msgspec
from starlette.types import Message, Receive, Scope, Send

from longrein.core.errors import Error
from longrein.core.generation import Event
from longrein.core.ledger import now_ms
from longrein.gateway import openai
from longrein.gateway.answer import Answer, Completion, error_event
from longrein.gateway.metrics import Metrics
from longrein.gateway.record import Record, Recorder
from longrein.gateway.replicas import Fleet, Replica

MAX_BODY_BYTES = 8 << 20
MAX_INFLIGHT = 1024  # choices that one release may have under way; the engine's own queue is usually shorter
STREAM_HEADERS = [(b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]  # nginx must not collect chunks
CLIENT_GONE = 499  # nginx's word for it
KINDS: dict[str, tuple[type[openai.ChatBody] | type[openai.CompletionBody], type[Answer]]] = {
    "/v1/chat/completions": (openai.ChatBody, Answer),
    "/v1/completions": (openai.CompletionBody, Completion),
}


class Inference:
    """Answers OpenAI's chat completions and completions; an ASGI app for the paths in KINDS."""

    def __init__(
        self, fleet: Fleet, recorder: Recorder, metrics: Metrics, max_body_bytes: int = MAX_BODY_BYTES
    ) -> None:
        self.fleet, self.recorder, self.metrics, self.max_body_bytes = fleet, recorder, metrics, max_body_bytes
        self.log_text: frozenset[str] = frozenset()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        key = scope["longrein.key"]
        record = Record(id=scope["longrein.id"], ts_ms=now_ms(), key_id=key.id if key else "")
        exchange = Exchange(scope, send, record, self._finish)
        try:
            body = await read_body(scope, receive, self.max_body_bytes)
            await while_connected(receive, self._serve(exchange, body))
        except Gone:
            exchange.cancelled()
        except asyncio.CancelledError:  # the server's time to drain is over
            exchange.cancelled()
            raise
        except Error as error:
            await exchange.fail(error)
        finally:
            exchange.end()

    async def _serve(self, exchange: "Exchange", body: bytes) -> None:
        body_type, answer_type = KINDS[exchange.path]
        ask = openai.parse(body, body_type)
        exchange.note_input(ask)
        if ask.model in self.fleet.lanes:
            exchange.record.endpoint, exchange.log_text = ask.model, ask.model in self.log_text
        replica = self.fleet.route(ask.model)
        exchange.record.release = release = replica.target.digest
        count = len(ask.requests)
        if replica.inflight + count > MAX_INFLIGHT:
            message = f"{replica.inflight} answers are under way already"
            raise Error("overloaded", message, "try again later", retry_after_s=2)
        keep = not ask.stream or exchange.log_text
        answer = answer_type(exchange.record.id, ask.model, release, ask.n, count, keep, ask.include_usage)
        exchange.answer = answer
        with replica.lease(count):
            async with aclosing(_events(replica, ask)) as events:
                await (exchange.stream(events) if ask.stream else exchange.reply(events))

    def _finish(self, record: Record) -> None:
        self.recorder.put(record)
        labels = (record.endpoint, record.release[:12])
        self.metrics.requests.add((*labels, str(record.status)))
        self.metrics.latency.observe(labels, record.total_ms / 1000)
        if record.ttft_ms is not None:
            self.metrics.first.observe(labels, record.ttft_ms / 1000)
            self.metrics.tokens.add((*labels, "in"), record.prompt_tokens)
            self.metrics.tokens.add((*labels, "out"), record.completion_tokens)


class Exchange:
    """One request and its answer on the wire, and what the record should say of them."""

    def __init__(self, scope: Scope, send: Send, record: Record, on_end: Callable[[Record], None]) -> None:
        self.path: str = scope["path"]
        self.send, self.record = send, record
        self.began = time.perf_counter()
        self.started = self.ended = False
        self.on_end = on_end
        self.log_text = False
        self.text = ""
        self.answer: Answer | None = None

    def note_input(self, ask: openai.Ask) -> None:
        """The digest is over the messages or prompts as the client sent them, whatever the sampling; so is the text,
        which is plain where one prompt or one message is all."""
        given = [r.prompt if r.messages is None else r.messages for r in ask.requests[:: ask.n]]
        first: Any = given[0] if len(given) == 1 else given
        data = msgspec.json.encode(first, order="sorted")
        self.record.input_digest = hashlib.sha256(data).hexdigest()
        if len(given) == 1 and ask.requests[0].messages and len(ask.requests[0].messages) == 1:
            first = ask.requests[0].messages[0]["content"]
        self.text = first if isinstance(first, str) else data.decode()

    async def reply(self, events: AsyncIterator[tuple[int, Event]]) -> None:
        assert self.answer
        async for index, event in events:
            self._note(index, event)
        self.end(200)
        await self._send_whole(200, self.answer.whole(), [])

    async def stream(self, events: AsyncIterator[tuple[int, Event]]) -> None:
        assert self.answer
        async for index, event in events:
            self._note(index, event)
            if not self.started:  # only now: what fails before the first token still gets a status of its own
                await self._start(200, b"text/event-stream; charset=utf-8", STREAM_HEADERS)
                await self._chunk(self.answer.opening())
            if data := self.answer.chunk(index, event):
                await self._chunk(data)
        self.end(200)
        await self.send({"type": "http.response.body", "body": self.answer.closing()})

    async def fail(self, error: Error) -> None:
        self.record.finish_reason = "error"
        self.end(error.http_status)
        body = openai.error_body(error)
        if self.started:
            await self.send({"type": "http.response.body", "body": error_event(body)})
        else:
            await self._send_whole(error.http_status, msgspec.json.encode(body), retry_after(error))

    def cancelled(self) -> None:
        self.record.finish_reason = "cancelled"
        self.end(CLIENT_GONE)

    def end(self, status: int = 500) -> None:
        """Complete the record, once, and hand it on: before the last bytes are sent, so that whoever has the answer
        finds its record."""
        if self.ended:
            return
        self.ended = True
        record, answer = self.record, self.answer
        record.status, record.total_ms = status, self._elapsed_ms()
        if answer:
            record.prompt_tokens, record.completion_tokens = answer.tokens()
            record.finish_reason = record.finish_reason or answer.choices[0].finish_reason or "error"
        if self.log_text:
            texts = [choice.text for choice in answer.choices] if answer else [""]
            record.input = self.text
            record.output = texts[0] if len(texts) == 1 else msgspec.json.encode(texts).decode()
        record.finish_reason = record.finish_reason or "error"
        self.on_end(record)

    def _note(self, index: int, event: Event) -> None:
        if self.record.ttft_ms is None:
            self.record.ttft_ms = self._elapsed_ms()
        assert self.answer
        self.answer.add(index, event)

    def _elapsed_ms(self) -> float:
        return round((time.perf_counter() - self.began) * 1000, 3)

    async def _send_whole(self, status: int, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
        await self._start(status, b"application/json", [(b"content-length", b"%d" % len(body)), *headers])
        await self.send({"type": "http.response.body", "body": body})

    async def _start(self, status: int, kind: bytes, headers: list[tuple[bytes, bytes]]) -> None:
        self.started = True
        release = [(b"x-longrein-release", self.record.release.encode())] if self.record.release else []
        start = {
            "type": "http.response.start",
            "status": status,
            "headers": [(b"content-type", kind), *headers, *release],
        }
        await self.send(start)

    async def _chunk(self, data: bytes) -> None:
        await self.send({"type": "http.response.body", "body": data, "more_body": True})


class Gone(Exception):
    """The client hung up."""


async def read_body(scope: Scope, receive: Receive, limit: int) -> bytes:
    """Errors: `too_large`. What is too large is read on for a while and forgotten, or the client would see a broken
    connection in place of the answer."""
    parts: list[bytes] = []
    size, more = 0, True
    while more:
        message: Message = await receive()
        if message["type"] == "http.disconnect":
            raise Gone
        part, more = message.get("body", b""), message.get("more_body", False)
        size += len(part)
        if size <= limit:
            parts.append(part)
        elif size > 8 * limit:
            break
    if size > limit:
        raise Error("too_large", f"the body is larger than {limit} bytes", "send less")
    return b"".join(parts)


async def while_connected(receive: Receive, work: Coroutine[Any, Any, None]) -> None:
    """Do the work; it is cancelled, and Gone raised, as soon as the client hangs up."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Gone
        await task
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _events(replica: Replica, ask: openai.Ask) -> AsyncGenerator[tuple[int, Event], None]:
    """(choice, event) of all choices as they come. Closing it cancels those not finished."""
    requests = [openai.with_system(request, replica.system) for request in ask.requests]
    if len(requests) == 1:
        async with aclosing(_generate(replica, requests[0])) as only:
            async for event in only:
                yield 0, event
        return
    queue: asyncio.Queue[tuple[int, Event | None]] = asyncio.Queue()

    async def pump(index: int) -> None:
        try:
            async with aclosing(_generate(replica, requests[index])) as source:
                async for event in source:
                    queue.put_nowait((index, event))
        finally:
            queue.put_nowait((index, None))

    tasks = [asyncio.ensure_future(pump(i)) for i in range(len(requests))]
    try:
        for _ in tasks:
            while (item := await queue.get())[1] is not None:
                yield item[0], item[1]
            await tasks[item[0]]  # raises what ended it
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _generate(replica: Replica, request: Any) -> AsyncGenerator[Event, None]:
    events = replica.engine.generate(request)
    assert isinstance(events, AsyncGenerator)
    return events


def retry_after(error: Error) -> list[tuple[bytes, bytes]]:
    seconds = error.details.get("retry_after_s")
    return [] if seconds is None else [(b"retry-after", b"%d" % max(1, round(seconds)))]
