"""Dataset versions: Lance tables whose versions are named by the digest of their rows, not of their files.

A uri is `lance/<name>.lance?version=N`: the number is this store's own. What two machines agree on is the digest.
"""

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import lance
import pyarrow as pa
import pyarrow.compute as pc

from longrein.core.errors import Error
from longrein.core.store import Store
from longrein.core.text import key
from longrein.data import similar

BATCH_ROWS = 8192
BATCH_BYTES = 16 << 20  # a batch is closed earlier when its texts reach this
ATTEMPTS = 20  # to commit, each lost to another that succeeded
DIGEST = b"longrein.digest"


class Version(NamedTuple):
    uri: str
    digest: str
    rows: int
    bytes: int


class Digest:
    """The digest of rows in order: the same whatever the batches, files and machine.

    Each column is two streams, lengths (or validity) and bytes, hashed apart with SHA-256; nested columns recurse.
    """

    def __init__(self, schema: pa.Schema) -> None:
        self.schema, self.rows = schema, 0
        self._streams: dict[str, Any] = {}

    def update(self, batch: pa.RecordBatch) -> None:
        self.rows += batch.num_rows
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            self._column(name, column)

    def hexdigest(self) -> str:
        total = hashlib.sha256(f"{self.rows}\n".encode())
        for field in self.schema:
            total.update(f"{field.name}\0{_plain(field.type)}\n".encode())
        for path in sorted(self._streams):
            total.update(path.encode() + b"\0" + self._streams[path].digest())
        return total.hexdigest()

    def _column(self, path: str, column: pa.Array) -> None:
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        if pa.types.is_struct(column.type):
            self._feed(f"{path}?", column.is_valid().cast(pa.uint8()))
            for field, child in zip(column.type, column.flatten(), strict=True):
                self._column(f"{path}.{field.name}", child)
        elif pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
            self._feed(f"{path}#", pc.fill_null(pc.list_value_length(column).cast(pa.int64()), -1))
            self._column(f"{path}[]", pc.list_flatten(column))
        elif pa.types.is_fixed_size_list(column.type):
            self._feed(f"{path}?", column.is_valid().cast(pa.uint8()))
            self._column(f"{path}[]", column.flatten())
        elif _is_bytes(column.type):
            self._feed(f"{path}#", pc.fill_null(pc.binary_length(column).cast(pa.int64()), -1))
            self._feed(path, column.drop_null())
        else:
            self._feed(f"{path}?", column.is_valid().cast(pa.uint8()))
            self._feed(path, column.drop_null())

    def _feed(self, path: str, column: pa.Array) -> None:
        stream = self._streams.setdefault(path, hashlib.sha256())
        if not len(column):
            return
        if _is_bytes(column.type):
            wide = column.cast(pa.large_binary())
            offsets = memoryview(wide.buffers()[1]).cast("q")
            start, end = offsets[wide.offset], offsets[wide.offset + len(wide)]
            data = wide.buffers()[2]
            if end > start:
                stream.update(memoryview(data)[start:end])
        elif pa.types.is_boolean(column.type):
            self._feed(path, column.cast(pa.uint8()))
        else:
            width = column.type.bit_width // 8
            data = memoryview(column.buffers()[1])
            stream.update(data[column.offset * width : (column.offset + len(column)) * width])


