"""The way of request records from the request path to the ledger: a buffer, a writer thread, a folder for bad days."""

import logging
import os
import threading
import uuid
from collections import deque
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy.exc import SQLAlchemyError

from longrein.core.errors import Error
from longrein.core.ledger import Ledger

EVERY_S = 0.5
BATCH = 500
log = logging.getLogger(__name__)


class Record(msgspec.Struct, kw_only=True):
    """One request, answered or not; the fields are the columns of the ledger's request log."""

    id: str
    ts_ms: int
    endpoint: str = ""
    release: str = ""  # digest
    key_id: str = ""
    status: int = 500
    finish_reason: str = ""  # stop, length, cancelled, error
    prompt_tokens: int = 0
    completion_tokens: int = 0
    ttft_ms: float | None = None
    total_ms: float = 0.0
    cost_usd: float | None = None
    input_digest: str = ""
    input: str | None = None
    output: str | None = None


class Recorder:
    """`put` never waits for the ledger. A thread writes what has come every half second; while the ledger is away
    each batch becomes a file in the folder `spill`, and goes from there to the ledger when that is back."""

    def __init__(self, ledger: Ledger, spill: Path, limit: int = 20_000) -> None:
        self.ledger, self.spill, self.limit = ledger, spill, limit
        self.failing = False
        self._buffer: deque[Record] = deque()
        self._closing = threading.Event()
        self._writing = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="request log", daemon=True)
        spill.mkdir(parents=True, exist_ok=True)
        self._thread.start()

    def put(self, record: Record) -> None:
        self._buffer.append(record)
        if len(self._buffer) > self.limit:  # the ledger hangs: memory stays bounded, and nothing is lost
            self._keep(self._take(self.limit))

    def flush(self) -> None:
        """Write all that has come; when it returns it is in the ledger or on disk."""
        with self._writing:
            while batch := self._take(BATCH):
                if not self._write(batch):
                    self._keep(batch)
            self._replay()

    def close(self) -> None:
        self._closing.set()
        self._thread.join()
        self.flush()

    def _run(self) -> None:
        while not self._closing.wait(EVERY_S):
            try:
                self.flush()
            except OSError as error:  # the disk is full or gone as well: serving goes on
                log.error("request records are lost: %s", error)

    def _take(self, most: int) -> list[Record]:
        return [self._buffer.popleft() for _ in range(min(most, len(self._buffer)))]

    def _write(self, records: list[Record]) -> bool:
        try:
            self.ledger.requests.put(map(_row, records))
        except (Error, SQLAlchemyError) as error:
            if not self.failing:
                log.warning("request records are kept on disk, for the ledger refuses them: %s", error)
            self.failing = True
            return False
        self.failing = False
        return True

    def _keep(self, records: list[Record]) -> None:
        """One file a batch, whole or not at all, so that neither threads nor processes need a lock."""
        file = self.spill / f"{records[0].ts_ms}-{uuid.uuid4().hex}.jsonl"
        staged = file.with_suffix(".tmp")
        staged.write_bytes(b"\n".join(map(msgspec.json.encode, records)))
        os.replace(staged, file)

    def _replay(self) -> None:
        for file in sorted(self.spill.glob("*.jsonl")):
            try:
                records = [msgspec.json.decode(line, type=Record) for line in file.read_bytes().splitlines()]
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                log.error("%s is damaged and set aside: %s", file, error)
                file.rename(file.with_suffix(".damaged"))
                continue
            if not self._write(records):
                return
            file.unlink(missing_ok=True)  # written twice after a crash here: the log counts an id once


def _row(record: Record) -> dict[str, Any]:
    """PostgreSQL keeps no NUL in text."""
    row = msgspec.structs.asdict(record)
    return {k: v.replace("\0", "\ufffd") if isinstance(v, str) else v for k, v in row.items()}
