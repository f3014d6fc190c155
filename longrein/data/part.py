"""What the row-wise steps make of one partition: a file of Arrow batches, named by all that it depends on.

It is the unit of parallel work, of what a killed run carries on from, and of what the next run need not do again.
"""

import json
import multiprocessing
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from longrein.core import plugins
from longrein.core.errors import Error
from longrein.core.ports import Record
from longrein.data import row, source, split
from longrein.data.partition import Partition, changed, records, staged
from longrein.data.report import MOST_COLUMNS, Step

PARTS = "parts"  # the folder of the store where they wait for the next run, in a folder for each dataset
BATCH_ROWS, BATCH_BYTES = 2048, 4 << 20  # of source rows that go through the steps together
PACKED, KEPT = "packed", pa.field("reason", pa.string())
_NOTE = "note."
_COMPRESSED = pa.ipc.IpcWriteOptions(compression="lz4")

Row = dict[str, Any]


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be done to each row, the same for all partitions."""

    input: str
    output: str
    messages: str
    rejected: str
    format: str
    keep: list[str]
    split: dict[str, float | str]
    seed: int
    stages: list[tuple[str, dict[str, Any]]]  # row-wise transforms, in order
    notes: list[tuple[str, dict[str, Any]]]  # transforms that see all rows next, and note something of each
    final: bool  # no step may change a row afterwards: write it as it will be
    against: dict[str, str]  # digests of files that transforms read
    code: str  # stands for the versions of everything that takes part


class Packed(NamedTuple):
    """Rows that an earlier part held."""

    digest: str  # of the file that they came from
    rows: list[bytes]


Given = Partition | Packed


class Task(NamedTuple):
    project: str
    work: bytes  # a Work as JSON
    piece: Given
    path: str  # of the part's file; "" gives its bytes back
    pid: int  # of who asks


class Part:
    """A finished part and what became of its rows. Opened anew for each pass: there may be thousands of them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with pa.memory_map(str(path)) as file:
            reader = pa.ipc.open_file(file)
            told = reader.get_batch_with_custom_metadata(reader.num_record_batches - 1).custom_metadata
        self.meta: dict[str, Any] = json.loads(told["part"])
        self.alive = np.ones(self.meta["kept"], bool)  # of the rows that its steps kept
        self.groups: dict[int, str] = {}

    def batches(self, columns: Iterable[str] | None = None, kept: bool = True) -> Iterator[pa.RecordBatch]:
        """Rows that were kept, or those that were rejected, in order; only these columns of them."""
        with pa.memory_map(str(self.path)) as file:
            names = pa.ipc.open_file(file).schema.names
            wanted = names if columns is None else [n for n in names if n in {*columns, KEPT.name}]
            options = pa.ipc.IpcReadOptions(included_fields=[names.index(n) for n in wanted])
            reader = pa.ipc.open_file(file, options=options)
            for number in range(reader.num_record_batches):
                batch = reader.get_batch(number)
                missing = pc.is_null(batch[KEPT.name])
                chosen = batch.filter(missing if kept else pc.invert(missing))
                if chosen.num_rows:
                    yield chosen.select(list(columns)) if columns is not None else chosen

    def living(self, columns: Iterable[str]) -> Iterator[tuple[npt.NDArray[np.intp], pa.RecordBatch]]:
        """Rows that no later step dropped, with their places among those kept."""
        start, alive = 0, self.alive.copy()
        for batch in self.batches(columns):
            mask = alive[start : start + batch.num_rows]
            yield start + np.flatnonzero(mask), batch if mask.all() else batch.filter(pa.array(mask))
            start += batch.num_rows

    def notes(self, number: int) -> Iterator[tuple[int, Row]]:
        """Of each living row what a transform noted, the how-manieth that does, and where the row came from."""
        name = f"{_NOTE}{number}"
        for places, batch in self.living(["source", "line", name]):
            sources, lines, notes = (batch[n].to_pylist() for n in ("source", "line", name))
            for place, name_of, line, note in zip(places.tolist(), sources, lines, notes, strict=True):
                yield place, self._grouped(place, {"source": name_of, "line": line, "note": note})

    def rows(self, places: Iterable[int] | None = None) -> Iterator[tuple[int, Row]]:
        """Living rows as the transforms know them, or those at some places, in order."""
        wanted = None if places is None else np.fromiter(places, np.intp)
        for at, batch in self.living(self._own()):
            if wanted is not None:
                mask = np.isin(at, wanted, assume_unique=True)
                at, batch = at[mask], batch.filter(pa.array(mask))
            for place, one in zip(at.tolist(), batch.to_pylist(), strict=True):
                yield place, self._grouped(place, unpack(one[PACKED]) if PACKED in one else _bare(one))

    def packed(self) -> Iterator[bytes]:
        """Living rows as they go to the next leg."""
        for at, batch in self.living([PACKED]):
            for place, data in zip(at.tolist(), batch[PACKED].to_pylist(), strict=True):
                yield pack(self._grouped(place, unpack(data))) if place in self.groups else data

    def _own(self) -> list[str]:
        names: list[str] = self.meta["columns"]
        return names

    def _grouped(self, place: int, value: Row) -> Row:
        return value | {"group": self.groups[place]} if place in self.groups else value


