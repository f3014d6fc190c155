"""JSON: a list of objects, a list of lists with named columns, or an object of such lists (one for each split)."""

import codecs
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from longrein.core.blob import Blob
from longrein.core.encoding import whole
from longrein.core.errors import Error
from longrein.core.ports import Record
from longrein.plugins.reader._lines import rejected

VERSION = 2


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    columns: list[str] | None = None  # names for rows that are lists: {"train": [["text", "label"], …]}
    key: str = "key"  # the column that takes the name of the list a row stood in, where there are several
    max_bytes: int = 512 << 20  # the whole file is read at once: JSON Lines has no such limit


class Json:
    suffixes = (".json",)

    def read(self, blob: Blob, options: Mapping[str, Any]) -> Iterator[Record]:
        """`line` is the row's number in the file: JSON knows no lines."""
        settings = msgspec.convert(options, Options)
        with blob.open("rb") as file:
            data = file.read(settings.max_bytes + 1)
        if len(data) > settings.max_bytes:
            message = f"{blob.name} has over {settings.max_bytes:,} bytes, and a JSON file is read at once"
            raise Error("invalid", message, "make it JSON Lines, or raise its option max_bytes")
        try:
            text = _utf8(data)
            value = msgspec.json.decode(text) if text else []
        except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
            hint = "name it .jsonl when it holds one object a line"
            raise Error("invalid", f"{blob.name} is not JSON: {error}", hint) from error
        yield from _records(value, settings, len(data))


def _records(value: Any, options: Options, size: int) -> Iterator[Record]:
    many = isinstance(value, dict) and bool(value) and all(isinstance(v, list) for v in value.values())
    lists: dict[str, list[Any]] = value if many else {"": value if isinstance(value, list) else [value]}
    share, line = size // max(1, sum(map(len, lists.values()))), 0
    for name, items in lists.items():
        for item in items:
            line += 1
            row = _row(item, options.columns)
            if row is None:
                what = f"a JSON {type(item).__name__} that is no row; lists need the option columns, one name a value"
                yield rejected(msgspec.json.encode(item).decode(), line, share, "not_object", what)
            else:
                yield Record({**row, options.key: name} if many else row, line, share)


def _utf8(data: bytes) -> bytes | str:
    """JSON is in UTF-8 (RFC 8259); files of Windows and of China are not always."""
    encoding = whole(data)
    return data.removeprefix(codecs.BOM_UTF8) if encoding in ("", "utf-8") else data.decode(encoding)


def _row(item: Any, columns: list[str] | None) -> dict[str, Any] | None:
    if isinstance(item, list) and columns is not None and len(item) == len(columns):
        return dict(zip(columns, item, strict=True))
    return item if isinstance(item, dict) else None


plugin = Json()
