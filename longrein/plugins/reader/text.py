"""Plain text: a row {"text": …} for each line, or one for the whole file."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from longrein.core.ports import Record
from longrein.plugins.reader import _lines
from longrein.plugins.reader._lines import lines, rejected

VERSION = 1


class Options(_lines.Options, frozen=True, forbid_unknown_fields=True, kw_only=True):
    per: Literal["line", "file"] = "line"  # a whole file is bounded by max_line_bytes too


class Text:
    suffixes = (".txt", ".text")

    def read(self, path: Path, options: Mapping[str, Any]) -> Iterator[Record]:
        settings = msgspec.convert(options, Options)
        yield from _whole(path, settings) if settings.per == "file" else _each(path, settings)


def _each(path: Path, options: Options) -> Iterator[Record]:
    for line in lines(path, options):
        if isinstance(line, Record):
            yield line
        elif not line.text or line.text.isspace():
            yield Record(None, line.number, line.bytes, "blank", "an empty line")
        else:
            yield Record({"text": line.text}, line.number, line.bytes)


def _whole(path: Path, options: Options) -> Iterator[Record]:
    size, parts = path.stat().st_size, []
    if size > options.max_line_bytes:
        yield rejected("", 1, size, "file_too_long", f"{size:,} bytes; max_line_bytes is {options.max_line_bytes:,}")
        return
    for line in lines(path, options):
        if isinstance(line, Record):
            yield line._replace(bytes=size)
            return
        parts.append(line.text)
    text = "\n".join(parts)
    if text.strip():
        yield Record({"text": text}, 1, size)
    else:
        yield Record(None, 1, size, "blank", "an empty file")


plugin = Text()
