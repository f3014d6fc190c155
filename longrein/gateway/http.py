"""A pooled HTTP/1.1 client for upstreams, on httptools: no redirects, cookies, proxies or compression, and so cheap.

One request on a connection at a time. A connection that the other side closed while it lay idle is replaced unseen.
"""

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from typing import Literal, cast
from urllib.parse import urlsplit

import httptools

MAX_HEAD_BYTES = 64 << 10
HIGH_BYTES = 256 << 10  # of an answer that nobody has taken yet: then the upstream must wait
KEEP_S = 30.0  # an idle connection older than this is not used again; servers close them after 5 s to 75 s
Problem = Literal["connect", "full", "closed", "timeout", "garbage", "too_large"]


class Failure(Exception):
    """An exchange that came to no good end. `problem` says how; `begun`: whether a byte of the answer had come."""

    def __init__(self, problem: Problem, message: str, begun: bool = False) -> None:
        super().__init__(message)
        self.problem, self.message, self.begun = problem, message, begun


class Patience:
    """How long to wait, in seconds: for a connection, the answer's first byte, each further one, and all in all."""

    __slots__ = ("connect_s", "first_byte_s", "idle_s", "total_s")

    def __init__(self, connect_s: float, first_byte_s: float, idle_s: float, total_s: float) -> None:
        self.connect_s, self.first_byte_s, self.idle_s, self.total_s = connect_s, first_byte_s, idle_s, total_s


class Pool:
    """The connections to one origin. All methods belong to one event loop.

    url: the base; a path given to `ask` is put behind its own. open: connections, idle ones included.
    """

    def __init__(self, url: str, patience: Patience, max_connections: int = 512) -> None:
        parts = urlsplit(url)
        assert parts.hostname, url
        self.url, self.base = url, parts.path.rstrip("/")
        self.host, self.tls = parts.hostname, parts.scheme == "https"
        self.port = parts.port or (443 if self.tls else 80)
        self.authority = parts.netloc.rpartition("@")[2].encode("idna" if not parts.netloc.isascii() else "ascii")
        self.patience, self.max_connections = patience, max_connections
        self.open = 0
        self._ssl = ssl.create_default_context() if self.tls else None
        self._idle: deque[Connection] = deque()  # the most lately used is last, and is used first
        self._busy: set[Connection] = set()
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._closed = False

    async def ask(self, method: str, path: str, head: bytes, body: bytes, deadline: float) -> "Response":
        """Send a request; returns once the head of the answer is there. Close the response in any case.

        head: further header lines, each ended by CRLF. deadline: on the loop's clock. Errors: Failure.
        """
        line = f"{method} {self.base}{path} HTTP/1.1\r\nhost: ".encode()
        data = b"".join((line, self.authority, b"\r\n", head, b"content-length: %d\r\n\r\n" % len(body), body))
        while True:
            connection = await self._take(deadline)
            response = Response(connection, deadline)
            try:
                connection.send(data, response)
                await response.started()
                return response
            except Failure as failure:
                if connection.uses > 1 and failure.problem == "closed" and not failure.begun:
                    continue  # it was closed while it lay idle: the server has not seen the request
                raise
            finally:
                if not response.head:
                    response.close()

    def close(self) -> None:
        """Close what is open at once."""
        self._closed = True
        for connection in [*self._idle, *self._busy]:
            connection.abort()

    async def _take(self, deadline: float) -> "Connection":
        loop = asyncio.get_running_loop()
        while True:
            while self._idle:
                connection = self._idle.pop()
                if loop.time() - connection.since < KEEP_S and not connection.transport.is_closing():
                    self._busy.add(connection)
                    return connection
                connection.abort()
            if self.open < self.max_connections:
                return await self._connect(min(self.patience.connect_s, deadline - loop.time()))
            waiter = loop.create_future()
            self._waiters.append(waiter)
            try:
                async with asyncio.timeout(min(self.patience.connect_s, deadline - loop.time())):
                    await waiter
            except BaseException as error:
                if waiter.done() and not waiter.cancelled():
                    self._wake()  # it was this one's turn: now it is the next one's
                else:
                    self._waiters.remove(waiter)
                if isinstance(error, TimeoutError):
                    raise Failure("full", f"all {self.open} connections are in use") from None
                raise

    async def _connect(self, timeout_s: float) -> "Connection":
        self.open += 1
        loop, connection = asyncio.get_running_loop(), Connection(self)
        try:
            async with asyncio.timeout(timeout_s):
                await loop.create_connection(lambda: connection, self.host, self.port, ssl=self._ssl)
        except BaseException as error:
            if not connection.made:
                self.open -= 1
                self._wake()
            else:
                connection.abort()
            if isinstance(error, TimeoutError):
                raise Failure("connect", f"no connection in {timeout_s:.3g} s") from None
            if isinstance(error, OSError | ssl.CertificateError):
                raise Failure("connect", str(error)) from error
            raise
        self._busy.add(connection)
        return connection

    def give_back(self, connection: "Connection") -> None:
        """A connection whose exchange is over, fit for another."""
        self._busy.discard(connection)
        if self._closed:
            connection.abort()
            return
        connection.since = asyncio.get_running_loop().time()
        if self._idle and connection.since - self._idle[0].since > KEEP_S:
            self._idle.popleft().abort()
        self._idle.append(connection)
        self._wake()

    def lost(self, connection: "Connection") -> None:
        """A connection that is no more."""
        self.open -= 1
        if connection in self._busy:
            self._busy.discard(connection)
        elif connection in self._idle:
            self._idle.remove(connection)
        self._wake()

    def _wake(self) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return


