"""Tables and queries of real databases: read only, only what is new, whole all the same."""

import sqlite3
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from longrein.core.errors import Error
from longrein.core.secret import Secrets
from longrein.data import source
from longrein.data.source import Source
from longrein.plugins.source import _sql, sql


class Shop:
    """A table of tickets in a database of the project, or on a server."""

    def __init__(self, url: str, path: str, root: Path) -> None:
        self.engine, self.path, self.root = sa.create_engine(url), path, root
        with self.engine.begin() as connection:
            connection.execute(sa.text("DROP TABLE IF EXISTS tickets"))
            connection.execute(sa.text("CREATE TABLE tickets (id INTEGER PRIMARY KEY, body TEXT, changed INTEGER)"))

    def do(self, statement: str, **values: Any) -> None:
        with self.engine.begin() as connection:
            connection.execute(sa.text(statement), values)

    def add(self, first: int, last: int, changed: int | None = None) -> None:
        with self.engine.begin() as connection:
            rows = [{"i": i, "b": f"ticket {i}", "c": changed or i} for i in range(first, last + 1)]
            connection.execute(sa.text("INSERT INTO tickets VALUES (:i, :b, :c)"), rows)

    def find(self, fetch: bool = True, **remote: Any) -> list[source.File]:
        entry = Source(path=self.path, remote={"table": "tickets"} | remote)
        return source.find([entry], self.root, fetch=fetch)

    def rows(self, **remote: Any) -> dict[int, str]:
        return {r.line: r.row["body"] for f in self.find(**remote) for r in source.records(f)}

    def truth(self) -> dict[int, str]:
        with self.engine.connect() as connection:
            return {i: b for i, b in connection.execute(sa.text("SELECT id, body FROM tickets"))}


