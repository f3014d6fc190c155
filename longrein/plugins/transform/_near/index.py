"""Signatures of a stream of texts on disk, and the clusters found in them: memory stays flat, work linear."""

import tempfile
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from longrein.plugins._compiled import F32, I32, I64, U8, U32, U64
from longrein.plugins.transform._near import link, sign
from longrein.plugins.transform._near.fold import tables

BATCH_TEXTS, BATCH_BYTES = 1024, 4 << 20  # signed at a time
PART_ROWS = 1 << 22  # of a band, sorted at a time: 64 MB
MOST_ROWS = 2**31 - 1


def joined(texts: Sequence[bytes]) -> tuple[U8, I64]:
    """Texts as Arrow lays them out: (data, offsets)."""
    offsets = np.fromiter(accumulate(map(len, texts), initial=0), np.int64, len(texts) + 1)
    return np.frombuffer(b"".join(texts), np.uint8), offsets


def signatures(texts: Sequence[bytes], ngram: int, bands: int, rows: int) -> list[bytes]:
    """What an index remembers of each text, UTF-8: the same wherever it is made."""
    hashes, size, shift, ends, sketch = sign.sign(*joined(texts), ngram, bands, rows, *tables())
    heads = np.empty(len(texts), _head(bands))
    heads["bands"], heads["size"], heads["shift"] = hashes.T, size, shift
    head, width, rest, places = heads.tobytes(), heads.itemsize, sketch.tobytes(), (4 * ends).tolist()
    return [head[i * width : (i + 1) * width] + rest[start:end] for i, (start, end) in enumerate(pairwise(places))]


def _head(bands: int) -> np.dtype[Any]:
    """The beginning of a signature; the sketch follows, 4 bytes each."""
    return np.dtype([("bands", "<u8", (bands,)), ("size", "<u4"), ("shift", "u1")])


class Column:
    """An array that grows in a file without a name: nothing is left of it when the process is killed."""

    def __init__(self, dtype: npt.DTypeLike, folder: Path | None) -> None:
        self.dtype = np.dtype(dtype)
        self.file: IO[bytes] = tempfile.TemporaryFile(dir=folder, buffering=1 << 16)  # noqa: SIM115 - as long as the column

    def append(self, values: npt.NDArray[Any]) -> None:
        self.file.write(np.ascontiguousarray(values, self.dtype).data)

    def map(self) -> npt.NDArray[Any]:
        """The whole of it, paged in from disk as it is read."""
        self.file.flush()
        if not self.file.tell():
            return np.empty(0, self.dtype)
        return np.asarray(np.memmap(self.file, self.dtype, "r"))


class Index:
    """112 hashes a text at 14 bands of 8: 112 bytes on disk for the bands, up to 2 KB for the sketch."""

    def __init__(self, bands: int, folder: Path | None) -> None:
        self.head = _head(bands)
        self.texts, self._total = 0, 0
        self._hashes = [Column(np.uint64, folder) for _ in range(bands)]
        self._size, self._shift = Column(np.uint32, folder), Column(np.uint8, folder)
        self._ends, self._sketch = Column(np.int64, folder), Column(np.uint32, folder)
        self._ends.append(np.zeros(1, np.int64))

    def add(self, signatures: Sequence[bytes]) -> None:
        """Of the next texts, see `signatures`."""
        width = self.head.itemsize
        heads = np.frombuffer(b"".join([one[:width] for one in signatures]), self.head)
        sketch = np.frombuffer(b"".join([one[width:] for one in signatures]), np.uint32)
        ends = np.cumsum(np.fromiter(map(len, signatures), np.int64, len(signatures)) - width) // 4
        for column, band in zip(self._hashes, heads["bands"].T, strict=True):
            column.append(band)
        self._size.append(heads["size"])
        self._shift.append(heads["shift"])
        self._ends.append(ends + self._total)
        self._sketch.append(sketch)
        self.texts += len(heads)
        self._total += len(sketch)

    def bands(self) -> Iterator[U64]:
        """The hash of each text in each band; 0 is none."""
        return (column.map() for column in self._hashes)

    def extend(self, other: "Index") -> None:
        """Add the texts of another index after those that are here."""
        size, shift, ends, sketch = other.sketches()
        for column, hashes in zip(self._hashes, other.bands(), strict=True):
            column.append(hashes)
        self._size.append(size)
        self._shift.append(shift)
        self._ends.append(ends[1:] + self._total)
        self._sketch.append(sketch)
        self.texts += other.texts
        self._total += len(sketch)

    def clusters(self, threshold: float) -> I32:
        """For each text the first one of its cluster: Jaccard similarity at least `threshold`, transitively."""
        parent, seen = np.arange(self.texts, dtype=np.int32), np.zeros(4 * sign.SKETCH, np.uint64)
        sketches = self.sketches()
        for band in self._hashes:
            for hashes, rows in _sorted(band.map()):
                link.link(hashes, rows, threshold, parent, *sketches, seen)
        link.flatten(parent)
        return parent

    def similarity(self, rows: I64, others: I64) -> F32:
        return link.compare(rows, others, *self.sketches(), np.zeros(4 * sign.SKETCH, np.uint64))

    def sketches(self) -> tuple[U32, U8, I64, U32]:
        """Of each text how many n-grams, the shift, and where its sketch ends (one more, from 0); the sketches."""
        return self._size.map(), self._shift.map(), self._ends.map(), self._sketch.map()


def _sorted(hashes: U64) -> Iterator[tuple[U64, I64]]:
    """Hashes that stand more than once may be anywhere: sorted, with their rows, in parts of about PART_ROWS."""
    parts = 1 + len(hashes) // PART_ROWS
    for part in range(parts):
        rows = np.concatenate([_within(hashes, start, part, parts) for start in range(0, len(hashes) or 1, PART_ROWS)])
        chosen = hashes[rows]
        order = np.argsort(chosen, kind="stable")
        yield chosen[order], rows[order]


def _within(hashes: U64, start: int, part: int, parts: int) -> I64:
    """The rows of one slice whose hash falls into a part; 0 stands for no hash."""
    slice = hashes[start : start + PART_ROWS]
    return start + np.flatnonzero((slice != 0) & ((slice >> np.uint64(32)) * np.uint64(parts) >> np.uint64(32) == part))
