"""What the observer of this host is sent of each answer: by datagram, from memory, and dropped where nobody listens."""

import errno
import secrets
import socket
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from longrein.core.observation import DATAGRAM_BYTES, SOCKET, Observation, cut, pack
from longrein.core.record import Record
from longrein.core.unix import short

EVERY_S = 0.1
MOST, MOST_BYTES = 5_000, 16 << 20  # that wait; what comes then is left out
MOST_PARTS = 100  # of one message
FULL = (errno.EAGAIN, errno.ENOBUFS)
Waiting = tuple[Record, bytes, Sequence[str], int]  # as `put` was given it, and its size


class _Message(msgspec.Struct):
    role: str = ""
    content: Any = None


_messages = msgspec.json.Decoder(list[_Message]).decode


class Tap:
    """`put` takes a microsecond and never waits; a thread cuts, packs and sends. home: the folder .longrein."""

    def __init__(self, home: Path) -> None:
        self.path = home / SOCKET
        self.endpoints: frozenset[str] = frozenset()  # those that are watched
        self.left_out = 0
        self._worker = secrets.token_hex(8)
        self._waiting: deque[Waiting] = deque()
        self._came = self._went = 0  # bytes; each is written by one thread only
        self._packed: list[msgspec.Raw] = []  # the next datagram's
        self._socket: socket.socket | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tap", daemon=True)
        self._thread.start()

    def follow(self, endpoints: Mapping[str, Mapping[str, Any]]) -> None:
        """Do as the lifecycle file now says of the endpoints."""
        self.endpoints = frozenset(name for name, one in endpoints.items() if one.get("drift") or one.get("judge"))

    def put(self, record: Record, asked: bytes, texts: Sequence[str]) -> None:
        """An answer. asked: its messages or prompt as JSON; texts: of its choices."""
        size = len(asked) + (len(texts[0]) if texts else 0)
        if len(self._waiting) >= MOST or self._came - self._went > MOST_BYTES:
            self.left_out += 1
            return
        self._came += size
        self._waiting.append((record, asked, texts, size))

    def close(self) -> None:
        self._closing.set()
        self._thread.join()
        self._hang_up()

    def _run(self) -> None:
        while not self._closing.wait(EVERY_S):
            self._drain()
        self._drain()

    def _drain(self) -> None:
        """Send what waits; what the socket has no room for now waits on, up to a bound."""
        while self._waiting or self._packed:
            self._packed = self._packed or self._pack()
            if not self._send():
                return

    def _pack(self) -> list[msgspec.Raw]:
        """As many observations as one datagram should have."""
        packed, size = [], 0
        while self._waiting and size < DATAGRAM_BYTES // 2:
            record, asked, texts, came = self._waiting.popleft()
            packed.append(msgspec.Raw(msgspec.msgpack.encode(observe(record, asked, texts))))
            self._went += came
            size += len(packed[-1])
        return packed

    def _send(self) -> bool:
        """Whether there may be room for more."""
        for _ in range(2):  # who listens may be another one by now
            try:
                if self._socket is None:
                    self._socket = _connect(self.path)
                self._socket.send(pack(self._worker, self.left_out, self._packed))
                break
            except OSError as error:
                if error.errno in FULL:
                    return False
                self._hang_up()
        else:
            self.left_out += len(self._packed)
        self._packed = []
        return True

    def _hang_up(self) -> None:
        if self._socket:
            self._socket.close()
            self._socket = None


def observe(record: Record, asked: bytes, texts: Sequence[str]) -> Observation:
    return Observation(
        id=record.id, ts_ms=record.ts_ms, endpoint=record.endpoint, release=record.release, arm=record.arm,
        team=record.team, input=cut(said(asked)), output=None if record.cached or not texts else cut(texts[0]),
        finish_reason=record.finish_reason, refusal=record.refusal, prompt_tokens=record.prompt_tokens,
        completion_tokens=record.completion_tokens, ttft_ms=record.ttft_ms, total_ms=record.total_ms,
    )  # fmt: skip


def said(asked: bytes) -> str:
    """The text of the user's last message, or of a prompt, in a request's JSON; "" where there is none."""
    with suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return next((_text(m.content) for m in reversed(_messages(asked)) if m.role == "user"), "")
    with suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _text(msgspec.json.decode(asked))
    return ""


def _text(content: Any) -> str:
    """Of a string, or of a list of strings or of OpenAI's parts."""
    parts = content if isinstance(content, list) else [content]
    texts = [part.get("text") if isinstance(part, dict) else part for part in parts[:MOST_PARTS]]
    return "\n".join(text for text in texts if isinstance(text, str))


def _connect(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        with short(path) as name:
            sock.connect(name)
    except OSError:
        sock.close()
        raise
    return sock
