"""Sends on what was answered: the observer's part that follows the request log for each sink of longrein.yaml.

Requests become traces, a share of them, and counts, all of them. What was sent and counted is kept in a file: killed,
it goes on there, and at most one batch is sent twice. While a collector is away its traces wait, and the oldest are
given up past a bound; of the counts nothing is lost, for they only grow.
"""

import logging
import platform
import random
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import msgspec

from longrein.core import plugins, trace
from longrein.core.errors import Error
from longrein.core.files import replace
from longrein.core.ledger import now_ms
from longrein.core.ports import Sink
from longrein.core.record import FOLDER, Record, held_bytes, lock
from longrein.data.requests import PERSONAL
from longrein.data.tail import Tail, Taken
from longrein.ops.monitor.sink import Config
from longrein.ops.monitor.totals import Totals

if TYPE_CHECKING:
    from longrein.control.observer import Site

EVERY_S = 1.0
PIECES = 100  # of the log, taken before the counts have their turn again
BATCH, BATCH_BYTES = 512, 4 << 20
WAITING, WAITING_BYTES = 10_000, 64 << 20  # traces held while a collector is away
BACKOFF_MS, MAX_WAIT_MS = (1_000, 60_000), 300_000
KIND, ALERT_MS = "sink_failing", 60_000  # a sink that fails for so long is an alert
HOST = platform.node()
log = logging.getLogger(__name__)


class Export:
    """A thread a sink: collectors may be slow."""

    def __init__(self, site: "Site") -> None:
        self.ledger, self.actor = site.ledger, site.actor
        self.threads = {f"sink:{name}": Thread(Exporter(site, name, c)) for name, c in site.spec.sinks.items()}
        self._tidy = False  # whether alerts of sinks that are no more were ended

    def look(self, now: int) -> None:
        if self._tidy and not self.threads:
            return
        found = {subject: list(thread.exporter.problems.values()) for subject, thread in self.threads.items()}
        firing = {(alert.subject, alert.name): alert for alert in self.ledger.alerts.firing(KIND)}
        for subject, problems in found.items():
            since, why = min(problems, default=(now, ""))
            known = firing.get((subject, HOST))
            if now - since >= ALERT_MS and not (known and known.summary == why):
                self.ledger.alerts.fire(KIND, subject, HOST, summary=why, since_ms=since, actor=self.actor)
        for subject, host in firing:
            if subject not in found or (host == HOST and not found[subject]):
                self.ledger.alerts.resolve(KIND, subject, host, actor=self.actor)
        self._tidy = True

    def close(self) -> None:
        for thread in self.threads.values():
            thread.close()


class Thread:
    def __init__(self, exporter: "Exporter") -> None:
        self.exporter = exporter
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"sink {exporter.name}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closing.wait(EVERY_S):
            self.exporter.attempt(now_ms())
        self.exporter.close()


