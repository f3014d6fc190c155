"""The client side of an engine process: spawn it, talk to it, notice when it dies.

Frames on a socket. To the engine: start, submit, cancel, stats, ping, stop; bye where others ask it too. From it:
ready, failed, events (all that one step produced, in one frame), stats, pong. One that answers no ping, because it is
stopped or stuck, is killed: that it failed is then told as of any other.
"""

import asyncio
import contextlib
import itertools
import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import msgspec

from longrein.core.errors import Error
from longrein.core.generation import Event, Logprob, Request, Usage
from longrein.gateway.engine_hub import attach
from longrein.gateway.frame import FRAME, LENGTH, MAX_FRAME_BYTES, frame

__all__ = ["EngineProcess", "Event", "Logprob", "Request", "Usage"]

CANCEL_S = 10.0  # until an engine has taken notice: a step of it
START_S = 300.0  # an engine may take so long to start
SILENT_S = 20.0  # and be silent for so long
BEATS = 4  # pings in that time
STOP_GRACE_S = 10.0  # beyond the drain, before the process is killed
log = logging.getLogger(__name__)
EVENTS = msgspec.msgpack.Decoder(list[Event])


class EngineProcess(asyncio.Protocol):
    """One engine plugin in a process of its own; all methods belong to the event loop that started it.

    alive: False from the moment the process is gone. info: what the plugin says of itself (see core.ports.Engine).
    """

    info: dict[str, Any]

    def __init__(self, name: str, on_exit: "Callable[[EngineProcess], None] | None") -> None:
        self.name, self.alive, self.info = name, False, {}
        self._on_exit, self._stopping = on_exit, False
        self._peer = secrets.token_hex(6)  # ids begin with it: a shared engine knows whom an event is for
        self._ids = itertools.count()
        self._buffer = bytearray()
        self._closed = asyncio.Event()
        self._inboxes: dict[str, _Inbox] = {}
        self._silent_s, self._missed = SILENT_S, 0
        self._timer: asyncio.TimerHandle | None = None
        self._stats: deque[asyncio.Future[dict[str, Any]]] = deque()
        self._ready: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._process: asyncio.subprocess.Process | None = None  # None: shared, and nobody's own
        self.pid = 0
        self._transport: asyncio.WriteTransport

    @classmethod
    async def start(
        cls,
        plugin: str,
        model: Path,
        options: Mapping[str, Any] | None = None,
        *,
        name: str = "",
        project: Path | None = None,
        log: Path | None = None,
        start_s: float = START_S,
        silent_s: float = SILENT_S,
        on_exit: "Callable[[EngineProcess], None] | None" = None,
        shared: Path | None = None,
    ) -> "EngineProcess":
        """Spawn `plugin` on the folder `model`; returns when its first request can be served.

        shared: a folder where processes that ask for the same find one engine, which outlives each of them.
        start_s: how long that may take. silent_s: how long it may then say nothing before it counts as failed.
        log: where its stdout and stderr are appended (None: this process's stderr). on_exit: called once, in the
        loop, when a started engine ends without stop() having been asked for. Errors: the plugin's own (not_found,
        invalid, missing_package …), `timeout`, or `failed` when it ended without a word.
        """
        self = cls(name or f"{plugin}:{model.name}", on_exit)
        task: dict[str, Any] = {"plugin": plugin, "model": str(model), "options": dict(options or {})}
        task["project"] = str(project) if project else None
        ours = await (self._join(shared, task, log) if shared else self._spawn(log))
        await asyncio.get_running_loop().create_connection(lambda: self, sock=ours)
        self._send("start", task | {"peer": self._peer})
        try:
            async with asyncio.timeout(start_s):
                ready = await self._ready
                self.info, self.pid = ready["info"], ready["pid"]
            self._silent_s = silent_s
            self._beat()
        except TimeoutError:
            raise Error("timeout", f"the engine {self.name} did not start in {start_s:g} s") from None
        except Error as error:
            if log and error.code == "failed":
                error.hint = error.hint or f"see {log}"
            raise
        finally:
            if not self.pid:  # also when it was given up at the very moment it became ready
                self._stopping = True
                if self.alive:
                    self._send("bye", None)
                self._transport.close()  # that alone ends it, should the wait for its end be cancelled as well
                await self._end(grace_s=1.0)
        return self

    async def _spawn(self, log: Path | None) -> socket.socket:
        """A process of our own, which ends with us."""
        ours, theirs = socket.socketpair()
        with theirs, _output(log) as output:
            self._process = await asyncio.create_subprocess_exec(
                *_command(theirs, self.name), pass_fds=[theirs.fileno()], stdin=asyncio.subprocess.DEVNULL,
                stdout=output, stderr=output, env={**os.environ, "LONGREIN_PARENT": str(os.getpid())},
            )  # fmt: skip
        return ours

    async def _join(self, folder: Path, task: dict[str, Any], log: Path | None) -> socket.socket:
        """The process that others of this folder ask too, started if there is none."""

        def spawn(listener: socket.socket, path: Path) -> None:
            without = {name: value for name, value in os.environ.items() if name != "LONGREIN_PARENT"}
            command = [*_command(listener, self.name), str(path)]
            with _output(log) as output:
                process = subprocess.Popen(
                    command, pass_fds=[listener.fileno()], stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                    env=without, start_new_session=True,
                )  # fmt: skip
            _started.append(process)

        _started[:] = [process for process in _started if process.poll() is None]
        return await asyncio.to_thread(attach, folder, task, spawn)

    async def generate(self, request: Request, used: Callable[[Usage], None] = lambda _: None) -> AsyncIterator[Event]:
        """The events of one request, as its tokens come; the last one has finish_reason and usage.

        used: told, before the iterator ends, what the request has used, however it ended.
        Closing the iterator cancels the request in the engine, and waits until that is done. Errors, raised from the
        iteration: `invalid` (details: param, openai_code), `overloaded` (details: retry_after_s), `unavailable` at once
        when the engine dies or stops.
        """
        id = f"{self._peer}:{next(self._ids)}:{request.id}"
        if not self.alive or self._stopping:
            raise self._gone()
        data = _encoded(msgspec.structs.replace(request, id=id))
        inbox = self._inboxes[id] = _Inbox()
        self._transport.write(data)
        ended = False
        try:
            while not ended:
                event = await inbox.take()
                ended = event.ended
                if ended and event.usage:
                    used(event.usage)
                if event.error is not None:
                    raise Error.from_dict(event.error)
                yield event
        finally:
            try:
                if not ended and self.alive:
                    self._send("cancel", id)
                    await _end(inbox, used)
            finally:
                del self._inboxes[id]

    async def stats(self) -> dict[str, Any]:
        """The plugin's counters and gauges (see core.ports.Engine.stats)."""
        if not self.alive:
            raise self._gone()
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._stats.append(future)
        self._send("stats", self._peer)
        return await future

    async def stop(self, drain_s: float = 0.0) -> None:
        """Take no more requests, let those in flight finish for up to drain_s, end the process. Twice is harmless."""
        self._stopping = True
        if self.alive:
            self._send("stop" if self._process else "bye", drain_s)
        await self._end(drain_s + STOP_GRACE_S)

    async def wait(self) -> int:
        """Wait for the end of a process of our own; its exit status, negative for a signal."""
        assert self._process
        return await self._process.wait()

    def _beat(self) -> None:
        """Count pings without an answer, not time: after a pause of our own its answers may just be unread."""
        if not self.alive:
            return
        if self._missed > BEATS:
            log.error("the engine %s said nothing for %g s: it is killed", self.name, self._silent_s)
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(self.pid, signal.SIGKILL)
            self._transport.abort()
            return
        self._missed += 1
        self._send("ping", self._peer)
        self._timer = asyncio.get_running_loop().call_later(self._silent_s / BEATS, self._beat)

    async def _end(self, grace_s: float) -> None:
        if self._process:
            try:
                async with asyncio.timeout(grace_s):
                    await self._process.wait()
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    self._process.kill()
                await self._process.wait()
        self._transport.close()
        try:
            async with asyncio.timeout(grace_s):
                await self._closed.wait()
        except TimeoutError:  # the other end does not read
            self._transport.abort()

    def _send(self, verb: str, body: Any) -> None:
        self._transport.write(frame(verb, body))

    def _gone(self) -> Error:
        if self._stopping:
            return Error("unavailable", f"the engine {self.name} is stopping", "try again", retry_after_s=1)
        return Error("unavailable", f"the engine {self.name} ended unexpectedly", "try again", retry_after_s=1)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)  # uvloop's transports are no subclasses of it

    def data_received(self, data: bytes) -> None:
        self._missed = 0
        self._buffer += data
        start = 0
        while len(self._buffer) - start >= LENGTH.size:
            end = start + LENGTH.size + LENGTH.unpack_from(self._buffer, start)[0]
            if len(self._buffer) < end:
                break
            self._receive(*FRAME.decode(bytes(self._buffer[start + LENGTH.size : end])))
            start = end
        del self._buffer[:start]

    def _receive(self, verb: str, body: msgspec.Raw) -> None:
        if verb == "events":
            for event in EVENTS.decode(body):
                if inbox := self._inboxes.get(event.id):  # else it was cancelled meanwhile
                    inbox.put(event)
        elif verb == "stats":
            _settle(self._stats.popleft(), msgspec.msgpack.decode(body))
        elif verb == "ready":
            self.alive = True
            _settle(self._ready, msgspec.msgpack.decode(body))
        elif verb == "failed":
            _settle(self._ready, Error.from_dict(msgspec.msgpack.decode(body)))

    def connection_lost(self, exc: Exception | None) -> None:
        started, self.alive = self.alive, False
        if self._timer:
            self._timer.cancel()
        self._closed.set()
        _settle(self._ready, Error("failed", f"the engine {self.name} ended while it was starting"))
        error = self._gone()
        for future in self._stats:
            _settle(future, error)
        for id, inbox in self._inboxes.items():
            inbox.put(Event(id, error=error.as_dict()))
        if started and not self._stopping and self._on_exit:
            self._on_exit(self)


