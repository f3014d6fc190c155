"""Columns added to a version, a label or an embedding: the rest is shared, not written again."""

from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from longrein.core.errors import Error
from longrein.core.store import Store
from longrein.data.version.content import Digest
from longrein.data.version.delta import Lost
from longrein.data.version.table import ORDER, bytes_of, columns_of, digest_at, errors, open, scan, tag_of
from longrein.data.version.write import Version, retried

BATCH_ROWS = 8192
Ids = np.ndarray[Any, np.dtype[np.bytes_]]


def add_columns(store: Store, uri: str, batches: Iterable[pa.RecordBatch]) -> Version:
    """The version `uri` with the columns of `batches` as its last ones: a new version that shares all else.

    batches: in any order and of any size, with `row_id`, which says whose the other columns are. A row without values
    has nulls; of values given twice the first count (copies of a row share its id); ids that the version lacks are
    passed over. The digest is that of a version written whole. Memory: about 50 bytes a row; the values wait on disk.
    Errors: `invalid` for columns that are there already or no row's, `corrupt` when the version is damaged.
    """
    table = open(store, uri)
    with TemporaryDirectory(dir=store.root, prefix="draft-") as folder:
        values = _Values(Path(folder) / "columns.arrow", batches, columns_of(table))
        with errors(uri):
            return retried(lambda: _added(table, values, uri))


class _Values:
    """Rows of new columns in a file, found by id."""

    def __init__(self, path: Path, batches: Iterable[pa.RecordBatch], known: pa.Schema) -> None:
        ids = [np.zeros(0, "S32")]
        stream = iter(batches)
        first = next(stream, None)
        if first is None:
            raise Error("invalid", "there are no values to add", "give at least one batch: row_id and the new columns")
        given = first.schema
        _check(given, known)
        self.schema = pa.schema([pa.field(f.name, f.type) for f in given if f.name != "row_id"])
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, self.schema) as writer:
            while first is not None:
                if not first.schema.equals(given):
                    raise Error("invalid", f"a batch has other columns: {first.schema.names}, not {given.names}")
                ids.append(_ids(first["row_id"]))
                with errors("the new columns"):
                    writer.write_batch(first.select(self.schema.names))
                first = next(stream, None)
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        self.batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        self.starts = np.cumsum([0, *(b.num_rows for b in self.batches)])
        self.ids, self.places = np.unique(np.concatenate(ids), return_index=True)
        self.found = 0

    def of(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The values of these rows."""
        wanted = _ids(batch["row_id"])
        near = np.minimum(np.searchsorted(self.ids, wanted), len(self.ids) - 1)
        there = self.ids[near] == wanted
        self.found += int(there.sum())
        places = self.places[near[there]]
        if not len(places):
            return pa.record_batch([pa.nulls(len(wanted), f.type) for f in self.schema], schema=self.schema)
        chunk = np.searchsorted(self.starts, places, "right") - 1
        parts = [self.batches[c].take(pa.array(places[chunk == c] - self.starts[c])) for c in np.unique(chunk)]
        back = np.zeros(len(wanted), np.int64)
        back[np.flatnonzero(there)[np.argsort(chunk, kind="stable")]] = np.arange(len(places))
        return pa.concat_batches(parts).take(pa.array(back, mask=~there))


def _added(base: lance.LanceDataset, values: _Values, uri: str) -> Version:
    table, number = lance.dataset(base.uri), base.version
    expected = digest_at(table, number)
    if table.version != number:
        table = table.checkout_version(number)
        table.restore()  # as the latest; nothing is copied
    values.found = 0
    fragments, whole = [], None
    for fragment in table.get_fragments():
        udf = lance.batch_udf(output_schema=values.schema)(values.of)
        made, whole = fragment.merge_columns(udf, columns=["row_id"], batch_size=BATCH_ROWS)
        fragments.append(made)
    if not values.found:
        raise Error("invalid", f"none of the row ids is one of {uri}", "they are in its column row_id")
    operation = lance.LanceOperation.Merge(fragments, whole)
    made = lance.LanceDataset.commit(table, operation, read_version=table.version, max_retries=0)
    if made.version != table.version + 1:  # on top of a version that we did not look at
        raise Lost("commit conflict")
    total = Digest(columns_of(made))
    for batch in scan(made):
        total.update(batch)
    if expected and total.hexdigest(without=values.schema.names) != expected:
        raise Error("corrupt", f"{uri} does not match its digest", "rebuild it: longrein apply")
    tag, tags = tag_of(total.hexdigest()), made.tags
    (tags.update if tag in tags.list() else tags.create)(tag, made.version)
    path = uri.partition("?")[0]
    return Version(f"{path}?version={made.version}", total.hexdigest(), total.rows, bytes_of(made))


def _check(given: pa.Schema, known: pa.Schema) -> None:
    """Errors: `invalid`."""
    names = given.names
    if "row_id" not in names or "row_id" not in known.names:
        raise Error("invalid", "new columns are told by row_id, which is missing", "read it with the rows")
    if len(names) < 2 or len(set(names)) < len(names):
        raise Error(
            "invalid", f"these are no new columns: {names}", "give row_id and columns of other names, each once"
        )
    for name in names:
        if name in known.names and name != "row_id":
            hint = "choose another name, or add it to the version before"
            raise Error("invalid", f"there is a column {name!r} already", hint)
        if name == ORDER or name.startswith("_") or not name.replace("_", "a").isalnum():
            raise Error("invalid", f"{name!r} cannot be a column's name", "use letters, digits and _ between them")


def _ids(column: pa.Array) -> Ids:
    """What is no row's id is b""."""
    if not pa.types.is_string(column.type):
        raise Error("invalid", f"row_id is text, not {column.type}", "take it as it is read from the version")
    whole = pc.fill_null(pc.if_else(pc.equal(pc.binary_length(column), 32), column, ""), "")
    found: Ids = np.array(whole.cast(pa.binary()).to_pylist(), "S32")
    return found