@pytest.fixture(params=["sqlite", "postgresql"])
def shop(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    if request.param == "sqlite":
        made = Shop(f"sqlite:///{tmp_path}/shop.db", "sqlite:///shop.db", tmp_path)
    else:
        url = request.getfixturevalue("postgresql")
        monkeypatch.setenv("SHOP_USER", "lr")
        monkeypatch.setenv("SHOP_PASSWORD", "p@ss/word:1%")
        made = Shop(url, url.replace("lr@", "${SHOP_USER}:${SHOP_PASSWORD}@"), tmp_path)
    before = set(sa.inspect(made.engine).get_table_names()) - {"tickets"}
    yield made
    for table in set(sa.inspect(made.engine).get_table_names()) - before:  # the server is the whole session's
        sa.Table(table, sa.MetaData()).drop(made.engine)
    made.engine.dispose()


def names(files: list[source.File]) -> list[str]:
    return [f.name.rpartition("/")[2] for f in files]


def test_rows_are_named_by_their_key(shop):
    shop.add(7, 9)
    (file,) = shop.find()
    assert file.name.endswith("/tickets") and "lr" not in file.name and "SHOP" not in file.name
    assert [(r.line, r.member, r.row["body"]) for r in source.records(file)] == [
        (7, "", "ticket 7"), (8, "", "ticket 8"), (9, "", "ticket 9"),
    ]  # fmt: skip


def test_only_what_is_new_is_read(shop):
    shop.add(1, 50)
    first = shop.find(cursor="changed")
    assert names(first) == ["tickets#1"]
    planned = {f.name: f.digest for f in shop.find(fetch=False, cursor="changed")}
    assert {f.name: f.digest for f in shop.find(fetch=False, cursor="changed")} == planned
    shop.add(51, 60)
    again = {f.name: f.digest for f in shop.find(fetch=False, cursor="changed")}
    assert len(again) == 2 and again.items() > planned.items()
    second = shop.find(cursor="changed")
    assert names(second) == ["tickets#1", "tickets#2"] and second[0] == first[0]
    assert [r.line for r in source.records(second[1])] == [*range(51, 61)]
    assert shop.rows(cursor="changed") == shop.truth()


def test_late_deleted_and_changed_rows(shop):
    shop.add(1, 30)
    shop.rows(cursor="changed")
    shop.add(31, 40)
    before = shop.find(cursor="changed")
    shop.do("DELETE FROM tickets WHERE id = 35")
    after = shop.find(cursor="changed")
    assert after[0] == before[0] and after[1].digest != before[1].digest  # only its own piece is read again
    assert shop.rows(cursor="changed") == shop.truth()
    shop.add(100, 100, changed=5)  # came late, with a time long past
    assert shop.rows(cursor="changed") == shop.truth()
    shop.do("UPDATE tickets SET body = 'other', changed = 200 WHERE id = 3")
    assert shop.rows(cursor="changed") == shop.truth()
    shop.add(101, 101, changed=200)  # the same time as the newest
    assert shop.rows(cursor="changed") == shop.truth()
    shop.do("DELETE FROM tickets WHERE id = 20")
    shop.add(99, 99, changed=20)  # as many rows as before
    assert shop.rows(cursor="changed") == shop.truth()
    shop.do("INSERT INTO tickets VALUES (300, 'no time', NULL)")
    assert shop.rows(cursor="changed") == shop.truth()


def test_without_a_cursor_all_is_read_when_it_changed(shop):
    shop.add(1, 5)
    (before,) = shop.find()
    assert shop.find() == [before]
    shop.add(6, 6)
    (after,) = shop.find()
    assert after.digest != before.digest
    assert shop.rows() == shop.truth()
    shop.do("UPDATE tickets SET body = 'mended' WHERE id = 2")
    assert shop.rows() == shop.truth()
    shop.do("DELETE FROM tickets WHERE id = 6")
    assert shop.rows() == shop.truth()


def test_an_empty_table_has_no_rows(shop):
    assert shop.rows() == {} == shop.rows(cursor="changed")
    shop.add(1, 2)
    assert shop.rows(cursor="changed") == shop.truth() == shop.rows()
    shop.do("DELETE FROM tickets")
    assert shop.rows(cursor="changed") == {}


def test_many_segments_are_joined(shop, monkeypatch):
    monkeypatch.setattr(sql, "SEGMENTS", 4)
    for i in range(1, 7):
        shop.add(i, i)
        found = shop.find(cursor="id")
    assert len(found) == 4
    assert shop.rows(cursor="id") == shop.truth()


def test_a_query_and_its_key(shop):
    shop.add(1, 9)
    query = "SELECT id AS \"客户\", '12:30; --' AS body FROM tickets WHERE id % 3 = 0 -- ;\n;"
    (file,) = source.find([Source(path=shop.path, remote={"query": query, "key": "客户"})], shop.root, fetch=True)
    assert [(r.line, r.row["body"]) for r in source.records(file)] == [(n, "12:30; --") for n in (3, 6, 9)]


@pytest.mark.parametrize(
    "query",
    [
        "DELETE FROM tickets",
        "SELECT 1; DROP TABLE tickets",
        "SELECT 1) AS q; DROP TABLE tickets; --",
        "SELECT * FROM tickets) AS q CROSS JOIN (SELECT 1",
        "SELECT 1 /* ; */ ; DELETE FROM tickets",
        "SELECT 'a\\'; DROP TABLE tickets; --'",
        "SELECT 1 /* /* */ ; DROP TABLE tickets */",
        "SELECT /*! 1; */ 2",
        "SELECT 'open",
        "SELECT (1",
        "PRAGMA query_only = OFF",
        "COMMIT",
        "",
    ],
)
def test_no_second_statement(query):
    with pytest.raises(Error, match="one SELECT"):
        _sql.one_select(query)


def test_a_query_cannot_write(shop):
    shop.add(1, 3)
    tries = ["WITH gone AS (DELETE FROM tickets RETURNING id) SELECT * FROM gone"]
    if shop.engine.dialect.name == "postgresql":
        tries += ["SELECT nextval('tickets_seq')"]
        shop.do("CREATE SEQUENCE IF NOT EXISTS tickets_seq")
    for query in tries:
        with pytest.raises(Error):
            source.find([Source(path=shop.path, remote={"query": query})], shop.root, fetch=True)
    assert len(shop.truth()) == 3


def test_names_are_quoted(shop):
    shop.do('CREATE TABLE IF NOT EXISTS "a""b; DROP TABLE tickets" ("group" INTEGER PRIMARY KEY, "select" TEXT)')
    shop.do('DELETE FROM "a""b; DROP TABLE tickets"')
    shop.do("""INSERT INTO "a""b; DROP TABLE tickets" VALUES (1, 'x')""")
    (file,) = shop.find(table='a"b; DROP TABLE tickets', cursor="group")
    assert [r.row for r in source.records(file)] == [{"group": 1, "select": "x"}]
    assert shop.truth() == {}


def test_values_of_all_kinds(shop):
    shop.do("DROP TABLE IF EXISTS kinds")
    blob, when = ("BYTEA", "TIMESTAMPTZ") if shop.engine.dialect.name == "postgresql" else ("BLOB", "TEXT")
    shop.do(
        f"CREATE TABLE kinds (name TEXT, part INTEGER, n NUMERIC(30, 10), b {blob}, t {when}, PRIMARY KEY (name, part))"
    )
    values = {"n": Decimal("12345678901234567890.0123456789"), "b": b"\xff\x00", "t": "2026-01-02 03:04:05+08:00"}
    if shop.engine.dialect.name == "sqlite":
        values["n"] = str(values["n"])
    shop.do("INSERT INTO kinds VALUES ('甲', 1, :n, :b, :t)", **values)
    shop.do("INSERT INTO kinds VALUES ('甲', 2, NULL, NULL, NULL)")
    (file,) = shop.find(table="kinds")
    first, second = source.records(file)
    assert (first.member, first.line, second.member) == ("甲,1", 1, "甲,2")
    assert first.row["b"] == "/wA=" and second.row["n"] is None
    if shop.engine.dialect.name == "postgresql":
        assert first.row["n"] == "12345678901234567890.0123456789" and first.row["t"] == "2026-01-01T19:04:05Z"


@pytest.mark.parametrize(
    ("remote", "message"),
    [
        ({"table": "ticket"}, "no table 'ticket'"),
        ({"table": "tickets", "cursor": "change"}, "no column 'change'"),
        ({"table": "tickets", "key": "uuid"}, "no column 'uuid'"),
        ({"table": "tickets", "query": "SELECT 1"}, "either"),
        ({"table": ""}, "either"),
        ({"tabel": "tickets"}, "tabel"),
        ({"table": "", "query": "SELECT nothing FROM tickets"}, "nothing"),
    ],
)
def test_refused(shop, remote, message):
    with pytest.raises(Error, match=message):
        shop.find(fetch=False, **remote)


def test_a_server_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET", "hunter2-hunter2")
    entry = Source(path="postgresql+psycopg://u:${SECRET}@127.0.0.1:9/db", remote={"table": "t"})
    with pytest.raises(Error) as raised:
        source.find([entry], tmp_path)
    assert raised.value.code == "unavailable" and "hunter2" not in repr(raised.value.as_dict())
    assert raised.value.__cause__ is None
    with pytest.raises(Error, match="there is no database"):
        source.find([Source(path="sqlite:///no.db", remote={"table": "t"})], tmp_path)
    assert not (tmp_path / "no.db").exists()


def test_a_question_that_takes_too_long(shop):
    shop.add(1, 2000)
    query = "SELECT a.id, c.body FROM tickets a, tickets b, tickets c, tickets d"
    entry = Source(path=shop.path, remote={"query": query, "timeout_s": 0.2})
    with pytest.raises(Error) as raised:
        source.find([entry], shop.root)
    assert raised.value.code == "timeout"


def test_passwords_are_named_not_written(tmp_path, monkeypatch):
    with pytest.raises(Error, match="password stands") as raised:
        source.find([Source(path="postgresql://u:hunter2@h/db", remote={"table": "t"})], tmp_path)
    assert "hunter2" not in str(raised.value.as_dict())
    with pytest.raises(Error, match="SHOP_URL, which is not set"):
        source.find([Source(path="${SHOP_URL}", remote={"table": "t"})], tmp_path)
    sqlite3.connect(tmp_path / "a.db").execute("CREATE TABLE t (id INTEGER)")
    monkeypatch.setenv("SHOP_URL", f"sqlite:///{tmp_path}/a.db")
    assert [f.name for f in source.find([Source(path="${SHOP_URL}", remote={"table": "t"})], tmp_path)] == [
        "sqlite:///a.db/t"
    ]
    secrets = Secrets()
    monkeypatch.setenv("TOKEN", "a/b c")
    assert secrets.fill({"x": ["${TOKEN}!"]}) == {"x": ["a/b c!"]}
    assert secrets.hide("a/b c, a%2Fb%20c") == "${TOKEN}, ${TOKEN}"


MEMORY = """
import resource, sys
from pathlib import Path
from longrein.data import source
from longrein.data.source import Source
import sqlalchemy, longrein.plugins.source.sql, longrein.plugins.reader.sql
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
(file,) = source.find([Source(path=sys.argv[2], remote={"table": "big"})], Path(sys.argv[1]), fetch=True)
rows = sum(1 for _ in source.records(file))
print(rows, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_a_large_table_comes_as_a_stream(shop, monkeypatch):
    """40 MB of rows, some 10 MB of memory: on the server's side the cursor is one too."""
    shop.do("DROP TABLE IF EXISTS big")
    shop.do("CREATE TABLE big (id INTEGER PRIMARY KEY, body TEXT)")
    rows = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) "
    text = "repeat('x', 2000)" if shop.engine.dialect.name == "postgresql" else "printf('%.2000c', 'x')"
    shop.do(f"INSERT INTO big {rows} SELECT i, {text} FROM n")
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(shop.root), shop.path], capture_output=True, text=True, check=True
    )
    count, kilobytes = map(int, done.stdout.split())
    shop.do("DROP TABLE big")
    assert count == 20_000 and kilobytes < 25_000
