"""Versions against DVC, side by side: commit, diff and checkout of a dataset of which 1 % of the rows changed.

    python benchmarks/version.py --mb 1000 --dvc /tmp/dvc/bin/dvc

DVC tracks rows.parquet, the file that a checkout is; ours is the same rows as a version. Both start from the edited
file. commit ends when the second version is there; diff when it is known which rows changed (DVC knows files: its part
is `dvc diff`, then both files' ids compared); checkout when the first version's rows can be read again: for us that is
opening it and reading the first batch, for DVC `dvc checkout`. Writing the file anew is shown beside. Each is timed
once, after a `sync`.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from longrein.core.store import Store
from longrein.data import row, version

SCHEMA = row.schema(False, False)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--mb", type=int, default=200, help="of text")
    options.add_argument("--dvc", default=shutil.which("dvc") or "", help="the dvc program; without it only ours runs")
    options.add_argument("--folder", type=Path, default=None)
    given = options.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        files = [folder / "before.parquet", folder / "after.parquet"]
        rows = make(files, given.mb)
        told = {"rows": rows, "parquet_mb": round(files[0].stat().st_size / 1e6, 1)}
        print(json.dumps(told | {"ours": ours(folder, *files)}, indent=2), flush=True)
        if given.dvc:
            print(json.dumps({"dvc": dvc(given.dvc, folder, *files)}, indent=2))


def make(files: list[Path], mb: int) -> int:
    """The two files: a version, and the same with every hundredth row changed."""
    dice = random.Random(0)
    words = [dice.randbytes(dice.randint(1, 5)).hex() for _ in range(20_000)]
    size, at = 0, 0
    with pq.ParquetWriter(files[0], SCHEMA) as one, pq.ParquetWriter(files[1], SCHEMA) as other:
        while size < mb * 1_000_000:
            pair: tuple[list[dict[str, Any]], list[dict[str, Any]]] = ([], [])
            for _ in range(10_000):
                text = " ".join(dice.choices(words, k=140))
                at, size = at + 1, size + len(text)
                for side, rows in enumerate(pair):
                    told = f"{text} changed" if side and at % 100 == 0 else text
                    plain = {"input": told, "output": "answer", "source": "data/a.jsonl", "line": at, "split": "train"}
                    rows.append(row.finished(plain, str(side) * 64))
            one.write_table(pa.Table.from_pylist(pair[0], SCHEMA))
            other.write_table(pa.Table.from_pylist(pair[1], SCHEMA))
    return at


def ours(folder: Path, before: Path, after: Path) -> dict[str, Any]:
    store = Store(folder / "store")
    store.root.mkdir()
    found: dict[str, Any] = {}

    def commit(file: Path) -> version.Version:
        draft = version.Draft(folder / "draft.arrow", SCHEMA)
        for batch in batches(file):
            draft.put(batch)
        return version.commit(store, "rows", draft)

    first = timed(found, "first_commit_s", lambda: commit(before))
    size = disk(store.root)
    second = timed(found, "commit_s", lambda: commit(after))
    found["new_mb"] = round((disk(store.root) - size) / 1e6, 2)
    changed = timed(found, "diff_s", lambda: version.diff(store, first.uri, second.uri))
    found["changed_rows"] = changed["added"] + changed["changed"]
    timed(found, "checkout_s", lambda: next(version.batches(store, first.uri)))
    timed(found, "checkout_as_parquet_s", lambda: write(store, first.uri, folder / "out.parquet"))
    count = 0

    def stream() -> None:
        nonlocal count
        for batch in version.stream(store, second.uri, columns=["input", "output"]):
            count += batch.num_rows

    timed(found, "stream_s", stream)
    found["stream_rows_s"] = round(count / found["stream_s"])
    return found


def dvc(program: str, folder: Path, before: Path, after: Path) -> dict[str, Any]:
    place = folder / "dvc"
    place.mkdir()
    env = {**os.environ, "DVC_NO_ANALYTICS": "1", "GIT_AUTHOR_NAME": "b", "GIT_AUTHOR_EMAIL": "b@b",
           "GIT_COMMITTER_NAME": "b", "GIT_COMMITTER_EMAIL": "b@b"}  # fmt: skip

    def call(*command: str) -> str:
        return subprocess.run(command, cwd=place, env=env, check=True, capture_output=True, text=True).stdout

    call("git", "init", "-q")
    call(program, "init", "-q")
    found: dict[str, Any] = {}

    def commit(file: Path) -> None:
        call(program, "add", "-q", "rows.parquet")
        call("git", "add", "-A")
        call("git", "commit", "-q", "-m", file.name)

    shutil.copy(before, place / "rows.parquet")
    timed(found, "first_commit_s", lambda: commit(before))
    size = disk(place / ".dvc")
    (place / "rows.parquet").unlink()
    shutil.copy(after, place / "rows.parquet")
    timed(found, "commit_s", lambda: commit(after))
    found["new_mb"] = round((disk(place / ".dvc") - size) / 1e6, 2)

    def diff() -> set[str]:
        call(program, "diff", "--json", "HEAD~1", "HEAD")
        ids = [{i for b in batches(file, ["row_id"]) for i in b["row_id"].to_pylist()} for file in (before, after)]
        return ids[1] - ids[0]

    found["changed_rows"] = len(timed(found, "diff_s", diff))

    def checkout() -> None:
        call("git", "checkout", "-q", "HEAD~1")
        call(program, "checkout", "-q")
        next(batches(place / "rows.parquet"))

    timed(found, "checkout_s", checkout)
    return found


def write(store: Store, uri: str, path: Path) -> None:
    with pq.ParquetWriter(path, SCHEMA) as writer:
        for batch in version.batches(store, uri):
            writer.write_batch(batch)


def batches(file: Path, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(file) as opened:
        yield from opened.iter_batches(8192, columns=columns)


def timed(found: dict[str, Any], what: str, work: Callable[[], Any]) -> Any:
    os.sync()
    start = time.perf_counter()
    result = work()
    found[what] = round(time.perf_counter() - start, 2)
    return result


def disk(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


if __name__ == "__main__":
    main()
