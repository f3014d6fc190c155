"""The process that watches what gateways answer: alerts, drift, rules. `longrein watch`; `serve` and `up` start one.

It is apart from the gateway so that looking costs no answer its time. Any number may watch one ledger: what they say is
said once, because alerts and firings of rules have keys. Killed, it is started again and goes on from what it kept.
"""

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from sqlalchemy.exc import SQLAlchemyError

from longrein.control import nouns
from longrein.control.alerting import Alerting
from longrein.control.delivery import Delivery
from longrein.control.export import Export
from longrein.control.nouns import Lifecycle
from longrein.control.rules.observe import Rules
from longrein.core.errors import Error
from longrein.core.ledger import Ledger, now_ms
from longrein.core.store import Store

EVERY_S = 1.0
AGAIN_S = (0.5, 30.0)  # before one that died is started again: at first, and at most
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Site:
    """What there is to watch, and with what."""

    ledger: Ledger
    store: Store
    project: Path
    spec: Lifecycle  # as last applied
    actor: str

    @property
    def home(self) -> Path:
        return self.project / ".longrein"


class Part(Protocol):
    """Watches one kind of thing. Made anew whenever the wanted state changes: what must outlive that is on disk or in
    the ledger."""

    def look(self, now: int) -> None:
        """Called once a second, with the time in ms; takes milliseconds, or has a thread of its own. Errors: the
        ledger's are told once, and it is called again."""
        ...

    def close(self) -> None:
        """Keep what must be kept."""
        ...


def _drifting(site: Site) -> Part:
    from longrein.control.drifting import Drifting  # numpy has no place in the process that starts an observer

    return Drifting(site)


PARTS: Sequence[Callable[[Site], Part]] = (Alerting, Delivery, Export, _drifting, Rules)


class Observer:
    """Makes the parts for the wanted state, and lets them look."""

    def __init__(
        self, ledger: Ledger, store: Store, project: Path, *, actor: str,
        parts: Sequence[Callable[[Site], Part]] = PARTS, clock: Callable[[], int] = now_ms,
    ) -> None:  # fmt: skip
        self.ledger, self.store, self.project, self.actor = ledger, store, project, actor
        self._makers, self._clock = parts, clock
        self._head: tuple[int, str] | None = None
        self._spec: Lifecycle | None = None
        self._parts: list[Part] = []
        self._failing: set[str] = set()

    def run(self, stop: threading.Event) -> None:
        """Until told to stop."""
        try:
            while not stop.wait(EVERY_S):
                self.look()
        finally:
            self.close()

    def look(self) -> None:
        """Once, all of them; while the ledger is away, nothing is lost but time."""
        self._attempt("the wanted state", self._follow)
        for part in self._parts:
            self._attempt(type(part).__name__, partial(part.look, self._clock()))

    def close(self) -> None:
        parts, self._parts = self._parts, []
        for part in parts:
            self._attempt(type(part).__name__, part.close)

    def _follow(self) -> None:
        head = self.ledger.events.head()
        if head == self._head:
            return
        wanted = self.ledger.work.wanted()
        spec = nouns.restore(wanted) if wanted else None
        if spec != self._spec and spec:
            self.close()
            site = Site(self.ledger, self.store, self.project, spec, self.actor)
            self._parts = [make(site) for make in self._makers]
        self._head, self._spec = head, spec

    def _attempt(self, what: str, do: Callable[[], None]) -> None:
        try:
            do()
            self._failing.discard(what)
        except (Error, SQLAlchemyError, OSError) as error:
            if what not in self._failing:
                log.warning("%s: %s", what, error)
            self._failing.add(what)


class Child:
    """An observer in a process of its own, started again when it dies, until closed."""

    def __init__(self, file: Path) -> None:
        self._command = [sys.executable, "-m", "longrein.cli.main", "watch", "--child", "-C", str(file)]
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="observer", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        """In the thread that starts it: Linux tells the child when that ends."""
        first, most = AGAIN_S
        wait_s = first
        while not self._stopping.is_set():
            born = time.monotonic()
            try:
                child = subprocess.Popen(
                    self._command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                    env={**os.environ, "LONGREIN_PARENT": str(os.getpid())},
                )  # fmt: skip
            except OSError as error:  # no more processes or memory for now
                log.error("the observer cannot be started: %s", error)
                self._stopping.wait(most)
                continue
            while child.poll() is None and not self._stopping.wait(0.1):
                pass
            if self._stopping.is_set():
                child.terminate()
                try:
                    child.wait(10)
                except subprocess.TimeoutExpired:
                    child.kill()
                    child.wait()
                return
            log.error("the observer ended with status %d", child.returncode)
            wait_s = first if time.monotonic() - born > most else min(wait_s * 2, most)
            self._stopping.wait(wait_s)
