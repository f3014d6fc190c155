"""One run of an ingestion: partitions mapped in parallel, what sees all rows in between, two tables in order.

Row-wise ("narrow") transforms run where the rows are read, by a runner. Those that see all rows ("wide") run here, over
the notes that were taken of each row, so that the texts stay where they are: in the files of the parts. A transform of
somebody's own that says nothing of itself gets all rows, here, one after another.
"""

import fcntl
import os
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import pyarrow as pa

from longrein.core import plugins
from longrein.core.digest import of_json
from longrein.core.errors import Error
from longrein.core.ports import Notes, RowWise, Runner, Spills, Survey
from longrein.core.step import Context, Output
from longrein.data import near, part, partition, row, source, split, version
from longrein.data.part import PARTS, Given, Packed, Part, Row, Task, Work
from longrein.data.partition import Partition
from longrein.data.report import Report

if TYPE_CHECKING:
    from longrein.data.ingest import Config

LOCK = "lock"  # among them; held by every run, and gone with it
PIECE_BYTES = 4 << 20  # of packed rows that are mapped together
WORTH_BYTES = 4 << 20  # of sources for which another process is worth its start
PROGRESS_S = 0.2


class Stage(NamedTuple):
    name: str
    options: dict[str, Any]  # files to compare with by name and path
    transform: Any


class Leg(NamedTuple):
    """Row-wise stages, then those that see all rows: by notes any number of them, by rows one at the end."""

    narrow: list[Stage]
    wide: list[Stage]


