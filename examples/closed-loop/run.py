"""Plays the users of a closed loop over real HTTP, and tells what the loop does about them. No hands.

    python run.py

Users ask what the model was trained for; then half of them begin to ask about two domains it has never seen. What they
really wanted is known some seconds later, and is sent to /v1/feedback as a label. The rest is Longrein's: it
notices, collects, trains, judges, and moves the better release in. Then two bad ones are forced past the gate, and are
taken back. Writes data/answers.csv, and accuracy.png where matplotlib is installed.
"""

import csv
import heapq
import http.client
import itertools
import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import urlopen

import longrein as lr

HERE = Path(__file__).parent
ENDPOINT = "assistant"
BAD = (
    ("a bad release", "    epochs: 4", "    epochs: 4\n    max_steps: 5"),
    ("a bad prompt", "    prompt: intent\n    gates", "    prompt: hurried\n    gates"),
)
Answer = tuple[float, str, bool, str]  # when (s), known or new, right, release


@dataclass
class Users:
    """Threads that ask, and one that labels what was answered `late_s` ago."""

    url: str
    key: str
    texts: dict[str, list[list[str]]]
    rate: float  # requests a second, all users together
    late_s: float
    new: float = 0.0  # share of those who ask what is new
    threads: int = 16
    answers: list[Answer] = field(default_factory=list)
    failed: int = 0

    def __post_init__(self) -> None:
        self.began = time.monotonic()
        self._labels: list[tuple[float, str, str]] = []
        self._stop, self._lock, self._turn = threading.Event(), threading.Lock(), itertools.count()
        random.Random(1).shuffle(self.texts["new"])
        self._next = {kind: itertools.cycle(texts) for kind, texts in self.texts.items()}
        self._all = [threading.Thread(target=self._ask, args=(i,), daemon=True) for i in range(self.threads)]
        self._all.append(threading.Thread(target=self._label, daemon=True))
        for thread in self._all:
            thread.start()

    def now(self) -> float:
        return time.monotonic() - self.began

    def close(self) -> None:
        self._stop.set()
        for thread in self._all:
            thread.join()

    def accuracy(self, kind: str, since: float = 0.0, until: float = 1e9, release: str = "") -> float:
        right = [a[2] for a in self.answers if a[1] == kind and since <= a[0] < until and release in ("", a[3])]
        return sum(right) / max(len(right), 1)

    def _ask(self, number: int) -> None:
        chosen, connection = random.Random(number), self._connect()
        due = time.monotonic() + number / self.rate
        while not self._stop.wait(max(0.0, due - time.monotonic())):
            due = max(due + self.threads / self.rate, time.monotonic() - 1)
            kind = "new" if chosen.random() < self.new else "known"
            with self._lock:
                text, wanted = next(self._next[kind])
            body = {
                "model": ENDPOINT,
                "messages": [{"role": "user", "content": text}],
                "max_tokens": 16,
                "temperature": 0,
            }
            status, headers, value = self._post(connection, "/v1/chat/completions", body)
            if status != 200:
                self.failed += 1
                connection = self._connect()
                continue
            right = value["choices"][0]["message"]["content"].strip() == wanted
            with self._lock:
                self.answers.append((self.now(), kind, right, headers.get("x-longrein-release", "")))
                heapq.heappush(self._labels, (time.monotonic() + self.late_s, value["id"], wanted))

    def _label(self) -> None:
        connection = self._connect()
        while not self._stop.wait(0.05):
            while self._labels and self._labels[0][0] < time.monotonic() and not self._stop.is_set():
                with self._lock:
                    _, id, wanted = heapq.heappop(self._labels)
                self._post(connection, "/v1/feedback", {"request_id": id, "label": wanted})

    def _connect(self) -> http.client.HTTPConnection:
        address = urlparse(self.url)
        return http.client.HTTPConnection(address.hostname or "", address.port, timeout=60)

    def _post(self, connection: http.client.HTTPConnection, path: str, body: Any) -> tuple[int, Any, Any]:
        head = {"authorization": f"Bearer {self.key}", "content-type": "application/json"}
        try:
            connection.request("POST", path, json.dumps(body), head)
            response = connection.getresponse()
            return response.status, response.headers, json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError):
            connection.close()  # it connects again by itself
            return 0, {}, None


