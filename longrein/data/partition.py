"""Sources cut into partitions: files, or pieces of large ones, the same whoever reads them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from longrein.core.blob import Range
from longrein.core.errors import Error
from longrein.core.ports import Piece, Record, Splits
from longrein.data import source
from longrein.data.source import File

PART_BYTES = 8 << 20  # a partition of a file that can be cut


class Partition(NamedTuple):
    """One file, or a piece of it."""

    path: str
    name: str  # of the file, as its rows tell it
    digest: str  # of the whole file
    reader: str
    piece: Piece
    stat: source.Stat  # of the file when its digest was taken

    def identity(self) -> list[Any]:
        """What its rows depend on, whatever the machine."""
        return [self.name, self.digest, self.reader, self.piece]


def cut(file: File, digest: str, stat: source.Stat, known: Path) -> Iterator[Partition]:
    """The partitions of one file, in order. known: where the cut of a large file is kept, so that it is looked for
    once. Errors: `invalid` when no reader knows the file."""
    pieces: list[Piece] = []
    if stat.bytes > PART_BYTES and isinstance(reader := source.reader_of(file), Splits):
        try:
            pieces = msgspec.json.decode(known.read_bytes(), type=list[Piece])
            os.utime(known)
        except (FileNotFoundError, msgspec.DecodeError):
            with suppress(msgspec.ValidationError, OSError, Error, ValueError):  # reading it will tell
                pieces = reader.split(file.path, file.options, PART_BYTES)
            with staged(known) as made:
                made.write_bytes(msgspec.json.encode(pieces))
    for piece in pieces or [Piece(file.options, stat.bytes, 0)]:
        yield Partition(os.path.abspath(file.path), file.name, digest, file.reader, piece, stat)


def records(partition: Partition) -> Iterator[Record]:
    """What stands in a partition. Errors: as of source.records."""
    path, piece = Path(partition.path), partition.piece
    blob = None if piece.stop is None else Range(path, piece.start, piece.stop)
    for record in source.records(File(path, partition.name, partition.reader, dict(piece.options)), blob):
        yield record._replace(line=record.line + piece.line) if piece.line else record


@contextmanager
def staged(path: Path) -> Iterator[Path]:
    """A name to write to, which becomes the path when all is there."""
    made = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        yield made
        os.replace(made, path)
    except BaseException:
        made.unlink(missing_ok=True)
        raise


def changed(name: str) -> Error:
    return Error(
        "conflict",
        f"{name} changed while it was read",
        "wait until whatever writes it has finished, then run `longrein apply` again",
    )
