"""The ledger's connection: SQLite in WAL mode or PostgreSQL, migrations, and the two ways to use it: read and write."""

import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from longrein.core.errors import Error

if TYPE_CHECKING:
    from sqlalchemy.dialects import postgresql, sqlite

HEAD = "0001"  # the newest migration; opening an older ledger migrates it first
BUSY_S = 30
_MIGRATE_LOCK = 0x10_4E_61  # one number both lock kinds of PostgreSQL share with nobody else here
_EVENT_LOCK = 0x10_4E_62


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class Database:
    """One engine in autocommit: a read sees the latest commit; `write` opens a transaction that others queue behind."""

    def __init__(self, url: str) -> None:
        self.url = _parse(url)
        self.sqlite = self.url.get_backend_name() == "sqlite"
        self._local = threading.local()
        self.engine = sa.create_engine(
            self.url,
            isolation_level="AUTOCOMMIT",
            json_serializer=_json,
            pool_pre_ping=not self.sqlite,
            connect_args={"timeout": BUSY_S} if self.sqlite else {},
        )
        if self.sqlite:
            _make_folder(self.url)
            sa.event.listen(self.engine, "connect", _pragmas)
        with _as_error(self.url):
            self._migrate()

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A connection for queries; inside a `write` of this thread it is the writing one."""
        active = getattr(self._local, "connection", None)
        if active is not None:
            yield active
            return
        with _as_error(self.url), self.engine.connect() as connection:
            yield connection

    @contextmanager
    def write(self, *, events: bool = False) -> Iterator[sa.Connection]:
        """A transaction: all of it is kept or none. Nested writes of one thread join the outer one.

        events: it will append to the event chain. Such writers go one at a time, and take their turn before they lock
        anything else: so none ever waits for another in a circle. SQLite's write lock does that by itself.
        """
        active = getattr(self._local, "connection", None)
        if active is not None:
            self._take_turn(active, events)
            yield active
            return
        with _as_error(self.url), self.engine.connect() as connection:
            # IMMEDIATE takes SQLite's write lock now, so two writers queue instead of failing half-way.
            execute(connection, "BEGIN IMMEDIATE" if self.sqlite else "BEGIN")
            self._local.connection, self._local.turn = connection, self.sqlite
            try:
                self._take_turn(connection, events)
                yield connection
                execute(connection, "COMMIT")
            except BaseException:
                with suppress(sa.exc.SQLAlchemyError):  # a full disk or a lost server has rolled back already
                    connection.exec_driver_sql("ROLLBACK")
                raise
            finally:
                self._local.connection = None

    def _take_turn(self, connection: sa.Connection, events: bool) -> None:
        if events and not self._local.turn:
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_EVENT_LOCK})")
            self._local.turn = True

    def insert(self, table: sa.Table) -> "postgresql.Insert | sqlite.Insert":
        """An INSERT that knows ON CONFLICT, in this database's dialect."""
        if self.sqlite:
            from sqlalchemy.dialects import sqlite

            return sqlite.insert(table)
        from sqlalchemy.dialects import postgresql  # a tenth of what a command takes to start: only where it is used

        return postgresql.insert(table)

    def close(self) -> None:
        self.engine.dispose()

    def _migrate(self) -> None:
        with self.engine.connect() as connection:
            found = _revision(connection)
            if found == HEAD:
                return
            if found is not None and found > HEAD:
                raise Error(
                    "invalid", f"this ledger is newer ({found}) than this Longrein ({HEAD})", "upgrade Longrein"
                )
            if self.sqlite:
                connection.exec_driver_sql("PRAGMA journal_mode=WAL")
                connection.exec_driver_sql("BEGIN EXCLUSIVE")
            else:
                connection.exec_driver_sql("BEGIN")
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_MIGRATE_LOCK})")
            try:
                if _revision(connection) != HEAD:  # another process may have done it while this one waited
                    _upgrade(connection)
                connection.exec_driver_sql("COMMIT")
            except BaseException:
                connection.exec_driver_sql("ROLLBACK")
                raise


