"""Signatures of a stream of texts on disk, and the clusters found in them: memory stays flat, work linear."""

import tempfile
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from longrein.plugins.transform._near import link, sign
from longrein.plugins.transform._near.compiled import F32, I32, I64, U8, U32, U64
from longrein.plugins.transform._near.fold import tables

BATCH_TEXTS, BATCH_BYTES = 1024, 4 << 20  # signed at a time
PART_ROWS = 1 << 22  # of a band, sorted at a time: 64 MB
MOST_ROWS = 2**31 - 1


def joined(texts: Sequence[bytes]) -> tuple[U8, I64]:
    """Texts as Arrow lays them out: (data, offsets)."""
    offsets = np.fromiter(accumulate(map(len, texts), initial=0), np.int64, len(texts) + 1)
    return np.frombuffer(b"".join(texts), np.uint8), offsets


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

    def __init__(self, ngram: int, bands: int, rows: int, folder: Path | None) -> None:
        self.ngram, self.bands, self.rows = ngram, bands, rows
        self.texts, self._total = 0, 0
        self._hashes = [Column(np.uint64, folder) for _ in range(bands)]
        self._size, self._shift = Column(np.uint32, folder), Column(np.uint8, folder)
        self._ends, self._sketch = Column(np.int64, folder), Column(np.uint32, folder)
        self._ends.append(np.zeros(1, np.int64))

    def add(self, data: U8, offsets: I64) -> None:
        """Sign a batch of texts data[offsets[i]:offsets[i + 1]], UTF-8."""
        hashes, size, shift, ends, sketch = sign.sign(data, offsets, self.ngram, self.bands, self.rows, *tables())
        for column, band in zip(self._hashes, hashes, strict=True):
            column.append(band)
        self._size.append(size)
        self._shift.append(shift)
        self._ends.append(ends[1:] + self._total)
        self._sketch.append(sketch)
        self.texts += len(size)
        self._total += len(sketch)

    def clusters(self, threshold: float) -> I32:
        """For each text the first one of its cluster: Jaccard similarity at least `threshold`, transitively."""
        parent, seen = np.arange(self.texts, dtype=np.int32), np.zeros(4 * sign.SKETCH, np.uint64)
        sketches = self._sketches()
        for band in self._hashes:
            for hashes, rows in _sorted(band.map()):
                link.link(hashes, rows, threshold, parent, *sketches, seen)
        link.flatten(parent)
        return parent

    def similarity(self, rows: I64, others: I64) -> F32:
        return link.compare(rows, others, *self._sketches(), np.zeros(4 * sign.SKETCH, np.uint64))

    def _sketches(self) -> tuple[U32, U8, I64, U32]:
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
