"""Rows for training: shuffled, sharded and resumable, straight from a version, without holding it in memory."""

import math
from collections.abc import Iterator
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from longrein.core.errors import Error
from longrein.core.store import Store
from longrein.data.version.table import ORDER, columns_of, errors, open

BLOCK_ROWS = 1024  # read at once: rows that lie together stay in one block
BUFFER_BLOCKS = 32  # whose rows are mixed
TAKEN = 1024  # rows asked for at once


def stream(
    store: Store, uri: str, *, split: str | None = None, seed: int = 0, epoch: int = 0, rank: int = 0,
    world_size: int = 1, start: int = 0, batch: int = 256, columns: list[str] | None = None, shuffle: bool = True,
) -> Iterator[pa.RecordBatch]:  # fmt: skip
    """One epoch of one rank: batches of rows, the same on every machine for the same version and arguments.

    Each rank gets the same number of batches (the last rows, which do not fill one on every rank, are left out), and no
    row comes twice. start: batches to pass over, without reading them: how a run goes on where it was. The rows of
    BUFFER_BLOCKS blocks, picked at random over the version, are mixed. shuffle=False keeps the version's order.
    Memory: 8 bytes for each row of the version and one buffer. Errors: `invalid`.
    """
    if not 0 <= rank < world_size or batch < 1 or start < 0:
        raise Error("invalid", f"rank {rank} of {world_size}, batch {batch}, start {start}", "rank is below world_size")
    table = open(store, uri)
    with errors(uri):
        places = _places(table, split)
        names = columns or columns_of(table).names
        for buffer, skip, take in _plan(len(places), seed, epoch, rank, world_size, start, batch, shuffle):
            wanted = places[buffer[skip : skip + take]]
            yield from _taken(table, wanted, names, batch)


def batches_of(rows: int, world_size: int, batch: int) -> int:
    """How many batches each rank gets of an epoch."""
    return rows // (world_size * batch)


def _plan(
    rows: int, seed: int, epoch: int, rank: int, world_size: int, start: int, batch: int, shuffle: bool
) -> Iterator[tuple[np.ndarray[Any, Any], int, int]]:
    """(row numbers of a buffer, how many to pass over, how many to take): pieces of the rank's rows, in order.

    The epoch is one permutation: blocks in random order, rows mixed within BUFFER_BLOCKS of them. A rank has an equal,
    whole number of batches of it, one after the other.
    """
    each = batches_of(rows, world_size, batch) * batch
    first, last = rank * each + start * batch, (rank + 1) * each
    blocks = math.ceil(rows / BLOCK_ROWS)
    dice = np.random.Generator(np.random.Philox(key=[seed, epoch]))
    order = dice.permutation(blocks) if shuffle else np.arange(blocks)
    at = 0
    for number in range(0, blocks, BUFFER_BLOCKS):
        chosen = order[number : number + BUFFER_BLOCKS]
        parts = [np.arange(b * BLOCK_ROWS, min(rows, (b + 1) * BLOCK_ROWS)) for b in chosen]
        size = sum(map(len, parts))
        begin, end = max(first, at), min(last, at + size)
        if begin < end:
            buffer = np.concatenate(parts)
            if shuffle:
                np.random.Generator(np.random.Philox(key=[seed, epoch], counter=[0, 0, 0, number + 1])).shuffle(buffer)
            yield buffer, begin - at, end - begin
        at += size


def _places(table: lance.LanceDataset, split: str | None) -> np.ndarray[Any, Any]:
    """Where each row lies in the table, in the rows' order."""
    names = [n for n in (ORDER,) if n in table.schema.names]
    if split is not None:
        names.append("split")
    found = table.to_table(columns=names) if names else None
    if found is None:
        return np.arange(table.count_rows())
    places = np.flatnonzero(pc.equal(found["split"], split).to_numpy()) if split is not None else np.arange(len(found))
    if ORDER not in names:
        return places
    order = found[ORDER].to_numpy()[places]
    return places if np.all(np.diff(order) > 0) else places[np.argsort(order)]


def _taken(
    table: lance.LanceDataset, wanted: np.ndarray[Any, Any], names: list[str], batch: int
) -> Iterator[pa.RecordBatch]:
    """These rows as batches. Read in the order they lie in, fragment by fragment."""
    by = np.argsort(wanted)
    sorted_, parts, start = wanted[by], [], 0
    for fragment in table.get_fragments():
        end = start + fragment.count_rows()
        inside = sorted_[np.searchsorted(sorted_, start) : np.searchsorted(sorted_, end)] - start
        for i in range(0, len(inside), TAKEN):  # Lance's take slows down with the square of what is asked for at once
            parts.append(fragment.take(inside[i : i + TAKEN].tolist(), columns=names))
        start = end
    back = np.empty(len(by), np.int64)
    back[by] = np.arange(len(by))
    yield from pa.concat_tables(parts).take(pa.array(back)).combine_chunks().to_batches(max_chunksize=batch)
