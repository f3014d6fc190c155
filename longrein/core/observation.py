"""One answer as those see it who watch: what gateway processes send to the observer of their host, in memory only."""

import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from longrein.core.unix import short

SOCKET = Path("run") / "observer.sock"  # in .longrein; datagrams
TEXT_BYTES = 8192  # of each text, at most
WORKERS = 1000  # gateway processes whose losses are known
DATAGRAM_BYTES = 1 << 17  # at most; many observations share one, for a socket queues few


class Observation(msgspec.Struct, array_like=True, kw_only=True):
    """One answered request. A later field needs a default."""

    id: str
    ts_ms: int
    endpoint: str
    release: str = ""  # digest
    arm: str = ""
    team: str = ""
    input: str = ""  # of the user's last message, or of a prompt; cut to TEXT_BYTES
    output: str | None = None  # of the first choice; None: there is no new one, for it came from a cache
    finish_reason: str = ""
    refusal: bool = False
    prompt_tokens: int = 0
    completion_tokens: int = 0
    ttft_ms: float | None = None
    total_ms: float = 0.0


class Sent(msgspec.Struct, array_like=True):
    """One datagram."""

    worker: str  # a name that no other gateway process has
    left_out: int  # observations that this worker could not send, since it began
    observations: list[Observation]


_decode = msgspec.msgpack.Decoder(Sent).decode


def pack(worker: str, left_out: int, observations: Sequence[msgspec.Raw]) -> bytes:
    """A datagram of observations that are encoded each by itself."""
    return msgspec.msgpack.encode((worker, left_out, observations))


def read(datagram: bytes) -> Sent | None:
    """None for what is none of ours."""
    try:
        return _decode(datagram)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def cut(text: Any) -> str:
    """At most TEXT_BYTES of a text, as UTF-8 can say it."""
    if not isinstance(text, str):
        return ""
    return text[:TEXT_BYTES].encode("utf-8", "replace")[:TEXT_BYTES].decode("utf-8", "ignore")


class Ear:
    """The observer's end. home: the folder .longrein. Errors of the constructor: OSError."""

    def __init__(self, home: Path) -> None:
        self.path = home / SOCKET
        self.garbage = 0  # datagrams that were none of ours
        self._left_out: dict[str, int] = {}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        os.fchmod(self._socket.fileno(), 0o600)  # the file gets the mode that the socket has
        with short(self.path) as name:
            self._socket.bind(name)
        self.path.chmod(0o600)

    @property
    def left_out(self) -> int:
        """Observations that gateways could not send, since each began."""
        return sum(self._left_out.values())

    def hear(self, wait_s: float, most: int) -> list[Observation]:
        """What came, in the order of its coming; waits for some. A datagram more than `most` at the most."""
        found: list[Observation] = []
        self._socket.settimeout(wait_s)
        try:
            while len(found) < most:
                sent = read(self._socket.recv(DATAGRAM_BYTES))
                self._socket.settimeout(0)
                if sent is None:
                    self.garbage += 1
                    continue
                found += sent.observations
                self._left_out[sent.worker] = sent.left_out
                if len(self._left_out) > WORKERS:
                    self._left_out.pop(next(iter(self._left_out)))
        except (TimeoutError, BlockingIOError):
            pass
        return found

    def close(self) -> None:
        self._socket.close()
        self.path.unlink(missing_ok=True)