def make(task: Task) -> bytes | None:
    """Read one piece, take it through the steps and write the part: to its path, whole or not at all, or as bytes.

    Errors: what readers and transforms raise; `conflict` when the source changed.
    """
    if task.pid != os.getpid() or multiprocessing.parent_process() is not None:
        plugins.use_project(Path(task.project))
    maker = _maker(task.work)
    if task.path:
        with staged(Path(task.path)) as made, _unchanged(task.piece), pa.OSFile(str(made), "wb") as file:
            maker.write(task.piece, file)
        return None
    sink = pa.BufferOutputStream()
    maker.write(task.piece, sink)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def put(path: Path, data: bytes, piece: Given | None) -> None:
    """Write a part that was made elsewhere. Errors: as of `make`."""
    with staged(path) as made, _unchanged(piece):
        made.write_bytes(data)


def find(path: Path) -> Part | None:
    """The part at a path, marked as used, unless it is not there or not whole."""
    try:
        found = Part(path)
        os.utime(path)
        return found
    except (OSError, pa.ArrowException, ValueError, TypeError, KeyError):
        return None


@contextmanager
def _unchanged(piece: Given | None) -> Iterator[None]:
    """Errors: `conflict` when what a piece was read from is no longer what it was."""
    yield
    if isinstance(piece, Partition) and source.stat(Path(piece.path)) != piece.stat:
        raise changed(piece.name)


def key(work: bytes, piece: Given) -> str:
    """The name of the part: what it depends on. `work` must name the versions of its transforms too."""
    total = blake2b(work, digest_size=16)
    if isinstance(piece, Partition):
        total.update(msgspec.json.encode(piece.identity()))
    else:
        total.update(piece.digest.encode())
        for one in piece.rows:
            total.update(len(one).to_bytes(8, "little") + one)
    return total.hexdigest()


def lost(stage: str, given: int, judged: int) -> Error:
    return Error("failed", f"{stage} was given {given:,} rows and judged {judged:,}: a transform may lose none")


def pack(value: Row) -> bytes:
    return msgspec.msgpack.encode(value, enc_hook=str)


def unpack(data: bytes) -> Row:
    value: Row = msgspec.msgpack.decode(data)
    return value


@lru_cache(4)
def _maker(work: bytes) -> "_Maker":
    """The steps of a pipeline, made once a process: some read much before their first row."""
    return _Maker(msgspec.json.decode(work, type=Work))


