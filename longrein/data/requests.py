"""The request log, read: the open segments of every gateway process and the sealed Parquet files beside them."""

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from longrein.core.errors import Error
from longrein.core.record import ID_MS, SEGMENT, Record, segments

FOREVER_MS = 1 << 62
WRITTEN_S = 1.2  # by then a gateway has written what it answered
RECENT_MS = 600_000
JITTER_MS = 10_000  # between the time in an id and the record's own, even where the clock is set
_TYPES = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_(), list[str]: pa.list_(pa.string())}


def _type(annotation: Any) -> Any:
    return next(t for kind, t in _TYPES.items() if annotation == kind or annotation == kind | None)


SCHEMA = pa.schema([(f.name, _type(f.type)) for f in msgspec.structs.fields(Record)])
DEFAULTS = {f.name: msgspec.structs.asdict(Record(id="", ts_ms=0))[f.name] for f in msgspec.structs.fields(Record)}
ERASED = "erased"
PERSONAL: dict[str, Any] = {
    "user": "",
    "session": "",
    "input": None,
    "output": None,
    "input_digest": "",
    "output_digest": "",
    "tags": [],
}
_decode = msgspec.json.Decoder(Record).decode


class Person(msgspec.Struct, frozen=True):
    """Whose requests were erased: all of a user or a session that came before a time."""

    before_ms: int
    user: str = ""
    session: str = ""

    @classmethod
    def all(cls, folder: Path) -> "list[Person]":
        """Those whom open segments may still hold."""
        try:
            lines = (folder / ERASED).read_bytes().splitlines()
        except FileNotFoundError:
            return []
        return [msgspec.json.decode(line, type=cls) for line in lines]

    def without(self, r: Record) -> Record:
        known = r.user == self.user if self.user else r.session == self.session
        if not known or r.ts_ms >= self.before_ms or r.erased:
            return r
        return msgspec.structs.replace(r, **PERSONAL, erased=True)


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """Which requests. A text that is empty asks for nothing; `status` may be a class: "5xx"."""

    endpoint: str = ""
    release: str = ""  # the digest, or its first digits
    status: str = ""
    key: str = ""
    team: str = ""
    user: str = ""
    session: str = ""
    text: str = ""  # somewhere in the input or the output, in any case
    since_ms: int = 0
    until_ms: int = FOREVER_MS

    def __post_init__(self) -> None:
        if self.status and not (self.status.isdecimal() or self.status in ("1xx", "2xx", "3xx", "4xx", "5xx")):
            raise Error("invalid", f"status cannot be {self.status[:50]!r}", "a number such as 429, or a class: 5xx")

    @property
    def statuses(self) -> tuple[int, int]:
        """From, and up to but not with."""
        if not self.status:
            return 0, 1 << 31
        if self.status.endswith("xx"):
            return int(self.status[0]) * 100, int(self.status[0]) * 100 + 100
        status = min(int(self.status[:9]), (1 << 31) - 1)
        return status, status + 1

    def has(self, r: Record) -> bool:
        low, high = self.statuses
        return (
            self.since_ms <= r.ts_ms < self.until_ms
            and low <= r.status < high
            and all(wanted in ("", found) for wanted, found in self._equal(r))
            and r.release.startswith(self.release)
            and (not self.text or self.text.casefold() in f"{r.input or ''}\0{r.output or ''}".casefold())
        )

    def mask(self, table: Any) -> Any:
        """The same for a Table: a boolean array."""
        low, high = self.statuses
        found = between(table["ts_ms"], self.since_ms, self.until_ms)
        if self.status:
            found = pc.and_(found, between(table["status"], low, high))
        for name, wanted in (
            ("endpoint", self.endpoint), ("key_id", self.key), ("team", self.team), ("user", self.user),
            ("session", self.session),
        ):  # fmt: skip
            found = pc.and_(found, pc.equal(table[name], wanted)) if wanted else found
        if self.release:
            found = pc.and_(found, pc.starts_with(table["release"], self.release))
        if self.text:
            for_each = (pc.match_substring(table[n], self.text, ignore_case=True) for n in ("input", "output"))
            one, other = (pc.fill_null(hit, False) for hit in for_each)
            found = pc.and_(found, pc.or_(one, other))
        return pc.fill_null(found, False)

    def _equal(self, r: Record) -> Iterable[tuple[str, str]]:
        return (
            (self.endpoint, r.endpoint), (self.key, r.key_id), (self.team, r.team), (self.user, r.user),
            (self.session, r.session),
        )  # fmt: skip