class Exporter:
    """One sink of this host. problems: {signal: (since when, why)}; none while all is well."""

    def __init__(self, site: "Site", name: str, config: Config) -> None:
        self.name, self.config = name, config
        self.requests, self.home = site.home / FOLDER, site.home / "sinks"
        self.instance = f"{HOST}/{site.spec.project}"
        self.problems: dict[str, tuple[int, str]] = {}
        self.waiting: deque[Taken] = deque()
        self._bytes = 0  # of those
        self._sink: Sink
        self._tail: Tail
        self._totals: Totals
        self._sent: dict[str, int] = {}  # up to where the log was sent
        self._counted: dict[str, int] = {}  # up to where it had been counted when it was opened
        self._lock: BinaryIO | None = None
        self._not_before = self._metrics_at = 0
        self._wait_ms = BACKOFF_MS[0]

    def attempt(self, now: int) -> None:
        """`look`, where what fails is told once."""
        try:
            if self._lock or self._open(now):
                self.look(now)
            self.problems.pop("", None)
        except Exception as error:  # noqa: BLE001 - the edge of its thread: a sink may be anybody's plugin
            self._failed(now, "", f"{type(error).__name__}: {error}" if not isinstance(error, Error) else error.message)

    def look(self, now: int) -> None:
        """Take what is new, send what is due. Errors: OSError."""
        for _ in range(PIECES):
            if not (taken := self._tail.take()):
                break
            self._add(taken)
            while len(self.waiting) >= BATCH and self._send(now):
                pass
            self._give_up()
        while self.waiting and self._send(now):
            pass
        if not self.waiting:
            self._sent = self._tail.place
        if self.config.metrics and now >= max(self._metrics_at, self._not_before):
            self._metrics_at = now + int(self.config.every_s * 1000)
            self._save()  # first: what is told of a count must not be forgotten
            if points := self._totals.points():
                self._try(now, "metrics", lambda: self._sink.metrics(points, self._totals.start_ms, now))

    def close(self) -> None:
        if self._lock:
            with suppress(OSError):  # the disk is full: what was sent since it was saved last is sent again
                self._save()
            self._tail.close()
            self._lock.close()
            self._lock = None

    def _open(self, now: int) -> bool:
        """Go on where this sink was left; False while another process has it."""
        self.home.mkdir(parents=True, exist_ok=True)
        file = (self.home / f"{self.name}.lock").open("ab")
        if not lock(file):
            file.close()
            return False
        options = {"url": self.config.url, "headers": self.config.headers, **self.config.options}
        try:
            self._sink = plugins.load("sink", self.config.sink)(options, self.instance)
            kept = self._kept()
        except BaseException:
            file.close()
            raise
        self._sent, self._counted = (kept or {}).get("sent", {}), (kept or {}).get("counted", {})
        self._totals = Totals.from_json(kept["totals"]) if kept else Totals(now)
        self._tail = Tail(self.requests, self._sent if kept else None)
        self._sent = self._tail.place
        self._lock = file
        self._save()
        return True

    def _add(self, taken: list[Taken]) -> None:
        for one in taken:
            if one.end > self._counted.get(one.segment, 0):
                self._totals.add(one.record)
            if trace.of(one.record.id, one.record.trace).kept(self.config.traces):
                one = one._replace(record=self._shown(one.record))
                self.waiting.append(one)
                self._bytes += held_bytes(one.record)

    def _shown(self, record: Record) -> Record:
        return record if self.config.personal else msgspec.structs.replace(record, **PERSONAL)

    def _send(self, now: int) -> bool:
        """One batch; False when it has to wait."""
        if now < self._not_before:
            return False
        batch: list[Taken] = []
        size = 0
        for one in self.waiting:
            size += held_bytes(one.record)
            if batch and (len(batch) == BATCH or size > BATCH_BYTES):
                break
            batch.append(one)
        refused = self._try(now, "traces", lambda: self._sink.traces([one.record for one in batch]))
        if refused is None and now < self._not_before:
            return False
        self._totals.drop("refused", len(batch) if refused is None else refused)
        self._done(len(batch))
        self._save()
        return True

    def _try(self, now: int, signal: str, send: Callable[[], int]) -> int | None:
        """How many were refused, or None: all of them, or, where _not_before is later, none yet."""
        try:
            refused = send()
        except Error as error:
            self._failed(now, signal, error.message)
            if error.code == "unavailable":
                wait = max(self._wait_ms * random.uniform(0.5, 1), error.details.get("retry_after_s", 0) * 1000)
                self._not_before = now + int(min(wait, MAX_WAIT_MS))
                self._wait_ms = min(2 * self._wait_ms, BACKOFF_MS[1])
            return None
        self._wait_ms = BACKOFF_MS[0]
        if refused:
            self._failed(now, signal, f"{refused} of the {signal} were refused")
        else:
            self.problems.pop(signal, None)
        return refused

    def _failed(self, now: int, signal: str, why: str) -> None:
        if signal not in self.problems:
            log.warning("sink %s: %s", self.name, why)
        self.problems[signal] = (self.problems.get(signal, (now, ""))[0], why)

    def _give_up(self) -> None:
        """The oldest, past what may wait."""
        while len(self.waiting) > WAITING or self._bytes > WAITING_BYTES:
            self._totals.drop("behind", 1)
            self._done(1)

    def _done(self, count: int) -> None:
        for _ in range(count):
            one = self.waiting.popleft()
            self._bytes -= held_bytes(one.record)
            self._sent[one.segment] = one.end

    def _kept(self) -> Any:
        try:
            return msgspec.json.decode(self._file.read_bytes())
        except FileNotFoundError:
            return None
        except msgspec.DecodeError:
            log.warning("sink %s: %s cannot be read; it begins anew", self.name, self._file)
            return None

    def _save(self) -> None:
        counted = self._tail.place
        sent = {name: end for name, end in self._sent.items() if name in counted} if self.waiting else counted
        state = {"sent": sent, "counted": counted, "totals": self._totals.as_json()}
        replace(self._file, msgspec.json.encode(state))

    @property
    def _file(self) -> Path:
        return self.home / f"{self.name}.json"
