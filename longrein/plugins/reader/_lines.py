"""Lines of a file in unknown encoding, memory bounded: what the text formats share."""

import codecs
import re
from collections.abc import Iterator
from io import BufferedReader, FileIO, RawIOBase
from pathlib import Path
from typing import NamedTuple

import msgspec

from longrein.core.errors import Error
from longrein.core.ports import Record

CHUNK_BYTES = 1 << 20
RAW_BYTES = 2000  # of a rejected record that are kept
SNIFF_LINES = 1000  # lines with non-ASCII bytes that vote on the encoding
# Two-byte characters of GB 2312. Latin-1 text has lone high bytes, so few of its bytes stand in such pairs.
_gb2312 = re.compile(rb"[\xa1-\xf7][\xa1-\xfe]")
_high = re.compile(rb"[\x80-\xff]")


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What every text reader understands."""

    encoding: str = ""  # "" finds out: UTF-8, UTF-16 by its mark, else GB18030
    max_line_bytes: int = 16 << 20  # a longer line is rejected, never held in memory


class Line(NamedTuple):
    number: int  # from 1
    text: str  # without its line end
    bytes: int  # as it stood in the file, line end included


def lines(path: Path, options: Options) -> Iterator[Line | Record]:
    """Every line as text, or as a rejected record: too long, undecodable, with NUL bytes."""
    encoding = options.encoding or sniff(path)
    codec = _codec(encoding)
    with _open(path, encoding) as file:
        number, first = 0, True
        while line := file.readline(options.max_line_bytes + 1):
            number, size = number + 1, len(line)
            if first:
                line, first = line.removeprefix(codecs.BOM_UTF8), False
            if size > options.max_line_bytes and not line.endswith(b"\n"):
                size += _skip(file)
                detail = f"{size:,} bytes; max_line_bytes is {options.max_line_bytes:,}"
                yield rejected(line, number, size, "line_too_long", detail)
                continue
            line = line.rstrip(b"\r\n")
            if b"\0" in line:
                yield rejected(line, number, size, "nul_byte", "the line holds NUL bytes")
                continue
            try:
                yield Line(number, line.decode(codec), size)
            except UnicodeDecodeError as error:
                yield rejected(line, number, size, "bad_encoding", f"byte {error.start + 1} is not {encoding}")


def rejected(raw: bytes | str, line: int, size: int, reason: str, detail: str) -> Record:
    """A record that could not be read, with the beginning of what stood there."""
    shown = raw[:RAW_BYTES] if isinstance(raw, str) else raw[:RAW_BYTES].decode("utf-8", "backslashreplace")
    return Record(None, line, size, reason, detail, shown.replace("\0", "\\x00"))


def sniff(path: Path) -> str:
    """The encoding of a file: its mark, else what most of its first lines with non-ASCII bytes decode as."""
    with path.open("rb") as file:
        start = file.read(4)
        if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return "utf-16"
        file.seek(0)
        votes, fresh = {"utf-8": 0, "gb18030": 0}, True
        while sum(votes.values()) < SNIFF_LINES and (line := file.readline(CHUNK_BYTES)):
            if fresh and not line.isascii() and (vote := _vote(line)):
                votes[vote] += 1
            fresh = line.endswith(b"\n")
    return "gb18030" if votes["gb18030"] > votes["utf-8"] else "utf-8"


def _vote(line: bytes) -> str:
    for encoding in ("utf-8", "gb18030"):
        try:
            codecs.getincrementaldecoder(encoding)().decode(line)  # a long line may be cut within a character
        except UnicodeDecodeError:
            continue
        paired = 2 * len(_gb2312.findall(line)) >= 0.5 * len(_high.findall(line))
        return encoding if encoding == "utf-8" or paired else ""
    return ""


def _codec(encoding: str) -> str:
    try:
        name = codecs.lookup(encoding).name
    except LookupError as error:
        raise Error("invalid", f"unknown encoding {encoding!r}", "for example utf-8, gb18030, big5, utf-16") from error
    return "utf-8" if name.startswith(("utf-16", "utf-32")) else name  # _open has turned those into UTF-8


def _open(path: Path, encoding: str) -> BufferedReader:
    """Bytes in which a line feed is the byte 10 and nothing else: true of ASCII supersets, not of UTF-16 and UTF-32."""
    if codecs.lookup(encoding).name.startswith(("utf-16", "utf-32")):
        return BufferedReader(_Recoded(path, encoding), CHUNK_BYTES)
    return BufferedReader(FileIO(path), CHUNK_BYTES)


class _Recoded(RawIOBase):
    """A UTF-16 or UTF-32 file as UTF-8 bytes; what does not decode becomes U+FFFD."""

    def __init__(self, path: Path, encoding: str) -> None:
        self._file = path.open("rb")
        self._decode = codecs.getincrementaldecoder(encoding)("replace").decode
        self._left = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._left:
            block = self._file.read(CHUNK_BYTES)
            self._left = self._decode(block, not block).encode("utf-8", "replace")
            if not block:
                break
        part = self._left[: len(buffer)]
        self._left = self._left[len(part) :]
        buffer[: len(part)] = part
        return len(part)

    def close(self) -> None:
        self._file.close()
        super().close()


def _skip(file: BufferedReader) -> int:
    """Read on to the end of the line; how many bytes that was."""
    skipped = 0
    while block := file.readline(CHUNK_BYTES):
        skipped += len(block)
        if block.endswith(b"\n"):
            break
    return skipped
