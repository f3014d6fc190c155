"""Tables and queries of databases by SQLAlchemy: read only, as a stream, and by a cursor only what is new."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from longrein.core.errors import Error, nearest
from longrein.core.ports import Object
from longrein.core.secret import Secrets, refuse_password
from longrein.plugins.source import _sql

VERSION = 1
PRIME = 1_000_003  # sums of keys stay small
SEGMENTS = 64  # at most; beyond it the two neighbours with fewest rows are read again as one


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    table: str = ""  # or schema.table
    query: str = ""  # in place of a table: one SELECT
    cursor: str = ""  # a column that grows with every new row, and with every change of one
    key: list[str] | str = []  # columns that name a row in lineage; of a table its primary key
    timeout_s: float = 30.0  # to connect, and for the question whether anything changed
    batch_rows: int = 2000  # held in memory at a time

    def __post_init__(self) -> None:
        if bool(self.table) == bool(self.query):
            raise ValueError("give either `table` or `query`")


class Segment(NamedTuple):
    """Rows whose cursor lies above `low` and not above `high`."""

    number: int
    low: Any
    high: Any
    rows: int
    weight: int  # a sum over their keys, where these are whole numbers


class Sql:
    def __init__(self, url: str, options: Mapping[str, Any], project: Path) -> None:
        self.options = msgspec.convert(options, Options)
        self.query = _sql.one_select(self.options.query) if self.options.query else ""
        self.secrets, self.weighed = Secrets(), ""
        if "://" in url:
            refuse_password(url)
        try:
            self.url = _sql.filled(url, self.secrets, project)
            self.engine = sa.create_engine(
                self.url, poolclass=NullPool, connect_args=_sql.arguments(self.url, self.options.timeout_s)
            )
        except sa.exc.NoSuchModuleError as error:
            raise Error("missing_package", f"no database is called {url.partition(':')[0]!r}", str(error)) from error
        except (sa.exc.ArgumentError, ValueError):  # which may show it
            raise Error("invalid", "the URL of a database is none", "dialect+driver://user@host/database") from None
        what = self.options.table or f"query-{_sql.short(self.query)}"
        self.name = f"{_sql.shown(self.url, project)}/{what}"

    def scan(self, known: Mapping[str, str]) -> Iterator[Object]:
        salt = _sql.short(json.dumps(sorted(known.items()))) if known else ""

        def object(name: str, low: Any, high: Any, state: Any) -> Object:
            """What has another state than before gets a revision that it never had: counts do come back."""
            told = [_sql.told(low), _sql.told(high), state]
            kept = json.loads(known.get(name, "[]"))[:3] == told
            file = re.sub(r"[^\w.-]", "_", name.rpartition("/")[2]) + ".sqlrows"
            return Object(name, file, known[name] if kept else json.dumps([*told, salt]))

        with self._connected(self.options.timeout_s) as connection:
            rows, keys = self._rows(connection)
            if not self.options.cursor:
                yield object(self.name, None, None, self._state(connection, rows, keys))
                return
            for one in _joined(self._segments(connection, rows, known)):
                yield object(f"{self.name}#{one.number}", one.low, one.high, [one.rows, one.weight])
            column: sa.ColumnClause[Any] = sa.column(self.options.cursor)
            count = sa.select(sa.func.count()).select_from(rows).where(column.is_(None))
            if without := connection.execute(count).scalar_one():
                yield object(f"{self.name}#null", None, None, without)

    def fetch(self, object: Object, path: Path) -> None:
        low, high, *_ = json.loads(object.revision)
        with self._connected(0) as connection, path.open("wb") as out:
            rows, keys = self._rows(connection)
            chosen = sa.select(sa.text("*")).select_from(rows)
            if self.options.cursor:
                column: sa.ColumnClause[Any] = sa.column(self.options.cursor)
                null = object.name.endswith("#null")
                chosen = chosen.where(column.is_(None) if null else _between(_sql.meant(low), _sql.meant(high), column))
            order = keys or [self.options.cursor] * bool(self.options.cursor)
            chosen = chosen.order_by(*(sa.column(name) for name in order))
            streamed = connection.execution_options(stream_results=True, yield_per=self.options.batch_rows)
            for batch in streamed.execute(chosen).mappings().partitions():
                out.write(b"".join(_sql.line(dict(row), keys) for row in batch))

    def _segments(self, connection: sa.Connection, rows: Any, known: Mapping[str, str]) -> list[Segment]:
        """Those of the last time, counted again in one pass, and what came since. Rows that were deleted, that came
        late, or that an update moved to another segment show in the counts."""
        column: sa.ColumnClause[Any] = sa.column(self.options.cursor)
        before = []
        for name, revision in known.items():
            number = name.rpartition("#")[2]
            low, high, *_ = json.loads(revision)
            if number.isdigit() and high is not None:
                before.append((int(number), _sql.meant(low), _sql.meant(high)))
        before.sort(key=lambda s: s[0])
        weight = sa.column(self.weighed) % PRIME if self.weighed else sa.literal(0)
        found: list[Any] = [sa.func.max(column)]
        for condition in (column.is_not(None), *(_between(low, high, column) for _, low, high in before)):
            found += [sa.func.count(sa.case((condition, 1))), sa.func.sum(sa.case((condition, weight)))]
        top, total, heavy, *pairs = tuple[Any, ...](connection.execute(sa.select(*found).select_from(rows)).one())
        counts = [(rows, int(weight or 0)) for rows, weight in zip(pairs[::2], pairs[1::2], strict=True)]
        counted = [Segment(*one, *count) for one, count in zip(before, counts, strict=True)]
        fresh, rest = total - sum(s.rows for s in counted), int(heavy or 0) - sum(s.weight for s in counted)
        if fresh or not counted:
            last = counted[-1] if counted else Segment(0, None, None, 0, 0)
            if counted and not (top is not None and top > last.high):
                return [Segment(1, None, top, total, int(heavy or 0))]  # its values have another order: all over again
            counted.append(Segment(last.number + 1, last.high, top, fresh, rest))
        return counted

    def _state(self, connection: sa.Connection, rows: Any, keys: list[str]) -> list[Any]:
        """What tells without a cursor that a table changed: its count, its highest key, what the database adds."""
        highest: list[Any] = [sa.func.max(sa.column(k)) for k in keys]
        found = connection.execute(sa.select(sa.func.count(), *highest).select_from(rows)).one()
        return [*map(str, found), *_sql.stamp(connection, self.url, None if self.query else rows)]

    def _rows(self, connection: sa.Connection) -> tuple[Any, list[str]]:
        """What is read from, and the columns that name a row in it."""
        keys = [self.options.key] if isinstance(self.options.key, str) else [*self.options.key]
        if self.query:
            columns = [
                *connection.execute(sa.text(f"SELECT * FROM ({_sql.escaped(self.query)}\n) AS q LIMIT 0")).keys()
            ]
            rows: Any = sa.text(f"({_sql.escaped(self.query)}\n) AS q")
        else:
            schema, _, table = self.options.table.rpartition(".")
            inspector = sa.inspect(connection)
            try:
                kinds = {c["name"]: c["type"] for c in inspector.get_columns(table, schema or None)}
                columns = [*kinds]
            except sa.exc.NoSuchTableError as error:
                names = [*inspector.get_table_names(schema or None), *inspector.get_view_names(schema or None)]
                raise Error("invalid", f"there is no table {self.options.table!r}", nearest(table, names)) from error
            keys = keys or inspector.get_pk_constraint(table, schema or None)["constrained_columns"]
            rows = sa.table(table, schema=schema or None)
            if len(keys) == 1 and isinstance(kinds.get(keys[0]), sa.Integer):
                self.weighed = keys[0]
        for name in [*keys, self.options.cursor]:
            if name and name not in columns:
                raise Error("invalid", f"{self.name} has no column {name!r}", nearest(name, columns))
        return rows, keys

    @contextmanager
    def _connected(self, timeout_s: float) -> Iterator[sa.Connection]:
        """A connection that can only read, and sees one state of the database. Errors say nothing of credentials."""
        try:
            with self.engine.connect() as connection, _sql.reading(connection, timeout_s):
                yield connection
        except sa.exc.DBAPIError as error:
            text = self.secrets.hide(re.sub(r"\s+", " ", str(error.orig))).strip()
            late = any(word in text for word in ("timeout", "timed out", "interrupted"))
            code = "timeout" if late else "unavailable" if error.connection_invalidated else "invalid"
            if isinstance(error, sa.exc.OperationalError) and code == "invalid":
                code = "unavailable"
            hint = "check the database and its network, then apply again; nothing was changed"
            if late:
                hint = "an index on the cursor helps; or raise remote: {timeout_s: …}"
            raise Error(code, f"{self.name} cannot be read: {text[:400]}", hint) from None


def _between(low: Any, high: Any, column: Any) -> Any:
    below = column <= sa.literal(high) if high is not None else sa.false()
    return below if low is None else sa.and_(column > sa.literal(low), below)


def _joined(segments: list[Segment]) -> list[Segment]:
    """Not too many, or the question whether they changed would be long."""
    while len(segments) > SEGMENTS:
        at = min(range(len(segments) - 1), key=lambda i: segments[i].rows + segments[i + 1].rows)
        (number, low, _, *one), (_, _, high, *two) = segments[at : at + 2]
        joined = Segment(number, low, high, one[0] + two[0], one[1] + two[1])
        segments = [*segments[:at], joined, *segments[at + 2 :]]
    return segments


plugin = Sql
