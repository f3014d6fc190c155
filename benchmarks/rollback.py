"""Rollback: from the commit of `longrein rollback` to the first answer of the old release, in every gateway process.

    python benchmarks/rollback.py                          # 2 gateways, 40 rollbacks warm and 4 cold, SQLite
    python benchmarks/rollback.py --url postgresql://user@host/empty --gateways 4 --json

Each gateway is a process of its own over one ledger, and is asked without a pause while the release is taken back and
put into production again. `warm` keeps the release before live (keep_warm_s, the default); `cold` does not, so that its
engine has to start first. The engine says one word and loads in no time: a real one makes `cold` longer by its load,
and `warm` no longer. `command` is the time until the commit; the others are from the commit on.
"""

import argparse
import contextlib
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from longrein.core.digest import canonical
from longrein.core.ledger import Asset, Ledger
from longrein.core.store import Store
from longrein.models.registry import promote
from longrein.models.rollback import rollback

ENGINE = """
from longrein.core.generation import Event, Usage


class Word:
    def __init__(self, model, options):
        self.info, self.waiting = {"context": 100, "chat": True}, []

    def submit(self, request):
        self.waiting.append(request.id)

    def cancel(self, id):
        pass

    def step(self):
        done, self.waiting = self.waiting, []
        return [Event(id, "word", [1], None, "stop", None, Usage(1, 1)) for id in done]

    def pending(self):
        return len(self.waiting)

    def stats(self):
        return {}


plugin = Word
"""
SERVE = """
import sys
from pathlib import Path
from longrein.core.ledger import Ledger
from longrein.core.store import Store
from longrein.gateway.server import Gateway
folder = Path(sys.argv[1])
gateway = Gateway(Ledger(sys.argv[2]), Store(folder / ".longrein/store"), folder, port=0)
print(gateway.url, flush=True)
gateway.serve()
"""


class Asked(threading.Thread):
    """Asks one gateway again and again; `seen` has the time and release of each answer."""

    def __init__(self, url: str, key: str) -> None:
        super().__init__(daemon=True)
        self.url, self.key, self.failed = url, key, 0
        self.seen: list[tuple[float, str]] = []
        self.done = threading.Event()
        self.start()

    def run(self) -> None:
        body = json.dumps({"model": "shop", "messages": [{"role": "user", "content": "hi"}]}).encode()
        headers = {"authorization": f"Bearer {self.key}", "content-type": "application/json"}
        while not self.done.is_set():
            try:
                with urlopen(Request(self.url + "/v1/chat/completions", body, headers), timeout=60) as answer:
                    answer.read()
                    self.seen.append((time.perf_counter(), answer.headers["x-longrein-release"]))
            except OSError:
                self.failed += 1
                time.sleep(0.01)


def release(ledger: Ledger, store: Store, folder: Path, name: str) -> Asset:
    """A release of a model that is a file with a name."""
    model = folder / name
    model.mkdir()
    (model / "name").write_text(name)
    stored = store.put(model)
    ledger.assets.put("model", "shop", stored.digest, uri=stored.uri, actor="bench")
    meta = {"model": {"digest": stored.digest, "uri": stored.uri}, "prompt": None, "engine": "word", "options": {}}
    path = folder / f"{name}.json"
    path.write_bytes(canonical(meta))
    stored = store.put(path)
    return ledger.assets.put("release", "shop", stored.digest, uri=stored.uri, meta=meta, actor="bench")


@contextlib.contextmanager
def gateways(folder: Path, url: str, count: int) -> Iterator[list[str]]:
    """The addresses of so many gateways, each a process of its own."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SERVE, str(folder), url],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for _ in range(count)
    ]
    try:
        yield [process.stdout.readline().strip() for process in processes if process.stdout]
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()


def moved(asked: list[Asked], digest: str, move: Callable[[], Any]) -> tuple[float, list[float]]:
    """(how long the command took, from its commit to the first answer of `digest` in each gateway), in ms."""
    began = time.perf_counter()
    move()
    commit = time.perf_counter()
    waits = []
    for one in asked:
        while not (first := next((t for t, d in reversed(one.seen[-3:]) if d == digest), None)):
            time.sleep(0.0005)
        times = [t for t, d in one.seen if d == digest and t > began]
        waits.append(max(0.0, (min(times) if times else first) - commit) * 1000)
    return (commit - began) * 1000, waits


def measure(url: str, count: int, rounds: int, keep_warm_s: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "plugins" / "engine").mkdir(parents=True)
        (folder / "plugins" / "engine" / "word.py").write_text(ENGINE)
        url = url or f"sqlite:///{folder}/.longrein/ledger.db"
        ledger, store = Ledger(url), Store(folder / ".longrein" / "store")
        key = ledger.keys.create("bench", actor="bench")
        way = {"strategy": "blue_green", "keep_warm_s": keep_warm_s}
        endpoint = {"model": "shop", "engine": "word", "rollout": way}
        ledger.work.want({"project": "bench", "endpoints": {"shop": endpoint}}, actor="bench")
        old, new = (release(ledger, store, folder, name) for name in ("old", "new"))
        promote(ledger, old, actor="bench")
        with gateways(folder, url, count) as addresses:
            asked = [Asked(address, key) for address in addresses]
            moved(asked, old.digest, lambda: None)
            moved(asked, new.digest, lambda: promote(ledger, new, actor="bench"))
            time.sleep(2)
            for one in asked:
                one.failed = 0  # before their engines had started
            commands, waits = [], []
            for _ in range(rounds):
                took, waited = moved(asked, old.digest, lambda: rollback(ledger, "shop", "1", actor="bench"))
                commands.append(took)
                waits += waited
                moved(asked, new.digest, lambda: promote(ledger, new, actor="bench"))
                time.sleep(0.137)  # so that rollbacks come at any moment of the gateways' looking
            for one in asked:
                one.done.set()
            for one in asked:
                one.join()
        ledger.close()
    ordered = sorted(waits)
    return {
        "rollbacks": rounds, "gateways": count, "command_ms": round(statistics.median(commands), 1),
        "median_ms": round(statistics.median(ordered), 1), "p99_ms": round(ordered[int(len(ordered) * 0.99)], 1),
        "most_ms": round(ordered[-1], 1), "answers": sum(len(a.seen) for a in asked),
        "failed": sum(a.failed for a in asked),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="", help="of an empty ledger; SQLite in a temporary folder if not given")
    parser.add_argument("--gateways", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--cold", type=int, default=4, help="rollbacks to a release that is not live")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found = {"warm": measure(given.url, given.gateways, given.rounds, 600)}
    if given.cold and not given.url:
        found["cold"] = measure("", given.gateways, given.cold, 0)
    if given.json:
        print(json.dumps({"machine": platform.platform(), "python": platform.python_version(), **found}))
        return
    print(f"{'':6}{'rollbacks':>10}{'command':>10}{'median':>10}{'p99':>10}{'most':>10}{'answers':>10}{'failed':>8}")
    for name, f in found.items():
        times = "".join(f"{f[k]:>7.1f} ms" for k in ("command_ms", "median_ms", "p99_ms", "most_ms"))
        print(f"{name:6}{f['rollbacks']:>10}{times}{f['answers']:>10}{f['failed']:>8}")


if __name__ == "__main__":
    main()
