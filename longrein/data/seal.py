"""The request log, kept: segments sealed into Parquet, small files joined, texts and records forgotten in time, and a
person's requests erased. Run now and then: `python -m longrein.data.seal FOLDER '{"endpoint": [text days, days]}'`.

One process at a time, held by a lock. A file is replaced in two steps, both harmless to repeat: the new one gets its
name, then those it stands for go; a journal between the two tells the next run what is left to remove.
"""

import hashlib
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from longrein.core.files import replace
from longrein.core.record import DAYS, TEXT_DAYS, lock, segments
from longrein.data.requests import ERASED, PERSONAL, SCHEMA, Person, Sealed, as_dict, read_segment

DAY_MS = 86_400_000
GROUP_BYTES = 64 << 20  # of segments in one Parquet file
JOINED_BYTES = 256 << 20  # of Parquet files in one
ROWS = 10_000  # in a row group: what a look-up by id reads
Policies = Mapping[str, tuple[float, float]]  # {endpoint: (days that texts are kept, days that records are)}
TEXTS = ("input", "output")


def keep(folder: Path, policies: Policies, now: int) -> int:
    """Seal what is closed, join what is small, forget what is past its time; how many files it wrote or removed."""
    with _alone(folder) as mine:
        if not mine:
            return 0
        _finish(folder)
        done = sum(_seal(folder, group) for group in _closed(folder))
        _remember(folder, now - DAY_MS)
        files = Sealed.all(folder)
        done += sum(_join(folder, group) for group in _small(files, now))
        return done + sum(_forget(folder, file, policies, now) for file in Sealed.all(folder))


