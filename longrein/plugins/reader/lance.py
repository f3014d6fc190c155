"""Reads one version of a Lance table, its rows in their order with their stable row ids."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import lance
import msgspec
import pyarrow as pa

from longrein.core.blob import Blob
from longrein.core.errors import Error
from longrein.core.ports import Record
from longrein.plugins.reader._order import ordered, runs

VERSION = 1


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    version: int | None = None  # None is the newest
    columns: list[str] | None = None  # those the table lacks are left out; None is all
    filter: str | None = None  # SQL


class Lance:
    suffixes: ClassVar[tuple[str, ...]] = (".lance",)

    def read(self, blob: Blob, options: Mapping[str, Any]) -> Iterator[Record]:
        """Each row also has `_rowid`, the same in every version of the table. `line` counts the rows yielded."""
        settings = msgspec.convert(options, Options)
        if not isinstance(blob, Path) or not blob.is_dir():
            raise Error("invalid", f"{blob} is not a Lance table, which is a folder")
        try:
            table = lance.dataset(str(blob), version=settings.version)
        except (ValueError, OSError) as error:
            raise Error("invalid", f"{blob} is not a readable Lance table: {error}") from error
        wanted = settings.columns if settings.columns is not None else table.schema.names
        columns = [c for c in wanted if c in table.schema.names]
        line = 0
        for batch in self.batches(table, columns=columns, filter=settings.filter, with_row_id=True):
            for row in batch.to_pylist():
                line += 1
                yield Record(row, line)

    def batches(self, table: lance.LanceDataset, **scan: Any) -> Iterator[pa.RecordBatch]:
        """A table's rows in their order. `scan`: what LanceDataset.scanner takes, `columns` among it."""
        return ordered(table, **scan)

    def runs(self, table: lance.LanceDataset) -> list[list[lance.LanceFragment]]:
        """The table's fragments in groups within which rows lie in their order, the oldest first."""
        return runs(table)


plugin = Lance()
