"""Between an engine and those who ask it: one gateway process by a socket pair, or all of a project's by a Unix socket.

`attach` finds the engine that answers for a task or starts it, under a lock. The engine ends at once when the last who
asked says goodbye, and LINGER_S after the last one was lost: a gateway worker that was killed and comes back finds it
warm. What a lost one had under way is cancelled.
"""

import fcntl
import hashlib
import os
import queue
import select
import socket
import struct
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

from longrein.core.generation import Event
from longrein.core.unix import short
from longrein.gateway.frame import frame, frames

LINGER_S = 5.0
SEND_S = 5  # one who does not read for so long is dropped, or the others would wait for it
Inbox = queue.SimpleQueue[tuple[str, msgspec.Raw]]


class _Wire:
    """A connection on which several threads send, one frame at a time."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock, self._sending = sock, threading.Lock()

    def send(self, data: bytes) -> None:
        with self._sending:
            try:
                self.sock.sendall(data)
            except OSError:  # gone, or deaf: its reader sees the end and says so
                with suppress(OSError):
                    self.sock.shutdown(socket.SHUT_RDWR)


class Hub:
    """The engine's side. Frames of all connections go into one inbox; what is sent goes to whom it belongs to, known by
    the part of an id before its first colon. Threads read, and answer pings; everything else belongs to the
    engine's thread."""

    def __init__(self, sock: socket.socket, path: Path | None = None) -> None:
        """path: where it listens, if it does."""
        self.inbox: Inbox = queue.SimpleQueue()
        self._sock, self._wire = sock, _Wire(sock)
        self._path, self._shared = path, path is not None
        self._peers: dict[str, _Wire] = {}
        self._open = 0
        self._left, self._lost = os.pipe()  # a byte for each connection that ended: b"b" after a goodbye, else b"l"
        self._under_way: dict[str, set[str]] = {}
        work = (self._accept, ()) if self._shared else (self._read, (sock,))
        threading.Thread(target=work[0], args=work[1], daemon=True).start()

    def send(self, verb: str, body: Any, to: str = "") -> None:
        """To one who asks, or to all when nobody is named."""
        if not self._shared:
            self._wire.send(frame(verb, body))
            return
        for peer in [to] if to else list(self._peers):
            self._send(peer, frame(verb, body))

    def events(self, events: Iterable[Event]) -> None:
        """One frame for each who has a part in them."""
        if not self._shared:
            self._wire.send(frame("events", events))
            return
        parts: dict[str, list[Event]] = {}
        for event in events:
            peer = event.id.partition(":")[0]
            parts.setdefault(peer, []).append(event)
            if event.finish_reason or event.error:
                self._under_way.get(peer, set()).discard(event.id)
        for peer, part in parts.items():
            self._send(peer, frame("events", part))

    def asked(self, id: str) -> None:
        """A request is the engine's now."""
        if self._shared:
            self._under_way.setdefault(id.partition(":")[0], set()).add(id)

    def forget(self, peer: str) -> Iterable[str]:
        """What somebody had under way who is gone."""
        return self._under_way.pop(peer, ())

    def _send(self, peer: str, data: bytes) -> None:
        if wire := self._peers.get(peer):
            wire.send(data)

    def _accept(self) -> None:
        linger_s = LINGER_S
        while True:
            ready, _, _ = select.select([self._sock, self._left], [], [], None if self._open else linger_s)
            if self._left in ready:
                linger_s = 0.0 if os.read(self._left, 1) == b"b" else LINGER_S
                self._open -= 1
            if self._sock in ready:
                peer, _ = self._sock.accept()
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", SEND_S, 0))
                self._open += 1
                threading.Thread(target=self._read, args=(peer,), daemon=True).start()
            elif not ready:
                self._end()

    def _end(self) -> None:
        """Nobody is left; one who comes at this very moment is seen, for it holds the lock or waits for it."""
        assert self._path
        with _locked(self._path):
            if not select.select([self._sock], [], [], 0)[0]:
                self._path.unlink(missing_ok=True)
                os._exit(0)

    def _read(self, sock: socket.socket) -> None:
        peer, farewell = "", b"l"
        wire = _Wire(sock) if self._shared else self._wire
        for verb, body in frames(sock):
            if verb == "start":
                peer = msgspec.msgpack.decode(body)["peer"]
                self._peers[peer] = wire
            elif verb == "ping":  # not the engine's to answer: a step may take long
                wire.send(frame("pong", None))
                continue
            elif verb == "bye":
                farewell = b"b"
            self.inbox.put((verb, body))
        if not self._shared:
            os._exit(0)  # the owner is gone; nobody is left to answer
        self._peers.pop(peer, None)
        sock.close()
        self.inbox.put(("gone", msgspec.Raw(msgspec.msgpack.encode(peer))))
        os.write(self._lost, farewell)


def attach(folder: Path, task: Mapping[str, Any], spawn: Callable[[socket.socket, Path], None]) -> socket.socket:
    """A connection to the engine of a task; `spawn` starts one on a listening socket where there is none."""
    folder.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(msgspec.json.encode(task, order="sorted")).hexdigest()[:16]
    path = folder / f"engine-{digest}"
    with short(path) as name, _locked(path):
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.connect(name)
        except (FileNotFoundError, ConnectionRefusedError):
            path.unlink(missing_ok=True)
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(name)
                os.chmod(path, 0o600)
                listener.listen(128)
                spawn(listener, path)
            sock.connect(name)
        return sock


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.with_suffix(".lock").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
