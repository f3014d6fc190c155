"""Arrow files and streams, those of a Hugging Face datasets folder among them: a row for each row, numbered from 1."""

from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import msgspec
import pyarrow as pa

from longrein.core.blob import Blob, local, seekable
from longrein.core.errors import Error
from longrein.core.ports import Record

VERSION = 1
FILE = b"ARROW1"  # begins a file with an index at its end; else it is a stream


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    columns: list[str] | None = None  # None reads all


class Arrow:
    suffixes = (".arrow", ".feather")

    def read(self, blob: Blob, options: Mapping[str, Any]) -> Iterator[Record]:
        settings = msgspec.convert(options, Options)
        line = 0
        try:
            with seekable(blob) as (stream, size), _opened(stream) as file:
                for batch in _batches(file):
                    chosen = batch.select(settings.columns) if settings.columns is not None else batch
                    share = min(batch.nbytes, size) // max(1, batch.num_rows)
                    for row in chosen.to_pylist():
                        line += 1
                        yield Record(row, line, share)
        except (pa.ArrowException, OSError, KeyError, UnicodeDecodeError) as error:
            message = f"{blob.name} cannot be read as Arrow: {error}"
            raise Error("invalid", message, "check the file, or leave it out of `sources`") from error


def _opened(stream: BinaryIO) -> pa.NativeFile:
    """A local file is mapped: its rows are not copied."""
    path = local(stream)
    return pa.memory_map(path) if path else pa.PythonFile(stream, "r")


def _batches(file: pa.NativeFile) -> Iterator[pa.RecordBatch]:
    if file.read(len(FILE)) == FILE:
        opened = pa.ipc.open_file(file)
        yield from (opened.get_batch(i) for i in range(opened.num_record_batches))
        return
    file.seek(0)
    with pa.ipc.open_stream(file) as stream:
        yield from stream


plugin = Arrow()
