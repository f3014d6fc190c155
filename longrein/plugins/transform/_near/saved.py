"""An index kept on disk, where new texts find earlier rows that may be near them: work grows with the new ones."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.format import open_memmap

from longrein.core.errors import Error
from longrein.plugins._compiled import I64
from longrein.plugins.transform._near.index import BATCH_TEXTS, Index

SUFFIX = ".near"  # of the folder


def apart(against: list[str] | dict[str, str]) -> tuple[list[str] | dict[str, str], list[Path]]:
    """Files to read, and folders that `write` made."""
    if isinstance(against, dict):
        found = [Path(path) for path in against.values() if path.endswith(SUFFIX)]
        return {name: path for name, path in against.items() if not path.endswith(SUFFIX)}, found
    return [p for p in against if not p.endswith(SUFFIX)], [Path(p) for p in against if p.endswith(SUFFIX)]


def write(folder: Path, index: Index, facts: npt.NDArray[Any], sources: Sequence[str], made: dict[str, int]) -> None:
    """The index of some rows, what is remembered of each, and the options that they were signed with.

    Disk: 13 bytes more for each row and band than the signatures. Memory: 16 bytes a row.
    """
    folder.mkdir(parents=True)
    size, shift, ends, sketch = index.sketches()
    heads = open_memmap(folder / "heads.npy", "w+", index.head, (index.texts,))
    heads["size"], heads["shift"] = size, shift
    for number, hashes in enumerate(index.bands()):
        rows = np.argsort(hashes, kind="stable")
        np.save(folder / f"hashes-{number}.npy", hashes[rows])
        np.save(folder / f"rows-{number}.npy", rows.astype(np.uint32))
        heads["bands"][:, number] = hashes
    np.save(folder / "ends.npy", ends)
    np.save(folder / "sketch.npy", sketch)
    np.save(folder / "facts.npy", facts)
    (folder / "about.json").write_text(json.dumps({"made": made, "sources": list(sources)}), "utf-8")


class Saved:
    """Memory-mapped: what is not looked at is not read."""

    def __init__(self, folder: Path, made: dict[str, int]) -> None:
        """made: the options that the rows must have been signed with. Errors: `invalid`, `corrupt`."""
        try:
            about = json.loads((folder / "about.json").read_text("utf-8"))
            if about["made"] != made:
                raise Error("invalid", f"the index {folder.name} was made with {about['made']}", f"not with {made}")
            self.heads, self.ends, self.sketch, self.facts = (
                np.load(folder / f"{name}.npy", "r") for name in ("heads", "ends", "sketch", "facts")
            )
            self.bands = [
                (np.load(folder / f"hashes-{n}.npy", "r"), np.load(folder / f"rows-{n}.npy", "r"))
                for n in range(made["bands"])
            ]
        except (OSError, EOFError, ValueError, KeyError) as error:
            raise Error("corrupt", f"the index {folder.name} cannot be read: {error}", f"remove {folder}") from error
        self.sources: list[str] = about["sources"]

    def touched(self, index: Index) -> I64:
        """The rows in here that share a band with a row of the other index, in order."""
        found = [np.zeros(0, np.int64)]
        for (hashes, rows), others in zip(self.bands, index.bands(), strict=True):
            wanted = np.unique(others)
            wanted = wanted[wanted != 0]  # stands for no hash
            first, last = np.searchsorted(hashes, wanted), np.searchsorted(hashes, wanted, "right")
            found += [rows[first[i] : last[i]].astype(np.int64) for i in np.flatnonzero(first < last)]
        return np.unique(np.concatenate(found))

    def batches(self, rows: I64) -> Iterator[tuple[list[bytes], npt.NDArray[Any]]]:
        """Signatures of these rows, as they were added, and what is remembered of them."""
        for start in range(0, len(rows), BATCH_TEXTS):
            chosen = rows[start : start + BATCH_TEXTS]
            ends = zip(self.ends[chosen].tolist(), self.ends[chosen + 1].tolist(), strict=True)
            heads = self.heads[chosen]
            signed = [heads[i].tobytes() + self.sketch[a:b].tobytes() for i, (a, b) in enumerate(ends)]
            yield signed, self.facts[chosen]
