"""Reads one version of a Lance table, its rows in table order with their stable row ids."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import lance
import msgspec

from longrein.core.errors import Error
from longrein.core.ports import Record

VERSION = 1


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    version: int | None = None  # None is the newest
    columns: list[str] | None = None  # those the table lacks are left out; None is all
    filter: str | None = None  # SQL


class Lance:
    suffixes: ClassVar[tuple[str, ...]] = (".lance",)

    def read(self, path: Path, options: Mapping[str, Any]) -> Iterator[Record]:
        """Each row also has `_rowid`, the same in every version of the table. `line` counts the rows yielded."""
        settings = msgspec.convert(options, Options)
        if not path.is_dir():
            raise Error("invalid", f"{path} is not a Lance table, which is a folder")
        try:
            table = lance.dataset(str(path), version=settings.version)
        except (ValueError, OSError) as error:
            raise Error("invalid", f"{path} is not a readable Lance table: {error}") from error
        wanted = settings.columns if settings.columns is not None else table.schema.names
        columns = [c for c in wanted if c in table.schema.names]
        line = 0
        for batch in table.to_batches(columns=columns, filter=settings.filter, with_row_id=True):
            for row in batch.to_pylist():
                line += 1
                yield Record(row, line)


plugin = Lance()
