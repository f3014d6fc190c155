"""What the source `sql` needs of databases: one statement, read-only sessions, values as text."""

import hashlib
import re
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa

from longrein.core.errors import Error
from longrein.core.secret import VARIABLE, Secrets

# What may stand in a query, longest first: text, names, dollar quotes of PostgreSQL, comments; then single characters.
_token = re.compile(
    r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|`[^`]*`|(\$\w*\$).*?\1|--[^\n]*|/\*.*?\*/|[A-Za-z_]\w*|.", re.DOTALL
)
_encode = msgspec.json.Encoder(enc_hook=str).encode


def one_select(query: str) -> str:
    """The query without its last semicolon. Errors: `invalid` unless it is one SELECT that can stand in parentheses."""
    query, depth, first = query.strip().rstrip(";").strip(), 0, ""
    for match in _token.finditer(query):
        token = match[0]
        if token in "()":
            depth += 1 if token == "(" else -1
        comment = token.startswith(("--", "/*"))
        if not first and not comment and not token.isspace():
            first = token.upper()
        quoted = len(token) > 1 and token[0] in "'\"`"
        if depth < 0 or token in (";", "'", '"', "`", "\0", "\\"):
            raise _refused(f"at {query[match.start() :][:20]!r}")
        if (quoted and "\\" in token) or token.startswith("/*!") or (comment and "/*" in token[2:]):
            raise _refused(f"databases disagree on what {token[:20]!r} means")
    if depth or first not in ("SELECT", "WITH"):
        raise _refused("a parenthesis stays open" if depth else f"it begins with {first[:20]!r}")
    return query


def _refused(why: str) -> Error:
    return Error(
        "invalid", f"the query of a source must be one SELECT: {why}", "write a view in the database and name it"
    )


def escaped(query: str) -> str:
    """For sqlalchemy.text, to which a colon may be a parameter."""
    return query.replace("\\", "\\\\").replace(":", "\\:")


def short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def filled(url: str, secrets: Secrets, project: Path) -> sa.URL:
    """The URL with its variables; each is one part of it, whatever characters it holds, or the whole."""
    whole = VARIABLE.fullmatch(url)
    made = sa.make_url(secrets.fill(url) if whole else url)
    if not whole:
        parts = {n: secrets.fill(v) for n in ("username", "password", "host", "database") if (v := getattr(made, n))}
        made = made.set(**parts, query=secrets.fill({k: v for k, v in made.query.items()}))
    if made.password:
        secrets.add(str(made.password))
    if made.get_backend_name() == "sqlite" and made.database not in (None, "", ":memory:"):
        path = project / str(made.database)
        if not path.is_file():
            raise Error("invalid", f"there is no database {made.database}", f"relative paths start at {project}")
        made = made.set(
            database=f"file:{path.resolve().as_posix().replace('?', '%3f')}", query={"mode": "ro", "uri": "true"}
        )
    return made


def shown(url: sa.URL, project: Path) -> str:
    """For lineage: where it is, and nothing of who asks."""
    backend, database = url.get_backend_name(), url.database or ""
    if backend == "sqlite":
        path = Path(database.removeprefix("file:"))
        own = project.resolve()
        return f"sqlite:///{path.relative_to(own).as_posix() if path.is_relative_to(own) else path.as_posix()}"
    host = url.host or ""
    return f"{backend}://{host}{f':{url.port}' if url.port else ''}/{database}"


def arguments(url: sa.URL, timeout_s: float) -> dict[str, Any]:
    """How a driver is told when to give up connecting."""
    return {"connect_timeout": max(1, round(timeout_s))} if url.get_backend_name() in ("postgresql", "mysql") else {}


@contextmanager
def reading(connection: sa.Connection, timeout_s: float) -> Iterator[None]:
    """A transaction that can only read, in one state of the database; a statement may take `timeout_s`, 0 for ever."""
    backend = connection.dialect.name
    if backend == "postgresql":
        connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        connection.execute(sa.text(f"SET LOCAL statement_timeout = {int(timeout_s * 1000)}"))
        connection.execute(sa.text("SET LOCAL TIME ZONE 'UTC'"))
    elif backend in ("mysql", "mariadb"):
        connection.execute(sa.text("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"))
        connection.execute(sa.text("SET SESSION time_zone = '+00:00'"))
        connection.commit()
    elif backend == "sqlite":
        raw: Any = connection.connection.driver_connection
        raw.execute("PRAGMA query_only = ON")
        if timeout_s:
            from time import monotonic

            end = monotonic() + timeout_s
            raw.set_progress_handler(lambda: monotonic() > end, 100_000)
    yield
    connection.rollback()


def stamp(connection: sa.Connection, url: sa.URL, table: Any) -> list[str]:
    """What else tells that a table changed: of SQLite the file, of PostgreSQL the transactions that wrote its rows."""
    if url.get_backend_name() == "sqlite" and url.database:
        path = Path(url.database.removeprefix("file:"))
        stats = [p.stat() for p in (path, path.with_name(path.name + "-wal")) if p.exists()]
        return [f"{s.st_size} {s.st_mtime_ns}" for s in stats]
    if url.get_backend_name() == "postgresql" and table is not None:
        kind = sa.text("SELECT relkind FROM pg_class WHERE oid = to_regclass(:name)")
        name = connection.dialect.identifier_preparer.format_table(table)
        if connection.execute(kind, {"name": name}).scalar() in ("r", b"r"):
            written = sa.select(sa.func.sum(sa.text("xmin::text::bigint"))).select_from(table)
            return [str(connection.execute(written).scalar())]
    return []


def line(row: dict[str, Any], keys: Sequence[str]) -> bytes:
    """A row as the reader `sql` wants it."""
    key = [row[k] for k in keys]
    number = key[0] if len(key) == 1 and type(key[0]) is int and key[0] > 0 else 0
    text = "" if number or not key else ",".join(str(k) for k in key)
    return _encode([number, text, {name: _plain(value) for name, value in row.items()}]) + b"\n"


def _plain(value: Any) -> Any:
    """Bytes as text where they are UTF-8, else in base64."""
    if isinstance(value, memoryview):
        value = bytes(value)
    if isinstance(value, bytes | bytearray):
        try:
            return bytes(value).decode()
        except UnicodeDecodeError:
            return bytes(value)
    if isinstance(value, timedelta | time | uuid.UUID):
        return str(value)
    return str(value) if isinstance(value, int) and abs(value) >= 1 << 63 else value


def told(value: Any) -> Any:
    """A bound as JSON."""
    return None if value is None else [type(value).__name__, str(value)]


def meant(value: Any) -> Any:
    """What `told` told. Errors: `invalid` for a type that has no order here."""
    if value is None:
        return None
    kinds: dict[str, Callable[[str], Any]] = {"int": int, "float": float, "str": str, "Decimal": Decimal}
    kinds |= {"datetime": datetime.fromisoformat, "date": date.fromisoformat, "UUID": uuid.UUID}
    kind, text = value
    if kind not in kinds:
        raise Error("invalid", f"a cursor cannot be of the type {kind}", "take a number, a time or text")
    return kinds[kind](text)
