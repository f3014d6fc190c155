"""Sources cut into partitions: files, or pieces of large ones, the same whoever reads them."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from longrein.core.errors import Error
from longrein.core.ports import Record, Splits
from longrein.data import source
from longrein.data.source import File

PART_BYTES = 8 << 20  # a partition of a file that can be cut


class Partition(NamedTuple):
    path: str
    name: str  # of the file, as its rows tell it
    digest: str  # of the whole file
    reader: str
    options: Mapping[str, Any]  # the reader's; they say which piece
    bytes: int
    stat: source.Stat  # of the file when its digest was taken

    def identity(self) -> list[Any]:
        """What its rows depend on, whatever the machine."""
        return [self.name, self.digest, self.reader, self.options]


def cut(file: File, digest: str, stat: source.Stat) -> Iterator[Partition]:
    """The partitions of one file, in order. Errors: `invalid`, as reading it would."""
    reader = source.reader_of(file)
    pieces: list[tuple[Mapping[str, Any], int]] = [(file.options, stat.bytes)]
    if isinstance(reader, Splits) and stat.bytes > PART_BYTES:
        try:
            pieces = reader.split(file.path, file.options, PART_BYTES)
        except (msgspec.ValidationError, OSError, Error):
            pass  # reading it will tell
    for options, size in pieces:
        yield Partition(os.path.abspath(file.path), file.name, digest, file.reader, options, size, stat)


def records(partition: Partition) -> Iterator[Record]:
    """What stands in a partition. Errors: as of source.records."""
    return source.records(File(Path(partition.path), partition.name, partition.reader, dict(partition.options)))


def changed(name: str) -> Error:
    return Error(
        "conflict",
        f"{name} changed while it was read",
        "wait until whatever writes it has finished, then run `longrein apply` again",
    )