class _Maker:
    def __init__(self, work: Work) -> None:
        self.work = work
        own = split.column(work.split)
        self.shape = row.Shape(work.input, work.output, work.messages, work.keep, own, work.rejected, work.format)
        self.split = split.Split(work.split, work.seed)
        self.stages = [(name, plugins.load("transform", name)(options)) for name, options in work.stages]
        self.noting = [(name, plugins.load("transform", name)(options)) for name, options in work.notes]
        packed = pa.schema([(PACKED, pa.binary())])
        self.own = self.shape.schema if work.final else packed
        places = [] if work.final else [("source", pa.string()), ("line", pa.int64())]
        told = [pa.field("row", pa.string()), KEPT, pa.field("detail", pa.string()), pa.field("stage", pa.string())]
        noted = [pa.field(f"{_NOTE}{number}", pa.binary()) for number in range(len(self.noting))]
        self.schema = pa.schema([*self.own, *(pa.field(*p) for p in places), *told, *noted])

    def write(self, piece: Given, sink: Any) -> None:
        """All batches, and an empty last one that tells what happened."""
        self.tally = _Tally()
        for _, transform in self.stages:
            transform.counts.clear()
        with pa.ipc.new_file(sink, self.schema, options=_COMPRESSED) as writer:
            for rows in self.read(piece):
                for name, transform in self.stages:
                    rows = self.apply(name, transform, rows)
                self.tally.kept += len(rows)
                for batch in (self.finish(rows, piece.digest), self.rejected()):
                    if batch.num_rows:
                        writer.write_batch(batch)
            counts = {name: dict(transform.counts) for name, transform in self.stages if transform.counts}
            meta = self.tally.meta() | {"counts": counts, "columns": self.own.names, "digest": piece.digest}
            empty = pa.RecordBatch.from_pylist([], self.schema)
            writer.write_batch(empty, custom_metadata={"part": json.dumps(meta)})

    def read(self, piece: Given) -> Iterator[list[Row]]:
        """Rows in our shape, with their source and line, in batches that end at the same rows everywhere."""
        if isinstance(piece, Packed):
            rows = [unpack(one) for one in piece.rows]
            self.tally.rows += len(rows)
            yield rows
            return
        step, stream = self.tally.step("read"), records(piece)
        while batch := list(_batch(stream)):
            rows = [taken for record in batch if (taken := self.take(record, piece.name)) is not None]
            self.tally.rows += len(batch)
            step.told(len(batch), len(rows))
            yield rows
            step.again()

    def take(self, record: Record, name: str) -> Row | None:
        """A record as a row of ours, or None when it was rejected."""
        name = f"{name}!{record.member}" if record.member else name
        if record.row is None:
            self.tally.reject(record.raw, record.reason, record.detail, "read", name, record.line)
            return None
        shaped = self.shape(record.row)
        if isinstance(shaped, tuple):
            if len(self.tally.columns) < MOST_COLUMNS:
                self.tally.columns |= set(record.row)
            self.tally.reject(row.encode(record.row), *shaped, "read", name, record.line)
            return None
        return shaped | {"source": name, "line": record.line}

    def apply(self, name: str, transform: Any, rows: list[Row]) -> list[Row]:
        step, kept = self.tally.step(name), []
        verdicts = list(transform.apply(iter(rows)))
        if len(verdicts) != len(rows):
            raise lost(name, len(rows), len(verdicts))
        for before, (after, reason, detail) in zip(rows, verdicts, strict=True):
            if reason:
                self.tally.reject(row.encode(after), reason, detail, name, after["source"], after["line"])
            else:
                kept.append(after if after is before or row.alike(after, before) else row.touch(after, name))
        step.told(len(rows), len(kept))
        return kept

    def finish(self, rows: list[Row], digest: str) -> pa.RecordBatch:
        """Rows as they will be written, or packed for the steps to come, with the notes for those that see all."""
        columns: dict[str, list[Any]] = {}
        for number, (name, transform) in enumerate(self.noting):
            step = self.tally.step(name)
            columns[f"{_NOTE}{number}"] = transform.prepare(rows)
            step.told(0, 0)
        step = self.tally.step("write")
        if self.work.final:
            rows = [self.finished(r, digest) for r in rows]
        else:
            rows = [{PACKED: pack(r), "source": r["source"], "line": r["line"]} for r in rows]
        columns |= {f.name: [r.get(f.name) for r in rows] for f in self.schema if f.name not in columns}
        made = [pa.array(columns[f.name], f.type) for f in self.schema]
        step.told(0, 0)
        return pa.RecordBatch.from_arrays(made, schema=self.schema)

    def finished(self, value: Row, digest: str) -> Row:
        value = row.finished(value, digest)
        own = value.get("split")
        return value | {"split": split.named(own) if own else self.split.of(row.request(value), value.get("group", ""))}

    def rejected(self) -> pa.RecordBatch:
        found, self.tally.rejected = self.tally.rejected, []
        return pa.RecordBatch.from_pylist(found, self.schema)


class _Tally:
    """What happened to the rows of one part."""

    def __init__(self) -> None:
        self.rows = self.kept = 0
        self.columns: set[str] = set()  # of records that did not fit
        self.rejected: list[Row] = []
        self.dropped: Counter[tuple[str, str]] = Counter()
        self.steps: dict[str, Step] = {}

    def step(self, name: str) -> Step:
        return self.steps.setdefault(name, Step()).again()

    def reject(self, raw: str, reason: str, detail: str, stage: str, source: str, line: int) -> None:
        self.dropped[stage, reason] += 1
        self.rejected.append(
            {"row": raw, "reason": reason, "detail": detail, "stage": stage, "source": source, "line": line}
        )

    def meta(self) -> Row:
        return {
            "rows": self.rows,
            "kept": self.kept,
            "unfit": sorted(self.columns),
            "steps": {name: [s.rows_in, s.rows_out, s.cpu_s] for name, s in self.steps.items()},
        }


def _batch(stream: Iterator[Record]) -> Iterator[Record]:
    """The next records, until they are many or large."""
    size = 0
    for record in islice(stream, BATCH_ROWS):
        yield record
        size += record.bytes
        if size >= BATCH_BYTES:
            return


def _bare(value: Row) -> Row:
    """A finished row as its transforms knew it."""
    computed = ("language", "source_digest", "row_id", "split")
    return {name: one for name, one in value.items() if name not in computed and one not in (None, "")}