class _Inbox:
    """The events of one request on their way to its reader; as many as it has tokens, at most."""

    def __init__(self) -> None:
        self._events: deque[Event] = deque()
        self._waiter: asyncio.Future[None] | None = None

    def put(self, event: Event) -> None:
        self._events.append(event)
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)

    async def take(self) -> Event:
        if not self._events:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return self._events.popleft()


async def _end(inbox: _Inbox, used: Callable[[Usage], None]) -> None:
    """Wait for the last event of a request that was cancelled: what it has used. An engine that hangs is not waited
    for."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(CANCEL_S):
            while not (event := await inbox.take()).ended:
                pass
            if event.usage:
                used(event.usage)


_started: list[subprocess.Popen[bytes]] = []  # shared engines this process has started: reaped, never killed


def _command(sock: socket.socket, name: str) -> list[str]:
    return [sys.executable, "-m", "longrein.gateway.engine_process", str(sock.fileno()), name]


@contextlib.contextmanager
def _output(log: Path | None) -> Iterator[Any]:
    if log is None:
        yield 2
    else:
        with log.open("ab") as file:
            yield file


def _encoded(request: Request) -> bytes:
    try:
        data = frame("submit", request)
    except (UnicodeEncodeError, RecursionError, OverflowError, TypeError) as error:
        raise Error("invalid", f"the request cannot be encoded: {error}", "send valid Unicode and plain JSON") from None
    if len(data) > MAX_FRAME_BYTES:
        raise Error("too_large", f"the request has {len(data)} bytes, the most is {MAX_FRAME_BYTES}")
    return data


def _settle(future: asyncio.Future[dict[str, Any]], value: dict[str, Any] | Error) -> None:
    if future.done():
        return
    if isinstance(value, Error):
        future.set_exception(value)
    else:
        future.set_result(value)