def execute(connection: sa.Connection, statement: str, *rows: Sequence[Any]) -> Any:
    """The driver's cursor after a statement, run once for each row if there are any.

    For the few statements of every logged metric: SQLAlchemy's errors, in a fifth of its time.
    """
    cursor = connection.connection.cursor()
    driver = connection.dialect.loaded_dbapi.Error
    try:
        if len(rows) > 1:
            cursor.executemany(statement, rows)
        else:
            cursor.execute(statement, *rows)
    except driver as error:
        if connection.dialect.is_disconnect(error, connection.connection.dbapi_connection, cursor):
            connection.invalidate(error)  # or the pool would try to reset it, and complain
        raise sa.exc.DBAPIError.instance(statement, None, error, driver, dialect=connection.dialect) from error
    return cursor


def _parse(url: str) -> sa.URL:
    hint = "write sqlite:///path/ledger.db or postgresql://user@host/database"
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError) as error:
        raise Error("invalid", "the address of the ledger is not a database url", hint) from error
    if parsed.get_backend_name() == "sqlite":
        if parsed.database in (None, "", ":memory:"):
            raise Error("invalid", "a ledger in memory would be lost with each connection", hint)
        return parsed.set(drivername="sqlite")
    if parsed.get_backend_name() != "postgresql":
        raise Error("invalid", f"a ledger cannot live in {parsed.drivername!r}", hint)
    if find_spec("psycopg") is None:
        raise Error("missing_package", "a ledger on PostgreSQL needs psycopg", "pip install 'longrein[postgresql]'")
    return parsed.set(drivername="postgresql+psycopg")


def _make_folder(url: sa.URL) -> None:
    try:
        Path(str(url.database)).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Error("unavailable", f"the ledger {url} cannot be made: {error}", "is its folder writable?") from error


def _upgrade(connection: sa.Connection) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _revision(connection: sa.Connection) -> str | None:
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    return connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()


def _pragmas(connection: Any, _: Any) -> None:
    cursor = connection.cursor()
    # With synchronous=NORMAL a killed process loses nothing; a power cut may lose the last moments, never the file.
    for pragma in ("synchronous=NORMAL", "foreign_keys=ON", f"busy_timeout={BUSY_S * 1000}", "cache_size=-65536"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _json(value: Any) -> str:
    import json

    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


@contextmanager
def _as_error(url: sa.URL) -> Iterator[None]:
    """The database's own errors as sentences; a broken constraint stays what it is, for the caller to judge."""
    shown = url.render_as_string(hide_password=True)
    try:
        yield
    except sa.exc.IntegrityError:
        raise
    except (sa.exc.DataError, OverflowError, UnicodeEncodeError) as error:
        raise Error("invalid", f"the ledger cannot hold that value: {_first_line(error)}") from error
    except sa.exc.TimeoutError as error:
        raise Error("overloaded", f"the ledger {shown} has too many users at once", "try again") from error
    except sa.exc.DBAPIError as error:
        text = _first_line(error)
        if "disk is full" in text or "No space left" in text:
            raise Error(
                "no_space", "the disk that holds the ledger is full", "free some space and try again"
            ) from error
        if isinstance(error.orig, sqlite3.DatabaseError) and ("malformed" in text or "not a database" in text):
            raise Error("corrupt", f"the ledger {shown} is damaged: {text}", "restore a copy of the file") from error
        if isinstance(error, sa.exc.OperationalError):
            raise Error("unavailable", f"the ledger {shown} cannot be used: {text}", _hint(text)) from error
        raise


def _hint(text: str) -> str:
    """What to do about an operational error of either database."""
    if "locked" in text:
        return "another process holds it: try again"
    if "readonly" in text or "unable to open" in text:
        return "is its folder writable?"
    return "is the server up and the address right?"


def _first_line(error: Exception) -> str:
    return (str(getattr(error, "orig", error)).strip() or type(error).__name__).splitlines()[0]
