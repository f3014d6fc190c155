"""What a commit need not write again: the rows of an earlier version that come again, in their order.

Rows are told by a 64-bit hash of their id and small columns. A commit reads its result back and compares the digest, so
a collision costs a rewrite, never a wrong row.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any, NamedTuple

import lance
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from lance.fragment import FragmentMetadata, write_fragments

from longrein.core import plugins
from longrein.data.version.table import ORDER, columns_of

GAP = 1 << 20  # between the places of two rows that were written together
MOST_RUNS = 16  # that reading must merge; beyond, what changed since the last full write becomes one run
MOST_NEW = 0.3  # of the rows: where more are new, all are written anew
LEAST_LIVE = 0.6  # of the rows in the files that are shared
PLACES = ("line", "source_digest")  # may change while the row stays: columns of their own are written then
CONTENT = ("input", "output", "messages", "row_id")  # what the row's id covers
_SPREAD = np.uint64(0x9E3779B97F4A7C15)

Array = np.ndarray[Any, Any]
Batches = Callable[[], Iterator[pa.RecordBatch]]
Choose = Callable[[Array], Iterator[pa.RecordBatch]]  # the rows where a mask is true


class Lost(OSError):
    """Another commit came first."""


class Keys(NamedTuple):
    """Of each row, in order."""

    rows: Array  # uint64: what the row is; its k-th copy has a key of its own
    places: Array  # uint64, a line for each of PLACES: where it came from


@dataclass(frozen=True)
class Stored:
    """The rows that are there, in order."""

    keys: Keys
    order: Array  # int64
    fragment: Array  # int64: id
    first_run: Array  # bool: whether it was written with the oldest


def write(table: lance.LanceDataset, schema: pa.Schema, batches: Batches) -> lance.LanceDataset | None:
    """The rows of `batches` as the next version after `table`, the latest one, sharing the rows that come again.

    None where all had better be written anew. Errors: `Lost`.
    """
    if not _fits(table, schema):
        return None
    names = [n for n in columns_of(table).names if n not in CONTENT or n == "row_id"]
    stored, keys = _stored(table, names), keys_of(batches())
    at = _matches(stored.keys.rows, keys.rows)
    if not stored.first_run.all() and len(_runs(table)) >= MOST_RUNS:
        at[(at >= 0) & ~stored.first_run[at]] = -1
    at = growing(at)
    differ = stored.keys.places[:, at] != keys.places
    return _written(table, schema, lambda chosen: _chosen(batches, chosen), stored, at, differ)


def edit(table: lance.LanceDataset, schema: pa.Schema, fresh: Batches, at: Array) -> lance.LanceDataset | None:
    """As `write`, where it is known of each row which one of `table` it is, growing; or -1: the next one of `fresh`."""
    if not _fits(table, schema) or len(_runs(table)) >= MOST_RUNS:
        return None
    differ = np.zeros((len(PLACES), len(at)), bool)
    return _written(table, schema, lambda chosen: fresh(), _stored(table, ["row_id"]), at, differ)


def matched(old: Array, new: Array) -> Array:
    """For each new row, told by a 64-bit hash, the index of the same old one, in growing order, or -1."""
    return growing(_matches(_told_apart(old.copy()), _told_apart(new.copy())))


def _written(
    table: lance.LanceDataset, schema: pa.Schema, chosen: Choose, stored: Stored, at: Array, differ: Array
) -> lance.LanceDataset | None:
    """The next version: rows of `table` by their index, those of -1 written anew; `differ`: by column of PLACES."""
    kept = at >= 0
    fresh = len(kept) - int(kept.sum())
    live = {f.fragment_id: f for f in table.get_fragments()}
    lost = np.ones(len(stored.order), bool)
    lost[at[kept]] = False
    held = set(np.unique(stored.fragment[~lost]).tolist())
    physical = sum(live[i].physical_rows for i in held)
    if not held or fresh > MOST_NEW * len(kept) or len(kept) - fresh < LEAST_LIVE * physical:
        return None
    order = _between(kept, stored.order[at[kept]])
    if order is None:
        return None
    moved = differ.any(axis=0) & kept
    if not (fresh or lost.any() or moved.any()):
        return table
    new = _appended(table, schema, chosen(~kept), order[~kept]) if fresh else []
    names = [n for n, column in zip(PLACES, differ, strict=True) if column[kept].any()]
    places = _places(chosen(moved), names, order[moved], stored.fragment[at[moved]]) if names else {}
    changed, fields = [], set[int]()
    for number in sorted(held):
        gone = stored.order[lost & (stored.fragment == number)]
        one, modified = _changed(live[number], gone, places.get(number))
        fields |= modified
        if one is not None:
            changed.append(one)
    operation = lance.LanceOperation.Update(
        removed_fragment_ids=sorted(live.keys() - held),
        updated_fragments=changed,
        new_fragments=new,
        fields_modified=sorted(fields),
    )
    made = lance.LanceDataset.commit(table, operation, read_version=table.version, max_retries=0)
    if made.version != table.version + 1:  # on top of a version that we did not look at
        raise Lost("commit conflict")
    return made


def numbered(schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> pa.RecordBatchReader:
    """All rows with their places, for a full write."""

    def stream() -> Iterator[pa.RecordBatch]:
        start = 0
        for batch in batches:
            yield _with_order(batch, np.arange(start, start + batch.num_rows) * GAP)
            start += batch.num_rows

    return pa.RecordBatchReader.from_batches(schema.append(pa.field(ORDER, pa.int64())), stream())


def keys_of(batches: Iterator[pa.RecordBatch]) -> Keys:
    rows, places = [np.zeros(0, np.uint64)], [np.zeros((len(PLACES), 0), np.uint64)]
    for batch in batches:
        names = batch.schema.names
        content = _hash(batch["row_id"])
        for name in sorted(set(names) - {*CONTENT, *PLACES}):
            content = content * _SPREAD + _hash(batch[name])
        rows.append(content)
        none = np.zeros(batch.num_rows, np.uint64)
        places.append(np.stack([_hash(batch[n]) if n in names else none for n in PLACES]))
    return Keys(_told_apart(np.concatenate(rows)), np.concatenate(places, axis=1))


def _fits(table: lance.LanceDataset, schema: pa.Schema) -> bool:
    """Whether both have the same columns, ids and places among them."""
    same = columns_of(table).remove_metadata().equals(schema.remove_metadata())
    return same and ORDER in table.schema.names and "row_id" in schema.names


def _stored(table: lance.LanceDataset, names: list[str]) -> Stored:
    """The rows, told by these columns, the id among them."""
    orders, fragments = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]

    def stream() -> Iterator[pa.RecordBatch]:
        for batch in table.to_batches(columns=[*names, ORDER], with_row_address=True, scan_in_order=True):
            orders.append(batch[ORDER].to_numpy())
            fragments.append((batch["_rowaddr"].to_numpy() >> np.uint64(32)).astype(np.int64))
            yield batch.select(names)

    rows, places = keys_of(stream())
    order, fragment = np.concatenate(orders), np.concatenate(fragments)
    first = np.isin(fragment, [f.fragment_id for f in _runs(table)[0]])
    if not np.all(np.diff(order) > 0):
        by = np.argsort(order)
        # The k-th copy of a row is told by physical order here: copies are alike, but for their places.
        rows, places, order, fragment, first = rows[by], places[:, by], order[by], fragment[by], first[by]
    return Stored(Keys(rows, places), order, fragment, first)


def _matches(old: Array, new: Array) -> Array:
    """For each new row the index of the same old one, or -1."""
    if not len(old):
        return np.full(len(new), -1)
    by = np.argsort(old)
    found = by[np.minimum(np.searchsorted(old, new, sorter=by), len(old) - 1)]
    return np.where(old[found] == new, found, -1)


def growing(at: Array) -> Array:
    """The most matches whose order is the same on both sides: the longest growing subsequence, by patience sorting."""
    where = np.flatnonzero(at >= 0)
    values = at[where]
    if np.all(np.diff(values) > 0):
        return at
    tails: list[int] = []
    piles: list[int] = []  # the index in `values` of each tail
    before = np.full(len(values), -1)
    for i, value in enumerate(values.tolist()):
        pile = bisect_left(tails, value)
        if pile:
            before[i] = piles[pile - 1]
        tails[pile : pile + 1], piles[pile : pile + 1] = [value], [i]
    result, i = np.full(len(at), -1), piles[-1]
    while i >= 0:
        result[where[i]] = values[i]
        i = int(before[i])
    return result


def _between(kept: Array, orders: Array) -> Array | None:
    """Places for all rows: the kept ones have theirs, the others are spread between. None where there is no room."""
    where, others = np.flatnonzero(kept), np.flatnonzero(~kept)
    group = np.searchsorted(where, others)  # how many kept rows come before
    counts = np.bincount(group, minlength=len(where) + 1)
    low = np.concatenate([[orders[0] - GAP * (counts[0] + 1)], orders])
    high = np.concatenate([orders, [orders[-1] + GAP * (counts[-1] + 1)]])
    step = (high - low) // (counts + 1)
    if np.any(step[group] < 1):
        return None
    result = np.zeros(len(kept), np.int64)
    result[where] = orders
    rank = others - np.concatenate([[-1], where])[group]
    result[others] = low[group] + step[group] * rank
    return result


def _appended(
    table: lance.LanceDataset, schema: pa.Schema, rows: Iterator[pa.RecordBatch], order: Array
) -> list[FragmentMetadata]:
    whole = schema.append(pa.field(ORDER, pa.int64()))
    reader = pa.RecordBatchReader.from_batches(whole, _ordered(rows, order))
    return list(write_fragments(reader, table.uri, schema=whole, mode="append", enable_stable_row_ids=True))


def _places(rows: Iterator[pa.RecordBatch], names: list[str], order: Array, fragment: Array) -> dict[int, pa.Table]:
    """The new places of kept rows, by fragment."""
    whole = pa.Table.from_batches(_ordered((batch.select(names) for batch in rows), order))
    return {int(i): whole.filter(pa.array(fragment == i)) for i in np.unique(fragment)}


def _changed(
    fragment: lance.LanceFragment, gone: Array, places: pa.Table | None
) -> tuple[FragmentMetadata | None, set[int]]:
    """The fragment without some rows and with the places of others changed, and the ids of the fields that changed."""
    one, fields = fragment.metadata, set[int]()
    if places is not None:
        one, modified = fragment.update_columns(places, left_on=ORDER, right_on=ORDER)
        fields = set(modified)
    if len(gone):
        less = fragment.delete(f"{ORDER} IN ({','.join(map(str, gone.tolist()))})")
        one = replace(one, deletion_file=less.deletion_file)
    return (one if places is not None or len(gone) else None), fields


def _chosen(batches: Batches, mask: Array) -> Iterator[pa.RecordBatch]:
    start = 0
    for batch in batches():
        chosen = mask[start : start + batch.num_rows]
        if chosen.any():
            yield batch.filter(pa.array(chosen))
        start += batch.num_rows


def _ordered(rows: Iterator[pa.RecordBatch], order: Array) -> Iterator[pa.RecordBatch]:
    start = 0
    for batch in rows:
        yield _with_order(batch, order[start : start + batch.num_rows])
        start += batch.num_rows


def _with_order(batch: pa.RecordBatch, places: Array) -> pa.RecordBatch:
    return batch.append_column(ORDER, pa.array(places, pa.int64()))


def _runs(table: lance.LanceDataset) -> list[list[lance.LanceFragment]]:
    found: list[list[lance.LanceFragment]] = plugins.load("reader", "lance").runs(table)
    return found


def _told_apart(hashes: Array) -> Array:
    """The k-th row with the same hash gets another one."""
    by = np.argsort(hashes, kind="stable")
    ranked, places = hashes[by], np.arange(len(hashes))
    fresh = np.ones(len(hashes), bool)
    fresh[1:] = ranked[1:] != ranked[:-1]
    rank = places - np.maximum.accumulate(np.where(fresh, places, 0))
    hashes[by] += rank.astype(np.uint64) * np.uint64(0xC2B2AE3D27D4EB4F)
    return hashes


def _hash(column: pa.Array) -> Array:
    """64 bits for each value."""
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type) or pa.types.is_binary(column.type):
        words = _words(column)
        if words is not None:
            return words
        coded = column.dictionary_encode()
        values = coded.dictionary.cast(pa.large_binary()).to_pylist()
        hashed: Array = np.array([_of(v) for v in values] + [0], np.uint64)  # the last one stands for null
        found: Array = hashed[pc.fill_null(coded.indices, len(values)).to_numpy(zero_copy_only=False)]
        return found
    if pa.types.is_integer(column.type):
        numbers = pc.fill_null(column.cast(pa.int64()), -(1 << 62)).to_numpy(zero_copy_only=False)
        return _mixed(numbers.astype(np.int64).view(np.uint64))
    width = column.type.list_size if pa.types.is_fixed_size_list(column.type) else 1
    values = column.flatten() if pa.types.is_fixed_size_list(column.type) else column
    if pa.types.is_floating(values.type) and not column.null_count and not values.null_count:
        parts = np.ascontiguousarray(values.to_numpy()).view(f"u{values.type.bit_width // 8}").reshape(-1, width)
        odd = _mixed(np.arange(1, width + 1, dtype=np.uint64)) | np.uint64(1)
        return _mixed(_mixed(parts.astype(np.uint64)) @ odd)
    return np.array([_of(repr(value).encode()) for value in column.to_pylist()], np.uint64)


def _words(column: pa.Array) -> Array | None:
    """A quick way for ids: 32 characters each, digests themselves."""
    if column.null_count or not len(column) or not pa.types.is_string(column.type):
        return None
    lengths = pc.binary_length(column)
    if pc.min(lengths).as_py() != 32 or pc.max(lengths).as_py() != 32:
        return None
    offsets = np.frombuffer(column.buffers()[1], np.int32)[column.offset : column.offset + 1]
    data = np.frombuffer(column.buffers()[2], np.uint8)[offsets[0] : offsets[0] + 32 * len(column)]
    words = np.frombuffer(data.tobytes(), np.uint64).reshape(-1, 4)
    total = np.zeros(len(column), np.uint64)
    for i in range(4):
        total = _mixed(total * _SPREAD + words[:, i])
    return total


def _mixed(words: Array) -> Array:
    """Each bit depends on every other one (splitmix64)."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    result: Array = words ^ (words >> np.uint64(31))
    return result


def _of(value: bytes) -> int:
    return int.from_bytes(blake2b(value, digest_size=8).digest(), "little")
