"""The engine's side of longrein.gateway.engine: `python -m longrein.gateway.engine_process FD NAME [SOCKET]`.

The hub's threads read frames from the socket FD, or from all who connect to it; the main thread owns the engine and
steps it while there is work. When the last of the other ends goes away, so does this process.
"""

import math
import os
import signal
import socket
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import msgspec

from longrein.core import plugins
from longrein.core.errors import Error
from longrein.core.generation import Event, Request
from longrein.core.meter import metered
from longrein.core.ports import Engine, Steered
from longrein.core.worker import as_error, die_with_parent
from longrein.gateway.engine_hub import Hub, Inbox
from longrein.ops.batching import Controller

REQUEST = msgspec.msgpack.Decoder(Request)


def main(fd: int, name: str, path: Path | None = None) -> int:
    born_s = time.monotonic()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal reaches the group; the owner decides
    os.set_inheritable(fd, False)
    with socket.socket(fileno=fd) as sock:
        hub = Hub(sock, path)
        verb = ""
        while verb != "start":  # one who came first may have gone before it said anything
            verb, body = hub.inbox.get()
        try:
            engine = _load(**msgspec.msgpack.decode(body))
        except BaseException as error:  # noqa: BLE001 - the edge of the process: the owner is told
            if not isinstance(error, Error):
                traceback.print_exc()  # first: who is told may end this process
            hub.send("failed", as_error(error).as_dict())
            return 1
        server = _Server(hub, engine)
        server.welcome(msgspec.msgpack.decode(body)["peer"])
        project = msgspec.msgpack.decode(body)["project"]
        with metered(project, name, born_s, lambda: engine.busy_s if isinstance(engine, Steered) else None):
            server.run(hub.inbox)
    return 0


def _load(plugin: str, model: str, options: dict[str, Any], project: str | None, peer: str) -> Engine:
    if project:
        plugins.use_project(Path(project))
    engine: Engine = plugins.load("engine", plugin)(Path(model), options)
    return engine


class _Server:
    """The loop: take what has come, step once, send what the step produced as one frame."""

    def __init__(self, hub: Hub, engine: Engine) -> None:
        self.hub, self.engine = hub, engine
        self.steering = Steering(engine) if isinstance(engine, Steered) else None
        self.deadline: float | None = None  # set by stop

    def run(self, inbox: Inbox) -> None:
        while True:
            self._take(inbox)
            if self.deadline is not None and not (self.engine.pending() and time.monotonic() < self.deadline):
                return
            if events := self.steering.step() if self.steering else self.engine.step():
                self.hub.events(events)

    def welcome(self, peer: str) -> None:
        self.hub.send("ready", {"info": self.engine.info, "pid": os.getpid()}, peer)

    def _take(self, inbox: Inbox) -> None:
        """Handle all frames that have come; with nothing to compute, wait for one."""
        while not inbox.empty() or not (self.engine.pending() or self.deadline is not None):
            verb, body = inbox.get()
            if verb == "submit":
                self._submit(body)
            elif verb == "cancel":
                self._cancel(msgspec.msgpack.decode(body))
            elif verb == "stats":
                self.hub.send("stats", self.engine.stats(), msgspec.msgpack.decode(body))
            elif verb == "start":
                self.welcome(msgspec.msgpack.decode(body)["peer"])
            elif verb == "gone":
                for id in self.hub.forget(msgspec.msgpack.decode(body)):
                    self.engine.cancel(id)
            elif verb == "stop":
                self.deadline = time.monotonic() + msgspec.msgpack.decode(body)

    def _cancel(self, id: str) -> None:
        """Whoever cancels is told what was used until then."""
        usage = self.engine.cancel(id)
        self.hub.events([Event(id, finish_reason="cancelled", usage=usage)])

    def _submit(self, body: msgspec.Raw) -> None:
        try:
            request = _decode(body)
            self.engine.submit(request)
            self.hub.asked(request.id)
        except Exception as caught:  # noqa: BLE001 - whatever one request does to its engine, the others go on
            error = as_error(caught)
            if error is not caught:
                traceback.print_exc()
            id = msgspec.msgpack.decode(body)["id"]
            self.hub.events([Event(id, error=error.as_dict())])


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
        usage = self.engine.cancel(id)
        message = f"the first token would come {late_s:.1f} s later than this endpoint promises"
        error = Error("overloaded", message, "try again later", retry_after_s=max(1, math.ceil(late_s)))
        return Event(id, error=error.as_dict(), usage=usage)


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
    sys.exit(main(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]) if len(sys.argv) > 3 else None))
