"""Which trace a request is part of: W3C Trace Context (https://www.w3.org/TR/trace-context/)."""

import hashlib
import re
from typing import NamedTuple

HEADER = "traceparent"
MOST = 512  # of characters that are looked at
_header = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")


class Trace(NamedTuple):
    """Ids in hexadecimal digits."""

    id: str  # 32
    span: str  # 16: the request's own
    parent: str = ""  # the client's span
    sampled: bool | None = None  # what the client decided; None: it said nothing

    @property
    def header(self) -> str:
        """For the server that is asked next."""
        return f"00-{self.id}-{self.span}-{'01' if self.sampled else '00'}"

    def kept(self, share: float) -> bool:
        """Whether it is among the share of traces that are sent on: what the client decided, else by the trace's id, so
        that everybody who samples so decides alike. https://opentelemetry.io/docs/specs/otel/trace/sdk/#traceidratiobased
        """
        return self.sampled if self.sampled is not None else int(self.id[16:], 16) < share * 2**64


def valid(header: str) -> str:
    """The header, if it is one that can be continued, else ""."""
    return header if len(header) <= MOST and _header.fullmatch(header) and _known(header) else ""


def of(request: str, header: str) -> Trace:
    """A request's place in a trace: after the client's header, else in one of its own. The same for the same request,
    whoever asks."""
    digest = hashlib.blake2b(request.encode(), digest_size=24).hexdigest()
    if found := _header.fullmatch(header):
        return Trace(found[1], digest[32:], found[2], bool(int(found[3], 16) & 1))
    return Trace(digest[:32], digest[32:])


def _known(header: str) -> bool:
    """Version 00 ends after its flags; later ones may go on."""
    return len(header) == 55 or not header.startswith("00")
