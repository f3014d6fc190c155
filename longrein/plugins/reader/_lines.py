"""Lines of a file in unknown encoding, memory bounded: what the text formats share."""

import codecs
from collections import Counter
from collections.abc import Iterator
from io import BufferedReader, RawIOBase
from typing import BinaryIO, NamedTuple, cast

import msgspec

from longrein.core.blob import Blob
from longrein.core.encoding import SURE, detect, is_utf8, marked
from longrein.core.ports import Record

CHUNK_BYTES = 1 << 20
RAW_BYTES = 2000  # of a rejected record that are kept
SNIFF_LINES = 1000  # lines with non-ASCII bytes that vote on the encoding
SNIFF_BYTES = 64 << 10  # of those not in UTF-8 that are looked at
SNIFF_READ_BYTES = 16 << 20  # and how far into the file one looks for them
_WIDE = ("utf-16", "utf-32")


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What every text reader understands."""

    encoding: str = ""  # "" finds out, for the file and for lines that differ from it
    max_line_bytes: int = 16 << 20  # a longer line is rejected, never held in memory

    def __post_init__(self) -> None:
        try:
            codecs.lookup(self.encoding or "utf-8")
        except LookupError as error:
            raise ValueError(
                f"unknown encoding {self.encoding!r}: take for example utf-8, gb18030, big5, utf-16"
            ) from error


class Line(NamedTuple):
    number: int  # from 1
    text: str  # without its line end
    bytes: int  # as it stood in the file, line end included


def lines(blob: Blob, options: Options) -> Iterator[Line | Record]:
    """Every line as text, or as a rejected record: too long, undecodable, with NUL bytes."""
    encoding = codecs.lookup(options.encoding or sniff(blob)).name
    with _open(blob, encoding) as file:
        told = bool(options.encoding) or encoding.startswith(_WIDE)
        encoding = "utf-8" if encoding.startswith(_WIDE) else encoding  # _open has recoded those
        number, first = 0, True
        while line := file.readline(options.max_line_bytes + 1):
            number, size = number + 1, len(line)
            if first:
                line, first = line.removeprefix(codecs.BOM_UTF8), False
                if not line:
                    return
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
                yield Line(number, text(line, encoding, told), size)
            except UnicodeDecodeError as error:
                yield rejected(line, number, size, "bad_encoding", f"byte {error.start + 1} is not {encoding}")


def document(blob: Blob, options: Options) -> list[Line] | Record:
    """All lines, for formats that are read as a whole; or a rejected record, for one bad line too."""
    found: list[Line] = []
    size = 0
    for line in lines(blob, options):
        size += line.bytes
        if isinstance(line, Record):
            return line._replace(line=1, bytes=size)
        if size > options.max_line_bytes:
            detail = f"more than {size:,} bytes; max_line_bytes is {options.max_line_bytes:,}"
            return rejected("", 1, size, "file_too_long", detail)
        found.append(line)
    if not any(line.text.strip() for line in found):
        return Record(None, 1, size, "blank", "an empty file")
    return found


def text(line: bytes, encoding: str, told: bool) -> str:
    """A record in the encoding of its file. Unless that was told, not found: one that it does not fit is tried alone,
    and refused when in doubt. Errors: UnicodeDecodeError."""
    if encoding != "utf-8" and not told and not line.isascii() and _surely_utf8(line):
        return line.decode()  # it might decode as the other one too, into nonsense
    try:
        return line.decode(encoding)
    except UnicodeDecodeError:
        if not told and (found := detect(line, least=SURE)):
            return line.decode(found)
        raise


def rejected(raw: bytes | str, line: int, size: int, reason: str, detail: str) -> Record:
    """A record that could not be read, with the beginning of what stood there."""
    shown = raw[:RAW_BYTES] if isinstance(raw, str) else raw[:RAW_BYTES].decode("utf-8", "backslashreplace")
    return Record(None, line, size, reason, detail, shown.replace("\0", "\\x00"))


def sniff(blob: Blob) -> str:
    """The encoding of a file: its mark, else what most of its first lines with non-ASCII bytes are in."""
    utf8, others, held, read = 0, list[bytes](), 0, 0
    with blob.open("rb") as file:
        while block := _block(file):
            if not read and (name := marked(block)):
                return name
            read += len(block)
            for line in () if block.isascii() else block.split(b"\n"):
                if line.isascii():
                    continue
                if is_utf8(line, cut=True):  # a long line may be cut within a character
                    utf8 += 1
                else:
                    others.append(line[:SNIFF_BYTES])
                    held += len(line)
            if read >= SNIFF_READ_BYTES or utf8 + len(others) >= SNIFF_LINES or held >= SNIFF_BYTES:
                break
    return (len(others) > utf8 and _agreed(others)) or "utf-8"


def _agreed(lines: list[bytes]) -> str:
    """What all lines together are in; when some are damaged, what most of those are that are sure by themselves."""
    if found := detect(b"\n".join(lines)[:SNIFF_BYTES], cut=True):
        return found
    votes = Counter(name for line in lines if (name := detect(line, least=SURE)))
    return next((name for name, count in votes.most_common(1) if 2 * count > votes.total()), "")


def _block(file: BinaryIO) -> bytes:
    """The next bytes, to the end of a line."""
    try:
        block: bytes = getattr(file, "read1", file.read)(CHUNK_BYTES)
        return block if block.isascii() else block + file.readline(CHUNK_BYTES)
    except OSError:  # it breaks off here: whoever reads the lines will say so
        return b""


def _surely_utf8(line: bytes) -> bool:
    """Two characters or more of three bytes: with one or two, GB18030 text can look like UTF-8."""
    return is_utf8(line) and sum(byte >= 0xE0 for byte in line) >= 2


def _open(blob: Blob, encoding: str) -> BufferedReader:
    """Bytes in which a line feed is the byte 10 and nothing else: true of ASCII supersets, not of UTF-16 and UTF-32."""
    file = blob.open("rb")
    if encoding.startswith(_WIDE):
        return BufferedReader(_Recoded(file, encoding), CHUNK_BYTES)
    raw = file.detach() if isinstance(file, BufferedReader) else cast(RawIOBase, file)
    return BufferedReader(raw, CHUNK_BYTES)  # in larger pieces


class _Recoded(RawIOBase):
    """A UTF-16 or UTF-32 file as UTF-8 bytes; what does not decode becomes a byte that is not UTF-8 either."""

    def __init__(self, file: BinaryIO, encoding: str) -> None:
        self._file = file
        self._decode = codecs.getincrementaldecoder(encoding)("replace").decode
        self._left = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._left:
            block = self._file.read(CHUNK_BYTES)
            text = self._decode(block, not block)
            self._left = text.encode("utf-8", "replace").replace("\ufffd".encode(), b"\xff")
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
