"""Versions made by hand: an edited checkout committed, a branch begun, two branches merged. Each is a run."""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa

from longrein.core import digest as digests
from longrein.core.errors import Error
from longrein.core.ledger import Asset, Ledger
from longrein.core.ref import Ref
from longrein.core.store import Store
from longrein.core.text import key
from longrein.data import checkout, row, split, version

CAPABILITY = "data.version"
HAND = "hand"  # stands among the transforms that touched a row
EMPTY = -2  # the place of a line without a row
SHOWN = 5  # conflicts in an error

Row = dict[str, Any]


class Merged(NamedTuple):
    asset: Asset
    conflicts: list[dict[str, Any]]  # that were decided by `prefer`: {"base", "ours", "theirs"}


def commit(ledger: Ledger, store: Store, name: str, folder: Path, *, actor: str, message: str = "") -> Asset:
    """Make an edited checkout the next version of the dataset `name`: rows may be changed, added, removed, moved.

    A row whose texts were changed gets the id, language and mark that belong to them; a new one may leave out all but
    its texts. Errors: `invalid`, naming the line; nothing is kept then.
    """
    mark = checkout.marked(folder)
    parent = _parent(ledger, mark, name)
    schema = version.columns_of(version.open(store, parent.uri))
    file = folder / f"rows.{mark['format']}"
    with _run(ledger, name, actor, {"checkout": mark["ref"], "message": message}, [parent]) as record:
        shape = Shape(schema, file.name, digests.of_file(file) if file.is_file() else "")
        known = checkout.lines(folder)
        if known is not None:
            made = _edited(store, name, schema, known, shape, parent.uri)
        else:
            rows = (shape(found) for found in checkout.read(folder, schema))
            made = _written(store, name, schema, rows, parent.uri)
        with ledger.transaction():
            _parent(ledger, mark, name)  # nobody was quicker meanwhile
            return record(made, {"parent": parent.ref, "message": message})


def add_columns(
    ledger: Ledger, store: Store, ref: str, batches: Iterable[pa.RecordBatch], *, actor: str, message: str = ""
) -> Asset:
    """The next version of a dataset: the rows of its version `ref`, with more columns. Nothing else is copied.

    batches: `row_id` and the new columns, see `longrein.data.version.add_columns`.
    """
    parent = ledger.assets.get(ref)
    with _run(ledger, parent.name, actor, {"columns_of": parent.ref, "message": message}, [parent]) as record:
        made = version.add_columns(store, parent.uri, batches)
        columns = version.columns_of(version.open(store, made.uri)).names
        return record(made, {**parent.meta, "columns": columns, "parent": parent.ref, "message": message})


def branch(ledger: Ledger, store: Store, ref: str, name: str, *, actor: str) -> Asset:
    """Begin the dataset `name` with the rows of a version; nothing is copied. Errors: `conflict` when it exists."""
    parent = ledger.assets.get(ref)
    if ledger.assets.find(Ref("dataset", name)) is not None:
        raise Error("conflict", f"there is a dataset called {name!r} already", "choose another name")
    made = version.Version(parent.uri, parent.digest, parent.meta.get("rows", 0), parent.bytes)
    with _run(ledger, name, actor, {"branch": parent.ref}, [parent]) as record:
        return record(made, {**parent.meta, "parent": parent.ref})


def merge(
    ledger: Ledger, store: Store, theirs: str, ours: str, *, actor: str, on: str = "input",
    prefer: Literal["", "ours", "theirs"] = "", message: str = "",
) -> Merged:  # fmt: skip
    """Bring what `theirs` changed since both had the same rows into a new version of the dataset of `ours`.

    on: the column that names a row (`input`, folded; or another one, or a key of the JSON column `extra`). A row that
    both changed, each in its own way, is a conflict: `prefer` decides, or the error shows the first ones.
    Memory: the rows that one side changed, and the names of all. Errors: `conflict`, `invalid`.
    """
    mine, other = ledger.assets.get(ours), ledger.assets.get(theirs)
    base = _ancestor(ledger, mine, other)
    schema = version.columns_of(version.open(store, mine.uri))
    if not version.columns_of(version.open(store, other.uri)).equals(schema):
        hint = f"longrein diff {mine.ref} {other.ref}"
        raise Error("invalid", f"{other.ref} and {mine.ref} have other columns", hint)
    name_of = _namer(on, schema)
    edits = {side: _edits(store, base.uri, asset.uri, name_of) for side, asset in (("ours", mine), ("theirs", other))}
    conflicts = [
        {"base": before, "ours": edits["ours"][k][1], "theirs": after}
        for k, (before, after) in edits["theirs"].items()
        if k in edits["ours"] and _text(edits["ours"][k][1]) != _text(after)
    ]
    if conflicts and not prefer:
        hint = "decide for all: --prefer ours, or --prefer theirs"
        told = {"conflicts": conflicts[:SHOWN], "total": len(conflicts)}
        raise Error("conflict", f"{len(conflicts):,} rows were changed on both sides", hint, **told)
    taken = {k: after for k, (_, after) in edits["theirs"].items() if k not in edits["ours"] or prefer == "theirs"}
    config = {"merge": other.ref, "into": mine.ref, "base": base.ref, "on": on, "prefer": prefer, "message": message}
    with _run(ledger, mine.name, actor, config, [mine, other]) as record:
        rows = _merged(version.rows(store, mine.uri), taken, name_of)
        made = _written(store, mine.name, schema, rows, mine.uri)
        return Merged(record(made, {"parent": mine.ref, "merged": other.ref, "message": message}), conflicts)


