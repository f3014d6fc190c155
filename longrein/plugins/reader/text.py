"""Plain text: a row {"text": …} for each line, or one for the whole file."""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import msgspec

from longrein.core.blob import Blob
from longrein.core.ports import Record
from longrein.plugins.reader import _lines
from longrein.plugins.reader._lines import lines, rejected

VERSION = 2


class Options(_lines.Options, frozen=True, forbid_unknown_fields=True, kw_only=True):
    per: Literal["line", "file"] = "line"  # a whole file is bounded by max_line_bytes too


class Text:
    suffixes = (".txt", ".text")

    def read(self, blob: Blob, options: Mapping[str, Any]) -> Iterator[Record]:
        settings = msgspec.convert(options, Options)
        yield from _whole(blob, settings) if settings.per == "file" else _each(blob, settings)


def _each(blob: Blob, options: Options) -> Iterator[Record]:
    for line in lines(blob, options):
        if isinstance(line, Record):
            yield line
        elif not line.text or line.text.isspace():
            yield Record(None, line.number, line.bytes, "blank", "an empty line")
        else:
            yield Record({"text": line.text}, line.number, line.bytes)


def _whole(blob: Blob, options: Options) -> Iterator[Record]:
    """Read by lines too, so that memory is bounded and a line in another encoding is no loss."""
    size, parts = 0, []
    for line in lines(blob, options):
        size += line.bytes
        if isinstance(line, Record):
            yield line._replace(bytes=size)
            return
        if size > options.max_line_bytes:
            detail = f"more than {size:,} bytes; max_line_bytes is {options.max_line_bytes:,}"
            yield rejected("", 1, size, "file_too_long", detail)
            return
        parts.append(line.text)
    text = "\n".join(parts)
    if text.strip():
        yield Record({"text": text}, 1, size)
    else:
        yield Record(None, 1, size, "blank", "an empty file")


plugin = Text()
