"""The ledger under load: 1,000,000 metrics and 100,000 assets with edges; then lineage, plan and lists, each under 1 s.

    python benchmarks/ledger.py                                     # SQLite in a temporary folder
    python benchmarks/ledger.py --url postgresql://user@host/empty  # an empty database of your own

The assets hang together as in real use: 1,000 dataset versions, each from the last; models that read them and continue
each other; a report and a release of each. The newest lineage reaches the limit of 10,000 assets. --json prints JSON.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from longrein.control import nouns
from longrein.control.plan import plan
from longrein.core.ledger import Ledger
from longrein.core.ledger.database import now_ms
from longrein.core.ledger.schema import assets, edges, latest_metrics, metrics, names, runs
from longrein.core.store import Store
from longrein.models import registry

BATCH = 10_000
LIFECYCLE = {
    "project": "bench",
    "datasets": {f"d{i}": {"sources": [f"{i}.jsonl"]} for i in range(2)},
    "prompts": {f"p{i}": {"system": "hi"} for i in range(2)},
    "models": {f"m{i}": {"dataset": f"d{i}"} for i in range(2)},
    "gates": {"q": {"metrics": {"exact_match": {"min": 0.5}}}},
    "endpoints": {f"e{i}": {"model": f"m{i % 2}", "prompt": f"p{i % 2}", "gates": ["q"]} for i in range(3)},
}


def life(total: int) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """(asset, its edges): a dataset made from the one before, then 33 times a model, its report and its release.

    Each model goes on from the one before and reads the dataset.
    """
    dataset = model = 0
    for i in range(1, total + 1):
        turn = (i - 1) % 100
        kind = ("model", "report", "release")[(turn - 1) % 3] if turn else "dataset"
        name = f"{kind[0]}{turn % 50}"
        reads = {"dataset": {dataset}, "model": {dataset, model}, "report": {model, dataset}, "release": {model}}[kind]
        dataset, model = (i if kind == "dataset" else dataset), (i if kind == "model" else model)
        run = f"{i:032x}"
        links = [{"run_id": run, "asset_id": i, "direction": "out", "role": kind}]
        links += [{"run_id": run, "asset_id": a, "direction": "in", "role": "input"} for a in reads if a]
        yield {"id": i, "kind": kind, "name": name, "digest": f"{i:064x}", "run_id": run}, links


def load(ledger: Ledger, count: int, points: int) -> dict[str, float]:
    """Fill an empty ledger; the metrics go through `runs.log`, as those of a training do."""
    now, versions, seconds = now_ms(), dict[tuple[str, str], int](), {}
    blank = {
        "uri": "",
        "bytes": 1,
        "meta": {"metrics": {"exact_match": {"value": 0.9}}},
        "created_ms": now,
        "updated_ms": now,
    }
    started = time.perf_counter()
    batch: list[tuple[dict[str, Any], list[dict[str, Any]]]] = []

    def flush() -> None:
        with ledger.db.write() as connection:
            connection.execute(assets.insert(), [blank | asset for asset, _ in batch])
            connection.execute(edges.insert(), [edge for _, links in batch for edge in links])
            row = {"experiment_id": 0, "status": "FINISHED", "started_ms": now, "config": {}}
            made = [row | {"id": a["run_id"], "capability": f"models.{a['kind']}", "name": a["name"]} for a, _ in batch]
            connection.execute(runs.insert(), made)
        batch.clear()

    for asset, links in life(count):
        key = asset["kind"], asset["name"]
        versions[key] = asset["version"] = versions.get(key, 0) + 1
        batch.append((asset, links))
        if len(batch) == BATCH:
            flush()
    if batch:
        flush()
    with ledger.db.write() as connection:
        rows = [{"kind": k, "name": n, "created_ms": now, "updated_ms": now} for k, n in versions]
        connection.execute(names.insert(), rows)
    seconds["assets, edges, runs"] = time.perf_counter() - started
    started = time.perf_counter()
    for start in range(0, points, 1000):
        run = f"{start // 1000 % count + 1:032x}"
        ledger.runs.log(run, [("loss" if i % 2 else "lr", 1 / (i + 1), i // 2, now + i) for i in range(1000)])
    seconds["metrics"] = time.perf_counter() - started
    return seconds


def measure(ledger: Ledger, project: Path, count: int) -> dict[str, tuple[float, float]]:
    """(wall, CPU) seconds of each question, the worst of three; on a busy machine CPU time is the steadier figure."""
    spec = nouns.restore(LIFECYCLE)
    store = Store(project / "store")
    for i in range(2):
        (project / f"{i}.jsonl").write_text('{"input": "a", "output": "b"}\n')
    last = ledger.assets.by_id(count)
    dataset = ledger.assets.latest("dataset")[0][0]
    last_release, last_model = (ledger.assets.recent(kind, limit=1)[0] for kind in ("release", "model"))
    questions: dict[str, Callable[[], Any]] = {
        "lineage up, of the newest release": lambda: ledger.assets.lineage(last_release),
        "lineage down, of a dataset": lambda: ledger.assets.lineage(dataset, "down"),
        "lineage up, of the newest model": lambda: ledger.assets.lineage(last_model),
        "plan of 10 nouns": lambda: plan(ledger, store, project, spec),
        "ls: the newest of each name": lambda: ledger.assets.latest(),
        "ls models: the newest 100": lambda: ledger.assets.recent("model"),
        "ls one name": lambda: ledger.assets.recent("model", last.name),
        "ls with scores": lambda: registry.versions(ledger, "model", last_model.name, 20),
        "ls runs": lambda: ledger.runs.recent(),
        "ls runs of a capability": lambda: ledger.runs.recent("models.dataset"),
        "show: an asset by its digest": lambda: ledger.assets.by_digest(last.digest),
        "metrics of a run, and one history": lambda: (
            ledger.runs.metrics(f"{1:032x}"), ledger.runs.history(f"{1:032x}", "loss"),
        ),
    }  # fmt: skip
    seconds: dict[str, tuple[float, float]] = {}
    for name, ask in questions.items():
        rounds = []
        for _ in range(3):
            wall, cpu = time.perf_counter(), time.process_time()
            ask()
            rounds.append((time.perf_counter() - wall, time.process_time() - cpu))
        seconds[name] = max(rounds)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="an empty database; SQLite in a temporary folder unless given")
    parser.add_argument("--assets", type=int, default=100_000)
    parser.add_argument("--metrics", type=int, default=1_000_000)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(given.url or f"sqlite:///{folder}/ledger.db")
        filled = load(ledger, given.assets, given.metrics)
        asked = measure(ledger, Path(folder), given.assets)
        with ledger.db.read() as connection:
            counts = {t.name: connection.exec_driver_sql(f"SELECT count(*) FROM {t.name}").scalar()
                      for t in (assets, edges, runs, metrics, latest_metrics)}  # fmt: skip
        size = Path(folder, "ledger.db").stat().st_size if not given.url else None
        found = {
            "database": ledger.db.engine.dialect.name, "rows": counts, "file_bytes": size, "cpus": os.cpu_count(),
            "python": platform.python_version(), "load_s": filled, "wall_and_cpu_s": asked,
        }  # fmt: skip
        ledger.close()
    if given.json:
        print(json.dumps(found))
        return
    print(f"{found['database']}: " + ", ".join(f"{n:,} {name}" for name, n in counts.items()))
    print("\n".join(f"  load {name:<38} {s:8.2f} s" for name, s in filled.items()))
    for name, (wall, cpu) in asked.items():
        print(f"  {name:<43} {wall * 1000:8.1f} ms   CPU {cpu * 1000:7.1f} ms" + ("   ← over 1 s" if wall > 1 else ""))


if __name__ == "__main__":
    main()
