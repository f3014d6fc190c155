"""The request path: read, route, ask an engine or an upstream, answer whole or as a stream, record.

No database is asked on the way. A client that hangs up cancels its request at once.
"""

import asyncio
import hashlib
import logging
import secrets
import time
import traceback
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from functools import partial
from typing import Any, Protocol

import msgspec
from starlette.types import Message, Receive, Scope, Send

from longrein.core import trace
from longrein.core.errors import Error
from longrein.core.generation import Event, Usage
from longrein.core.ledger import ApiKey, now_ms
from longrein.core.ledger.traffic import MISSED
from longrein.gateway import openai
from longrein.gateway.answer import Answer, Completion, error_event
from longrein.gateway.cache import Cache, Caches, Entry, Replay, key_of
from longrein.gateway.cost import Costs, Spent, tags
from longrein.gateway.embeddings import EmbeddingBody, Embeddings
from longrein.gateway.engine import EngineProcess
from longrein.gateway.limits import Limits, Reservation
from longrein.gateway.metrics import Metrics
from longrein.gateway.record import Record, Recorder
from longrein.gateway.relay import Relay, Write
from longrein.gateway.replicas import Fleet, Replica
from longrein.gateway.routing import Table
from longrein.gateway.said import Said
from longrein.gateway.shadow import Shadow
from longrein.gateway.tap import Tap
from longrein.gateway.tools import ToolAnswer
from longrein.gateway.upstream import Upstream
from longrein.models.experiment import assign

MAX_BODY_BYTES = 8 << 20
MAX_INFLIGHT = 1024  # choices that one release may have under way; the engine's own queue is usually shorter
CLIENT_GONE = 499  # nginx's word for it
MAX_KEPT_BYTES = 16 << 20  # of a stream, for the cache
ELSEWHERE = frozenset({"unavailable", "timeout", "bad_gateway", "overloaded", "failed"})  # ask another release
JSON = (b"content-type", b"application/json")
STREAM = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # nginx must not collect chunks
]
log = logging.getLogger(__name__)


class Kind(msgspec.Struct, frozen=True):
    """One path of the API."""

    prefix: str  # of ids
    body: type[openai.Body]
    answer: type[Answer]
    path: str  # at an upstream, behind its base


KINDS = {
    "/v1/chat/completions": Kind("chatcmpl-", openai.ChatBody, Answer, "/chat/completions"),
    "/v1/embeddings": Kind("embd-", EmbeddingBody, Embeddings, "/embeddings"),
    "/v1/completions": Kind("cmpl-", openai.CompletionBody, Completion, "/completions"),
}


def new_id(path: str) -> str:
    """An id that tells its time, in 12 hexadecimal digits before 12 random ones."""
    prefix = KINDS[path].prefix if path in KINDS else "resp_" if path == "/v1/responses" else "req-"
    return f"{prefix}{now_ms():012x}{secrets.token_hex(6)}"


class Call:
    """One request as it was read, before anything was decided."""

    def __init__(self, kind: Kind, data: bytes, head: openai.Head) -> None:
        self.kind, self.data, self.head = kind, data, head
        self.model, self.stream = head.model, bool(head.stream)


Filter = Callable[[Call], None]  # refuses a request by raising Error


class Source(Protocol):
    """An answer on its way, of whatever makes it: Local, relay.Relay."""

    @property
    def finish_reason(self) -> str: ...

    @property
    def said(self) -> Said: ...

    @property
    def usages(self) -> Sequence[Usage]:
        """What an engine of ours measured of each choice that has ended."""
        ...

    @property
    def first(self) -> float | None:
        """When its first token came, on time.perf_counter's clock."""
        ...

    async def whole(self) -> bytes: ...

    def pieces(self) -> AsyncIterator[bytes]:
        """The events of a stream; what fails before the first one can still be told by a status."""
        ...

    def closing(self) -> bytes:
        """What a stream that reached its end ends with."""
        ...

    def tokens(self) -> tuple[int, int]:
        """(prompt, completion) so far."""
        ...

    @property
    def cached_tokens(self) -> int:
        """Of the prompt, those that had been computed before."""
        ...

    @property
    def estimated(self) -> bool:
        """Whether the tokens are a guess."""
        ...

    def text(self) -> list[str]:
        """The words of each choice so far, where they are kept."""
        ...


