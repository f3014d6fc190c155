"""WARC, the format of web archives: the text of each archived page, with its address and when it was fetched."""

import os
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import msgspec

from longrein.core.blob import Blob
from longrein.core.errors import Error
from longrein.core.ports import Record
from longrein.plugins.reader import html
from longrein.plugins.reader._document import decoded, package

VERSION = 1
PAGES = ("text/html", "application/xhtml+xml")


class Options(html.Options, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """As of the reader for HTML."""


class Warc:
    suffixes = (".warc", ".wet")

    def read(self, blob: Blob, options: Mapping[str, Any]) -> Iterator[Record]:
        """A row for each page that was answered with 200, as the reader for HTML makes it, and `url` and `fetched`;
        other answers are rejected. Plain texts, and the extracts of WET files, as they are. `line` counts records."""
        settings = msgspec.convert(options, Options)
        warc = package("fastwarc.warc", "warc")
        kinds = warc.WarcRecordType.response | warc.WarcRecordType.conversion
        number = 0
        with blob.open("rb") as file:
            try:
                for record in warc.ArchiveIterator(
                    _Stream(file), record_types=kinds, parse_http=True, auto_decode="all"
                ):
                    number += 1
                    yield _record(record, settings)._replace(line=number)
            except (OSError, RuntimeError, ValueError) as error:
                raise Error("invalid", f"{blob.name} cannot be read as WARC: {error}", "check the file") from error
        if not number and _size(blob):
            raise Error("invalid", f"{blob.name} holds no WARC record of a page", "check the file")


def _record(record: Any, options: Options) -> Record:
    url, fetched = record.headers.get("WARC-Target-URI", ""), record.headers.get("WARC-Date", "")
    status = record.http_headers.status_code if record.http_headers else 200
    kind = (record.http_content_type if record.http_headers else record.headers.get("Content-Type", "")) or ""
    kind = kind.partition(";")[0].strip().lower()
    size = record.content_length
    if status != 200:
        return Record(None, 1, size, "http_status", f"answered with {status}", url)
    if kind not in (*PAGES, "text/plain"):
        return Record(None, 1, size, "not_text", f"{kind or 'a page of unknown kind'}", url)
    data = record.reader.read(options.max_bytes + 1)
    if len(data) > options.max_bytes:
        return Record(None, 1, size, "too_long", f"more than {options.max_bytes:,} bytes, which is max_bytes", url)
    if kind in PAGES:
        found = html.page(data, options, record.http_charset or "")
    else:
        found = _plain(data, record.http_charset if record.http_headers else "utf-8")
    if found.row is None:
        return found._replace(bytes=size, raw=url)
    return found._replace(row=found.row | {"url": url, "fetched": fetched}, bytes=size)


def _plain(data: bytes, declared: str) -> Record:
    try:
        text, replaced = decoded(data, declared or "")
    except UnicodeError as error:
        return Record(None, 1, 0, "bad_encoding", str(error))
    if not text.strip():
        return Record(None, 1, 0, "no_text", "an empty answer")
    return Record({"text": text.strip(), "title": "", "language": "", "date": "", "replaced": replaced}, 1)


class _Stream:
    """A stream that cannot seek, for a library that would ask where it is by seeking nowhere."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._at = file, 0

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._at += len(data)
        return data

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence != os.SEEK_CUR or offset < 0:
            raise OSError("the stream only goes on")
        self.read(offset)
        return self._at


def _size(blob: Blob) -> int:
    with blob.open("rb") as file:
        return len(file.read(1))


plugin = Warc()