def erase(folder: Path, *, user: str = "", session: str = "") -> int:
    """Take a person's texts, name and digests out of all records so far; how many sealed records changed. Those in
    segments still open are erased as they are sealed, within minutes; until then readers are told of them too."""
    assert user or session
    person = Person(time.time_ns() // 1_000_000, user, session)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ERASED).open("ab") as file:
        file.write(msgspec.json.encode(person) + b"\n")
        os.fsync(file.fileno())
    with _alone(folder, wait=True):
        _finish(folder)
        for group in _closed(folder):
            _seal(folder, group)
        return sum(_erase(folder, file, person) for file in Sealed.all(folder))


def _remember(folder: Path, since_ms: int) -> None:
    """Forget whom no open segment can hold any more: gateways close theirs within minutes."""
    people = Person.all(folder)
    if recent := [p for p in people if p.before_ms >= since_ms]:
        if len(recent) < len(people):
            replace(folder / ERASED, b"".join(msgspec.json.encode(p) + b"\n" for p in recent), sync=True)
    else:
        (folder / ERASED).unlink(missing_ok=True)


@contextmanager
def _alone(folder: Path, wait: bool = False) -> Iterator[bool]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("ab") as file:
        while not (mine := lock(file)) and wait:
            time.sleep(0.1)
        yield mine


def _closed(folder: Path) -> Iterator[list[Path]]:
    """Groups of segments that no process writes any more, held while they are sealed."""
    held: list[tuple[Path, BinaryIO]] = []
    size = 0
    for path in segments(folder):
        file = path.open("rb")
        if not lock(file):
            file.close()
            continue
        held.append((path, file))
        size += path.stat().st_size
        if size > GROUP_BYTES:
            yield from _release(held)
            held, size = [], 0
    yield from _release(held)


def _release(held: list[tuple[Path, BinaryIO]]) -> Iterator[list[Path]]:
    if held:
        yield [path for path, _ in held]
    for _, file in held:
        file.close()


def _seal(folder: Path, sources: list[Path]) -> int:
    found = {r.id: r for path in sources for r in read_segment(path)}  # written twice after an error: counts once
    records = sorted(found.values(), key=lambda r: r.ts_ms)
    tables = (
        pa.Table.from_pylist([as_dict(r) for r in records[i : i + ROWS]], schema=SCHEMA)
        for i in range(0, len(records), ROWS)
    )
    times = [r.ts_ms for r in records]
    _replace(folder, sources, tables, times[:1] + times[-1:])
    return 1


def _small(files: list[Sealed], now: int) -> Iterator[list[Sealed]]:
    """Groups of files of a day that is over, as many as make one of JOINED_BYTES."""
    today = now // DAY_MS
    days: dict[int, list[Sealed]] = {}
    for file in files:
        if file.last_ms // DAY_MS < today and file.path.stat().st_size < JOINED_BYTES // 2:
            days.setdefault(file.last_ms // DAY_MS, []).append(file)
    for group in days.values():
        group.sort(key=lambda s: s.first_ms)
        while len(group) > 1:
            taken, size = 0, 0
            while taken < len(group) and (taken < 2 or size < JOINED_BYTES):
                size += group[taken].path.stat().st_size
                taken += 1
            yield group[:taken]
            del group[:taken]


def _join(folder: Path, group: list[Sealed]) -> int:
    times = [min(s.first_ms for s in group), max(s.last_ms for s in group)]
    _replace(folder, [s.path for s in group], chain.from_iterable(s.tables() for s in group), times)
    return len(group)


def _forget(folder: Path, file: Sealed, policies: Policies, now: int) -> int:
    """Remove a file whose records are all past their days; rewrite one that holds some, or texts past theirs."""
    days = [*policies.values(), (TEXT_DAYS, DAYS)]
    if file.last_ms < now - max(keep for _, keep in days) * DAY_MS:
        file.path.unlink(missing_ok=True)
        return 1
    if file.first_ms >= now - min(min(pair) for pair in days) * DAY_MS:
        return 0

    def cut(table: Any) -> Any:
        ends = [policies.get(e, (TEXT_DAYS, DAYS)) for e in table["endpoint"].to_pylist()]
        ages = [now - ts for ts in table["ts_ms"].to_pylist()]
        for name in TEXTS:
            live = pa.array([age <= text * DAY_MS for age, (text, _) in zip(ages, ends, strict=True)])
            column = pc.if_else(live, table[name], pa.scalar(None, pa.string()))
            table = table.set_column(table.schema.get_field_index(name), name, column)
        return table.filter(pa.array([age <= days * DAY_MS for age, (_, days) in zip(ages, ends, strict=True)]))

    return _rewrite(folder, file, cut)


def _erase(folder: Path, file: Sealed, person: Person) -> int:
    name, value = ("user", person.user) if person.user else ("session", person.session)

    def theirs(table: Any) -> Any:
        here = pc.and_(pc.equal(table[name], value), pc.less(table["ts_ms"], person.before_ms))
        return pc.fill_null(here, False)

    def take(table: Any) -> Any:
        here = theirs(table)
        for column, empty in {**PERSONAL, "erased": True}.items():
            at = table.schema.get_field_index(column)
            kept = pc.if_else(here, pa.scalar(empty, table.schema.field(at).type), table[column])
            table = table.set_column(at, column, kept)
        return table

    if count := sum(pc.sum(theirs(table)).as_py() or 0 for table in file.tables()):
        _replace(folder, [file.path], map(take, file.tables()), [file.first_ms, file.last_ms])
    return int(count)


def _rewrite(folder: Path, file: Sealed, change: Callable[[Any], Any]) -> int:
    """Put what `change` makes of a file in its place, if it differs at all."""
    if all(change(table).equals(table) for table in file.tables()):
        return 0
    _replace(folder, [file.path], map(change, file.tables()), [file.first_ms, file.last_ms])
    return 1


def _replace(folder: Path, sources: list[Path], tables: Iterable[Any], times: list[int]) -> None:
    """One Parquet file in place of others; none when there is nothing to write."""
    staged, rows = folder / "new.tmp", 0
    with pq.ParquetWriter(staged, SCHEMA, compression="zstd") as writer:
        for table in tables:
            rows += table.num_rows
            if table.num_rows:
                writer.write_table(table, row_group_size=ROWS)
    with staged.open("rb") as file:
        os.fsync(file.fileno())
        digest = hashlib.file_digest(file, "sha256").hexdigest()[:12]
    target = f"{times[0]:013d}-{times[1]:013d}-{digest}.parquet" if rows else ""
    gone = [path.name for path in sources if path.name != target]
    journal = folder / "replace.json"
    replace(journal, msgspec.json.encode({"target": target, "gone": gone}), sync=True)
    if rows:
        os.replace(staged, folder / target)
    _finish(folder)


def _finish(folder: Path) -> None:
    """Complete a replacement that was under way, or take it back when its file was not there yet."""
    journal = folder / "replace.json"
    if journal.exists():
        plan = msgspec.json.decode(journal.read_bytes())
        if not plan["target"] or (folder / plan["target"]).exists():
            for name in plan["gone"]:
                (folder / name).unlink(missing_ok=True)
        journal.unlink()
    (folder / "new.tmp").unlink(missing_ok=True)


if __name__ == "__main__":
    os.nice(10)
    keep(
        Path(sys.argv[1]),
        msgspec.json.decode(sys.argv[2], type=dict[str, tuple[float, float]]),
        time.time_ns() // 1_000_000,
    )