class Inference:
    """Answers OpenAI's chat completions and completions; an ASGI app for the paths in KINDS."""

    def __init__(
        self, fleet: Fleet, recorder: Recorder, metrics: Metrics, limits: Limits, tap: Tap,
        max_body_bytes: int = MAX_BODY_BYTES,
    ) -> None:  # fmt: skip
        self.fleet, self.recorder, self.metrics, self.max_body_bytes = fleet, recorder, metrics, max_body_bytes
        self.limits, self.tap = limits, tap
        self.log_text: frozenset[str] = frozenset()
        self.filters: Sequence[Filter] = ()
        self.caches = Caches()
        self.fallback: dict[str, list[str]] = {}
        self.costs = Costs(limits, lambda: fleet.engines)
        self.shadow = Shadow(self._answer, recorder, self.costs)

    def follow(self, table: Table) -> None:
        """Do as the lifecycle file now says of the endpoints."""
        self.log_text = table.log_text
        self.tap.follow(table.endpoints)
        self.caches.configure(table.endpoints)
        self.costs.configure(table.costs, table.compute)
        self.fallback = {name: config.get("fallback") or [] for name, config in table.endpoints.items()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        key = scope["longrein.key"]
        record = Record(id=scope["longrein.id"], ts_ms=now_ms())
        if key:
            record.key_id, record.team = key.id, key.team
        exchange = Exchange(send, record, self._finish)
        exchange.key = key
        exchange.read_headers(scope["headers"])
        exchange.write, exchange.priority = scope.get("longrein.write"), scope.get("longrein.priority", 0)
        scope["longrein.task"] = asyncio.current_task()  # the protocol cancels it when the client is gone
        try:
            body = await read_body(scope, receive, self.max_body_bytes)
            if exchange.release and key and "admin" not in key.scopes:
                raise Error("forbidden", "this API key may not choose a release", "leave out x-longrein-release")
            exchange.release = exchange.release or (key.release if key else "")
            await self._serve(exchange, KINDS[scope["path"]], body)
        except Gone:
            exchange.cancelled()
        except asyncio.CancelledError:
            exchange.cancelled()
            if "longrein.gone" not in scope:  # the server's time to drain is over
                raise
        except Error as error:
            await exchange.fail(error)
        except Exception:  # noqa: BLE001 - the edge: whatever one request does, its client is told
            log.error("a bug, met by request %s:\n%s", exchange.record.id, traceback.format_exc())
            hint = f"the server's log has more under {exchange.record.id}"
            await exchange.fail(Error("failed", "something went wrong in the server", hint))
        finally:
            exchange.end()

    async def _serve(self, exchange: "Exchange", kind: Kind, body: bytes) -> None:
        call = Call(kind, body, openai.head(body, kind.body))
        record = exchange.record
        record.stream, record.user = call.stream, (call.head.user or call.head.safety_identifier or "")[:200]
        if (call.head.priority or 0) < 0 and exchange.key and "admin" not in exchange.key.scopes:
            hint = "send a priority of 0 or more"
            raise Error("forbidden", "this API key may not go before others", hint, param="priority")
        if call.model in self.fleet.lanes:
            record.endpoint, exchange.log_text = call.model, call.model in self.log_text
            exchange.watched = call.model in self.tap.endpoints
        exchange.note_input(call.head)
        first, failed = self._route(exchange, call)
        exchange.shadow = self.fleet.shadow(call.model, record.id)
        for check in self.filters:
            check(call)
        exchange.reservation = self.limits.reserve(exchange.key, call.model, *call.head.tokens)
        for candidate in self._candidates(exchange, call, first):
            if failed:
                self._missed(exchange, failed)
            try:
                await self._answer(exchange, call, candidate)
            except Error as error:
                failed = failed or error  # what the first release said is what the client is told
                if exchange.started or error.code not in ELSEWHERE:
                    raise failed from error
            else:
                if exchange.shadow:
                    self.shadow.copy(exchange, call, exchange.shadow)
                return
        assert failed
        raise failed

    def _route(self, exchange: "Exchange", call: Call) -> tuple[Replica | None, Error | None]:
        """The replica to ask first, or why there is none while there are other endpoints to fall back on."""
        record = exchange.record
        unit = assign.unit(record.session, record.user, record.id)
        try:
            return self.fleet.route(call.model, unit, exchange.release), None
        except Error as error:
            if error.code not in ELSEWHERE or exchange.release or not self.fallback.get(call.model):
                raise
            return None, error

    def _candidates(self, exchange: "Exchange", call: Call, first: Replica | None) -> Iterator[Replica]:
        """Who may answer: the one that was dealt, then other releases, then other endpoints; of a request that asks
        for a release, no other."""
        if first:
            yield first
        if exchange.release:
            return
        if first:
            yield from self.fleet.fallbacks(call.model, first)
        for name in self.fallback.get(call.model, ()):
            with suppress(Error):
                yield self.fleet.route(name)

    def _missed(self, exchange: "Exchange", error: Error) -> None:
        """Count a failure that another release makes good: or it would be nobody's, and its rollout would not know."""
        if exchange.record.release and self.recorder.tally:
            missed = msgspec.structs.replace(
                exchange.record, arm=MISSED, status=error.http_status, error=error.code, finish_reason="error"
            )
            self.recorder.tally.add([missed])

    async def _answer(self, exchange: "Exchange", call: Call, replica: Replica) -> None:
        exchange.record.release = release = replica.target.digest
        exchange.spent.begin(replica.target.endpoint)
        exchange.record.engine = replica.engine.info["engine"]
        if exchange.wants_kept and (cache := self.caches.of(call.model, call.head)):
            key = key_of(exchange.key, release, call.kind.path, call.data)
            if entry := cache.get(key):
                exchange.shadow = None
                await exchange.replay(Replay(entry, exchange.record.id), call.stream)
                return
            exchange.keep = partial(_keep, cache, key)
        async with self._source(exchange, call, replica) as source:
            exchange.source = source
            await (exchange.stream() if call.stream else exchange.reply())

    @asynccontextmanager
    async def _source(self, exchange: "Exchange", call: Call, replica: Replica) -> AsyncGenerator[Source, None]:
        """Whatever makes the answer; leaving cancels what is not finished."""
        id, keep = exchange.record.id, exchange.log_text or exchange.watched or exchange.shadow is not None
        if isinstance(upstream := replica.engine, Upstream):
            head = call.head
            _admit(replica, 1)
            body = openai.forwarded(call.data, head, upstream.config.model, replica.system)
            affinity = openai.affinity(head) if len(upstream.replicas) > 1 else 0
            with replica.lease():
                reply = await upstream.ask(call.kind.path, body, affinity, _traced(exchange.record))
                exchange.record.upstream, exchange.record.attempts = reply.replica.url, reply.attempts
                try:
                    yield Relay(reply, id, call.model, len(head.asked), keep, not head.include_usage)
                finally:
                    reply.close()
            return
        ask = openai.parse(call.data, call.kind.body)
        _check(ask, replica)
        count = len(ask.requests)
        _admit(replica, count)
        keep = keep or not ask.stream
        shape = ToolAnswer if ask.requests[0].tools else call.kind.answer
        answer = shape(id, ask.model, replica.target.digest, ask.n, count, keep, ask.include_usage, body=ask.body)
        with replica.lease(count):
            rate = self.costs.second(replica.target.endpoint)
            used = partial(exchange.spent.add, usd_per_s=rate)
            async with aclosing(_events(replica, ask, exchange.priority, used)) as events:
                yield Local(answer, events)

    def _finish(self, exchange: "Exchange") -> None:
        record = exchange.record
        used = (0, 0) if record.cached else (record.prompt_tokens, record.completion_tokens)
        self.costs.price(record, exchange.spent)
        counts = record.status < 500 or sum(used) > 0
        priced = self.limits.cost(record.endpoint, *used, record.cached_tokens)  # what was reserved by
        usd = record.cost_usd if priced is None else priced
        self.limits.settle(exchange.reservation, sum(used), usd, counts=counts)
        self.recorder.put(record)
        if exchange.watched and record.status == 200 and exchange.source:
            self.tap.put(record, exchange.asked, exchange.source.text())


class Exchange:
    """One request and its answer on the wire, and what the record should say of them."""

    def __init__(self, send: Send, record: Record, on_end: "Callable[[Exchange], None]") -> None:
        self.send, self.record, self.on_end = send, record, on_end
        self.began = time.perf_counter()
        self.started = self.ended = False
        self.log_text = self.watched = False  # what is said goes into the log; to the observer
        self.priority = 0  # core.generation.Request's
        self.release = ""  # that the client asked for
        self.shadow: Replica | None = None  # gets a copy once it is answered
        self.input, self.asked = "", b""
        self.source: Source | None = None
        self.spent = Spent()
        self.write: Write | None = None  # the connection's, past ASGI
        self.key: ApiKey | None = None
        self.reservation: Reservation | None = None
        self.wants_kept = False  # the cache may be asked: it is a client's, who did not say no-store or no-cache
        self.keep: Callable[[Exchange, bytes], None] | None = None  # what to do with the whole answer

    def read_headers(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        self.wants_kept = True
        for name, value in headers:
            if name == b"x-longrein-session":
                self.record.session = value.decode("latin-1")[:200]
            elif name == b"x-longrein-tags":
                self.record.tags = tags(value.decode("latin-1"))
            elif name == b"x-longrein-release":
                self.release = value.decode("latin-1")
            elif name == b"traceparent":
                self.record.trace = trace.valid(value.decode("latin-1"))
            elif name == b"cache-control":
                self.wants_kept = b"no-store" not in value and b"no-cache" not in value

    def note_input(self, head: openai.Head) -> None:
        """The digest is over the messages or prompts as the client sent them, whatever the sampling; so is the text,
        which is plain where one prompt or one message is all. Errors: `invalid`."""
        self.asked = head.asked
        first, data = openai.canonical_input(head)
        self.record.input_digest = hashlib.sha256(data).hexdigest()
        if self.log_text:
            self.input = first if isinstance(first, str) else data.decode()

    async def reply(self) -> None:
        assert self.source
        body = await self.source.whole()
        self.end(200)
        if self.keep:
            self.keep(self, body)
        await self._send_whole(200, body, [])

    async def stream(self) -> None:
        assert self.source
        sent = bytearray()
        async for piece in self.source.pieces():
            if self.keep and len(sent) < MAX_KEPT_BYTES:
                sent += piece
            if not self.started:  # only now: what fails before the first token still gets a status of its own
                await self._start(200, STREAM)
            await self.send({"type": "http.response.body", "body": piece, "more_body": True})
            if self.write and not self.keep and isinstance(self.source, Relay):
                self.source.write = self.write  # nothing else is to be done with them
        if not self.started:
            raise Error("bad_gateway", "the answer has no events", "try again")
        self.end(200)
        closing = self.source.closing()
        if self.keep and len(sent) < MAX_KEPT_BYTES:
            self.keep(self, bytes(sent) + closing)
        await self.send({"type": "http.response.body", "body": closing})

    async def replay(self, kept: Replay, stream: bool) -> None:
        self.source, self.record.cached, self.record.saved_usd = kept, True, kept.entry.cost_usd
        await (self.stream() if stream else self.reply())

    async def fail(self, error: Error) -> None:
        self.record.finish_reason, self.record.error = "error", error.code
        self.record.limit = error.details.get("limit", "")
        self.end(error.http_status)
        if self.started:
            await self.send({"type": "http.response.body", "body": error_event(openai.error_body(error))})
        else:
            body = msgspec.json.encode(openai.error_body(error))
            await self._send_whole(error.http_status, body, retry_after(error))

    def cancelled(self) -> None:
        self.record.finish_reason = "cancelled"
        self.end(CLIENT_GONE)

    def end(self, status: int = 500) -> None:
        """Complete the record, once, and hand it on: before the last bytes are sent, so that whoever has the answer
        finds its record."""
        if self.ended:
            return
        self.ended = True
        record, source = self.record, self.source
        record.status, record.total_ms = status, round((time.perf_counter() - self.began) * 1000, 3)
        if source:
            record.prompt_tokens, record.completion_tokens = source.tokens()
            record.cached_tokens, record.estimated = source.cached_tokens, source.estimated
            record.finish_reason = record.finish_reason or source.finish_reason
            record.ttft_ms = round((source.first - self.began) * 1000, 3) if source.first else None
            record.output_digest, record.refusal = source.said.digest, source.said.declined
            if usages := source.usages:
                record.queue_ms = round(max(usage.queue_s for usage in usages) * 1000, 3)
        if self.log_text:
            texts = source.text() if source else [""]
            record.input = self.input
            record.output = texts[0] if len(texts) == 1 else msgspec.json.encode(texts).decode()
        record.finish_reason = record.finish_reason or "error"
        self.on_end(self)

    async def _send_whole(self, status: int, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
        await self._start(status, [JSON, (b"content-length", b"%d" % len(body)), *headers])
        await self.send({"type": "http.response.body", "body": body})

    async def _start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.started = True
        ours = [(b"x-request-id", self.record.id.encode())]
        if self.record.release:
            ours.append((b"x-longrein-release", self.record.release.encode()))
        if self.keep or self.record.cached:
            ours.append((b"x-longrein-cache", b"hit" if self.record.cached else b"miss"))
        await self.send({"type": "http.response.start", "status": status, "headers": [*headers, *ours]})


class Local:
    """The answer of an engine of ours."""

    def __init__(self, answer: Answer, events: AsyncIterator[tuple[int, Event]]) -> None:
        self.answer, self.events = answer, events
        self.first: float | None = None
        self.said, self.estimated = Said(), False

    @property
    def finish_reason(self) -> str:
        return self.answer.choices[0].finish_reason or ""

    @property
    def usages(self) -> list[Usage]:
        return [choice.usage for choice in self.answer.choices if choice.usage]

    @property
    def cached_tokens(self) -> int:
        return sum(usage.cached_tokens for usage in self.usages)

    async def whole(self) -> bytes:
        async for index, event in self.events:
            self._add(index, event)
        return self.answer.whole()

    async def pieces(self) -> AsyncIterator[bytes]:
        opening = self.answer.opening()
        async for index, event in self.events:
            self._add(index, event)
            yield opening + self.answer.chunk(index, event)
            opening = b""

    def closing(self) -> bytes:
        return self.answer.closing()

    def tokens(self) -> tuple[int, int]:
        return self.answer.tokens()

    def text(self) -> list[str]:
        return [choice.text for choice in self.answer.choices]

    def _add(self, index: int, event: Event) -> None:
        if self.first is None:
            self.first = time.perf_counter()
        if index == 0 and event.text:
            self.said.add(event.text)
        self.answer.add(index, event)


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


def retry_after(error: Error) -> list[tuple[bytes, bytes]]:
    seconds = error.details.get("retry_after_s")
    return [] if seconds is None else [(b"retry-after", b"%d" % max(1, round(seconds)))]


def _keep(cache: Cache, key: bytes, exchange: Exchange, data: bytes) -> None:
    """Put an answer that was given into the cache."""
    assert exchange.source
    record, until = exchange.record, time.monotonic() + cache.config.ttl_s
    used = (record.prompt_tokens, record.completion_tokens)
    source = exchange.source
    said = (source.text(), source.said)
    cache.put(key, Entry(record.id, data, *used, record.finish_reason, *said, until, record.cost_usd))


def _admit(replica: Replica, count: int) -> None:
    if replica.inflight + count > MAX_INFLIGHT:
        message = f"{replica.inflight} answers are under way already"
        raise Error("overloaded", message, "try again later", retry_after_s=2)


def _traced(record: Record) -> bytes:
    """The header with which an upstream goes on with a client's trace."""
    return b"traceparent: %s\r\n" % trace.of(record.id, record.trace).header.encode() if record.trace else b""


def _check(ask: openai.Ask, replica: Replica) -> None:
    """What an engine does not say that it can do would be overlooked."""
    if ask.requests[0].tools and not replica.engine.info.get("tools"):
        hint = "leave them out, or serve a model whose chat template knows tools"
        raise Error("invalid", "this endpoint's model takes no tools", hint, param="tools")
    if ask.requests[0].embed and not replica.engine.info.get("embed"):
        raise Error("invalid", "this engine makes no embeddings", "", param="model")
    if ask.requests[0].json_schema is not None and not replica.engine.info.get("json_schema"):
        raise Error("invalid", "this engine cannot keep answers to a JSON schema", "", param="response_format")


async def _events(
    replica: Replica, ask: openai.Ask, priority: int, used: Callable[[Usage], None]
) -> AsyncGenerator[tuple[int, Event], None]:
    """(choice, event) of all choices as they come. Closing it cancels those not finished. used: told what each choice
    used of the engine, however it ended."""
    requests = [openai.with_system(request, replica.system) for request in ask.requests]
    if priority:
        requests = [msgspec.structs.replace(r, priority=max(r.priority, priority)) for r in requests]
    if len(requests) == 1:
        async with aclosing(_generate(replica, requests[0], used)) as only:
            async for event in only:
                yield 0, event
        return
    queue: asyncio.Queue[tuple[int, Event | None]] = asyncio.Queue()

    async def pump(index: int) -> None:
        try:
            async with aclosing(_generate(replica, requests[index], used)) as source:
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


def _generate(replica: Replica, request: Any, used: Callable[[Usage], None]) -> AsyncGenerator[Event, None]:
    assert isinstance(replica.engine, EngineProcess)
    events = replica.engine.generate(request, used)
    assert isinstance(events, AsyncGenerator)
    return events
