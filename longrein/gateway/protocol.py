"""uvicorn's HTTP/1.1 connections, with bounds on what a client may hold: sizes, times, connections.

uvicorn alone would wait for ever for a head or a body that never ends, and keep as many half-open connections as come.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """What a client may hold."""

    head_bytes: int = 64 << 10  # the request line and headers: then 431
    head_s: float = 15.0  # from the connection, or the first byte of a further request, to the end of the head
    body_s: float = 120.0  # from there to the end of the body: then 408
    idle_s: float = 75.0  # between two requests; longer than reverse proxies keep theirs
    stalled_s: float = 60.0  # the client takes nothing of what is sent: then the connection is cut
    connections: int = 10_000  # beyond them the one that has been waiting longest is closed


BOUNDS = Bounds()


class Watch:
    """The connections of one server by what they wait for, the longest first in each; looked at once a second."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self.head: dict[Connection, float] = {}
        self.body: dict[Connection, float] = {}
        self.idle: dict[Connection, float] = {}
        self.stalled: dict[Connection, float] = {}
        self._unsent: dict[Corked, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    def look(self, loop: asyncio.AbstractEventLoop) -> None:
        """Close what has waited too long; then again in a second."""
        bounds, now = self.bounds, loop.time()
        limits: list[tuple[dict[Connection, float], float, Callable[[Connection], None]]] = [
            (self.head, bounds.head_s, Connection.too_slow),
            (self.body, bounds.body_s, Connection.too_slow),
            (self.idle, bounds.idle_s, Connection.cut),
            (self.stalled, bounds.stalled_s, Connection.cut),
        ]
        for waiting, limit, end in limits:
            for connection in [c for c, since in _until(waiting, now - limit)]:
                del waiting[connection]
                end(connection)
        self._timer = loop.call_later(1.0, self.look, loop)

    def flush_soon(self, corked: "Corked") -> None:
        if not self._unsent:
            asyncio.get_running_loop().call_soon(self._flush)
        self._unsent[corked] = None

    def _flush(self) -> None:
        unsent, self._unsent = self._unsent, {}
        for corked in unsent:
            corked.flush()

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is None:
            self._timer = loop.call_later(1.0, self.look, loop)

    def make_room(self) -> None:
        """Close the connection that has been waiting longest, never the one that just came."""
        first = [next(iter(waiting.items())) for waiting in (self.head, self.idle, self.body, self.stalled) if waiting]
        if first:
            connection = min(first, key=lambda found: found[1])[0]
            self.forget(connection)
            connection.cut()

    def forget(self, connection: "Connection") -> None:
        for waiting in (self.head, self.body, self.idle, self.stalled):
            waiting.pop(connection, None)


class Corked:
    """A transport that keeps an answer's head back until its body begins, and pieces of a stream until the loop has
    read what else is there: one packet, and one system call, for all."""

    def __init__(self, transport: asyncio.Transport, watch: "Watch") -> None:
        self.transport, self.watch = transport, watch
        self.kept: list[bytes] = []
        self.is_closing = transport.is_closing

    def write(self, data: bytes) -> None:
        self.kept.append(data)
        if not data.startswith(b"HTTP/1.1 ") or data.startswith(b"HTTP/1.1 100"):
            self.flush()

    def later(self, data: bytes) -> None:
        self.kept.append(data)
        self.watch.flush_soon(self)

    def flush(self) -> None:
        if self.kept:
            data, self.kept = b"".join(self.kept), []
            self.transport.write(data)

    def close(self) -> None:
        self.flush()
        self.transport.close()


class Connection(HttpToolsProtocol):
    """One client's connection; see `bounded`."""

    watch: Watch  # of its server

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.in_head, self.head_bytes = False, 0
        self.running: RequestResponseCycle | None = None
        self.when_writable: Callable[[], None] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.corked = Corked(transport, self.watch)
        self.watch.head[self] = self.loop.time()
        self.watch.start(self.loop)
        if len(self.connections) > self.watch.bounds.connections:
            self.watch.make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        self.watch.forget(self)
        super().connection_lost(exc)
        if self.running and not self.running.response_complete:
            self.running.disconnected = True
            scope = self.running.scope
            if task := scope.get("longrein.task"):
                scope["longrein.gone"] = True  # type: ignore[typeddict-unknown-key]
                task.cancel()  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        if self in self.watch.idle:
            del self.watch.idle[self]
            self.watch.head[self] = self.loop.time()
        super().data_received(data)
        if self.in_head:
            self.head_bytes += len(data)
            if self.head_bytes > self.watch.bounds.head_bytes:
                self.refuse(431, "the head of the request is too large")

    def on_message_begin(self) -> None:
        self.in_head, self.head_bytes = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self.in_head = False
        self.watch.head.pop(self, None)
        self.watch.body[self] = self.loop.time()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self.watch.body.pop(self, None)
        super().on_message_complete()
        if self.cycle.response_complete:  # it was answered before all of it had come
            self.watch.idle[self] = self.loop.time()

    def on_response_complete(self) -> None:
        """As uvicorn's, with one look a second at all idle connections in place of a timer for each."""
        self.corked.flush()  # an answer without a body
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif self not in self.watch.body:
            self.watch.idle[self] = self.loop.time()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self.running = cycle
        cycle.transport = self.corked  # type: ignore[assignment]
        cycle.scope["longrein.write"] = self.write_piece  # type: ignore[typeddict-unknown-key]
        super()._start_asgi_task(cycle, app)

    def write_piece(self, data: bytes, when_writable: Callable[[], None]) -> bool:
        """Send a piece of the body of the stream that is under way, without waiting; ASGI's send in one plain call.

        False when the client is slow: then let there be no more until `when_writable` is called.
        """
        if not (self.running and self.running.disconnected):
            self.corked.later(b"%x\r\n%b\r\n" % (len(data), data))
        if self.flow.write_paused:
            self.when_writable = when_writable
            return False
        return True

    def pause_writing(self) -> None:
        self.watch.stalled[self] = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        self.watch.stalled.pop(self, None)
        super().resume_writing()
        if self.when_writable:
            resume, self.when_writable = self.when_writable, None
            resume()

    def too_slow(self) -> None:
        """Close a connection whose request did not come in time."""
        self.refuse(408, "the request did not come in time")

    def refuse(self, status: int, message: str) -> None:
        """Tell what is wrong, unless an answer is on its way, and close."""
        running = self.running
        if running and not running.response_complete and (running.response_started or running is not self.cycle):
            self.cut()
            return
        if running:
            running.disconnected = True  # whatever else it says goes nowhere
        error = {"message": message, "type": "invalid_request_error", "param": None, "code": None}
        body = msgspec.json.encode({"error": error})
        head = b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
        self.transport.write(STATUS_LINE[status] + head + body)
        self.transport.close()

    def cut(self) -> None:
        """Close without a word, and with all that is under way on it."""
        self.transport.abort()


def bounded(bounds: Bounds) -> type[Connection]:
    """The connections of one server, for uvicorn's setting `http`."""
    return type("Bounded", (Connection,), {"watch": Watch(bounds)})


def _until(waiting: dict[Connection, float], then: float) -> list[tuple[Connection, float]]:
    """Those that wait since before `then`: the first ones, for they are in the order in which they came."""
    found = []
    for connection, since in waiting.items():
        if since > then:
            break
        found.append((connection, since))
    return found
