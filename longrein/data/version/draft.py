"""Rows on their way to become a version."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from longrein.data.version.content import Digest
from longrein.data.version.table import errors

BATCH_ROWS = 8192
BATCH_BYTES = 16 << 20  # a batch is closed earlier when its texts reach this


class Draft:
    """Rows on their way to become a version: an Arrow stream file that grows by batches, digested as it grows."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.path, self.schema = path, schema
        self.rows, self._size = 0, 0
        self._digest = Digest(schema)
        self._buffer: list[dict[str, Any]] = []
        self._sink = pa.OSFile(str(path), "wb")
        self._writer = pa.ipc.new_stream(self._sink, schema)

    def add(self, row: dict[str, Any], size: int) -> None:
        """Add a row of about `size` bytes; fields that it lacks are null."""
        self._buffer.append(row)
        self.rows += 1
        self._size += size
        if len(self._buffer) >= BATCH_ROWS or self._size >= BATCH_BYTES:
            self._flush()

    def close(self) -> str:
        """Finish the file; the digest of all rows."""
        self._flush()
        self._writer.close()
        self._sink.close()
        return self._digest.hexdigest()

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The rows again, once it is closed."""
        with pa.memory_map(str(self.path)) as file, pa.ipc.open_stream(file) as stream:
            yield from stream

    def put(self, batch: pa.RecordBatch) -> None:
        """Add a batch with the draft's schema."""
        self._flush()
        self.rows += batch.num_rows
        self._write(batch)

    def _flush(self) -> None:
        if self._buffer:
            self._write(pa.RecordBatch.from_pylist(self._buffer, self.schema))
        self._buffer, self._size = [], 0

    def _write(self, batch: pa.RecordBatch) -> None:
        self._digest.update(batch)
        with errors(str(self.path)):
            self._writer.write_batch(batch)
