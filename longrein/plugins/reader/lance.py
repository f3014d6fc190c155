"""Reads one version of a Lance table, its rows in table order with their stable row ids."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import lance

from longrein.core.errors import Error
from longrein.core.ports import Record

VERSION = 1


class Lance:
    suffixes: ClassVar[tuple[str, ...]] = (".lance",)

    def read(self, path: Path, options: Mapping[str, Any]) -> Iterator[Record]:
        """Options: version (default: the newest), columns (those the table lacks are left out), filter (SQL).

        Each row also has `_rowid`, the same in every version of the table. `line` counts the rows that are yielded.
        """
        try:
            table = lance.dataset(str(path), version=options.get("version"))
        except (ValueError, OSError) as error:
            raise Error("invalid", f"{path} is not a readable Lance table: {error}") from error
        wanted = options.get("columns", table.schema.names)
        columns = [c for c in wanted if c in table.schema.names]
        line = 0
        for batch in table.to_batches(columns=columns, filter=options.get("filter"), with_row_id=True):
            for row in batch.to_pylist():
                line += 1
                yield Record(row, line)


plugin = Lance()
