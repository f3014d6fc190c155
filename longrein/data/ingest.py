"""2.1 data.ingest: files of many kinds become one clean, split, versioned table, and every row is accounted for."""

import time
from collections import Counter, deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from longrein.core import digest, plugins
from longrein.core.errors import Error, nearest
from longrein.core.ports import Record, Spills, Survey
from longrein.core.step import Context, Output
from longrein.data import source, split
from longrein.data.source import File, Source
from longrein.data.spool import Spool

VERSION = 3  # raised when the same sources and config give other rows
AGAINST = "against"  # the option of a transform that names files, by globs as in `sources`
EXAMPLES = 3  # places named for each reason in the output's meta
PROGRESS_S = 0.2


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A dataset in longrein.yaml."""

    sources: list[str | Source]  # globs below the project, or {path, reader, options}
    input: str = ""  # the column that is asked
    output: str = ""  # the column that is answered; none for plain text
    messages: str = ""  # or: the column that holds a conversation, [{role, content}]
    keep: list[str] = []  # other columns to keep, as JSON in the column `extra`
    transforms: list[str | dict[str, dict[str, Any]]] = []  # in order; a name or {name: options}
    split: dict[str, float | str] = msgspec.field(default_factory=split.default)  # shares, or {column: name}
    seed: int = 0  # of the split


def sources_digest(config: Config, project: Path, cache: Path | None = None) -> dict[str, str]:
    """sha256 of each source file by name, and of the files that transforms compare the rows with; light, see
    longrein.data.source. Errors: `invalid` when none matches."""
    named = [path for _, options in transforms(config) for path in _against(options)]
    return source.digests(source.find([*config.sources, *named], project), cache)


def version(config: Config) -> str:
    """What stands for the code of this step in its key: raised by hand here, and every plugin that may take part.

    A plugin at its first version adds nothing, so that a new reader, which these sources may not even need, rebuilds
    no dataset.
    """
    readers = {s.reader for s in config.sources if isinstance(s, Source)} - {""}
    if any(isinstance(s, str) or not s.reader for s in config.sources):
        readers |= set(plugins.names("reader"))
    used = [("reader", name) for name in sorted(readers)] + [("transform", name) for name, _ in transforms(config)]
    parts = [(port, name, plugins.version(port, name)) for port, name in used]
    return digest.of_json([VERSION, *(part for part in parts if part[2] != "1")])[:16]


def transforms(config: Config) -> list[tuple[str, dict[str, Any]]]:
    """Names and options, in order. Errors: `invalid` when an entry is not one name with its options."""
    listed = [(t, {}) if isinstance(t, str) else next(iter(t.items()), ("", {})) for t in config.transforms]
    for entry in config.transforms:
        if isinstance(entry, dict) and len(entry) != 1:
            raise Error("invalid", f"a transform is one name with its options, not {sorted(entry)}")
    return listed


def run(context: Context) -> None:
    """Reads, cleans, splits; puts one output of kind "dataset". Nothing is visible before the last row is through."""
    Ingestion(context, msgspec.convert(context.config, Config)).run()


class Ingestion:
    """One run of the pipeline: generators chained from the readers to the two tables, counted on the way."""

    def __init__(self, context: Context, config: Config) -> None:
        from longrein.data import row, version  # pyarrow and lance, which `plan` does without

        self.context, self.config, self.report = context, config, Report()
        self.row, self.version = row, version
        self.shape = row.Shape(config.input, config.output, config.messages, config.keep, split.column(config.split))
        self.split = split.Split(config.split, config.seed)
        self.files = source.find(config.sources, context.project)
        self.bytes = {f.name: f.path.stat().st_size for f in self.files}
        self.stages = [(name, _load(name, options, context.project)) for name, options in transforms(config)]
        self.passes = 1 + sum(isinstance(t, Survey) for _, t in self.stages)
        self.kept = version.Draft(context.scratch / "kept.arrow", row.schema(bool(config.messages), bool(config.keep)))
        self.rejected = version.Draft(context.scratch / "rejected.arrow", row.REJECTED)
        self.done, self.said = 0.0, 0.0

    def run(self) -> None:
        digests = source.digests(self.files)
        for name, size in self.bytes.items():
            self.report.sources.append({"path": name, "digest": digests[name], "bytes": size})
        rows = self.read()
        for name, transform in self.stages:
            rows = self.clean(name, transform, rows)
        for row in rows:
            self.keep(row, digests[row["source"]])
        self.finish()

    def read(self) -> Iterator[dict[str, Any]]:
        """Every readable row of every file in our shape, with its source and line."""
        for file, entry in zip(self.files, self.report.sources, strict=True):
            before, rows, columns = source.stat(file.path), 0, set[str]()
            for record in _records(file):
                rows += 1
                self.advance(record.bytes)
                row = self.take(record, file.name)
                if row is not None:
                    yield row
                elif record.row is not None and len(columns) < 100:
                    columns |= set(record.row)
            entry["rows"] = rows
            self.report.rows += rows
            self.report.columns |= columns
            if source.stat(file.path) != before:
                raise Error(
                    "conflict",
                    f"{file.name} changed while it was read",
                    "wait until whatever writes it has finished, then run `longrein apply` again",
                )

    def take(self, record: Record, name: str) -> dict[str, Any] | None:
        """A record as a row of ours, or None when it was rejected."""
        if record.row is None:
            self.reject(record.raw, record.reason, record.detail, "read", name, record.line)
            return None
        shaped = self.shape(record.row)
        if isinstance(shaped, tuple):
            self.reject(self.row.encode(record.row), *shaped, "read", name, record.line)
            return None
        return shaped | {"source": name, "line": record.line}

    def clean(self, name: str, transform: Any, rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """What a transform keeps; one that surveys sees all rows first, from a file in between."""
        if isinstance(transform, Spills):
            transform.scratch = self.context.scratch
        if isinstance(transform, Survey):
            spool = Spool(self.context.scratch / f"{name}.spool")
            filling = spool.fill(rows)
            transform.survey(filling)
            deque(filling, maxlen=0)
            rows = self.again(spool)
        sent: deque[dict[str, Any]] = deque()
        for row, reason, detail in transform.apply(_noted(rows, sent)):
            before = sent.popleft()
            if reason:
                self.reject(self.row.encode(row), reason, detail, name, row["source"], row["line"])
            else:
                yield row if row is before or self.row.alike(row, before) else self.row.touch(row, name)
        if transform.counts:
            self.report.counts[name] = dict(transform.counts)

    def again(self, spool: Spool) -> Iterator[dict[str, Any]]:
        share = sum(self.bytes.values()) / max(1, spool.rows)
        for row in spool.drain():
            self.advance(share)
            yield row

    def keep(self, row: dict[str, Any], source_digest: str) -> None:
        row = self.row.finished(row, source_digest)
        side, group = row.get("split"), row.pop("group", "")
        row["split"] = split.named(side) if side else self.split.of(self.row.request(row), group)
        self.report.splits[row["split"]] += 1
        self.report.languages[row["language"]] += 1
        self.kept.add(row, self.row.size(row))

    def reject(self, row: str, reason: str, detail: str, stage: str, source: str, line: int) -> None:
        self.report.drop(stage, reason, f"{source}:{line}")
        fields = {"row": row, "reason": reason, "detail": detail, "stage": stage, "source": source, "line": line}
        self.rejected.add(fields, len(row))

    def advance(self, amount: float) -> None:
        self.done += amount
        now = time.monotonic()
        if now - self.said >= PROGRESS_S:
            self.said = now
            total = sum(self.bytes.values()) * self.passes
            self.context.progress(min(self.done, total), total, "bytes", rows=self.kept.rows)

    def finish(self) -> None:
        """Commit both tables, the rejected rows first, and say what happened."""
        context, report, total = self.context, self.report, sum(self.bytes.values())
        dropped = sum(report.dropped.values())
        if report.rows != self.kept.rows + dropped:
            raise Error(
                "failed", f"{report.rows} rows came in, {self.kept.rows + dropped} went out: a transform lost some"
            )
        if not self.kept.rows:
            raise report.nothing_left(context.name, self.config)
        rejected = self.version.commit(context.store, f"{context.name}.rejected", self.rejected)
        kept = self.version.commit(context.store, context.name, self.kept)
        context.progress(total * self.passes, total * self.passes, "bytes", rows=kept.rows)
        reasons = {f"dropped.{reason}": float(n) for reason, n in report.reasons().items()}
        context.metrics({"rows_in": report.rows, "rows_kept": kept.rows, "bytes": total, **reasons})
        context.note(f"kept {kept.rows:,} of {report.rows:,} rows; dropped {report.told()}")
        meta = {"rows": kept.rows, "columns": self.kept.schema.names, "rejected": rejected.uri, **report.meta()}
        context.output(Output("dataset", context.name, kept.digest, kept.uri, kept.bytes, meta))


class Report:
    """What happened to the rows. Names places, never texts: it ends in the ledger, from where nothing is erased."""

    def __init__(self) -> None:
        self.rows = 0
        self.sources: list[dict[str, Any]] = []
        self.columns: set[str] = set()  # of records that did not fit
        self.dropped: Counter[tuple[str, str]] = Counter()  # by stage and reason
        self.examples: dict[str, list[str]] = {}
        self.splits: Counter[str] = Counter()
        self.languages: Counter[str] = Counter()
        self.counts: dict[str, dict[str, int]] = {}  # by transform, what it did

    def drop(self, stage: str, reason: str, place: str) -> None:
        self.dropped[stage, reason] += 1
        places = self.examples.setdefault(reason, [])
        if len(places) < EXAMPLES:
            places.append(place)

    def reasons(self) -> dict[str, int]:
        total: Counter[str] = Counter()
        for (_, reason), count in self.dropped.items():
            total[reason] += count
        return dict(total.most_common())

    def told(self) -> str:
        return ", ".join(f"{n:,} {reason} ({stage})" for (stage, reason), n in self.dropped.most_common()) or "none"

    def meta(self) -> dict[str, Any]:
        return {
            "rows_in": self.rows,
            "dropped": self.reasons(),
            "examples": self.examples,
            "splits": dict(sorted(self.splits.items())),
            "languages": dict(self.languages.most_common()),
            "transforms": self.counts,
            "sources": self.sources,
        }

    def nothing_left(self, name: str, config: Config) -> Error:
        if not self.rows:
            return Error("invalid", f"the sources of {name} hold no rows", "check that the files are not empty")
        hint = "see what they are, loosen that filter, or check the column names in longrein.yaml"
        asked = config.messages or config.input
        if ("read", "missing_input") in self.dropped and asked not in self.columns:
            hint = f"no column is called {asked!r}: {nearest(asked, self.columns)}"
        elif ("read", "missing_output") in self.dropped and config.output not in self.columns:
            hint = f"no column is called {config.output!r}: {nearest(config.output, self.columns)}"
        return Error("invalid", f"no row of {name} is left: of {self.rows:,}, dropped {self.told()}", hint)


def _records(file: File) -> Iterator[Record]:
    try:
        yield from source.reader_of(file).read(file.path, file.options)
    except msgspec.ValidationError as error:
        raise Error("invalid", f"options of the source {file.name}: {error}") from error
    except OSError as error:
        raise Error("invalid", f"{file.name} cannot be read: {error.strerror or error}") from error


def _noted(rows: Iterator[dict[str, Any]], sent: deque[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The rows, each remembered until its verdict is there."""
    for row in rows:
        sent.append(row)
        yield row


def _against(options: dict[str, Any]) -> list[str]:
    """The globs a transform compares with; what is no list is left to the transform to refuse."""
    named = options.get(AGAINST)
    return named if isinstance(named, list) else []


def _load(name: str, options: dict[str, Any], project: Path) -> Any:
    if _against(options):
        files = source.find(_against(options), project)
        options = options | {AGAINST: {file.name: str(file.path) for file in files}}
    try:
        return plugins.load("transform", name)(options)
    except msgspec.ValidationError as error:
        raise Error("invalid", f"options of the transform {name!r}: {error}") from error
