"""The observer's part that fires rules, and sees to it that what was fired is done, in processes of their own."""

import logging
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from longrein.control import nouns
from longrein.control.plan import look, step_name
from longrein.control.rules import due, firing
from longrein.control.rules.due import Cause
from longrein.control.rules.rule import DATA
from longrein.core.errors import Error
from longrein.core.ledger import Ledger, now_ms
from longrein.core.store import Store
from longrein.data import ingest, source

if TYPE_CHECKING:
    from longrein.control.observer import Site

AGAIN_MS = 10_000  # before a process that ended early is started again
DATA_S = 2.0  # how often the files of datasets are looked at
NICE = "5"  # of what rules start: answers come first
RECENT = 200  # alerts that are looked at beside those that fire
log = logging.getLogger(__name__)


class Rules:
    """Looks once a second. What it starts outlives it, and is started again by the next when it dies."""

    def __init__(self, site: "Site") -> None:
        self.site, self.rules = site, site.spec.rules
        self.declared = {
            name: site.ledger.work.declared_ms(lambda spec, name=name: (spec.get("rules") or {}).get(name))  # type: ignore[misc]
            for name in self.rules
        }
        self.sources = Sources(site) if any(rule.on == DATA for rule in self.rules.values()) else None
        self._at_work: dict[str, tuple[subprocess.Popen[bytes], int]] = {}  # and when it was started

    def look(self, now: int) -> None:
        ledger = self.site.ledger
        causes = found(ledger, now) if self.rules else []
        causes += self.sources.changed() if self.sources else []
        for name, rule in self.rules.items():
            timed = due.of_schedule(name, rule, self.declared[name], now)
            mine = [c for c in [*causes, *([timed] if timed else [])] if due.matches(rule, c, now)]
            if mine:
                firing.fire(ledger, name, rule, mine, actor=self.site.actor, now=now)
        waiting = firing.waiting(ledger)
        self._at_work = {
            key: (process, began) for key, (process, began) in self._at_work.items()
            if process.poll() is None or (key in waiting and began <= now < began + AGAIN_MS)
        }  # fmt: skip
        for key in waiting:
            if key not in self._at_work:
                self._at_work[key] = start(self.site.project, key), now

    def close(self) -> None:
        if self.sources:
            self.sources.close()


def found(ledger: Ledger, now: int) -> list[Cause]:
    """What the alerts that fire stand for, and those that are only just over."""
    alerts = {a.id: a for a in ledger.alerts.recent(RECENT) if a.firing or now - a.fired_ms < due.SETTLED_MS}
    alerts |= {a.id: a for a in ledger.alerts.firing()}
    return [due.of_alert(alert) for alert in alerts.values()]


def start(project: Path, key: str) -> "subprocess.Popen[bytes]":
    """A process that does what a firing asks for, and dies with this one."""
    command = [sys.executable, "-m", "longrein.cli.main", "-q", "rules", "resume", key, "-C", str(project)]
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        env={**os.environ, "LONGREIN_PARENT": str(os.getpid()), "LONGREIN_NICE": NICE},
    )  # fmt: skip


class Sources:
    """Tells which datasets' sources are no longer those of their newest version, in a thread of its own."""

    def __init__(self, site: "Site") -> None:
        self.site = site
        self._found: list[Cause] = []
        self._seen: object = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sources", daemon=True)
        self._thread.start()

    def changed(self) -> list[Cause]:
        return self._found

    def close(self) -> None:
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closing.wait(DATA_S):
            try:
                seen = self._stats()
                settled, self._seen = seen == self._seen, seen
                self._found = changes(self.site.ledger, self.site.store, self.site.project, self.site.spec) * settled
            except (Error, OSError) as error:  # a file is being moved: the next look sees it
                log.info("sources cannot be read just now: %s", error)

    def _stats(self) -> object:
        files = (f for d in self.site.spec.datasets.values() for f in source.find(_local(d), self.site.project))
        return {file.name: source.stat(file.path) for file in files}


def changes(ledger: Ledger, store: Store, project: Path, spec: nouns.Lifecycle) -> list[Cause]:
    """Datasets that were made before and would be made anew now, from other files."""
    causes = []
    for step in nouns.steps(spec):
        last = ledger.work.last(step_name(step)) if step.kind == "dataset" and step.sources else None
        if last is None:
            continue
        one = look(ledger, store, project, step, {})
        new = one.basis.get("sources", {})
        if one.status == "ready" and new != last.basis.get("sources"):
            names = [name for name in new if new[name] != last.basis.get("sources", {}).get(name)]
            causes.append(due.of_data(step.id, one.key, _collected(ledger, names), now_ms()))
    return causes


def _local(dataset: ingest.Config) -> list[str | source.Source]:
    return [s for s in dataset.sources if not source.plugin_of(s)]


def _collected(ledger: Ledger, names: list[str]) -> tuple[str, ...]:
    """The rules whose collected files these are, where they are nothing else."""
    stems = {Path(name).stem for name in names}
    for one in firing.recent(ledger, limit=50):
        mine = f"{one.name}-{one.run.id[:12]}"
        if stems == {mine}:
            return tuple(one.by)
    return ()
