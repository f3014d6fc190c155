"""Frames between a gateway and an engine: 4 bytes of big-endian length, then MessagePack of [verb, body]."""

import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import msgspec

LENGTH = struct.Struct(">I")
MAX_FRAME_BYTES = 1 << 28
FRAME = msgspec.msgpack.Decoder(tuple[str, msgspec.Raw])


def frame(verb: str, body: Any) -> bytes:
    data = msgspec.msgpack.encode((verb, body))
    return LENGTH.pack(len(data)) + data


def frames(sock: socket.socket) -> Iterator[tuple[str, msgspec.Raw]]:
    """Until the other end goes away or sends what is no frame."""
    with suppress(OSError, msgspec.DecodeError), sock.makefile("rb") as stream:
        while head := stream.read(LENGTH.size):
            size = LENGTH.unpack(head)[0] if len(head) == LENGTH.size else MAX_FRAME_BYTES + 1
            data = stream.read(size) if size <= MAX_FRAME_BYTES else b""
            if len(data) < size:
                break
            yield FRAME.decode(data)
