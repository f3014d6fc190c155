"""Budgets shared by processes: CPU time of reserving and settling one request; beside a transaction in SQLite.

    python benchmarks/budget.py [--requests 100000] [--processes 2]

The peer is a gateway that keeps budgets in its database: BEGIN IMMEDIATE, read, check, write, COMMIT; twice.
"""

import argparse
import multiprocessing
import shutil
import sqlite3
import tempfile
import time
from pathlib import Path

from longrein.core.ledger import ApiKey
from longrein.gateway.limits import Limits

LIMITS = {"requests_per_minute": 10**9, "tokens_per_day": 10**12, "usd_per_month": 1e9}


def ours(folder: Path, count: int) -> float:
    key = ApiKey("k1", "", ("infer",), 0, None, "", LIMITS)
    limits = Limits(folder / "budget")
    limits.configure({"k1": key}, {"e": {"price": {"input_usd_per_mtok": 1.0}}}, {})
    before = time.process_time()
    for _ in range(count):
        reservation = limits.reserve(key, "e", 100, 100)
        limits.settle(reservation, 150, 0.0001)
    cpu = time.process_time() - before
    limits.close()
    return cpu / count * 1e6


def peer(folder: Path, count: int) -> float:
    connection = sqlite3.connect(folder / "peer.db", isolation_level=None, timeout=60)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute("CREATE TABLE IF NOT EXISTS budget (name PRIMARY KEY, used, reserved)")
    names = list(LIMITS)
    for name in names:
        connection.execute("INSERT OR IGNORE INTO budget VALUES (?, 0, 0)", [name])
    before = time.process_time()
    for _ in range(count):
        for used, reserved in ((0, 200), (150, -200)):
            connection.execute("BEGIN IMMEDIATE")
            rows = connection.execute("SELECT name, used + reserved FROM budget").fetchall()
            assert all(total < 10**15 for _, total in rows)
            change = [(used, reserved, name) for name in names]
            connection.executemany("UPDATE budget SET used = used + ?, reserved = reserved + ? WHERE name = ?", change)
            connection.execute("COMMIT")
    cpu = time.process_time() - before
    connection.close()
    return cpu / count * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--processes", type=int, default=2)
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    try:
        for name, work, count in (("ours", ours, given.requests), ("SQLite", peer, given.requests // 20)):
            with multiprocessing.Pool(given.processes) as pool:
                found = pool.starmap(work, [(folder, count)] * given.processes)
            print(f"{name}: {sum(found) / len(found):.1f} µs CPU a request, three limits, {given.processes} processes")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