class Draft:
    """Rows on their way to become a version: an Arrow stream file that grows by batches, digested as it grows."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.path, self.schema = path, schema
        self.rows, self._size = 0, 0
        self._digest = Digest(schema)
        self._buffer: list[dict[str, Any]] = []
        self._sink = pa.OSFile(str(path), "wb")
        self._writer = pa.ipc.new_stream(self._sink, schema)

    def add(self, row: dict[str, Any], size: int) -> None:
        """Add a row of about `size` bytes; fields that it lacks are null."""
        self._buffer.append(row)
        self.rows += 1
        self._size += size
        if len(self._buffer) >= BATCH_ROWS or self._size >= BATCH_BYTES:
            self._flush()

    def close(self) -> str:
        """Finish the file; the digest of all rows."""
        self._flush()
        self._writer.close()
        self._sink.close()
        return self._digest.hexdigest()

    def _flush(self) -> None:
        if self._buffer:
            batch = pa.RecordBatch.from_pylist(self._buffer, self.schema)
            self._digest.update(batch)
            self._writer.write_batch(batch)
        self._buffer, self._size = [], 0


def commit(store: Store, name: str, draft: Draft) -> Version:
    """Make the draft a version of the table `name`, all or nothing; a sound version with the same rows is used again.

    Many may commit at once: one that comes second looks again and writes after the first.
    """
    digest = draft.close()
    folder = store.root / "lance" / f"{name}.lance"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _errors(f"the table {name}"):
        for left in reversed(range(ATTEMPTS)):
            try:
                number = _placed(folder, draft, digest)
                break
            except (OSError, ValueError) as error:  # what Lance raises when another was faster
                if not left or not any(sign in str(error) for sign in ("conflict", "already exists")):
                    raise
    draft.path.unlink()
    uri = f"lance/{name}.lance?version={number}"
    return Version(uri, digest, draft.rows, _bytes(open(store, uri)))


def open(store: Store, uri: str) -> lance.LanceDataset:
    """The table at the version that the uri names. Errors: `not_found` when it is gone."""
    path, _, number = uri.partition("?version=")
    if not number.isdigit():
        raise Error("invalid", f"{uri!r} names no version of a table", "it looks like lance/<name>.lance?version=3")
    folder = store.path(path)
    try:
        return lance.dataset(str(folder), version=int(number))
    except ValueError as error:
        raise Error("not_found", f"the store no longer holds {uri}", "rebuild it: longrein apply") from error


def batches(
    store: Store, uri: str, split: str | None = None, columns: list[str] | None = None, limit: int | None = None
) -> Iterator[pa.RecordBatch]:
    """Rows in their order as Arrow batches, memory flat."""
    table = open(store, uri)
    _check(columns, table.schema.names)
    where = pc.field("split") == split if split is not None else None
    with _errors(uri):
        yield from table.to_batches(columns=columns, filter=where, limit=limit, scan_in_order=True)


def rows(
    store: Store, uri: str, split: str | None = None, columns: list[str] | None = None, limit: int | None = None
) -> Iterator[dict[str, Any]]:
    """Rows in their order as dicts."""
    for batch in batches(store, uri, split, columns, limit):
        yield from batch.to_pylist()


def find(
    store: Store, uri: str, row_id: str | None = None, source: str | None = None, line: int | None = None
) -> list[dict[str, Any]]:
    """The rows with this id, or from this source (and line). Copies that were not removed share their id."""
    asked = {"row_id": row_id, "source": source, "line": line}
    where = None
    for name, value in asked.items():
        if value is not None:
            term = pc.field(name) == value
            where = term if where is None else where & term
    if where is None:
        raise Error("invalid", "say which row: its id, or its source and line")
    with _errors(uri):
        found: list[dict[str, Any]] = open(store, uri).to_table(filter=where).to_pylist()
    return found


def digest(store: Store, uri: str) -> str:
    """The digest of the rows as they are on disk now."""
    with _errors(uri):
        return _digest(open(store, uri))


def diff(store: Store, before: str, after: str, samples: int = 5) -> dict[str, Any]:
    """What changed between two versions.

    added, removed: rows whose content is on one side only; changed: such a pair with the same request (folded);
    moved: the same row in another split; same: the rest. With up to `samples` rows of each, and columns that came or
    went. Memory: the row ids of both versions, and 16 bytes for each row that is not the same.
    """
    old, new = (open(store, uri).to_table(columns=["row_id", "split"]) for uri in (before, after))
    places = pc.index_in(new["row_id"], value_set=old["row_id"].combine_chunks())
    moved = pc.not_equal(new["split"], old["split"].take(places))  # null where the row is new
    gone: dict[bytes, list[str]] = {}
    for row in _without(store, before, new["row_id"]):
        gone.setdefault(key(row["input"]), []).append(row["row_id"])
    shown: dict[str, list[Any]] = {"added": [], "removed": [], "changed": [], "moved": []}
    added = changed = 0
    for row in _without(store, after, old["row_id"]):
        earlier = gone.get(key(row["input"]))
        if earlier:
            changed, twin = changed + 1, earlier.pop()
            if changed <= samples:
                shown["changed"].append({"before": _brief(find(store, before, twin)[0]), "after": _brief(row)})
        else:
            added += 1
            if added <= samples:
                shown["added"].append(_brief(row))
    left = [row_id for ids in gone.values() for row_id in ids]
    shown["removed"] = [_brief(find(store, before, row_id)[0]) for row_id in left[:samples]]
    elsewhere = new["row_id"].filter(moved)
    shown["moved"] = [_brief(find(store, after, i.as_py())[0]) for i in elsewhere[:samples]]
    names = [open(store, uri).schema.names for uri in (before, after)]
    counts = {"added": added, "removed": len(left), "changed": changed, "moved": len(elsewhere)}
    return {
        "rows": [len(old), len(new)],
        **counts,
        "same": len(new) - added - changed - len(elsewhere),
        "columns_added": [n for n in names[1] if n not in names[0]],
        "columns_removed": [n for n in names[0] if n not in names[1]],
        "samples": shown,
    }


def nearest(
    store: Store, uri: str, text: str, k: int = 5, split: str | None = "train"
) -> list[tuple[float, dict[str, Any]]]:
    """The rows whose input is most like a text, with the cosine of their character n-grams, the best first.

    A similarity, not a proof of what made a model answer as it did.
    """
    query = similar.Query(text)
    best: list[tuple[float, dict[str, Any]]] = []
    for batch in batches(store, uri, split, ["input", "output", "split", "source", "line", "row_id"]):
        floor = best[-1][0] if len(best) == k else 0.0
        found = query.best(batch["input"].to_pylist(), k, floor)
        best += [(score, batch.slice(at, 1).to_pylist()[0]) for score, at in found]
        best = sorted(best, key=lambda pair: -pair[0])[:k]
    return best


def verify(store: Store, expected: str, uri: str) -> None:
    """Check that the rows still have the digest they were committed under. Errors: `corrupt`."""
    found = digest(store, uri)
    if found != expected:
        raise Error(
            "corrupt",
            f"{uri} does not match its digest: expected {expected[:12]}, found {found[:12]}",
            "rebuild it: longrein apply",
        )


def _without(store: Store, uri: str, ids: pa.ChunkedArray) -> Iterator[dict[str, Any]]:
    """The rows whose id is not among these."""
    known = ids.combine_chunks()
    for batch in batches(store, uri, columns=["input", "output", "split", "source", "line", "row_id"]):
        yield from batch.filter(pc.invert(pc.is_in(batch["row_id"], value_set=known))).to_pylist()


def _brief(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in ("row_id", "input", "output", "split", "source", "line")}


def _placed(folder: Path, draft: Draft, digest: str) -> int:
    """The number of the version that holds the draft's rows: one that is there, or a new one. Tagged either way."""
    table = _latest(folder)
    tags = table.tags.list() if table is not None else {}
    number = _known(table, tags, digest) if table is not None else None
    if number is None:
        schema = draft.schema.with_metadata({DIGEST: digest.encode()})
        with pa.memory_map(str(draft.path)) as file, pa.ipc.open_stream(file) as batches:
            marked = (b.replace_schema_metadata(schema.metadata) for b in batches)
            table = lance.write_dataset(
                pa.RecordBatchReader.from_batches(schema, marked),
                str(folder),
                mode="create" if table is None else "overwrite",
                enable_stable_row_ids=True,
            )
        number = int(table.version)
    assert table is not None
    tag = _tag(digest)  # keeps clean-up from taking the version away
    if tag not in tags:
        table.tags.create(tag, number)
    elif tags[tag]["version"] != number:
        table.tags.update(tag, number)
    return number


