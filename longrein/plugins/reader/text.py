"""Plain text: a row {"text": …} for each line, or one for the whole file."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from longrein.core.blob import Blob
from longrein.core.ports import Piece, Record
from longrein.plugins.reader import _cut, _lines
from longrein.plugins.reader._lines import document, lines

VERSION = 2


class Options(_lines.Options, frozen=True, forbid_unknown_fields=True, kw_only=True):
    per: Literal["line", "file"] = "line"  # a whole file is bounded by max_line_bytes too


class Text:
    suffixes = (".txt", ".text")

    def read(self, blob: Blob, options: Mapping[str, Any]) -> Iterator[Record]:
        settings = msgspec.convert(options, Options)
        yield from _whole(blob, settings) if settings.per == "file" else _each(blob, settings)

    def split(self, path: Path, options: Mapping[str, Any], bytes: int) -> list[Piece]:
        per = msgspec.convert(options, Options).per
        return _cut.lines(path, bytes, options, options) if per == "line" else []


def _each(blob: Blob, options: Options) -> Iterator[Record]:
    for line in lines(blob, options):
        if isinstance(line, Record):
            yield line
        elif not line.text or line.text.isspace():
            yield Record(None, line.number, line.bytes, "blank", "an empty line")
        else:
            yield Record({"text": line.text}, line.number, line.bytes)


def _whole(blob: Blob, options: Options) -> Iterator[Record]:
    found = document(blob, options)
    if isinstance(found, Record):
        yield found
        return
    yield Record({"text": "\n".join(line.text for line in found)}, 1, sum(line.bytes for line in found))


plugin = Text()
