"""Versions against DVC, side by side: commit, diff and checkout of a dataset of which 1 % of the rows changed.

    python benchmarks/version.py --mb 1000 --dvc /tmp/dvc/bin/dvc

Both track rows.jsonl, a checkout, and every hundredth line of it is edited. commit: what `longrein commit` does,
and `dvc add` with `git commit`; from the edited file until the second version is there. diff: until it is known which
rows changed (DVC knows files: its part is `dvc diff`, then both files' lines compared). checkout: until the first
version's rows can be read again; for us that is opening it and reading the first batch, for DVC `dvc checkout`.
Writing the file anew is shown beside. Each is timed once, after a `sync`.
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

from longrein.core.ledger import Ledger
from longrein.core.store import Store
from longrein.data import checkout, revise, row, version

SCHEMA = row.schema(False, False)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--mb", type=int, default=200, help="of text")
    options.add_argument("--dvc", default=shutil.which("dvc") or "", help="the dvc program; without it only ours runs")
    options.add_argument("--folder", type=Path, default=None)
    given = options.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        print(json.dumps({"ours": ours(folder, given.mb)}, indent=2), flush=True)
        if given.dvc:
            files = [folder / "before.jsonl", folder / "after.jsonl"]
            print(json.dumps({"dvc": dvc(given.dvc, folder, *files)}, indent=2))


def rows(mb: int) -> Iterator[pa.RecordBatch]:
    """So much text, in rows of about a kilobyte."""
    dice = random.Random(0)
    words = [dice.randbytes(dice.randint(1, 5)).hex() for _ in range(20_000)]
    size, at = 0, 0
    while size < mb * 1_000_000:
        made: list[dict[str, Any]] = []
        for _ in range(8192):
            text = " ".join(dice.choices(words, k=140))
            at, size = at + 1, size + len(text)
            plain = {"input": text, "output": "answer", "source": "data/a.jsonl", "line": at, "split": "train"}
            made.append(row.finished(plain, "0" * 64))
        yield pa.RecordBatch.from_pylist(made, SCHEMA)


def edited(before: Path, after: Path) -> None:
    """Every hundredth line with another text."""
    with before.open("rb") as one, after.open("wb") as other:
        for number, line in enumerate(one):
            other.write(line if number % 100 else line.replace(b'"input":"', b'"input":"changed ', 1))


def ours(folder: Path, mb: int) -> dict[str, Any]:
    store, ledger = Store(folder / "store"), Ledger(f"sqlite:///{folder / 'ledger.db'}")
    store.root.mkdir()
    draft = version.Draft(folder / "draft.arrow", SCHEMA)
    for batch in rows(mb):
        draft.put(batch)
    found: dict[str, Any] = {"rows": draft.rows}
    made = timed(found, "first_commit_s", lambda: version.commit(store, "rows", draft))
    first = ledger.assets.put(
        "dataset", "rows", made.digest, uri=made.uri, bytes=made.bytes, meta={"rows": made.rows}, actor="b"
    )
    out = folder / "out"
    timed(found, "checkout_as_jsonl_s", lambda: checkout.write(store, first.uri, out, ref=first.ref))
    shutil.copy(out / "rows.jsonl", folder / "before.jsonl")
    edited(folder / "before.jsonl", folder / "after.jsonl")
    shutil.copy(folder / "after.jsonl", out / "rows.jsonl")
    size = disk(store.root)
    second = timed(found, "commit_s", lambda: revise.commit(ledger, store, "rows", out, actor="b"))
    found["new_mb"] = round((disk(store.root) - size) / 1e6, 2)
    changed = timed(found, "diff_s", lambda: version.diff(store, first.uri, second.uri))
    found["changed_rows"] = changed["added"] + changed["changed"]
    timed(found, "checkout_s", lambda: next(version.batches(store, first.uri)))
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
        call(program, "add", "-q", "rows.jsonl")
        call("git", "add", "-A")
        call("git", "commit", "-q", "-m", file.name)

    shutil.copy(before, place / "rows.jsonl")
    timed(found, "first_commit_s", lambda: commit(before))
    size = disk(place / ".dvc")
    (place / "rows.jsonl").unlink()
    shutil.copy(after, place / "rows.jsonl")
    timed(found, "commit_s", lambda: commit(after))
    found["new_mb"] = round((disk(place / ".dvc") - size) / 1e6, 2)

    def diff() -> set[bytes]:
        call(program, "diff", "--json", "HEAD~1", "HEAD")
        lines = [set(file.read_bytes().splitlines()) for file in (before, after)]
        return lines[1] - lines[0]

    found["changed_rows"] = len(timed(found, "diff_s", diff))

    def checkout() -> None:
        call("git", "checkout", "-q", "HEAD~1")
        call(program, "checkout", "-q")
        with (place / "rows.jsonl").open("rb") as file:
            next(file)

    timed(found, "checkout_s", checkout)
    return found


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