class Story:
    """What happens, in order, and what came of it."""

    def __init__(self, root: Path, users: Users, tell: Callable[[str], Any]) -> None:
        self.root, self.users, self.tell = root, users, tell
        self.workspace = lr.open(root)
        self.ledger = self.workspace.ledger
        self.first = self.serving
        self.marks: list[tuple[float, str]] = []

    @property
    def serving(self) -> Any:
        return self.workspace.asset(f"release:{ENDPOINT}@prod")

    def mark(self, text: str) -> float:
        at = self.users.now()
        self.marks.append((at, text))
        self.tell(f"{at:5.0f} s  {text}")
        return at

    def wait_for_answers(self, count: int) -> None:
        count += len(self.users.answers)
        until("the answers", lambda: len(self.users.answers) >= count)

    def ended(self, id: int) -> Any:
        """A rollout, once it is over."""
        rollout = until("the end of the rollout", lambda: None if (r := self.ledger.rollouts.get(id)).live else r)
        what = rollout.status.replace("_", " ")
        self.mark(f"{rollout.candidate.ref} {what} by its {rollout.actor}: {rollout.reason}")
        return rollout

    def learns(self, quiet: int, after: int) -> dict[str, Any]:
        """Something new is asked; it is noticed, learnt and released."""
        users = self.users
        self.mark(f"{self.first.ref} answers what it was trained for")
        self.wait_for_answers(quiet)
        facts: dict[str, Any] = {"early": self.ledger.alerts.firing("drifted"), "before": users.accuracy("known")}
        shifted, asked = self.mark("half of the users ask about something new"), len(users.answers)
        users.new = 1 / 2
        alert = until("an alert", lambda: next(iter(self.ledger.alerts.firing("drifted")), None))
        facts |= {"alert": alert, "delay": sum(a[1] == "new" for a in users.answers[asked:])}
        self.mark(f"noticed after {facts['delay']} such requests: {alert.summary}")
        rollout = until("a new release", lambda: self.ledger.rollouts.live(ENDPOINT))
        files = self.root.glob("data/collected/*.jsonl")
        facts["rows"] = [json.loads(line) for file in files for line in file.open(encoding="utf-8")]
        self.mark(
            f"{len(facts['rows'])} labelled requests are learnt; {rollout.candidate.ref} passed its gate: a canary"
        )
        facts["rollout"] = self.ended(rollout.id)
        promoted = users.now()
        facts["during"] = users.accuracy("new", shifted, promoted, self.first.digest[:12])
        self.wait_for_answers(after)
        return facts | {k: users.accuracy(kind, promoted + 1) for k, kind in (("after", "new"), ("kept", "known"))}

    def survives(self, what: str, old: str, new: str) -> Any:
        """A bad one is forced past the gate: taken out of the file."""
        file = self.root / "longrein.yaml"
        original = file.read_text("utf-8")
        assert old in original and "gates: [quality]" in original
        file.write_text(original.replace(old, new).replace("gates: [quality]", "gates: []"), "utf-8")
        try:
            longrein(self.root, "apply")
        finally:
            file.write_text(original, "utf-8")
        rollout = until(what, lambda: self.ledger.rollouts.live(ENDPOINT))
        self.mark(f"{what}, {rollout.candidate.ref}, is forced past its gate")
        return self.ended(rollout.id)


def story(
    root: Path, *, rate: float = 25, late_s: float = 5, quiet: int = 800, after: int = 600,
    tell: Callable[[str], Any] = print,
) -> dict[str, Any]:  # fmt: skip
    """quiet: requests before the new ones come. after: so many with the new release. Returns what came of it."""
    longrein(root, "apply")
    texts = json.loads((root / "data" / "users.json").read_text("utf-8"))
    with served(root) as url:
        until("the gateway", lambda: ready(url))
        users = Users(url, lr.open(root).secret(), texts, rate, late_s)
        try:
            told = Story(root, users, tell)
            facts = told.learns(quiet, after) | {"learnt": told.serving}
            facts["bad"] = [told.survives(*bad) for bad in BAD]
            return facts | {"now": told.serving, "marks": told.marks, "answers": users.answers, "failed": users.failed}
        finally:
            users.close()


def ready(url: str) -> bool:
    try:
        with urlopen(url + "/readyz") as response:
            return bool(response.status == 200)
    except OSError:
        return False


def until(what: str, condition: Callable[[], Any], most_s: float = 600) -> Any:
    deadline = time.monotonic() + most_s
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not come within {most_s:.0f} s: longrein status, longrein rules")
        time.sleep(0.1)
    return found


def longrein(root: Path, *words: str) -> None:
    subprocess.run([sys.executable, "-m", "longrein.cli.main", "-q", *words, "-C", str(root)], check=True)


@contextmanager
def served(root: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "longrein.cli.main", "-q", "serve", "--port", "0", "-C", str(root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        try:
            yield server.stdout.readline().strip()
        finally:
            server.terminate()


def keep(root: Path, facts: dict[str, Any]) -> None:
    with (root / "data" / "answers.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("second", "domain", "right", "release"), *facts["answers"]])
    try:
        from matplotlib import pyplot
    except ImportError:
        return
    figure, axes = pyplot.subplots(figsize=(11, 5), layout="constrained")
    for kind, colour in (("known", "tab:blue"), ("new", "tab:orange")):
        mine = [a for a in facts["answers"] if a[1] == kind]
        parts = [mine[i : i + 100] for i in range(0, len(mine), 100)]
        points = [(sum(a[0] for a in part) / len(part), sum(a[2] for a in part) / len(part)) for part in parts]
        axes.plot(*zip(*points, strict=True), color=colour, marker=".", label=f"{kind} domains")
    for number, (at, text) in enumerate(facts["marks"], 1):
        axes.axvline(at, color="0.8", zorder=0)
        axes.text(at, 1.03, str(number), ha="center")
        axes.plot([], [], " ", label=f"{number}  {text.partition(': ')[0]}")
    axes.set(xlabel="seconds", ylabel="share of 100 answers that were right", ylim=(0, 1.1))
    figure.legend(loc="outside lower center", fontsize=8, ncols=2)
    figure.savefig(root / "accuracy.png", dpi=120)


if __name__ == "__main__":
    facts = story(HERE)
    keep(HERE, facts)
    print(f"known domains: {facts['before']:.1%} right before, {facts['kept']:.1%} after")
    print(f"new domains:   {facts['during']:.1%} right before, {facts['after']:.1%} after")
    print(f"{facts['now'].ref} answers; {facts['failed']} of {len(facts['answers'])} requests failed")
