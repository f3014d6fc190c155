"""Rows of a database as the source `sql` keeps them: one a line, each with the key that names it."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from longrein.core.blob import Blob
from longrein.core.ports import Piece, Record
from longrein.plugins.reader import _cut
from longrein.plugins.reader._lines import Line, Options, lines, rejected

VERSION = 1


class Rows:
    suffixes = (".sqlrows",)

    def read(self, blob: Blob, options: Mapping[str, Any]) -> Iterator[Record]:
        settings = msgspec.convert({"encoding": "utf-8", "max_line_bytes": 1 << 30, **options}, Options)
        decode = msgspec.json.Decoder(tuple[int, str, dict[str, Any]]).decode
        for line in lines(blob, settings):
            yield line if isinstance(line, Record) else _record(line, decode)

    def split(self, path: Path, options: Mapping[str, Any], bytes: int) -> list[Piece]:
        """Lines tell their keys themselves."""
        return [piece._replace(line=0) for piece in _cut.lines(path, bytes, options, options)]


def _record(line: Line, decode: Any) -> Record:
    """A line is [the key if it is a number above 0, else 0; any other key as text; the row]."""
    try:
        number, key, row = decode(line.text)
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        return rejected(line.text, line.number, line.bytes, "malformed", str(error))
    return Record(row, number or 1, line.bytes, member=key)


plugin = Rows()
