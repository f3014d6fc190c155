"""The way of request records from the request path to the request log on disk: a buffer, and a thread that appends."""

import logging
import os
import secrets
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from longrein.core.record import DAYS, TEXT_DAYS, Record, Segment, held_bytes, segments
from longrein.gateway.tally import Tally

__all__ = ["Record", "Recorder"]

EVERY_S = 0.5
KEEP_S = 600.0  # how often segments are sealed, and what is past its time forgotten
MANY = 100
MOST, MOST_BYTES = 50_000, 64 << 20  # held in memory while the disk is slow or full; what comes then is dropped
PIECE = 1_000  # records in one write
log = logging.getLogger(__name__)


def policies(endpoints: Mapping[str, Mapping[str, Any]]) -> dict[str, tuple[float, float]]:
    """How many days each endpoint keeps its texts and its records, where it says so."""
    said = {
        name: (float(c.get("text_days", TEXT_DAYS)), float(c.get("log_days", DAYS))) for name, c in endpoints.items()
    }
    return {name: days for name, days in said.items() if days != (TEXT_DAYS, DAYS)}


class Recorder:
    """`put` appends to a buffer and never waits. The ledger is not needed: what is on disk is the log.

    policies: {endpoint: (days that texts are kept, days that records are)}. seal: whether this process starts the one
    that seals segments from time to time. dropped: records lost so far because the disk was slow or full.
    """

    def __init__(self, folder: Path, tally: Tally | None = None, *, most: int = MOST, seal: bool = True) -> None:
        self.folder, self.tally, self.most, self.seal = folder, tally, most, seal
        self.policies: dict[str, tuple[float, float]] = {}
        self.dropped = 0
        self._worker = secrets.token_hex(4)
        self._buffer: deque[Record] = deque()
        self._came = self._went = 0  # bytes; each is written by one thread only
        self._segment: Segment | None = None
        self._lines: deque[tuple[int, bytes]] = deque()  # (records, as lines) not on disk yet
        self._held = 0  # their bytes
        self._failing = False
        many = len(segments(folder)) > MANY  # left by many that lived for less than KEEP_S
        self._kept = time.monotonic() - KEEP_S * many
        self._keeper: subprocess.Popen[bytes] | None = None
        self._writing = threading.Lock()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="request log", daemon=True)
        folder.mkdir(parents=True, exist_ok=True)
        self._thread.start()

    def put(self, record: Record) -> None:
        if len(self._buffer) >= self.most or self._came - self._went > MOST_BYTES:
            self.dropped += 1
            return
        self._came += held_bytes(record)
        self._buffer.append(record)

    def flush(self) -> None:
        """Write all that has come; when it returns it is on disk. Errors: OSError; then it is still in memory."""
        with self._writing:
            while self._buffer:
                self._take([self._buffer.popleft() for _ in range(min(PIECE, len(self._buffer)))])
            while self._lines:
                if self._segment is None:
                    self._segment = Segment(self.folder, self._worker)
                self._segment.append(self._lines[0][1])
                self._held -= len(self._lines.popleft()[1])
            if self._segment and self._segment.full:
                self._rotate()

    def close(self) -> None:
        self._closing.set()
        self._thread.join()
        self._attempt(self.flush)
        with self._writing:
            self._attempt(self._rotate)
        if self._keeper:
            self._keeper.wait()

    def _run(self) -> None:
        while not self._closing.wait(EVERY_S):
            self._attempt(self.flush)
            if self.seal and time.monotonic() - self._kept > KEEP_S:
                self._kept = time.monotonic()
                self._attempt(self._keep)

    def _take(self, records: list[Record]) -> None:
        """Count records and make lines of them; the lines wait where the disk cannot have them."""
        self._went += sum(map(held_bytes, records))
        if self.tally:
            self.tally.add(records)
        lines = b"".join(map(_line, records))
        self._lines.append((len(records), lines))
        self._held += len(lines)
        while self._held > MOST_BYTES:
            count, lines = self._lines.popleft()
            self.dropped += count
            self._held -= len(lines)

    def _rotate(self) -> None:
        segment, self._segment = self._segment, None
        if segment:
            segment.close()

    def _keep(self) -> None:
        """Start the process that seals: Arrow has no place in this one. One of the gateway processes does it."""
        stamp = self.folder / "kept"
        if stamp.exists() and time.time() - stamp.stat().st_mtime < KEEP_S / 2:
            return
        stamp.touch()
        if self._keeper is None or self._keeper.poll() is not None:
            arguments = [str(self.folder), msgspec.json.encode(self.policies).decode()]
            self._keeper = subprocess.Popen(
                [sys.executable, "-m", "longrein.data.seal", *arguments], stdin=subprocess.DEVNULL, env=dict(os.environ)
            )

    def _attempt(self, work: Callable[[], None]) -> None:
        try:
            work()
            self._failing = False
        except OSError as error:  # the disk is full or gone: serving goes on
            if not self._failing:
                log.error("the request log cannot be written: %s", error)
            self._failing = True


def _line(record: Record) -> bytes:
    try:
        return msgspec.json.encode(record) + b"\n"
    except UnicodeEncodeError:  # half a surrogate pair
        values = msgspec.structs.asdict(record).items()
        clean = {k: v.encode("utf-8", "replace").decode() if isinstance(v, str) else v for k, v in values}
        return msgspec.json.encode(clean) + b"\n"