class Shape:
    """An edited row as it is written."""

    def __init__(self, schema: pa.Schema, file: str, digest: str) -> None:
        self.schema, self.file, self.digest = schema, file, digest
        self.split = split.Split(split.default(), 0)
        self.kinds = {f.name: _kind(f.type) for f in schema}

    def __call__(self, found: Row) -> Row:
        number = found.pop("_line")
        if what := self.wrong(found):
            raise Error("invalid", f"{self.file}:{number}: {what}", f"columns: {', '.join(self.schema.names)}")
        given = {n: found.get(n) for n in self.schema.names}
        whole = row.finished({k: v for k, v in given.items() if v is not None}, given["source_digest"] or "")
        if whole["row_id"] == given["row_id"]:
            return given
        whole = row.touch(whole, HAND) if HAND not in whole["touched"].split(",") else whole
        if not given["source"]:
            whole |= {"source": self.file, "line": number, "source_digest": self.digest}
        whole["split"] = given["split"] or self.split.of(row.request(whole))
        return whole

    def wrong(self, found: Row) -> str:
        """What is wrong with a row as somebody left it; "" is nothing."""
        for name, value in found.items():
            if name not in self.kinds:
                return f"the column {name!r} is not one of the dataset's"
            if value is not None and not isinstance(value, self.kinds[name]):
                return f"the column {name!r} does not fit: {value!r:.100}"
        for message in found.get("messages") or []:
            if not isinstance(message, dict) or not all(isinstance(message.get(k), str) for k in ("role", "content")):
                return "a message needs a role and a content, both texts"
        return "" if found.get("messages") or found.get("input") else "it has no input"


def _kind(kind: pa.DataType) -> type | tuple[type, ...]:
    """What a value of a column is in Python."""
    kinds: dict[Callable[[pa.DataType], bool], type | tuple[type, ...]] = {
        pa.types.is_boolean: bool, pa.types.is_integer: int, pa.types.is_floating: (int, float),
        pa.types.is_nested: (list, dict), pa.types.is_binary: bytes,
    }  # fmt: skip
    return next((found for test, found in kinds.items() if test(kind)), str)


def _edited(
    store: Store, name: str, schema: pa.Schema, lines: checkout.Lines, shape: Shape, base: str
) -> version.Version:
    """A version of which only those lines are read that are not as they were checked out."""
    at, ends = lines.at, lines.ends

    def rows() -> Iterator[Row]:
        with lines.path.open("rb") as file:
            for place in np.flatnonzero(at < 0).tolist():
                start = file.seek(int(ends[place - 1]) if place else 0)
                found = checkout.line(file.read(int(ends[place]) - start), place + 1)
                if found is None:
                    at[place] = EMPTY
                else:
                    yield shape(found)

    with _draft(store, schema) as draft:
        _fill(draft, rows())
        if not (at != EMPTY).any():
            raise Error("invalid", f"no row of {name} is left", "a version has at least one")
        return version.commit(store, name, version.Edit(store, base, at[at != EMPTY], draft), base)


def _written(store: Store, name: str, schema: pa.Schema, rows: Iterable[Row], base: str) -> version.Version:
    with _draft(store, schema) as draft:
        _fill(draft, rows)
        if not draft.rows:
            raise Error("invalid", f"no row of {name} is left", "a version has at least one")
        return version.commit(store, name, draft, base)


