"""`longrein cost`'s sums over the request log, beside DuckDB's of the same Parquet files by one SQL statement.

    python -m venv /tmp/duck && /tmp/duck/bin/pip install -q duckdb
    python benchmarks/cost.py [--records 10000000] [--duckdb /tmp/duck/bin/python]

Both on the same number of threads. The files are as the gateway leaves them: one for each day, texts left out.
"""

import argparse
import os
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from longrein.data import seal
from longrein.data.requests import SCHEMA
from longrein.data.spending import sums

DAY_MS = 86_400_000
START_MS = 1_790_000_000_000 // DAY_MS * DAY_MS
DAYS = 30
SQL = """
    SELECT endpoint, "user", count(*), count(*) FILTER (status = 200), sum(prompt_tokens), sum(completion_tokens),
        sum((prefill_ms + decode_ms) / 1000), sum(cost_usd * prefill_ms / (prefill_ms + decode_ms)),
        sum(cost_usd * decode_ms / (prefill_ms + decode_ms)), sum(saved_usd)
    FROM read_parquet('{}/*.parquet') GROUP BY ALL
"""
PEER = """
import sys, time, duckdb
connection = duckdb.connect(config={"threads": int(sys.argv[2])})
began = time.perf_counter()
rows = connection.execute(sys.argv[1]).fetchall()
print("took", time.perf_counter() - began, sum(row[2] for row in rows), sum(row[7] + row[8] for row in rows))
"""


def write(folder: Path, count: int) -> None:
    draw = np.random.default_rng(0)
    for day in range(DAYS):
        n = count // DAYS
        at = np.sort(START_MS + day * DAY_MS + draw.integers(0, DAY_MS, n))
        columns = {
            "id": [f"chatcmpl-{ms:012x}{i:012x}" for i, ms in enumerate(at.tolist())], "ts_ms": at,
            "endpoint": np.array(["support", "search", "chat"])[draw.integers(0, 3, n)],
            "release": np.array([f"{i:064x}" for i in range(8)])[draw.integers(0, 8, n)],
            "user": np.char.add("user-", draw.integers(0, 100_003, n).astype(str)),
            "status": np.where(draw.random(n) < 0.99, 200, 503), "prompt_tokens": draw.integers(1, 900, n),
            "completion_tokens": draw.integers(1, 300, n), "prefill_ms": draw.random(n) * 10 + 0.1,
            "decode_ms": draw.random(n) * 90, "cost_usd": draw.random(n) * 1e-4,
            "tags": [[f"feature=f{i % 9}"] for i in range(n)], "cached": np.zeros(n, bool),
        }  # fmt: skip
        arrays = [pa.array(columns[f.name], f.type) if f.name in columns else pa.nulls(n, f.type) for f in SCHEMA]
        name = f"{at[0]:013d}-{at[-1]:013d}-{day:012x}.parquet"
        table = pa.table(arrays, schema=SCHEMA)
        pq.write_table(table, folder / name, compression="zstd", row_group_size=seal.ROWS)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--records", type=int, default=10_000_000)
    parser.add_argument("--duckdb", default="/tmp/duck/bin/python")
    args = parser.parse_args()
    threads = os.cpu_count() or 1
    pa.set_cpu_count(threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, args.records)
        print(f"{args.records:,} records of {DAYS} days, {threads} threads")
        for by in ("endpoint", "release", "day", "user", "feature"):
            began = time.perf_counter()
            found = sums(folder, by, 0, 1 << 60)
            took = time.perf_counter() - began
            total = sum(one.engine_usd for one in found)
            print(f"longrein by {by:9} {took:6.2f} s  {len(found):7,} groups  ${total:.6f}")
        if Path(args.duckdb).exists():
            sql = SQL.format(folder)
            told = subprocess.run(
                [args.duckdb, "-c", PEER, sql, str(threads)], capture_output=True, text=True, check=True
            )
            seconds, requests, usd = map(float, told.stdout.rpartition("took")[2].split())
            print(f"DuckDB by user      {seconds:6.2f} s  {requests:,.0f} requests  ${usd:.6f}")


if __name__ == "__main__":
    main()
