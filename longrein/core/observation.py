"""One answer as those see it who watch: what gateway processes send to the observer of their host, in memory only."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

SOCKET = Path("run") / "observer.sock"  # in .longrein; datagrams
TEXT_BYTES = 8192  # of each text, at most
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
