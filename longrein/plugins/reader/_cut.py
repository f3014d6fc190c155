"""Large files of lines cut where a line ends."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from longrein.core.encoding import marked
from longrein.core.ports import Piece

CHUNK_BYTES = 1 << 20


def lines(path: Path, bytes: int, first: Mapping[str, Any], rest: Mapping[str, Any]) -> list[Piece]:
    """Pieces of about `bytes`, read with the options `first` and `rest`. None of UTF-16 and UTF-32, whose line feeds
    are not the byte 10 alone."""
    pieces: list[Piece] = []
    with path.open("rb") as file:
        start = file.read(64)
        if marked(start).startswith(("utf-16", "utf-32")) or b"\0" in start:
            return []
        begin = line = 0
        size = path.stat().st_size
        while begin < size:
            file.seek(begin + bytes)
            file.readline()
            end = min(file.tell(), size)
            file.seek(begin)
            pieces.append(Piece(rest if pieces else first, end - begin, line, begin, end))
            line += sum(chunk.count(b"\n") for chunk in _chunks(file, end - begin))
            begin = end
    return pieces


def holds(path: Path, byte: bytes) -> bool:
    """Whether a byte stands anywhere in a file."""
    with path.open("rb") as file:
        return any(byte in chunk for chunk in _chunks(file, path.stat().st_size))


def _chunks(file: Any, left: int) -> Iterator[bytes]:
    while left > 0 and (chunk := file.read(min(CHUNK_BYTES, left))):
        left -= len(chunk)
        yield chunk
