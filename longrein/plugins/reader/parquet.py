"""Parquet: a row for each row, numbered from 1."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from longrein.core.blob import Blob, local, seekable
from longrein.core.errors import Error
from longrein.core.ports import Piece, Record

VERSION = 1


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    columns: list[str] | None = None  # None reads all
    batch_rows: int = 4096
    row_groups: list[int] | None = None  # None reads all


class Parquet:
    suffixes = (".parquet", ".pq")

    def read(self, blob: Blob, options: Mapping[str, Any]) -> Iterator[Record]:
        settings = msgspec.convert(options, Options)
        try:
            with seekable(blob) as (stream, size), pq.ParquetFile(local(stream) or stream) as file:
                share = size // max(1, file.metadata.num_rows)
                batches = file.iter_batches(
                    settings.batch_rows, row_groups=settings.row_groups, columns=settings.columns
                )
                line = 0
                for batch in batches:
                    for row in batch.to_pylist():
                        line += 1
                        yield Record(row, line, share)
        except (pa.ArrowException, OSError) as error:
            message = f"{blob.name} cannot be read as Parquet: {error}"
            raise Error("invalid", message, "check the file, or leave it out of `sources`") from error

    def split(self, path: Path, options: Mapping[str, Any], bytes: int) -> list[Piece]:
        """By row groups, several in a piece while they are small."""
        if msgspec.convert(options, Options).row_groups is not None:
            return []
        with pq.ParquetFile(path) as file:
            groups = [file.metadata.row_group(i) for i in range(file.num_row_groups)]
        share = path.stat().st_size / max(1, sum(g.total_byte_size for g in groups))
        pieces: list[Piece] = []
        chosen, size, line, rows = list[int](), 0, 0, 0
        for number, group in enumerate(groups):
            chosen.append(number)
            size, rows = size + int(group.total_byte_size * share), rows + group.num_rows
            if size >= bytes or number == len(groups) - 1:
                pieces.append(Piece({**options, "row_groups": chosen}, size, line))
                chosen, size, line, rows = [], 0, line + rows, 0
        return pieces


plugin = Parquet()
