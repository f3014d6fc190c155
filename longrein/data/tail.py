"""The request log as it grows: each record once, from where a reader was killed or left."""

from functools import reduce
from pathlib import Path
from typing import BinaryIO, NamedTuple

import msgspec

from longrein.core.record import Record, segments
from longrein.data.requests import Person

PIECE_BYTES = 1 << 20  # read at once, of one segment
_decode = msgspec.json.Decoder(Record).decode


class Taken(NamedTuple):
    record: Record
    segment: str
    end: int  # of its line: whoever goes on there has had it


class Tail:
    """Segments are held open, so that one that is sealed meanwhile is still read to its end. Only what is sealed while
    nobody reads is passed over."""

    def __init__(self, folder: Path, place: dict[str, int] | None) -> None:
        """place: what `place` said before; None begins with what is written from now on."""
        self.folder = folder
        self._read = dict(place) if place is not None else {p.name: p.stat().st_size for p in segments(folder)}
        self._files: dict[str, BinaryIO] = {}

    @property
    def place(self) -> dict[str, int]:
        """{segment: bytes of it that were taken}."""
        return dict(self._read)

    def take(self) -> list[Taken]:
        """The next ones, a piece of each segment; none when all that is written was taken."""
        here = {path.name: path for path in segments(self.folder)}
        for name, path in here.items():
            if name not in self._files:
                try:
                    self._files[name] = path.open("rb")
                except FileNotFoundError:  # sealed since it was listed
                    continue
        people = Person.all(self.folder)
        found = []
        for name in sorted(self._files):
            end, data = self._read.get(name, 0), self._piece(name)
            for line in data.splitlines(keepends=True):
                end += len(line)
                try:
                    record = _decode(line)
                except (msgspec.DecodeError, UnicodeDecodeError):  # torn by a kill or a full disk
                    continue
                found.append(Taken(reduce(lambda r, person: person.without(r), people, record), name, end))
            if not data and name not in here:
                self._close(name)
        for name in [name for name in self._read if name not in here and name not in self._files]:
            del self._read[name]  # sealed while nobody read
        return found

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        self._files.clear()

    def _piece(self, name: str) -> bytes:
        """Whole lines, as many as fit a piece, but one at least where one is there."""
        file, size = self._files[name], PIECE_BYTES
        while True:
            file.seek(self._read.get(name, 0))
            data = file.read(size)
            if (end := data.rfind(b"\n") + 1) or len(data) < size:
                self._read[name] = self._read.get(name, 0) + end
                return data[:end]
            size *= 2

    def _close(self, name: str) -> None:
        self._files.pop(name).close()
        self._read.pop(name, None)
