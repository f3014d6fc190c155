"""Parquet files of a bounded size, the same bytes for the same rows, each there when it is whole."""

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

GROUP_ROWS = 1000
CONVERSATION = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))


class Sheet:
    """One file, data/<split>-<number>.parquet, as `datasets.load_dataset(folder)` finds it."""

    def __init__(self, folder: Path, split: str, number: int, schema: pa.Schema) -> None:
        self.name, self.schema, self.bytes = f"data/{split}-{number:05d}.parquet", schema, 0
        self.path, self.part = folder / self.name, folder / f"{self.name}.part"
        self.path.parent.mkdir(exist_ok=True)
        self.rows: list[dict[str, Any]] = []
        self.writer = pq.ParquetWriter(self.part, schema, compression="zstd")

    def add(self, row: dict[str, Any], size: int) -> None:
        """Add a row of about `size` bytes."""
        self.rows.append(row)
        self.bytes += size
        if len(self.rows) == GROUP_ROWS:
            self._flush()

    def close(self) -> str:
        """Put the file in its place; its name."""
        self._flush()
        self.writer.close()
        os.replace(self.part, self.path)
        return self.name

    def _flush(self) -> None:
        if self.rows:
            self.writer.write_table(pa.Table.from_pylist(self.rows, self.schema))
        self.rows = []