class Sealed(NamedTuple):
    """One Parquet file; its name says which times it holds: <first ms>-<last ms>-<digest>.parquet."""

    first_ms: int
    last_ms: int
    path: Path

    @classmethod
    def all(cls, folder: Path) -> "list[Sealed]":
        """The newest first."""
        found = []
        for path in folder.glob("*.parquet"):
            first, _, rest = path.stem.partition("-")
            last = rest.partition("-")[0]
            if first.isdecimal() and last.isdecimal():
                found.append(cls(int(first), int(last), path))
        return sorted(found, key=lambda s: -s.last_ms)

    def tables(self, wanted: Callable[[int, int], bool] = lambda first, last: True, step: int = 1) -> Iterator[Any]:
        """Row groups, by the times they hold, as Tables of the current columns: one that this file is too old for is
        null. step: -1 begins with the newest. Errors: `corrupt`."""
        try:
            with pq.ParquetFile(self.path) as file:
                names = file.schema_arrow.names
                for i in range(file.num_row_groups)[::step]:
                    times = file.metadata.row_group(i).column(names.index("ts_ms")).statistics
                    if not times or wanted(times.min, times.max):
                        yield _current(file.read_row_group(i, [n for n in names if n in DEFAULTS]))
        except FileNotFoundError:  # joined into another meanwhile
            return
        except (pa.ArrowInvalid, ValueError) as error:
            hint = "restore it from a copy, or remove it"
            raise Error("corrupt", f"{self.path} cannot be read: {error}", hint) from error


class RequestLog:
    """All requests of a folder, whoever writes there; nothing is held between two calls."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, id: str) -> dict[str, Any]:
        """One request by its id. Errors: `not_found`."""
        at, begun = asked_ms(id), time.monotonic()
        while at is not None:
            for record in self._open(id.encode()):
                if record.id == id:
                    return as_dict(record)
            for file in self._files(at - JITTER_MS, at + JITTER_MS):
                for table in file.tables(lambda first, last: first - JITTER_MS <= at <= last + JITTER_MS):
                    for row in _rows(table.filter(pc.equal(table["id"], id))):
                        return row
            if not 0 <= time.time_ns() // 1_000_000 - at < RECENT_MS or time.monotonic() - begun > WRITTEN_S:
                break
            time.sleep(0.1)  # a gateway may have it in memory still
        raise Error("not_found", f"there is no request {id[:100]!r} in the log", "longrein logs")

    def many(self, ids: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Requests by their ids, in one pass over the files that may hold them; those that are not there are left out.
        What a gateway answered in the last second may not be there yet."""
        wanted = {id: at for id in ids if (at := asked_ms(id)) is not None}
        if not wanted:
            return {}
        first, last = min(wanted.values()) - JITTER_MS, max(wanted.values()) + JITTER_MS
        found = {r.id: as_dict(r) for r in self._open() if r.id in wanted}
        values = pa.array(wanted)
        for file in self._files(first, last):
            for table in file.tables(lambda low, high: high >= first and low <= last):
                found |= {row["id"]: row for row in _rows(table.filter(pc.is_in(table["id"], values)))}
        return found

    def find(self, query: Query | None = None, limit: int = 100) -> list[dict[str, Any]]:
        """The newest first."""
        query = query or Query()
        found = {r.id: as_dict(r) for r in self._open() if query.has(r)}

        def wanted(first: int, last: int) -> bool:
            """Whether a time may hold some that are newer than the last of those found."""
            newest = sorted((r["ts_ms"] for r in found.values()), reverse=True)[:limit]
            enough = len(newest) == limit and newest[-1] > last
            return not enough and last >= query.since_ms and first < query.until_ms

        for file in self._files(query.since_ms, query.until_ms):
            for table in file.tables(wanted, -1) if wanted(file.first_ms, file.last_ms) else ():
                table = table.filter(query.mask(table))
                if len(table) > limit:
                    table = table.take(pc.sort_indices(table, [("ts_ms", "descending")])[:limit])
                found |= {row["id"]: row for row in _rows(table)}
        return sorted(found.values(), key=lambda r: (-r["ts_ms"], r["id"]))[:limit]

    def follow(self, query: Query | None = None, every_s: float = 0.5) -> Iterator[dict[str, Any]]:
        """What is written from now on, as it is written; ends never."""
        query = query or Query()
        read = {path: path.stat().st_size for path in segments(self.folder)}
        while True:
            for path in segments(self.folder):
                data, read[path] = _after(path, read.get(path, 0))
                yield from (as_dict(r) for r in _records(data) if query.has(r))
            time.sleep(every_s)

    def _open(self, holding: bytes = b"") -> Iterator[Record]:
        """Of the segments not sealed yet; `holding` skips those without these bytes."""
        for path in segments(self.folder):
            with suppress(FileNotFoundError):  # sealed meanwhile
                yield from read_segment(path, holding)

    def _files(self, since_ms: int, until_ms: int) -> list[Sealed]:
        return [s for s in Sealed.all(self.folder) if s.last_ms >= since_ms and s.first_ms < until_ms]


