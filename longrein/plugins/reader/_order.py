"""The order of a version's rows, where a later commit wrote only what changed.

Rows carry their place in the hidden column `_order`: numbers with gaps, so that a row fits between two others. What one
commit wrote is a run, in which they grow; reading merges the runs, which are few, batch by batch.
"""

from collections.abc import Iterator
from typing import Any

import lance
import numpy as np
import pyarrow as pa

COLUMN = "_order"


def ordered(table: lance.LanceDataset, columns: list[str] | None = None, **scan: Any) -> Iterator[pa.RecordBatch]:
    """Rows in their order, memory flat: a few batches of each run. `scan`: filter, limit, with_row_id, …"""
    names = [n for n in (table.schema.names if columns is None else columns) if n != COLUMN]
    parts = runs(table)
    if len(parts) < 2:
        yield from table.to_batches(columns=names, scan_in_order=True, **scan)
        return
    limit = scan.pop("limit", None)
    streams = [
        table.scanner(columns=[*names, COLUMN], fragments=p, scan_in_order=True, batch_readahead=4, **scan).to_batches()
        for p in parts
    ]
    for batch in _merge([iter(s) for s in streams]):
        if limit is not None:
            batch, limit = batch.slice(0, limit), limit - min(limit, batch.num_rows)
        yield batch.drop_columns([COLUMN])
        if limit == 0:
            return


def runs(table: lance.LanceDataset) -> list[list[lance.LanceFragment]]:
    """The fragments in groups within which `_order` grows."""
    fragments = table.get_fragments()
    if len(fragments) < 2 or COLUMN not in table.schema.names:
        return [fragments]
    found: list[list[lance.LanceFragment]] = []
    end = 0
    for fragment in fragments:
        first, last = fragment.take([0, fragment.count_rows() - 1], columns=[COLUMN])[COLUMN].to_pylist()
        if not found or first <= end:
            found.append([])
        found[-1].append(fragment)
        end = last
    return found


def _merge(streams: list[Iterator[pa.RecordBatch]]) -> Iterator[pa.RecordBatch]:
    """Each turn gives what is sure to come next: all rows up to the earliest end of the batches at hand."""
    heads = [_next(s) for s in streams]
    while True:
        bounds = [head[COLUMN][-1].as_py() for head in heads if head is not None]
        if not bounds:
            return
        ready = []
        for i, head in enumerate(heads):
            if head is None:
                continue
            cut = int(np.searchsorted(head[COLUMN].to_numpy(), min(bounds), side="right"))
            if cut:
                ready.append(head.slice(0, cut))
                heads[i] = head.slice(cut) if cut < head.num_rows else _next(streams[i])
        yield ready[0] if len(ready) == 1 else _sorted(ready)


def _sorted(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    places = np.concatenate([b[COLUMN].to_numpy() for b in batches])
    return pa.concat_batches(batches).take(pa.array(np.argsort(places)))


def _next(stream: Iterator[pa.RecordBatch]) -> pa.RecordBatch | None:
    return next((batch for batch in stream if batch.num_rows), None)
