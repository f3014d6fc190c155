"""Parquet: a row for each row, numbered from 1."""

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from longrein.core.blob import Blob, local, seekable
from longrein.core.errors import Error
from longrein.core.ports import Record

VERSION = 1


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    columns: list[str] | None = None  # None reads all
    batch_rows: int = 4096


class Parquet:
    suffixes = (".parquet", ".pq")

    def read(self, blob: Blob, options: Mapping[str, Any]) -> Iterator[Record]:
        settings = msgspec.convert(options, Options)
        try:
            with seekable(blob) as (stream, size), pq.ParquetFile(local(stream) or stream) as file:
                share = size // max(1, file.metadata.num_rows)
                batches = file.iter_batches(settings.batch_rows, columns=settings.columns)
                line = 0
                for batch in batches:
                    for row in batch.to_pylist():
                        line += 1
                        yield Record(row, line, share)
        except (pa.ArrowException, OSError) as error:
            message = f"{blob.name} cannot be read as Parquet: {error}"
            raise Error("invalid", message, "check the file, or leave it out of `sources`") from error


plugin = Parquet()
