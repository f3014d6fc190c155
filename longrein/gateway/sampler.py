"""Samples of the engines and of the machine, once a second, into the blocks of traffic; no answer waits for them.

Of the gateway processes of a project on one host, one samples: the one that holds the lock.
"""

import asyncio
import platform
import threading
import time
from collections.abc import Mapping
from concurrent.futures import CancelledError
from contextlib import suppress
from pathlib import Path
from typing import Any

from longrein.core.errors import Error
from longrein.core.histogram import Histogram
from longrein.core.record import lock
from longrein.gateway.replicas import Fleet, Replica
from longrein.gateway.tally import Tally
from longrein.ops.monitor import probe
from longrein.ops.monitor.catalogue import grows

EVERY_S = 1.0
HAND_S = 5.0  # how often samples go to the ledger: while nobody asks anything, that is all that is written
STATS_S = 2.0  # how long an engine may take to answer
MOST = 60  # numbers of one engine
HOST = platform.node() or "localhost"
Numbers = Mapping[str, Any]


async def stats(fleet: Fleet) -> list[tuple[Replica, Numbers]]:
    """What the engines that are live say of themselves; nothing of one that does not answer."""
    replicas = [replica for lane in list(fleet.lanes.values()) for replica in lane.live]
    return list(zip(replicas, await asyncio.gather(*map(_stats, replicas)), strict=True))


async def _stats(replica: Replica) -> Numbers:
    try:
        return await asyncio.wait_for(replica.engine.stats(), STATS_S)
    except (Error, TimeoutError):
        return {}


class Gauges:
    """The samples of one engine, or of the machine. Pure: the time is given, in seconds."""

    def __init__(self) -> None:
        self.found: dict[str, Histogram] = {}
        self._before: dict[str, float] = {}
        self._sizes: dict[str, int] = {}
        self._at: float | None = None

    def sample(self, numbers: Numbers, now: float) -> None:
        """Numbers as they are; of those that only grow, what they grew by since the last sample. What has fallen was
        begun anew: by another process, after the first had ended."""
        for name, value in list(numbers.items())[:MOST]:
            if not isinstance(value, (int, float)):
                continue
            if grows(name):
                before, self._before[name] = self._before.get(name), value
                value = 0.0 if before is None else value - before if value >= before else value
            self._record(name, value)
        self._batches(numbers.get("batch_sizes") or {})
        self._record("alive_s_total", 0.0 if self._at is None else max(now - self._at, 0.0))
        self._at = now

    def take(self) -> dict[str, Histogram]:
        """What was sampled since it was taken last."""
        found, self.found = self.found, {}
        return found

    def _record(self, name: str, value: float, times: int = 1) -> None:
        (self.found.get(name) or self.found.setdefault(name, Histogram())).record(value, times)

    def _batches(self, sizes: Mapping[str, int]) -> None:
        before, self._sizes = self._sizes, dict(sizes)
        for size, steps in sizes.items():
            if before and (grown := steps - before.get(size, 0)) > 0:
                self._record("batch", float(size), grown)


class Sampler:
    """Samples in a thread of its own until closed; what the engines say is asked in the loop that owns them."""

    def __init__(self, fleet: Fleet, tally: Tally, project: Path, loop: asyncio.AbstractEventLoop) -> None:
        self.fleet, self.tally, self.project, self.loop = fleet, tally, project, loop
        self._gauges: dict[tuple[str, str], Gauges] = {}
        self._seen: set[tuple[str, str]] = set()
        run = project / ".longrein" / "run"
        run.mkdir(parents=True, exist_ok=True)
        self._file = (run / "sampler.lock").open("ab")
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Not from the loop, which may be asked once more."""
        self._closing.set()
        self._thread.join()
        self._file.close()

    def _run(self) -> None:
        held, handed = False, time.monotonic()
        while not self._closing.wait(EVERY_S):
            held = held or lock(self._file)
            if held:
                self._sample(time.monotonic())
                if time.monotonic() - handed >= HAND_S:
                    handed = time.monotonic()
                    self._sample_one(("", HOST), probe.accelerators(), handed)
                    self._hand()
        self._hand()

    def _sample(self, now: float) -> None:
        self._sample_one(("", HOST), probe.machine(self.project), now)
        asked = asyncio.run_coroutine_threadsafe(stats(self.fleet), self.loop)
        with suppress(TimeoutError, CancelledError):
            self._seen = {("", HOST)}
            for replica, numbers in asked.result(2 * STATS_S):
                if numbers:
                    self._sample_one((replica.target.endpoint, replica.target.digest), numbers, now)

    def _sample_one(self, whose: tuple[str, str], numbers: Numbers, now: float) -> None:
        self._seen.add(whose)
        (self._gauges.get(whose) or self._gauges.setdefault(whose, Gauges())).sample(numbers, now)

    def _hand(self) -> None:
        for whose, gauges in list(self._gauges.items()):
            if found := gauges.take():
                self.tally.gauge(*whose, found)
            elif whose not in self._seen:
                del self._gauges[whose]  # no longer live