class Connection(asyncio.Protocol):
    """One connection, and the parser of what comes over it."""

    def __init__(self, pool: Pool) -> None:
        self.pool, self.response, self.uses, self.since = pool, cast("Response | None", None), 0, 0.0
        self.parser = httptools.HttpResponseParser(self)
        self.transport: asyncio.Transport
        self.made = False

    def send(self, data: bytes, response: "Response") -> None:
        self.uses += 1
        self.response = response
        self.transport.write(data)

    def abort(self) -> None:
        self.transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.made = True

    def data_received(self, data: bytes) -> None:
        response = self.response
        if response is None:  # bytes that nobody asked for
            self.abort()
            return
        response.last = response.loop.time()
        if not response.head:
            response.head_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            said = str(error) or type(error).__name__
            response.hand_on()
            response.fail(Failure("garbage", f"it does not answer in HTTP: {said[:200]}", response.begun))
            self.abort()
            return
        response.hand_on()
        if not response.head and max(response.head_bytes, response.header_bytes) > MAX_HEAD_BYTES:
            response.fail(Failure("too_large", f"the head of its answer is larger than {MAX_HEAD_BYTES} bytes"))
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.response:
            self.response.eof()
            self.response = None
        self.pool.lost(self)

    # httptools

    def on_header(self, name: bytes, value: bytes) -> None:
        assert self.response
        self.response.headers[name.lower()] = value
        self.response.header_bytes += len(name) + len(value)

    def on_headers_complete(self) -> None:
        response, status = self.response, self.parser.get_status_code()
        assert response
        if response.header_bytes > MAX_HEAD_BYTES:
            return  # data_received sees to it
        if status < 200:  # 100 Continue and 103 Early Hints announce the answer, and are none
            response.headers.clear()
        else:
            response.set_head(status)

    def on_body(self, data: bytes) -> None:
        if self.response:
            self.response.put(data)

    def on_message_complete(self) -> None:
        response = self.response
        if response and response.head:
            self.response = None
            response.end()
            if self.parser.should_keep_alive():
                self.pool.give_back(self)
            else:
                self.transport.close()


