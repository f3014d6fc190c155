"""The request log: CPU time a record off the request path, and how long questions take; beside one INSERT a record.

    python benchmarks/request_log.py [--records 1000000]

The peer is what a gateway does that logs into its database: SQLite in WAL mode, 500 rows a transaction.
"""

import argparse
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from longrein.core.ledger import Ledger
from longrein.core.record import Record
from longrein.data import seal
from longrein.data.requests import Query, RequestLog
from longrein.gateway.record import Recorder
from longrein.gateway.tally import Tally

DAY_MS = 86_400_000
START_MS = 1_790_000_000_000 // DAY_MS * DAY_MS


def record(i: int, step_ms: int) -> Record:
    at = START_MS + i * step_ms
    return Record(
        id=f"chatcmpl-{at:012x}{i:012x}", ts_ms=at, endpoint="support", release="ab" * 32, key_id=f"k{i % 50}",
        user=f"user-{i * 7919 % 100_003}", status=200 if i % 100 else 503, finish_reason="stop", prompt_tokens=100,
        completion_tokens=50 + i % 7, ttft_ms=12.5 + i % 11, total_ms=100.0 + i % 53, cost_usd=0.00012,
        input_digest=f"{i:064x}", output_digest=f"{i:064x}", input=f"where is my parcel number {i}?",
        output="on its way",
    )  # fmt: skip


def ours(folder: Path, count: int, step_ms: int) -> float:
    """CPU microseconds a record: buffer, lines on disk, blocks of traffic in a ledger."""
    tally = Tally(Ledger(f"sqlite:///{folder}/ledger.db"))
    recorder, cpu = Recorder(folder / "requests", tally, seal=False), 0.0
    for first in range(0, count, 10_000):
        records = [record(i, step_ms) for i in range(first, min(first + 10_000, count))]
        before = time.process_time()
        for one in records:
            recorder.put(one)
        recorder.flush()
        cpu += time.process_time() - before
    assert not recorder.dropped
    recorder.close()
    tally.close()
    return cpu / count * 1e6


def peer(folder: Path, count: int, step_ms: int) -> float:
    names = Record.__struct_fields__
    columns = ", ".join(f'"{name}"' for name in names)
    connection, cpu = sqlite3.connect(folder / "peer.db"), 0.0
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute(f"CREATE TABLE requests ({columns}, PRIMARY KEY (id))")
    connection.execute("CREATE INDEX by_time ON requests (ts_ms)")
    insert = f"INSERT INTO requests VALUES ({', '.join('?' for _ in names)})"
    for first in range(0, count, 500):
        records = [record(i, step_ms) for i in range(first, min(first + 500, count))]
        before = time.process_time()
        with connection:
            connection.executemany(insert, [[str(v) if isinstance(v, list) else v for v in row(r)] for r in records])
        cpu += time.process_time() - before
    connection.close()
    return cpu / count * 1e6


def row(r: Record) -> tuple[Any, ...]:
    return msgspec.structs.astuple(r)


def took_ms(work: Callable[[], Any]) -> float:
    """The median of five."""
    found = []
    for _ in range(5):
        before = time.perf_counter()
        work()
        found.append((time.perf_counter() - before) * 1000)
    return sorted(found)[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=1_000_000)
    count = parser.parse_args().records
    step_ms = max(1, 3 * DAY_MS // count)  # three days
    folder = Path(tempfile.mkdtemp())
    try:
        print(f"CPU a record, µs: ours {ours(folder, count, step_ms):.1f}, INSERT {peer(folder, count, step_ms):.1f}")
        log = RequestLog(folder / "requests")
        lines = sum(f.stat().st_size for f in log.folder.iterdir())
        before = time.process_time()
        seal.keep(log.folder, {}, START_MS + 5 * DAY_MS)
        print(f"sealing: {(time.process_time() - before) / count * 1e6:.1f} µs a record")
        files = [f for f in log.folder.iterdir() if f.suffix == ".parquet"]
        size = sum(f.stat().st_size for f in files)
        print(f"bytes a record: lines {lines / count:.0f}, Parquet {size / count:.0f} in {len(files)} files, "
              f"SQLite {(folder / 'peer.db').stat().st_size / count:.0f}")  # fmt: skip
        some = record(count // 2, step_ms)
        print(f"by id: {took_ms(lambda: log.get(some.id)):.1f} ms")
        print(f"newest 50: {took_ms(log.find):.1f} ms")
        print(f"newest 50 with 5xx: {took_ms(lambda: log.find(Query(status='5xx'), 50)):.1f} ms")
        print(f"all of a user: {took_ms(lambda: log.find(Query(user=some.user))):.1f} ms")
        print(f"by a text: {took_ms(lambda: log.find(Query(text=f'number {count // 2}?'))):.1f} ms")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
