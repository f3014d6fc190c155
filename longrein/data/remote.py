"""What lies in a bucket, on a web server, in a database: listed cheaply, fetched once, kept by its content."""

import fcntl
import os
import re
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from longrein.core import plugins
from longrein.core.digest import of_file, of_json
from longrein.core.errors import Error
from longrein.core.ports import Object, Source
from longrein.core.secret import VARIABLE, Secrets

FOLDER = Path(".longrein", "remote")
KEEP_BYTES = 10 << 30  # of fetched objects; beyond it go those that were not needed for longest
KEEP_S = 86_400.0  # what was needed within this time stays all the same
FETCHES = 8  # at a time
NAME_BYTES = 120  # of a file's name in the cache
DATABASES = (
    "postgresql",
    "mysql",
    "mariadb",
    "sqlite",
    "mssql",
    "oracle",
    "duckdb",
    "snowflake",
    "trino",
    "clickhouse",
)
_scheme = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(//|:)")

Told = Callable[[int, int, int], None]  # objects fetched, bytes of them, bytes in all


class Kept(NamedTuple):
    """An object in the cache."""

    name: str
    revision: str
    file: str
    digest: str  # of its content
    bytes: int
    mtime_ns: int


class Found(NamedTuple):
    path: Path  # where it lies, or once fetched will, as far as its name
    name: str
    digest: str  # of its content, once fetched; else of its revision


def is_remote(path: str) -> bool:
    return bool(_scheme.match(path) or VARIABLE.match(path)) and not path.startswith("file:///")


def plugin_of(url: str) -> str:
    """The plugin that reaches a URL: the one called as its scheme, else sql for databases, fsspec for all others."""
    match = _scheme.match(Secrets().fill(url) if VARIABLE.match(url) else url)
    if match is None:
        raise Error("invalid", f"{url} is no URL", "write it as scheme://…")
    scheme = match[1].lower()
    if scheme in ("http", "https"):
        return "http"
    if "+" in scheme or scheme in DATABASES:
        return "sql"
    return scheme if scheme in plugins.names("source") else "fsspec"


def find(url: str, options: Mapping[str, Any], project: Path, *, fetch: bool, told: Told | None = None) -> list[Found]:
    """What a URL stands for. With `fetch` it is brought here, as far as it is not; without, it is only listed.

    Errors: `invalid`; `unavailable`, `timeout`, `unauthorized`, `forbidden`, `not_found` as the other side says;
    `conflict` when it changed between listing and fetching; `no_space`.
    """
    kind = plugin_of(url)
    try:
        source: Source = plugins.load("source", kind)(url, options, project)
    except msgspec.ValidationError as error:
        hint = f"see `source {kind}` in docs/reference/plugins.md"
        raise Error("invalid", f"`remote` of a {kind} source: {error}", hint) from error
    with closing(Cache(project / FOLDER, of_json([kind, url, dict(options)]))) as cache:
        listed = list(source.scan(cache.known()))
        wanted = listed if fetch else [o for o in listed if not o.revision]
        kept = cache.bring(source, wanted, told)
        if fetch:
            cache.use(kept.values())
        return [_found(cache, one, kept.get(one.name)) for one in listed]


def _found(cache: "Cache", one: Object, kept: Kept | None) -> Found:
    if kept is None:
        return Found(Path(one.file), one.name, of_json([one.name, one.revision]))
    return Found(cache.path(kept), one.name, kept.digest)


class Cache:
    """Fetched objects in files named by their content, and an index of them, of one source. Processes may share it.

    An object appears whole or not at all; what was cut off goes on where it stopped, if the other side can do that.
    """

    def __init__(self, folder: Path, source: str) -> None:
        self.folder, self.source = folder, source
        for name in ("objects", "staging"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        try:
            self._index = _index(folder / "index.db")
        except sqlite3.DatabaseError as error:  # it only saves time
            if isinstance(error, sqlite3.OperationalError):
                raise
            for path in folder.glob("index.db*"):
                path.unlink(missing_ok=True)
            self._index = _index(folder / "index.db")

    def close(self) -> None:
        self._index.close()

    def known(self) -> dict[str, str]:
        """Revisions by name, as of the last time that all was fetched."""
        last = "(SELECT max(used) FROM objects WHERE source = ?1)"
        found = self._ask(f"SELECT name, revision FROM objects WHERE source = ?1 AND used > 0 AND used = {last}")
        return dict(found)

    def path(self, kept: Kept) -> Path:
        return self.folder / "objects" / kept.digest[:2] / kept.digest / kept.file

    def bring(self, source: Source, objects: list[Object], told: Told | None) -> dict[str, Kept]:
        """All of them, by name, fetched as far as they are not here."""
        indexed = {k.name: k for k in self._all({o.name: o.revision for o in objects})}
        kept = {o.name: found for o in objects if (found := self._whole(indexed.get(o.name)))}
        missing = [o for o in objects if o.name not in kept]
        total, done = sum(o.bytes for o in missing), 0
        room = shutil.disk_usage(self.folder).free
        if total > room:
            raise Error("no_space", f"{total:,} bytes are to be fetched and {room:,} are free", "free some space")
        pool = ThreadPoolExecutor(FETCHES)
        try:
            work = [pool.submit(self._fetch, source, o) for o in missing]
            for number, future in enumerate(as_completed(work), 1):
                one = future.result()
                kept[one.name], done = one, done + one.bytes
                if told:
                    told(number, done, max(done, total))
        finally:
            pool.shutdown(cancel_futures=True)
        return kept

    def use(self, kept: Iterable[Kept]) -> None:
        """Say that these are what the source holds now; let go of what nobody needed for long."""
        now = time.time()
        rows = [(now, self.source, k.name, k.revision) for k in kept]
        with self._lock:
            self._index.execute("BEGIN IMMEDIATE")
            self._index.executemany("UPDATE objects SET used = ? WHERE source = ? AND name = ? AND revision = ?", rows)
            self._index.execute("COMMIT")
        self._trim(now)

    def _fetch(self, source: Source, one: Object) -> Kept:
        staged = self.folder / "staging" / of_json([self.source, one.name, one.revision])[:40]
        with staged.with_name(f"{staged.name[:2]}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # another process may be at it
            if one.revision and (found := self._whole(next(self._all({one.name: one.revision}), None))):
                return found
            source.fetch(one, staged)
            return self._keep(one, staged)

    def _keep(self, one: Object, staged: Path) -> Kept:
        digest = of_file(staged)
        file = _file_name(one.file)
        target = self.folder / "objects" / digest[:2] / digest / file
        if target.is_file() and target.stat().st_size == staged.stat().st_size:
            staged.unlink()
        else:
            with staged.open("rb") as written:
                os.fsync(written.fileno())
            target.parent.mkdir(parents=True, exist_ok=True)
            staged.chmod(0o444)
            os.replace(staged, target)
        stat = target.stat()
        kept = Kept(one.name, one.revision, file, digest, stat.st_size, stat.st_mtime_ns)
        self._ask("INSERT OR REPLACE INTO objects VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 0)", *kept)
        return kept

    def _whole(self, kept: Kept | None) -> Kept | None:
        """The object, unless its file is gone or is not what it was."""
        if kept is None or not kept.revision:
            return None
        try:
            stat = self.path(kept).stat()
            same = (stat.st_size, stat.st_mtime_ns) == (kept.bytes, kept.mtime_ns)
            if same or of_file(self.path(kept)) == kept.digest:
                return kept
            self.path(kept).unlink()
        except OSError:
            pass
        return None

    def _all(self, wanted: Mapping[str, str]) -> Iterator[Kept]:
        columns = "SELECT name, revision, file, digest, bytes, mtime_ns FROM objects WHERE source = ?1"
        few = len(wanted) == 1
        found = self._ask(f"{columns} AND name = ?2", *wanted) if few else self._ask(columns)
        return (kept for row in found if wanted.get((kept := Kept(*row)).name) == kept.revision)

    def _ask(self, statement: str, *values: Any) -> list[Any]:
        with self._lock:
            return self._index.execute(statement, (self.source, *values)).fetchall()

    def _trim(self, now: float) -> None:
        for path in (self.folder / "staging").iterdir():
            with suppress(FileNotFoundError):
                if path.suffix != ".lock" and now - path.stat().st_mtime > KEEP_S:
                    path.unlink()
        rows = self._index.execute(
            "SELECT digest, file, bytes, max(used) AS last FROM objects GROUP BY digest, file ORDER BY last DESC"
        )
        total = 0
        for digest, file, size, used in rows.fetchall():
            total += size
            if total > KEEP_BYTES and now - used > KEEP_S:
                (self.folder / "objects" / digest[:2] / digest / file).unlink(missing_ok=True)


def _index(path: Path) -> sqlite3.Connection:
    index = sqlite3.connect(path, timeout=60, check_same_thread=False, isolation_level=None)
    index.execute("PRAGMA journal_mode = WAL")
    index.execute("PRAGMA synchronous = NORMAL")
    index.execute(
        "CREATE TABLE IF NOT EXISTS objects (source TEXT, name TEXT, revision TEXT, file TEXT, digest TEXT, "
        "bytes INTEGER, mtime_ns INTEGER, used REAL, PRIMARY KEY (source, name, revision)) WITHOUT ROWID"
    )
    return index


def _file_name(name: str) -> str:
    """A name for a file here: no path, no control characters, its end kept, since the suffix tells the format."""
    plain = "".join(c if c.isprintable() and c not in "/\\" else "_" for c in name) or "object"
    return os.fsencode(plain)[-NAME_BYTES:].decode("utf-8", "ignore").lstrip(".") or "object"