@contextmanager
def _draft(store: Store, schema: pa.Schema) -> Iterator[version.Draft]:
    with TemporaryDirectory(dir=store.root, prefix="draft-") as folder:
        yield version.Draft(Path(folder) / "rows.arrow", schema)


def _fill(draft: version.Draft, rows: Iterable[Row]) -> None:
    for one in rows:
        try:
            draft.add(one, row.size({**one, "messages": one.get("messages") or []}))
        except (pa.ArrowException, TypeError) as error:
            raise Error("invalid", f"a row does not fit its columns: {error}", "check the types") from error


@contextmanager
def _run(
    ledger: Ledger, name: str, actor: str, config: dict[str, Any], inputs: list[Asset]
) -> Iterator[Callable[[version.Version, dict[str, Any]], Asset]]:
    """A run that read these versions, and how to record what it makes. One that fails is marked so."""
    run_id = ledger.runs.start(
        capability=CAPABILITY, name=name, experiment=f"dataset:{name}", actor=actor, config=config
    )
    for asset in inputs:
        ledger.assets.link(run_id, asset.id, "in", asset.name)

    def record(made: version.Version, meta: dict[str, Any]) -> Asset:
        meta = {"rows": made.rows, **{k: v for k, v in meta.items() if v}}
        return ledger.assets.put(
            "dataset", name, made.digest, uri=made.uri, bytes=made.bytes, meta=meta, run_id=run_id, actor=actor,
            role="dataset",
        )  # fmt: skip

    try:
        yield record
    except BaseException as error:
        told = error if isinstance(error, Error) else Error("failed", repr(error))
        ledger.runs.finish(run_id, "FAILED", actor=actor, error=told)
        raise
    ledger.runs.finish(run_id, actor=actor)


def _parent(ledger: Ledger, mark: dict[str, Any], name: str) -> Asset:
    """The version that was checked out, which must be the newest of the name that is committed to."""
    parent, latest = ledger.assets.get(mark["ref"]), ledger.assets.find(Ref("dataset", name))
    if latest is not None and latest.digest != parent.digest:
        hint = "commit under a new name, then bring both together: longrein merge"
        raise Error("conflict", f"{latest.ref} came after {parent.ref}, which was checked out", hint)
    return parent


def _ancestor(ledger: Ledger, one: Asset, other: Asset) -> Asset:
    """The newest version that both came from. Errors: `invalid` when there is none."""
    mine = {a.digest: a for a in ledger.assets.lineage(one).assets if a.kind == "dataset"}
    both = [a for a in ledger.assets.lineage(other).assets if a.digest in mine]
    if not both:
        hint = f"begin a branch first: longrein branch {one.ref} NAME"
        raise Error("invalid", f"{one.ref} and {other.ref} have no version in common", hint)
    return max(both, key=lambda a: a.id)


def _namer(on: str, schema: pa.Schema) -> Callable[[Row], bytes]:
    if on not in schema.names and "extra" not in schema.names:
        raise Error("invalid", f"the dataset has no column {on!r}", f"it has {', '.join(schema.names)}")

    def name(found: Row) -> bytes:
        if on in found:
            return key(str(found[on]))
        return key(str(json.loads(found.get("extra") or "{}").get(on)))

    return name


def _edits(
    store: Store, base: str, side: str, name_of: Callable[[Row], bytes]
) -> dict[bytes, tuple[Row | None, Row | None]]:
    """Rows of one side that differ from the base, by name: (before, after). Of several so called the last counts."""
    found: dict[bytes, list[Row | None]] = defaultdict(lambda: [None, None])
    for change in version.changes(store, base, side, columns=None):
        if change.before:
            found[name_of(change.before)][0] = change.before
        if change.after:
            found[name_of(change.after)][1] = change.after
    return {k: (before, after) for k, (before, after) in found.items()}


def _merged(rows: Iterator[Row], taken: dict[bytes, Row | None], name_of: Callable[[Row], bytes]) -> Iterator[Row]:
    """Our rows in their order with what was taken from theirs in its place; new rows come last."""
    used: set[bytes] = set()
    for found in rows:
        name = name_of(found)
        if name not in taken:
            yield found
        elif name not in used:
            used.add(name)
            if (after := taken[name]) is not None:
                yield after
    yield from (after for name, after in taken.items() if after is not None and name not in used)


def _text(found: Row | None) -> Any:
    """What two sides must agree on."""
    return found and {k: v for k, v in found.items() if k not in ("line", "source", "source_digest", "touched")}