class Pipeline:
    def __init__(
        self, context: Context, config: "Config", transforms: list[tuple[str, dict[str, Any]]], code: int
    ) -> None:
        self.context, self.config, self.code, self.report = context, config, code, Report()
        own = split.column(config.split)
        shape = row.Shape(
            config.input, config.output, config.messages, config.keep, own, config.rejected, config.format
        )
        self.split = split.Split(config.split, config.seed)
        self.cache = context.project / ".longrein" / "sources.json"
        self.done, self.said = 0.0, 0.0
        self.against: dict[str, str] = {}  # digests of the files that transforms read
        self.legs = legs([self._stage(name, options) for name, options in transforms])
        self.files = source.find(config.sources, context.project, fetch=True, told=self._fetched)
        self.stats = {f.name: source.stat(f.path) for f in self.files}
        self.total = sum(s.bytes for s in self.stats.values())
        self.passes = 2 + sum(1 + isinstance(s.transform, Survey) for leg in self.legs for s in leg.wide)
        self.folder = context.store.root / PARTS / context.name
        self.used: set[Path] = set()
        self.reused = self.made = 0
        self.kept = version.Draft(context.scratch / "kept.arrow", shape.schema)
        self.rejected = version.Draft(context.scratch / "rejected.arrow", row.REJECTED)

    def run(self) -> None:
        try:
            with self._sharing():
                self.write(self.parts())
                self.finish()
        except OSError as error:
            if "No space left" not in str(error):  # Arrow's errors lack a number
                raise
            raise Error("no_space", "the disk is full", "free some space, then run `longrein apply` again") from error

    def parts(self) -> list[Part]:
        """The last leg's parts, judged."""
        runner = self._runner()
        try:
            pieces: Iterable[Given] = self.partitions()
            for leg in self.legs:
                parts = list(self.map(runner, leg, pieces))
                pieces = self.judge(leg, parts)
        finally:
            runner.close()
        return parts

    def partitions(self) -> Iterator[Partition]:
        digests = source.digests(self.files, self.cache)
        for file in self.files:
            size = self.stats[file.name].bytes
            self.report.sources[file.name] = {"path": file.name, "digest": digests[file.name], "bytes": size, "rows": 0}
        readers = [plugins.version("reader", name) for name in plugins.names("reader")]
        for file in self.files:
            identity = [digests[file.name], file.reader, file.options, partition.PART_BYTES, readers]
            known = self.folder / f"{of_json(identity)[:32]}.cut"
            self.used.add(known)
            yield from partition.cut(file, digests[file.name], self.stats[file.name], known)

    def map(self, runner: Runner, leg: Leg, pieces: Iterable[Given]) -> Iterator[Part]:
        """The part of each piece, in order: one that is there already, or made now."""
        work = self._work(leg)
        queue: deque[tuple[Partition | None, Path, Part | None]] = deque()  # no part: it is still to come

        def missing() -> Iterator[Task]:
            for piece in pieces:
                path = self.folder / part.key(work, piece)
                found = part.find(path)
                source_of = piece if isinstance(piece, Partition) else None
                queue.append((source_of, path, found))
                if found is None:
                    yield Task(str(self.context.project), work, piece, str(path) if runner.shared else "", os.getpid())

        results = runner.map(part.make, missing())
        while True:
            data = next(results, results)
            while queue and (queue[0][2] is not None or data is not results):
                piece, path, found = queue.popleft()
                fresh = found is None
                if found is None:
                    if isinstance(data, bytes):
                        part.put(path, data, piece)
                    found = Part(path)
                yield self._came(piece, found, fresh)
                if fresh:
                    break
            if data is results:
                return

    def judge(self, leg: Leg, parts: list[Part]) -> Iterator[Given]:
        """Let the wide stages have their say; what is left, in pieces for the next leg."""
        for number, stage in enumerate(leg.wide):
            if isinstance(stage.transform, Spills):
                stage.transform.scratch = self.context.scratch
            if not isinstance(stage.transform, Notes):
                return self.by_rows(stage, parts)
            self.by_notes(stage, number, parts)
        return _packed(parts)

    def by_notes(self, stage: Stage, number: int, parts: list[Part]) -> None:
        """A stage that decides by the notes of all rows which of them go, and which belong together."""

        def notes() -> Iterator[Row]:
            for one in parts:
                yield from (note for _, note in one.notes(number))
                self.advance(self.total / len(parts))

        step = self.report.step(stage.name)
        if isinstance(stage.transform, Survey):
            stage.transform.survey(notes())
        verdicts = stage.transform.apply(notes())
        for one in parts:
            places = one.alive.nonzero()[0].tolist()
            gone = dict[int, tuple[str, str]]()
            found = list(islice(verdicts, len(places)))
            if len(found) != len(places):
                raise part.lost(stage.name, len(places), len(found))
            for place, verdict in zip(places, found, strict=True):
                if verdict.reason:
                    gone[place] = (verdict.reason, verdict.detail)
                elif "group" in verdict.row:
                    one.groups[place] = verdict.row["group"]
            for place, dropped in one.rows(gone) if gone else ():
                self.reject(dropped, *gone[place], stage.name)
            one.alive[list(gone)] = False
            step.told(len(places), len(places) - len(gone))
        self._count(stage)

    def by_rows(self, stage: Stage, parts: list[Part]) -> Iterator[Given]:
        """A stage that is given all rows, and may change them."""
        sent: deque[tuple[str, Row]] = deque()

        def rows() -> Iterator[Row]:
            for one in parts:
                for _, value in one.rows():
                    sent.append((one.meta["digest"], value))
                    yield value
                self.advance(self.total / len(parts))

        if isinstance(stage.transform, Survey):
            stage.transform.survey(rows())
            sent.clear()
        step, digest, held, size = self.report.step(stage.name), "", list[bytes](), 0
        for after, reason, detail in stage.transform.apply(rows()):
            of, before = sent.popleft()
            step.told(1, not reason)
            if reason:
                self.reject(after, reason, detail, stage.name)
                continue
            if held and (of != digest or size >= PIECE_BYTES):
                yield Packed(digest, held)
                held, size = [], 0
            after = after if after is before or row.alike(after, before) else row.touch(after, stage.name)
            digest, size = of, size + len(data := part.pack(after))
            held.append(data)
        if held:
            yield Packed(digest, held)
        self._count(stage)

    def write(self, parts: list[Part]) -> None:
        """What is left, in order, as it is in the parts; only a group may still move a row to another side."""
        moves = not split.column(self.config.split)
        step = self.report.step("write")
        for one in parts:
            for places, batch in one.living(self.kept.schema.names):
                if moves and one.groups:
                    batch = self._regrouped(one, places.tolist(), batch)
                self.report.keep(batch["split"].to_pylist(), batch["language"].to_pylist())
                self.kept.put(batch)
                step.told(batch.num_rows, batch.num_rows)
            self.advance(self.total / len(parts))

    def reject(self, value: Row, reason: str, detail: str, stage: str) -> None:
        told = {"row": row.encode(value), "reason": reason, "detail": detail, "stage": stage}
        told |= {"source": value["source"], "line": value["line"]}
        self.report.drop(stage, reason, f"{value['source']}:{value['line']}")
        self.rejected.add(told, len(told["row"]))

    def advance(self, amount: float) -> None:
        self.done += amount
        now = time.monotonic()
        if now - self.said >= PROGRESS_S:
            self.said, total = now, self.total * self.passes
            self.context.progress(min(self.done, total), total, "bytes", rows=self.report.rows)

    def finish(self) -> None:
        """Commit both tables, the rejected rows first, and say what happened."""
        context, report, total = self.context, self.report, self.total
        dropped = sum(report.dropped.values())
        if report.rows != self.kept.rows + dropped:
            raise part.lost("a transform", report.rows, self.kept.rows + dropped)
        if not self.kept.rows:
            raise report.nothing_left(context.name, self.config)
        rejected = version.commit(context.store, f"{context.name}.rejected", self.rejected)
        kept = version.commit(context.store, context.name, self.kept)
        context.progress(total * self.passes, total * self.passes, "bytes", rows=kept.rows)
        reasons = {f"dropped.{reason}": float(n) for reason, n in report.reasons().items()}
        parts = {"parts": self.made + self.reused, "parts_reused": self.reused}
        context.metrics({"rows_in": report.rows, "rows_kept": kept.rows, "bytes": total, **parts, **reasons})
        context.note(f"kept {kept.rows:,} of {report.rows:,} rows; dropped {report.told()}")
        meta = {"rows": kept.rows, "columns": self.kept.schema.names, "rejected": rejected.uri, **report.meta()}
        context.output(Output("dataset", context.name, kept.digest, kept.uri, kept.bytes, meta))

    @contextmanager
    def _sharing(self) -> Iterator[None]:
        """Parts that this run did not use go at its end, unless another one is at work on the same dataset."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH)
            yield
            with suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                for path in self.folder.iterdir():
                    if path not in self.used and path.name != LOCK:
                        path.unlink()

    def _came(self, piece: Given | None, found: Part, fresh: bool) -> Part:
        """Take a part's account; its own rejected rows are told here, so that they stand in the same order always."""
        self.made += fresh
        self.reused += not fresh
        self.used.add(found.path)
        if isinstance(piece, Partition):
            self.report.sources[piece.name]["rows"] += found.meta["rows"]
            self.report.rows += found.meta["rows"]
            self.advance(piece.piece.bytes)
        self.report.part(found.meta)
        for batch in found.batches(row.REJECTED.names, kept=False):
            columns = (batch[name].to_pylist() for name in ("stage", "reason", "source", "line"))
            for stage, reason, name, line in zip(*columns, strict=True):
                self.report.drop(stage, reason, f"{name}:{line}")
            self.rejected.put(batch)
        return found

    def _fetched(self, objects: int, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self.said >= PROGRESS_S:
            self.said = now
            self.context.progress(done, total, "bytes", fetched=objects)

    def _regrouped(self, one: Part, places: list[int], batch: pa.RecordBatch) -> pa.RecordBatch:
        """The split decided by the group, where a row has one."""
        sides = batch["split"].to_pylist()
        for at, place in enumerate(places):
            if place in one.groups:
                sides[at] = self.split.of("", one.groups[place])
        return batch.set_column(batch.schema.get_field_index("split"), "split", pa.array(sides, pa.string()))

    def _count(self, stage: Stage) -> None:
        if stage.transform.counts:
            self.report.count(stage.name, stage.transform.counts)

    def _stage(self, name: str, options: dict[str, Any]) -> Stage:
        earlier = self._earlier(name, options)
        for option, files in source.named(options, self.context.project, fetch=True).items():
            paths = {f.name: str(f.path) for f in files} | (earlier if option == "against" else {})
            options = options | {option: paths if isinstance(options[option], list) else files[0].path.as_posix()}
            self.against |= source.digests(files, self.cache)
        try:
            return Stage(name, options, plugins.load("transform", name)(options))
        except msgspec.ValidationError as error:
            raise Error("invalid", f"options of the transform {name!r}: {error}") from error

    def _earlier(self, name: str, options: dict[str, Any]) -> dict[str, str]:
        """The indexes of the dataset versions that a transform compares with."""
        found = dict[str, str]()
        for ref in near.versions(options):
            if name != "near_dedup":
                raise Error("invalid", f"{name} compares with files, not with {ref}", "name its files, or a checkout")
            asset = self.context.inputs[ref]
            found[ref] = str(near.index(self.context.store, asset.uri, asset.digest, options))
            self.against[ref] = asset.digest
        return found

    def _work(self, leg: Leg) -> bytes:
        config = self.config
        noting = [s for s in leg.wide if isinstance(s.transform, Notes)]
        readers = plugins.names("reader") if leg is self.legs[0] else []
        used = [("reader", n) for n in readers] + [("transform", s.name) for s in (*leg.narrow, *noting)]
        work = Work(
            input=config.input, output=config.output, messages=config.messages, rejected=config.rejected,
            format=config.format, keep=config.keep,
            split=config.split, seed=config.seed,
            stages=[(s.name, s.options) for s in leg.narrow], notes=[(s.name, s.options) for s in noting],
            final=leg is self.legs[-1], against=self.against,
            code=of_json([self.code, *(plugins.version(*one) for one in used)]),
        )  # fmt: skip
        return msgspec.json.encode(work)

    def _runner(self) -> Runner:
        asked = self.context.runner
        name, options = (asked, {}) if isinstance(asked, str) else next(iter(asked.items()))
        workers = min(self.context.cpus, 1 + self.total // WORTH_BYTES)
        try:
            runner: Runner = plugins.load("runner", name)(options, workers)
        except msgspec.ValidationError as error:
            raise Error("invalid", f"options of the runner {name!r}: {error}", "see compute.runner") from error
        return runner


def legs(stages: list[Stage]) -> list[Leg]:
    """The stages in their order, in as few legs as can be; the last one writes rows as they will be."""
    found = [Leg([], [])]
    for stage in stages:
        wide = found[-1].wide
        if isinstance(stage.transform, RowWise):
            if wide:
                found.append(Leg([], []))
            found[-1].narrow.append(stage)
        else:
            if wide and not isinstance(wide[-1].transform, Notes):
                found.append(Leg([], []))
            found[-1].wide.append(stage)
    if found[-1].wide and not isinstance(found[-1].wide[-1].transform, Notes):
        found.append(Leg([], []))
    return found


def _packed(parts: list[Part]) -> Iterator[Given]:
    """What is left of each part, for the next leg."""
    for one in parts:
        held, size = list[bytes](), 0
        for data in one.packed():
            held.append(data)
            size += len(data)
            if size >= PIECE_BYTES:
                yield Packed(one.meta["digest"], held)
                held, size = [], 0
        if held:
            yield Packed(one.meta["digest"], held)
