"""The ledger's connection: migrations, damaged files, unreachable servers, and several processes at once."""

import os
import signal
import sqlite3
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from race import race, script

from longrein.core.errors import Error
from longrein.core.ledger import Ledger
from longrein.core.ledger.schema import metadata


def refused(url: str, code: str) -> Error:
    with pytest.raises(Error) as caught:
        Ledger(url)
    assert caught.value.code == code
    return caught.value


def test_the_migrations_make_the_tables_of_the_schema(ledger: Ledger) -> None:
    with ledger.db.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": False})
        assert compare_metadata(context, metadata) == []


def test_opening_a_ledger_again_changes_nothing(ledger: Ledger, ledger_url: str) -> None:
    ledger.events.append("ann", "tested", "x")
    again = Ledger(ledger_url)
    assert again.events.verify() == 1
    again.close()


def test_a_newer_ledger_is_left_alone(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/ledger.db"
    ledger = Ledger(url)
    with ledger.db.write() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    ledger.close()
    assert "newer (9999)" in refused(url, "invalid").message


OPENERS = """
import sys
from longrein.core.ledger import Ledger
GO
ledger = Ledger(sys.argv[1])
print(ledger.events.append("a", "tested", "x"))
"""


def test_processes_that_open_a_new_ledger_at_once_migrate_it_once(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/deep/er/ledger.db"
    assert sorted(race(OPENERS, url)) == [1, 2, 3]
    assert Ledger(url).events.verify() == 3


def test_a_migration_that_was_killed_leaves_nothing_half_made(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/ledger.db"
    killed = "import sys, os\nfrom longrein.core.ledger import Ledger\nfrom alembic.operations import Operations\n"
    killed += "Operations.create_index = lambda *a, **k: os.kill(os.getpid(), 9)\nLedger(sys.argv[1])"
    process = script(killed, url)
    assert process.wait() == -signal.SIGKILL
    ledger = Ledger(url)
    assert ledger.events.append("ann", "tested", "x") == 1


def test_a_killed_writer_leaves_no_half_transaction(ledger: Ledger, ledger_url: str) -> None:
    code = "import sys, os\nfrom longrein.core.ledger import Ledger\nledger = Ledger(sys.argv[1])\n"
    code += "with ledger.transaction():\n    ledger.assets.put('model', 'm', 'a')\n    os.kill(os.getpid(), 9)"
    assert script(code, ledger_url).wait() == -signal.SIGKILL
    assert ledger.assets.recent() == [] and ledger.events.append("ann", "tested", "x") == 1


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("nonsense", "invalid"),
        ("", "invalid"),
        ("mysql://u:p@h/d", "invalid"),
        ("sqlite://", "invalid"),
        ("sqlite:///:memory:", "invalid"),
        ("postgresql://lr:geheim@h:notaport/d", "invalid"),
        ("postgresql://lr:geheim@127.0.0.1:9/none?connect_timeout=2", "unavailable"),
        ("postgresql+psycopg2://lr@/none?host=/nowhere", "unavailable"),
        ("sqlite:////proc/nowhere/ledger.db", "unavailable"),
        ("sqlite:////dev/null/ledger.db", "unavailable"),
        ("sqlite:////", "unavailable"),
    ],
)
def test_an_address_that_leads_to_no_ledger(url: str, code: str) -> None:
    error = refused(url, code)
    assert error.hint and "geheim" not in str(error.as_dict()) and "\n" not in error.message


def test_a_server_without_such_a_database(postgresql: str) -> None:
    error = refused(postgresql.replace("/postgres?", "/nosuch?"), "unavailable")
    assert "nosuch" in error.message and "server" in error.hint


@pytest.mark.parametrize(
    "content", [b"this is no database\n" * 500, b"\0" * 9000, b"SQLite format 3\0" + b"\xff" * 9000]
)
def test_a_file_that_is_no_database(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "ledger.db"
    path.write_bytes(content)
    assert refused(f"sqlite:///{path}", "corrupt").hint
    assert path.read_bytes() == content  # never overwritten


def test_a_database_damaged_in_the_middle(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    ledger = Ledger(f"sqlite:///{path}")
    with ledger.transaction():
        for _ in range(300):
            ledger.events.append("ann", "tested", "x" * 100)
    ledger.close()
    with path.open("r+b") as file:
        size = path.stat().st_size
        file.seek(size // 2)
        file.write(b"\xff" * (size // 2))
    with pytest.raises(Error) as caught:
        ledger = Ledger(f"sqlite:///{path}")
        ledger.events.verify()
    assert caught.value.code == "corrupt"


def test_a_cut_database(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    Ledger(f"sqlite:///{path}").close()
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(Error) as caught:
        Ledger(f"sqlite:///{path}").events.verify()
    assert caught.value.code == "corrupt"


NOBODY = """
import os, sys
from longrein.core.errors import Error
from longrein.core.ledger import Ledger
for place in ("have", "locked"):
    Ledger(f"sqlite:///{sys.argv[1]}/{place}/ledger.db").close()
os.chmod(sys.argv[1] + "/locked", 0o500)
if os.geteuid() == 0:  # root may write anywhere
    os.seteuid(65534)
for place in ("new", "have", "locked"):
    try:
        Ledger(f"sqlite:///{sys.argv[1]}/{place}/ledger.db").events.append("a", "b", "c")
        print(place)
    except Error as error:
        print(error.code, error.hint)
"""


def test_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir(mode=0o755)
    for parent in (tmp_path, *tmp_path.parents[:3]):
        parent.chmod(0o755)
    process = script(NOBODY, str(place))
    out, _ = process.communicate()
    new, have, locked = out.splitlines()
    assert locked == "unavailable is its folder writable?"
    if os.geteuid() == 0:
        assert new == have == locked


def test_a_locked_ledger_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("longrein.core.ledger.database.BUSY_S", 0)
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db")
    other = sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Error) as caught:
        ledger.events.append("ann", "tested", "x")
    assert caught.value.code == "unavailable" and "another process" in caught.value.hint
    assert ledger.events.head()[0] == 0  # reading goes on
    other.execute("ROLLBACK")
    assert ledger.events.append("ann", "tested", "x") == 1


def test_a_lost_server_is_an_error_and_then_forgotten(postgresql_ledger: str) -> None:
    ledger = Ledger(postgresql_ledger)
    with ledger.db.read() as connection:
        mine = connection.scalar(sa.text("SELECT pg_backend_pid()"))
    with pytest.raises(Error) as caught, ledger.transaction():
        ledger.assets.put("model", "m", "aa")
        other = sa.create_engine(postgresql_ledger, isolation_level="AUTOCOMMIT")
        with other.connect() as connection:
            connection.exec_driver_sql(f"SELECT pg_terminate_backend({mine}, 5000)")
        other.dispose()
        ledger.assets.put("model", "m", "bb")
    assert caught.value.code == "unavailable"
    assert [a for a in ledger.assets.recent("model", "m") if a.digest in ("aa", "bb")] == []
    ledger.close()


def test_many_threads_share_one_ledger(ledger: Ledger) -> None:
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for i in range(3):
                ledger.assets.put("model", f"m{i}", f"{number}", actor="ann")
                ledger.assets.get(f"model:m{i}")
        except BaseException as error:  # noqa: BLE001 - told to the test's own thread
            errors.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == [] and ledger.events.verify() == 72
    assert sorted(a.version for a in ledger.assets.recent("model", "m0")) == list(range(1, 25))
