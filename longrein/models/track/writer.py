"""Group commit: writes that arrive while a commit runs share the next one, and are answered when it is on disk."""

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

from longrein.core.ledger.database import Database

MOST = 256  # writes in one transaction: bounds how long a single one waits


class _Job(NamedTuple):
    work: Callable[[], Any]
    loop: asyncio.AbstractEventLoop
    answer: "asyncio.Future[Any]"


class Writer:
    """One thread that does all writes of this process, in order, in transactions of up to 256 writes.

    A write must be repeatable until it is answered: when one of a batch fails, the transaction is rolled back and each
    runs again in one of its own, so that nobody pays for somebody else's mistake.
    """

    def __init__(self, db: Database) -> None:
        self.db = db
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._start = threading.Lock()
        self._thread: threading.Thread | None = None

    async def run(self, work: Callable[[], Any]) -> Any:
        """Do `work` inside a transaction; returns once it is committed. Errors: whatever `work` raises."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()
        if self._thread is None:
            self._begin()
        self._jobs.put(_Job(work, loop, answer))
        return await answer

    def _begin(self) -> None:
        with self._start:
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name="ledger-writer", daemon=True)
                self._thread.start()

    def _serve(self) -> None:
        while True:
            batch = [self._jobs.get()]
            while len(batch) < MOST:
                try:
                    batch.append(self._jobs.get_nowait())
                except queue.Empty:
                    break
            self._commit(batch)

    def _commit(self, batch: list[_Job]) -> None:
        try:
            with self.db.write():
                results = [job.work() for job in batch]
        except Exception as error:  # noqa: BLE001 — the edge of the thread: it goes to whoever asked, and the thread lives on
            if len(batch) == 1:
                _answer(batch, [error])
                return
            for job in batch:
                self._commit([job])
            return
        _answer(batch, results)


def _answer(batch: list[_Job], results: list[Any]) -> None:
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[_Job, Any]]] = {}
    for job, result in zip(batch, results, strict=True):
        by_loop.setdefault(job.loop, []).append((job, result))
    for loop, answers in by_loop.items():
        if not loop.is_closed():
            loop.call_soon_threadsafe(_resolve, answers)


def _resolve(answers: list[tuple[_Job, Any]]) -> None:
    for job, result in answers:
        if job.answer.cancelled():
            continue
        if isinstance(result, Exception):
            job.answer.set_exception(result)
        else:
            job.answer.set_result(result)