def correct(request: Mapping[str, Any], label: str) -> bool | None:
    """Whether an answer was what it should have been, but for blanks around either; None where nothing is known of it:
    its text was not kept, nor its digest."""
    if request["output"] is not None:
        return bool(request["output"].strip() == label.strip())
    digest = hashlib.sha256(label.strip().encode("utf-8", "replace")).hexdigest()
    return digest == request["output_digest"] if request["output_digest"] else None


def asked_ms(id: str) -> int | None:
    """When the request of an id came; None for what is no such id."""
    text = id[-2 * ID_MS : -ID_MS]
    try:
        return int(text, 16) if len(text) == ID_MS and len(id) < 100 else None
    except ValueError:
        return None


def as_dict(record: Record) -> dict[str, Any]:
    return msgspec.structs.asdict(record)


def read_segment(path: Path, holding: bytes = b"") -> list[Record]:
    """The whole lines of a segment that hold some bytes, without what was erased; what a kill or a full disk left torn
    is skipped."""
    assert path.suffix == SEGMENT
    data = path.read_bytes()
    if holding not in data:
        return []
    people = Person.all(path.parent)
    return [reduce(lambda r, person: person.without(r), people, record) for record in _records(data, holding)]


def _records(data: bytes, holding: bytes = b"") -> Iterator[Record]:
    for line in data.split(b"\n"):
        if holding in line and line:
            try:
                yield _decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError):
                continue


def _after(path: Path, offset: int) -> tuple[bytes, int]:
    """The whole lines behind an offset, and where the next ones begin."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read()
    except FileNotFoundError:
        return b"", offset
    end = data.rfind(b"\n") + 1
    return data[:end], offset + end


def between(column: Any, low: int, high: int) -> Any:
    """From, and up to but not with."""
    return pc.and_(pc.greater_equal(column, low), pc.less(column, high))


def _current(table: Any) -> Any:
    columns = [table[f.name] if f.name in table.schema.names else pa.nulls(len(table), f.type) for f in SCHEMA]
    return pa.table(columns, names=SCHEMA.names).cast(SCHEMA)


def _rows(table: Any) -> list[dict[str, Any]]:
    return [{k: DEFAULTS[k] if v is None else v for k, v in row.items()} for row in table.to_pylist()]
