"""The digest of rows in order: what two machines agree on, whatever the batches, files and layout."""

import hashlib
import re
from collections.abc import Collection
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc


class Digest:
    """The digest of rows in order: the same whatever the batches, files and machine.

    Each column is two streams, lengths (or validity) and bytes, hashed apart with SHA-256; nested columns recurse.
    """

    def __init__(self, schema: pa.Schema) -> None:
        self.schema, self.rows = schema, 0
        self._streams: dict[str, Any] = {}

    def update(self, batch: pa.RecordBatch) -> None:
        self.rows += batch.num_rows
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            self._column(name, column)

    def hexdigest(self, without: Collection[str] = ()) -> str:
        """Of all columns, or as if some had never been there."""
        total = hashlib.sha256(f"{self.rows}\n".encode())
        for field in self.schema:
            if field.name not in without:
                total.update(f"{field.name}\0{_plain(field.type)}\n".encode())
        for path in sorted(p for p in self._streams if re.split(r"[?#.\[]", p)[0] not in without):
            total.update(path.encode() + b"\0" + self._streams[path].digest())
        return total.hexdigest()

    def _column(self, path: str, column: pa.Array) -> None:
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        if pa.types.is_struct(column.type):
            self._feed(f"{path}?", column.is_valid().cast(pa.uint8()))
            for field, child in zip(column.type, column.flatten(), strict=True):
                self._column(f"{path}.{field.name}", child)
        elif pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
            self._feed(f"{path}#", pc.fill_null(pc.list_value_length(column).cast(pa.int64()), -1))
            self._column(f"{path}[]", pc.list_flatten(column))
        elif pa.types.is_fixed_size_list(column.type):
            self._feed(f"{path}?", column.is_valid().cast(pa.uint8()))
            self._column(f"{path}[]", column.flatten())
        elif _is_bytes(column.type):
            self._feed(f"{path}#", pc.fill_null(pc.binary_length(column).cast(pa.int64()), -1))
            self._feed(path, column.drop_null())
        else:
            self._feed(f"{path}?", column.is_valid().cast(pa.uint8()))
            self._feed(path, column.drop_null())

    def _feed(self, path: str, column: pa.Array) -> None:
        stream = self._streams.setdefault(path, hashlib.sha256())
        if not len(column):
            return
        if _is_bytes(column.type):
            wide = column.cast(pa.large_binary())
            offsets = memoryview(wide.buffers()[1]).cast("q")
            start, end = offsets[wide.offset], offsets[wide.offset + len(wide)]
            data = wide.buffers()[2]
            if end > start:
                stream.update(memoryview(data)[start:end])
        elif pa.types.is_boolean(column.type):
            self._feed(path, column.cast(pa.uint8()))
        else:
            width = column.type.bit_width // 8
            data = memoryview(column.buffers()[1])
            stream.update(data[column.offset * width : (column.offset + len(column)) * width])


def _is_bytes(kind: pa.DataType) -> bool:
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    return any(test(kind) for test in tests)


def _plain(kind: pa.DataType) -> str:
    """A type's name without what only says how it is laid out."""
    return str(kind.value_type if pa.types.is_dictionary(kind) else kind).replace("large_", "")