def _latest(folder: Path) -> lance.LanceDataset | None:
    if not (folder / "_versions").is_dir():
        return None
    try:
        return lance.dataset(str(folder))
    except ValueError:  # the first commit never ended: data files without a version
        return None


def _known(table: lance.LanceDataset, tags: dict[str, Any], digest: str) -> int | None:
    """The number of a version with this digest: tagged, or the latest when a crash came before its tag.

    Its rows are read and checked, so that building a damaged version again mends it.
    """
    tag = tags.get(_tag(digest))
    if tag is not None:
        number = int(tag["version"])
    elif (table.schema.metadata or {}).get(DIGEST) == digest.encode():
        number = int(table.version)
    else:
        return None
    try:
        return number if _digest(table.checkout_version(number)) == digest else None
    except (pa.ArrowException, OSError, ValueError):  # damaged, or gone
        return None


def _tag(digest: str) -> str:
    return f"sha256-{digest}"


def _digest(table: lance.LanceDataset) -> str:
    total = Digest(table.schema)
    for batch in table.to_batches(scan_in_order=True):
        total.update(batch)
    return total.hexdigest()


def _bytes(table: lance.LanceDataset) -> int:
    return sum(file.file_size_bytes or 0 for f in table.get_fragments() for file in f.data_files())


def _check(columns: Iterable[str] | None, known: list[str]) -> None:
    missing = [c for c in columns or [] if c not in known]
    if missing:
        raise Error("invalid", f"the dataset has no column {missing[0]!r}", f"it has {', '.join(known)}")


def _is_bytes(kind: pa.DataType) -> bool:
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    return any(test(kind) for test in tests)


def _plain(kind: pa.DataType) -> str:
    """A type's name without what only says how it is laid out."""
    return str(kind.value_type if pa.types.is_dictionary(kind) else kind).replace("large_", "")


@contextmanager
def _errors(what: str) -> Iterator[None]:
    """Lance's errors as ours: it raises OSError, ValueError and Arrow's errors with the cause in the text only."""
    try:
        yield
    except (pa.ArrowException, OSError, ValueError) as error:
        text = str(error)
        if "No space left" in text or "os error 28" in text:
            raise Error("no_space", "the disk is full", "free some space, then run `longrein apply` again") from error
        message = f"{what} cannot be read or written: {text:.200}"
        raise Error("corrupt", message, "rebuild it: longrein apply") from error
