"""Versions opened, read, found and checked."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import lance
import pyarrow as pa
import pyarrow.compute as pc

from longrein.core import plugins
from longrein.core.errors import Error
from longrein.core.store import Store
from longrein.data import similar
from longrein.data.version.content import Digest

ORDER = "_order"  # the hidden column that holds a row's place, see longrein.plugins.reader._order


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


def columns_of(table: lance.LanceDataset) -> pa.Schema:
    """The table's schema without what is hidden."""
    return pa.schema([field for field in table.schema if field.name != ORDER])


def scan(table: lance.LanceDataset, **options: Any) -> Iterator[pa.RecordBatch]:
    """Rows in their order as Arrow batches, memory flat. options: columns, filter, limit, …"""
    batches: Iterator[pa.RecordBatch] = plugins.load("reader", "lance").batches(table, **options)
    return batches


def batches(
    store: Store, uri: str, split: str | None = None, columns: list[str] | None = None, limit: int | None = None
) -> Iterator[pa.RecordBatch]:
    """Rows in their order as Arrow batches, memory flat."""
    table = open(store, uri)
    known = columns_of(table).names
    _check(columns, known)
    where = pc.field("split") == split if split is not None else None
    with errors(uri):
        yield from scan(table, columns=columns or known, filter=where, limit=limit)


def rows(
    store: Store, uri: str, split: str | None = None, columns: list[str] | None = None, limit: int | None = None
) -> Iterator[dict[str, Any]]:
    """Rows in their order as dicts."""
    for batch in batches(store, uri, split, columns, limit):
        yield from batch.to_pylist()


def find(
    store: Store,
    uri: str,
    row_id: str | None = None,
    source: str | None = None,
    line: int | None = None,
    limit: int | None = None,
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
    table = open(store, uri)
    _check([n for n, value in asked.items() if value is not None], columns_of(table).names)
    with errors(uri):
        return [row for batch in scan(table, filter=where, limit=limit) for row in batch.to_pylist()]


def digest(store: Store, uri: str) -> str:
    """The digest of the rows as they are on disk now."""
    with errors(uri):
        return digest_of(open(store, uri))


def digest_of(table: lance.LanceDataset) -> str:
    total = Digest(columns_of(table))
    for batch in scan(table):
        total.update(batch)
    return total.hexdigest()


def verify(store: Store, expected: str, uri: str) -> None:
    """Check that the rows still have the digest they were committed under. Errors: `corrupt`."""
    found = digest(store, uri)
    if found != expected:
        raise Error(
            "corrupt",
            f"{uri} does not match its digest: expected {expected[:12]}, found {found[:12]}",
            "rebuild it: longrein apply",
        )


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


def bytes_of(table: lance.LanceDataset) -> int:
    """Bytes of the data files that a version is made of; other versions may share them."""
    return sum(file.file_size_bytes or 0 for f in table.get_fragments() for file in f.data_files())


def tag_of(digest: str) -> str:
    return f"sha256-{digest}"


def digest_at(table: lance.LanceDataset, number: int) -> str:
    """The digest that a version was committed under; "" when it has lost its tag."""
    tags = (tag for tag, one in table.tags.list().items() if one["version"] == number)
    return next((tag.removeprefix("sha256-") for tag in tags if tag.startswith("sha256-")), "")


def _check(columns: Iterable[str] | None, known: list[str]) -> None:
    missing = [c for c in columns or [] if c not in known]
    if missing:
        raise Error("invalid", f"the dataset has no column {missing[0]!r}", f"it has {', '.join(known)}")


@contextmanager
def errors(what: str) -> Iterator[None]:
    """Lance's errors as ours: it raises OSError, ValueError and Arrow's errors with the cause in the text only."""
    try:
        yield
    except (pa.ArrowException, OSError, ValueError) as error:
        text = str(error)
        if "No space left" in text or "os error 28" in text:
            raise Error("no_space", "the disk is full", "free some space, then run `longrein apply` again") from error
        message = f"{what} cannot be read or written: {text:.200}"
        raise Error("corrupt", message, "rebuild it: longrein apply") from error
