"""Megatron-Core's IndexedDataset: token ids in a .bin, lengths and places of the documents in its .idx.

The layout is that of megatron/core/datasets/indexed_dataset.py, version 1.
"""

import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

CODES = {"uint16": 8, "int32": 4}  # of the tokens' type
SMALL = 65500  # up to this vocabulary Megatron reads uint16


class Indexed:
    """One pair of files, a sequence a document, each there when it is whole: the .idx last."""

    def __init__(self, folder: Path, split: str, number: int, vocabulary: int) -> None:
        self.kind = np.dtype(np.uint16 if vocabulary < SMALL else np.int32)
        self.names = [f"{split}-{number:05d}.{ending}" for ending in ("bin", "idx")]
        self.paths = [folder / name for name in self.names]
        self.parts = [folder / f"{name}.part" for name in self.names]
        self.lengths: list[int] = []
        self.tokens = 0
        self.file = self.parts[0].open("wb")

    @property
    def bytes(self) -> int:
        return self.tokens * self.kind.itemsize

    def add(self, ids: npt.NDArray[np.int32]) -> None:
        self.file.write(ids.astype(self.kind).tobytes())
        self.lengths.append(len(ids))
        self.tokens += len(ids)

    def close(self) -> list[str]:
        """Put both in their places; their names."""
        self.file.close()
        lengths = np.array(self.lengths, np.int32)
        pointers = np.concatenate(([0], np.cumsum(lengths, dtype=np.int64)[:-1])) * self.kind.itemsize
        ends: npt.NDArray[Any] = np.arange(len(lengths) + 1, dtype=np.int64)
        with self.parts[1].open("wb") as file:
            file.write(b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", 1, CODES[self.kind.name], len(lengths), len(ends)))
            file.write(lengths.tobytes() + pointers.astype(np.int64).tobytes() + ends.tobytes())
        for part, path in zip(self.parts, self.paths, strict=True):
            os.replace(part, path)
        return self.names
