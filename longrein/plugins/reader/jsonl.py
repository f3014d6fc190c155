"""JSON Lines: one object a line."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from longrein.core.blob import Blob
from longrein.core.ports import Piece, Record
from longrein.plugins.reader import _cut
from longrein.plugins.reader._lines import Line, Options, lines, rejected

VERSION = 2


class JsonLines:
    suffixes = (".jsonl", ".ndjson")

    def read(self, blob: Blob, options: Mapping[str, Any]) -> Iterator[Record]:
        decode = msgspec.json.Decoder().decode
        for line in lines(blob, msgspec.convert(options, Options)):
            if isinstance(line, Record):
                yield line
            else:
                yield _record(line, decode)

    def split(self, path: Path, options: Mapping[str, Any], bytes: int) -> list[Piece]:
        return _cut.lines(path, bytes, options, options)


def _record(line: Line, decode: Any) -> Record:
    if not line.text or line.text.isspace():
        return Record(None, line.number, line.bytes, "blank", "an empty line")
    try:
        value = decode(line.text)
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        return rejected(line.text, line.number, line.bytes, "malformed", str(error))
    if not isinstance(value, dict):
        detail = f"a JSON {type(value).__name__}, not an object"
        return rejected(line.text, line.number, line.bytes, "not_object", detail)
    return Record(value, line.number, line.bytes)


plugin = JsonLines()
