"""Maps in processes of this machine, a few tasks a worker under way; what a killed worker had runs again."""

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from typing import Any

import msgspec

from longrein.core.errors import Error

VERSION = 1
AHEAD = 2  # tasks a worker that are under way: one in work, one waiting
RETRIES = 3  # of a task whose worker died


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of `compute: {runner: {local: …}}`: none."""


@dataclass
class _Waiting:
    task: Any
    future: "Future[Any] | None" = None  # none yet, or no more since its pool died


class Local:
    """One worker maps in this process; more are started once there is something to do."""

    shared = True

    def __init__(self, options: Mapping[str, Any], workers: int) -> None:
        msgspec.convert(options, Options)
        self.workers = workers
        self._pool: ProcessPoolExecutor | None = None

    def map(self, function: Callable[[Any], Any], tasks: Iterable[Any]) -> Iterator[Any]:
        if self.workers < 2:
            yield from map(function, tasks)
            return
        stream, waiting, deaths = iter(tasks), deque[_Waiting](), 0
        while True:
            try:
                for task in islice(stream, AHEAD * self.workers - len(waiting)):
                    waiting.append(_Waiting(task))
                for one in waiting:
                    if one.future is None:
                        one.future = self._started().submit(function, one.task)
                if not waiting:
                    return
                assert waiting[0].future is not None
                result = waiting[0].future.result()
            except BrokenProcessPool as error:  # all its workers go when one dies
                deaths += 1
                if deaths > RETRIES:
                    hint = "they may lack memory: lower `compute.cpus`"
                    raise Error("failed", f"workers died {deaths} times at one task", hint) from error
                self.close()
                for one in waiting:
                    one.future = None
                continue
            deaths = 0
            waiting.popleft()
            yield result

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        self._pool = None

    def _started(self) -> ProcessPoolExecutor:
        if self._pool is None:
            # Spawned: children of this process, whose CPU time counts as its own. Forked ones would take over locks.
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self.workers, context, initializer=_follow)
        return self._pool


def _follow() -> None:
    """A worker ends with the process that it works for, however that ends, and takes one CPU."""
    os.environ["OMP_NUM_THREADS"] = "1"  # no library that reads it is loaded yet
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_after, args=(parent,), daemon=True).start()


def _end_after(parent: Any) -> None:
    parent.join()
    os._exit(1)


plugin = Local
