"""What changed between two versions: rows, columns, statistics."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import lance
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from longrein.core.store import Store
from longrein.core.text import TOKEN_BYTES, key
from longrein.data.version.table import ORDER, columns_of, errors, open

BRIEF = ["row_id", "input", "output", "split", "source", "line"]
TAKEN = 1024  # rows fetched at once: more make Lance slower than in proportion


Array = np.ndarray[Any, Any]


class Change(NamedTuple):
    what: str  # added | removed | changed | moved
    before: dict[str, Any] | None
    after: dict[str, Any] | None


def diff(store: Store, before: str, after: str, samples: int = 5) -> dict[str, Any]:
    """What changed between two versions.

    added, removed: rows whose content is on one side only; changed: such a pair with the same request (folded);
    moved: the same row in another split; same: the rest; with up to `samples` rows of each. characters, tokens (about):
    [gone, come]. splits, languages: rows of each, [before, after]. schema: columns that came, went, or changed type.
    Memory: the row ids of both versions, and the requests of the rows that went.
    """
    tables = [open(store, uri) for uri in (before, after)]
    counts = dict.fromkeys(("added", "removed", "changed", "moved"), 0)
    shown: dict[str, list[Any]] = {what: [] for what in counts}
    sizes = np.zeros((2, 2), np.int64)  # characters and bytes; gone and come
    for what, old, new in changes(store, before, after):
        counts[what] += 1
        if len(shown[what]) < samples:
            shown[what].append({"before": old, "after": new} if what == "changed" else new or old)
        if what != "moved":
            sizes[:, 0] += _size(old)
            sizes[:, 1] += _size(new)
    rows = [table.count_rows() for table in tables]
    types = [{f.name: str(f.type) for f in columns_of(table)} for table in tables]
    return {
        "rows": rows,
        **counts,
        "same": rows[1] - counts["added"] - counts["changed"] - counts["moved"],
        "characters": sizes[0].tolist(),
        "tokens": [round(n / TOKEN_BYTES) for n in sizes[1].tolist()],
        "splits": _counted(tables, "split"),
        "languages": _counted(tables, "language"),
        "columns_added": [n for n in types[1] if n not in types[0]],
        "columns_removed": [n for n in types[0] if n not in types[1]],
        "columns_changed": {n: [t, types[1][n]] for n, t in types[0].items() if types[1].get(n, t) != t},
        "samples": shown,
    }


def changes(store: Store, before: str, after: str, columns: list[str] | None = BRIEF) -> Iterator[Change]:
    """Every row that is not the same in both versions, in order: those of `after`, then those that went.

    columns: of the rows shown, `input` among them; None is all.
    """
    old, new = _Side(open(store, before), columns), _Side(open(store, after), columns)
    with errors(f"{before} and {after}"):
        lone_old, lone_new = _lone(old, new)
        come, gone = new.ids.filter(pa.array(lone_new)), old.ids.filter(pa.array(lone_old))
        known = old.ids.filter(pc.is_in(old.ids, value_set=come))
        stay = new.ids.filter(pc.is_in(new.ids, value_set=gone))
        places = pc.index_in(come, value_set=known)
        here = np.flatnonzero(lone_new)
        moved = pc.fill_null(pc.not_equal(new.splits.take(here), old.splits_of(known).take(places)), False)
        left: dict[bytes, list[dict[str, Any]]] = {}
        for row in old.fetch(np.flatnonzero(lone_old)[_mask(pc.invert(pc.is_in(gone, value_set=stay)))]):
            left.setdefault(key(row["input"]), []).append(row)
        for row in new.fetch(here[_mask(pc.is_null(places))]):
            earlier = left.get(key(row["input"]))
            yield Change("changed", earlier.pop(0), row) if earlier else Change("added", None, row)
        for row in new.fetch(here[_mask(moved)]):
            yield Change("moved", None, row)
    yield from (Change("removed", row, None) for rows in left.values() for row in rows)


class _Side:
    """One version's rows in the order they lie in: their addresses, ids and splits."""

    def __init__(self, table: lance.LanceDataset, columns: list[str] | None) -> None:
        self.table, self.columns = table, columns or columns_of(table).names
        names = ["row_id", "split", *([ORDER] if ORDER in table.schema.names else [])]
        found = table.scanner(columns=names, with_row_address=True, scan_in_order=True).to_table()
        self.ids = found["row_id"].combine_chunks()
        self.splits = found["split"].combine_chunks()
        self.order = found[ORDER].to_numpy() if ORDER in names else np.arange(len(found))
        self.addresses = found["_rowaddr"].to_numpy()

    def splits_of(self, ids: pa.Array) -> pa.Array:
        """Of the first row with each of these ids, which are all here."""
        where = np.flatnonzero(_mask(pc.is_in(self.ids, value_set=ids)))
        return self.splits.take(where[pc.index_in(ids, value_set=self.ids.take(where)).to_numpy()])

    def files(self) -> dict[int, list[str]]:
        """Of each fragment the files that hold ids and splits."""
        fields = {f.id() for f in self.table.lance_schema.fields() if f.name() in ("row_id", "split")}
        return {
            f.fragment_id: [file.path for file in f.data_files() if fields & set(file.fields)]
            for f in self.table.get_fragments()
        }

    def fetch(self, chosen: Array) -> Iterator[dict[str, Any]]:
        """The chosen rows, in their order."""
        chosen = chosen[np.argsort(self.order[chosen], kind="stable")]
        for start in range(0, len(chosen), TAKEN):
            wanted = chosen[start : start + TAKEN]
            by = np.argsort(wanted)  # asked for in the order of the files
            rows = self.table.take(wanted[by].tolist(), columns=self.columns)
            yield from rows.take(pa.array(np.argsort(by))).to_pylist()


def _lone(old: _Side, new: _Side) -> tuple[Array, Array]:
    """Which rows of each side are not the very bytes of a row of the other: of one table, most are."""
    files = old.files() if old.table.uri == new.table.uri else {}
    shared = [number for number, paths in new.files().items() if files.get(number) == paths]
    here, there = (s.addresses[np.isin(s.addresses >> np.uint64(32), shared)] for s in (old, new))
    both = np.intersect1d(here, there, assume_unique=True)
    return ~np.isin(old.addresses, both, assume_unique=True), ~np.isin(new.addresses, both, assume_unique=True)


def _mask(found: pa.Array) -> Array:
    chosen: Array = found.to_numpy(zero_copy_only=False)
    return chosen


def _size(row: dict[str, Any] | None) -> list[int]:
    """Characters and bytes of a row's texts."""
    texts = [row["input"] or "", row["output"] or ""] if row else []
    return [sum(map(len, texts)), sum(len(t.encode("utf-8", "replace")) for t in texts)]


def _counted(tables: list[lance.LanceDataset], column: str) -> dict[str, list[int]]:
    counts: list[dict[str, int]] = []
    for table in tables:
        found = table.to_table(columns=[column])[column].value_counts() if column in table.schema.names else []
        counts.append({str(one["values"]): one["counts"].as_py() for one in found})
    return {name: [side.get(name, 0) for side in counts] for name in sorted(counts[0] | counts[1])}