class Response:
    """One answer, as it comes. begun: a byte has come. complete: all of it has."""

    __slots__ = (
        "_pieces", "_sink", "_size", "_timer", "_waiter", "closed", "complete", "connection", "deadline", "failure",
        "head", "head_bytes", "header_bytes", "headers", "last", "loop", "paused", "status",
    )  # fmt: skip

    def __init__(self, connection: Connection, deadline: float) -> None:
        self.connection, self.deadline, self.loop = connection, deadline, asyncio.get_running_loop()
        self.status = self.head_bytes = self.header_bytes = self._size = 0
        self.headers: dict[bytes, bytes] = {}  # names in lower case
        self.head = self.complete = self.closed = self.paused = False
        self.failure: Exception | None = None
        self._sink: Callable[[bytes], bool] | None = None
        self.last = self.loop.time()
        self._pieces: list[bytes] = []
        self._waiter: asyncio.Future[None] | None = None
        self._timer = self.loop.call_at(min(deadline, self.last + self._patience()), self._tick)

    @property
    def begun(self) -> bool:
        return self.head_bytes > 0

    async def started(self) -> None:
        """Wait for the head. Errors: Failure."""
        while not self.head:
            if self.failure:
                raise self.failure
            await self._wait()

    async def read(self) -> bytes:
        """What has come since last time; b"" at the end. Errors: Failure."""
        while not self._pieces:
            if self.failure:
                raise self.failure
            if self.complete:
                return b""
            await self._wait()
        data = self._taken()
        self.resume()
        return data

    def _taken(self) -> bytes:
        data = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        self._size = 0
        return data

    async def pour(self, sink: Callable[[bytes], bool]) -> None:
        """Hand all that comes to `sink`, as it comes and without a task in between, until that returns False or the
        answer ends. Errors: Failure, and what `sink` raises."""
        if self._pieces and not sink(await self.read()):
            return
        self._sink = sink
        try:
            while self._sink is not None and not self.complete:
                if self.failure:
                    raise self.failure
                await self._wait()
        finally:
            self._sink = None
        if self.failure:
            raise self.failure

    def pause(self) -> None:
        """Let the upstream wait."""
        if not self.paused and not self.complete:
            self.paused = True
            self.connection.transport.pause_reading()

    def resume(self) -> None:
        if self.paused:
            self.paused = False
            self.last = self.loop.time()
            if not self.complete and not self.closed:
                self.connection.transport.resume_reading()

    async def whole(self, limit: int) -> bytes:
        """All of it. Errors: Failure, `too_large` beyond `limit` bytes."""
        parts, size = [await self.read()], 0
        while not self.complete or self._pieces:
            parts.append(await self.read())
            size += len(parts[-1])
            if size > limit:
                raise Failure("too_large", f"its answer is larger than {limit} bytes", True)
        return b"".join(parts)

    def close(self, grace_s: float = 0.0) -> None:
        """Done with it. An answer still under way is cancelled by closing its connection, unless it ends within
        grace_s: then another request may use the connection."""
        self._timer.cancel()
        self.closed = True
        if self.complete:
            return
        if grace_s and not self.failure:
            self._timer = self.loop.call_later(grace_s, self.close)
        elif self.connection.response is self:
            self.connection.response = None
            self.connection.abort()

    # from the connection

    def set_head(self, status: int) -> None:
        self.status, self.head = status, True
        self._wake()

    def put(self, data: bytes) -> None:
        if not self.closed:
            self._pieces.append(data)
            self._size += len(data)

    def hand_on(self) -> None:
        """All that came with one read of the connection goes on together: chunks of it would cost a write each."""
        if not self._pieces:
            return
        if self._sink:
            try:
                if self._sink(self._taken()):
                    return
            except Exception as error:  # noqa: BLE001 - it belongs to the task that waits, not to the loop
                self.fail(error)
            self._sink = None
        elif self._size > HIGH_BYTES:
            self.pause()
        self._wake()

    def end(self) -> None:
        self.hand_on()
        self.complete = True
        self._timer.cancel()
        if self.paused:
            self.connection.transport.resume_reading()
            self.paused = False
        self._wake()

    def fail(self, failure: Exception) -> None:
        if self.complete:
            return
        self.failure = self.failure or failure
        self._timer.cancel()
        self._wake()

    def eof(self) -> None:
        """The connection is gone: the end of an answer that has neither a length nor chunks, else a failure."""
        framed = b"content-length" in self.headers or b"transfer-encoding" in self.headers
        if self.head and not framed and not self.failure:
            self.end()
        else:
            how = "in the middle of its answer" if self.begun else "without an answer"
            self.fail(Failure("closed", f"it closed the connection {how}", self.begun))

    def _patience(self) -> float:
        patience = self.connection.pool.patience
        return patience.idle_s if self.begun else patience.first_byte_s

    def _tick(self) -> None:
        """One timer for three limits: it looks when it fires how much was waited for."""
        now, limit = self.loop.time(), self._patience()
        since = now if self.paused else self.last  # while our client is slow, the upstream is not to blame
        if now < self.deadline and now - since < limit:
            self._timer = self.loop.call_at(min(self.deadline, since + limit), self._tick)
            return
        what = "to an end" if now >= self.deadline else "further" if self.begun else "to begin"
        self.fail(Failure("timeout", f"its answer did not come {what} in time", self.begun))
        self.connection.response = None
        self.connection.abort()

    def _wake(self) -> None:
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)

    async def _wait(self) -> None:
        self._waiter = self.loop.create_future()
        await self._waiter
