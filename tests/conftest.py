"""Fixtures that every test may use: a ledger on both databases, and the folder of real data."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from longrein.core.ledger import Ledger
from longrein.core.ledger.schema import metadata

# Threads of torch and of the test workers must not fight over two cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

NODE = {"num_cpus": 1, "object_store_memory": 100 << 20, "include_dashboard": False}
DATA = Path(os.environ.get("LONGREIN_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of public data sets, which lies beside the repository and not in it."""
    if not DATA.is_dir():
        pytest.skip(f"no public data at {DATA}: set LONGREIN_DATA to where it lies")
    return DATA


@pytest.fixture(scope="session")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The url of a real PostgreSQL server of this session's own, on a socket in a temporary folder."""
    binaries = _postgresql_binaries()
    if binaries is None:
        pytest.skip("PostgreSQL is not installed and could not be: apt-get install postgresql")
    folder = Path("/tmp") / f"longrein-pg-{os.getpid()}"  # a socket's path may not be long
    folder.mkdir()
    user = []
    if os.geteuid() == 0:  # the server refuses to run as root
        shutil.chown(folder, "postgres", "postgres")
        user = ["runuser", "-u", "postgres", "--"]
    quiet = {"check": True, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    options = ["-D", folder / "db", "-A", "trust", "-E", "UTF8", "-U", "lr", "-N"]
    subprocess.run([*user, binaries / "initdb", *options], **quiet)
    server = subprocess.Popen(
        [*user, binaries / "postgres", "-D", folder / "db", "-k", folder, "-c", "listen_addresses=", "-c", "fsync=off"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        ready = [*user, binaries / "pg_isready", "-q", "-h", folder]
        deadline = time.monotonic() + 30
        while subprocess.run(ready, check=False).returncode != 0:
            assert server.poll() is None and time.monotonic() < deadline, "PostgreSQL did not come up"
            time.sleep(0.05)  # waits for a real server to start, not for a duration
        yield f"postgresql+psycopg://lr@/postgres?host={folder}"
    finally:
        stop = [*user, binaries / "pg_ctl", "-D", folder / "db", "-m", "immediate", "stop"]
        subprocess.run(stop, check=False, stdout=subprocess.DEVNULL)
        server.wait(timeout=20)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgresql_ledger(postgresql: str) -> str:
    """The url of one database of that server with the ledger's tables, which each test finds empty."""
    Ledger(postgresql).close()
    return postgresql


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The url of an empty ledger, on each database in turn."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/ledger.db"
    url = request.getfixturevalue("postgresql_ledger")
    engine = sa.create_engine(url)
    with engine.begin() as connection:  # deleting from empty tables takes a tenth of the time of TRUNCATE
        connection.exec_driver_sql("; ".join(f"DELETE FROM {table}" for table in metadata.tables))
        connection.exec_driver_sql("SELECT setval(oid::regclass, 1, false) FROM pg_class WHERE relkind = 'S'")
    engine.dispose()
    return str(url)


@pytest.fixture
def ledger(ledger_url: str) -> Iterator[Ledger]:
    ledger = Ledger(ledger_url)
    yield ledger
    ledger.close()


@pytest.fixture(scope="session")
def debian() -> Callable[..., bool]:
    """Sees that programs are there, installing Debian's packages of them where it may; whether they are."""

    def find(programs: Iterable[str], *packages: str) -> bool:
        if not all(map(shutil.which, programs)):
            _install(*packages)
        return all(map(shutil.which, programs))

    return find


def _postgresql_binaries() -> Path | None:
    def find() -> Path | None:
        return next((p.parent for p in sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)), None)

    if find() is None:
        _install("postgresql")
    return find()


def _install(*packages: str) -> None:
    if sys.platform == "linux" and os.geteuid() == 0 and shutil.which("apt-get"):
        for command in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
            subprocess.run(["apt-get", "-qq", *command], check=False, capture_output=True)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Any]:
    """A Ray cluster of two nodes on this host, one CPU each; the variable RAY_ADDRESS leads there meanwhile."""
    pytest.importorskip("ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # tasks may be functions of a test
        from ray.cluster_utils import Cluster

        made = Cluster(initialize_head=True, head_node_args=NODE)
        made.add_node(**NODE)
        patch.setenv("RAY_ADDRESS", made.address)
        yield made
        made.shutdown()
