"""The engine's side of longrein.gateway.engine: `python -m longrein.gateway.engine_process FD NAME`.

One thread reads frames from the socket FD; the main thread owns the engine and steps it while there is work. When
the other end goes away, so does this process.
"""

import math
import os
import queue
import signal
import socket
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

import msgspec

from longrein.core import plugins
from longrein.core.errors import Error
from longrein.core.generation import Event, Request
from longrein.core.ports import Engine, Steered
from longrein.core.worker import as_error, die_with_parent
from longrein.gateway.engine import FRAME, LENGTH, MAX_FRAME_BYTES, frame
from longrein.ops.batching import Controller

REQUEST = msgspec.msgpack.Decoder(Request)
Inbox = queue.SimpleQueue[tuple[str, msgspec.Raw]]


def main(fd: int) -> int:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal reaches the group; the owner decides
    os.set_inheritable(fd, False)
    with socket.socket(fileno=fd) as sock:
        inbox: Inbox = queue.SimpleQueue()
        threading.Thread(target=_read, args=(sock, inbox), daemon=True).start()
        _, body = inbox.get()
        try:
            engine = _load(**msgspec.msgpack.decode(body))
        except BaseException as error:  # noqa: BLE001 - the edge of the process: the owner is told
            sock.sendall(frame("failed", as_error(error).as_dict()))
            if not isinstance(error, Error):
                traceback.print_exc()
            return 1
        sock.sendall(frame("ready", engine.info))
        _Server(sock, engine).run(inbox)
    return 0


def _load(plugin: str, model: str, options: dict[str, Any], project: str | None) -> Engine:
    if project:
        plugins.use_project(Path(project))
    engine: Engine = plugins.load("engine", plugin)(Path(model), options)
    return engine


def _read(sock: socket.socket, inbox: Inbox) -> None:
    with sock.makefile("rb") as stream:
        while head := stream.read(LENGTH.size):
            size = LENGTH.unpack(head)[0] if len(head) == LENGTH.size else MAX_FRAME_BYTES + 1
            data = stream.read(size) if size <= MAX_FRAME_BYTES else b""
            if len(data) < size:
                break
            inbox.put(FRAME.decode(data))
    os._exit(0)  # the owner is gone; nobody is left to answer


class _Server:
    """The loop: take what has come, step once, send what the step produced as one frame."""

    def __init__(self, sock: socket.socket, engine: Engine) -> None:
        self.sock, self.engine = sock, engine
        self.steering = Steering(engine) if isinstance(engine, Steered) else None
        self.deadline: float | None = None  # set by stop

    def run(self, inbox: Inbox) -> None:
        while True:
            self._take(inbox)
            if self.deadline is not None and not (self.engine.pending() and time.monotonic() < self.deadline):
                return
            if events := self.steering.step() if self.steering else self.engine.step():
                self.sock.sendall(frame("events", events))

    def _take(self, inbox: Inbox) -> None:
        """Handle all frames that have come; with nothing to compute, wait for one."""
        while not inbox.empty() or not (self.engine.pending() or self.deadline is not None):
            verb, body = inbox.get()
            if verb == "submit":
                self._submit(body)
            elif verb == "cancel":
                self.engine.cancel(msgspec.msgpack.decode(body))
            elif verb == "stats":
                self.sock.sendall(frame("stats", self.engine.stats()))
            elif verb == "stop":
                self.deadline = time.monotonic() + msgspec.msgpack.decode(body)

    def _submit(self, body: msgspec.Raw) -> None:
        try:
            self.engine.submit(_decode(body))
        except Exception as caught:  # noqa: BLE001 - whatever one request does to its engine, the others go on
            error = as_error(caught)
            if error is not caught:
                traceback.print_exc()
            id = msgspec.msgpack.decode(body)["id"]
            self.sock.sendall(frame("events", [Event(id, error=error.as_dict())]))


class Steering:
    """The controller (longrein.ops.batching) around the steps of an engine."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine  # of both ports, Engine and Steered
        self.controller = Controller(engine.slo, engine.limits)

    def step(self) -> list[Event]:
        """One step within the controller's limits; those refused for being late are told with its events."""
        decision = self.controller.decide(self.engine.load())
        self.engine.limits = decision.limits
        told = [self._refuse(id, late_s) for id, late_s in decision.refused]
        events: list[Event] = self.engine.step()
        if work := self.engine.work:
            self.controller.learn(work)
        return told + events

    def _refuse(self, id: str, late_s: float) -> Event:
        self.engine.cancel(id)
        message = f"the first token would come {late_s:.1f} s later than this endpoint promises"
        error = Error("overloaded", message, "try again later", retry_after_s=max(1, math.ceil(late_s)))
        return Event(id, error=error.as_dict())


def _decode(body: msgspec.Raw) -> Request:
    try:
        return REQUEST.decode(body)
    except msgspec.ValidationError as error:
        what, _, path = str(error).partition(" - at ")
        param = path.strip("`$.") or None
        raise Error(
            "invalid", f"{param or 'the request'}: {what}", "see the sampling parameters", param=param
        ) from None


if __name__ == "__main__":
    die_with_parent()
    sys.exit(main(int(sys.argv[1])))
