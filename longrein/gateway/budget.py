"""Counters of use that all gateway processes of a host share: one mapped file, exact under concurrency.

Each counter has a window of time, what was used in it, and what is reserved: in all, and by each worker. All changes
happen under one lock, which the kernel frees when its holder is killed. A worker that is gone, known by the lock on its
own file, gives its reservations back when somebody would else be refused. What was used outlives restarts.

Windows end by the clock that only runs forward (CLOCK_BOOTTIME); the wall clock says where they end only as they begin,
so that setting it neither refills a budget nor holds one back. After a reboot the wall clock decides once.
"""

import contextlib
import fcntl
import hashlib
import mmap
import os
import struct
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, NamedTuple

from longrein.core.errors import Error

SLOTS, WORKERS = 8192, 64
HEAD = struct.Struct("16s16s")  # magic; what stands for this boot
SLOT = struct.Struct("16sddqq")  # key, window's end by the boot clock, its end by the wall clock, used, reserved
STATE, END, COUNTS = struct.Struct("ddqq"), struct.Struct("d"), struct.Struct("qq")  # parts of it
COLUMN = struct.Struct("q")  # reserved by one worker
ROW = struct.Struct(f"{WORKERS}q")
SLOT_BYTES = SLOT.size + ROW.size
NOBODY = bytes(16)
MAGIC = b"longrein budget1"
PERIOD_S = {"minute": 60, "day": 86_400}
LOCK, UNLOCK = fcntl.LOCK_EX, fcntl.LOCK_UN
flock = fcntl.flock
_clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class Counter(NamedTuple):
    """One limit as it stands in the file."""

    at: int  # byte offset
    period: str  # minute, day, month


class State(NamedTuple):
    used: int
    reserved: int
    left_s: float  # until the window ends


class Budget:
    """All methods belong to one thread of a process. The lock is held for microseconds."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._file = path.open("a+b")
        self.worker = -1
        self._looked = 0.0
        with self._lock():
            size = HEAD.size + SLOTS * SLOT_BYTES
            self._file.seek(0)
            if self._file.read(len(MAGIC)) != MAGIC:
                self._file.truncate(0)
            # Zeros are empty slots. They are written, for a hole that a full disk cannot fill would kill the process.
            self._file.write(bytes(max(0, size - self._file.seek(0, os.SEEK_END))))
            self._file.flush()
            self._map = mmap.mmap(self._file.fileno(), size)
            self._begin()
            if all(self._is_gone(i) for i in range(WORKERS)):
                self._tidy()
        self._mine = self._take_place()

    def close(self) -> None:
        """Give back what is reserved, and the place."""
        with self._lock():
            self._forget({self.worker})
        self._mine.close()
        self._map.close()
        self._file.close()

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        flock(self._file, LOCK)
        try:
            yield
        finally:
            flock(self._file, UNLOCK)

    def counter(self, name: str, period: str) -> Counter:
        """The place of a counter, made when it is new. Errors: `overloaded` when there are SLOTS already; those whose
        windows ended go when all gateway processes have."""
        key = hashlib.blake2b(name.encode(), digest_size=16).digest()
        with self._lock():
            at = self._find(key)
            if self._map[at : at + 16] != key:
                SLOT.pack_into(self._map, at, key, 0.0, 0.0, 0, 0)
            return Counter(at, period)

    def take(self, counters: Sequence[Counter], amounts: Sequence[int], most: Sequence[int]) -> list[float] | int:
        """Reserve an amount of each counter, or nothing at all: the windows, which `settle` wants back, or the index of
        the counter that has no room and whose window ends last."""
        memory, now = self._map, time.clock_gettime(_clock)
        windows, full, longest = [], -1, 0.0
        flock(self._file, LOCK)
        try:
            for i, (at, period) in enumerate(counters):
                ends, _, used, reserved = STATE.unpack_from(memory, at + 16)
                if now >= ends:
                    ends, used, reserved = self._roll(at, period, now), 0, 0
                if used + reserved + amounts[i] > most[i] and ends > longest:
                    full, longest = i, ends
                windows.append(ends)
            if full >= 0:
                return full
            for (at, _), amount in zip(counters, amounts, strict=True):
                self._add(at, 0, amount)
            return windows
        finally:
            flock(self._file, UNLOCK)

    def settle(
        self, counters: Sequence[Counter], amounts: Sequence[int], windows: Sequence[float], used: Sequence[int]
    ) -> None:
        """Count what was used in place of what was reserved. What belongs to a window that ended went with it."""
        memory = self._map
        flock(self._file, LOCK)
        try:
            for (at, _), amount, window, spent in zip(counters, amounts, windows, used, strict=True):
                if END.unpack_from(memory, at + 16)[0] == window:
                    self._add(at, spent, -amount)
        finally:
            flock(self._file, UNLOCK)

    def state(self, counter: Counter) -> State:
        """As it stands now."""
        ends, _, used, reserved = STATE.unpack_from(self._map, counter.at + 16)
        left_s = ends - time.clock_gettime(_clock)
        if left_s <= 0:
            wall = time.time()
            return State(0, 0, period_end(counter.period, wall) - wall)
        return State(used, reserved, left_s)

    # Under the lock:

    def _add(self, at: int, used: int, reserved: int) -> None:
        """What was used is written first: killed in between, this worker's column says what to take back."""
        memory, column = self._map, at + SLOT.size + 8 * self.worker
        spent, held = COUNTS.unpack_from(memory, at + 32)
        (mine,) = COLUMN.unpack_from(memory, column)
        COUNTS.pack_into(memory, at + 32, spent + used, held + reserved)
        COLUMN.pack_into(memory, column, mine + reserved)

    def reclaim(self) -> bool:
        """Take back what workers hold that are gone; whether there was any. Looks once a second at most."""
        now = time.clock_gettime(_clock)
        if now < self._looked + 1:
            return False
        self._looked = now
        gone = {i for i in range(WORKERS) if i != self.worker and self._is_gone(i)}
        with self._lock():
            return self._forget(gone)

    def _find(self, key: bytes) -> int:
        """Where a key is, or where it should be: the first empty slot from where its hash points."""
        first = int.from_bytes(key[:4], "big")
        for i in range(SLOTS):
            at = HEAD.size + (first + i) % SLOTS * SLOT_BYTES
            if self._map[at : at + 16] in (key, NOBODY):
                return at
        raise Error("overloaded", f"there are more than {SLOTS} limits in use", "declare fewer, or restart the gateway")

    def _tidy(self) -> None:
        """Nobody else is there: keep only the windows still open."""
        now, places = time.clock_gettime(_clock), list(self._slots())
        kept = [SLOT.unpack_from(self._map, at) for at in places]
        for at in places:
            self._map[at : at + SLOT_BYTES] = bytes(SLOT_BYTES)
        for key, ends, wall, used, _ in kept:
            if ends > now:
                SLOT.pack_into(self._map, self._find(key), key, ends, wall, used, 0)

    def _roll(self, at: int, period: str, now: float) -> float:
        wall = time.time()
        end = period_end(period, wall)
        STATE.pack_into(self._map, at + 16, now + end - wall, end, 0, 0)
        ROW.pack_into(self._map, at + SLOT.size, *([0] * WORKERS))
        return now + end - wall

    def _begin(self) -> None:
        """A new file, or the first look after a reboot: windows still open by the wall clock go on."""
        boot = hashlib.blake2b(_boot_id(), digest_size=16).digest()
        magic, known = HEAD.unpack_from(self._map, 0)
        if magic == MAGIC and known == boot:
            return
        now, wall = time.clock_gettime(_clock), time.time()
        for at in self._slots():
            key, _, end, used, _ = SLOT.unpack_from(self._map, at)
            SLOT.pack_into(self._map, at, key, now + min(end - wall, 31 * 86_400), end, used, 0)
            ROW.pack_into(self._map, at + SLOT.size, *([0] * WORKERS))
        HEAD.pack_into(self._map, 0, MAGIC, boot)

    def _forget(self, workers: set[int]) -> bool:
        """Clear workers' columns, and make the sums what the columns say: a killed worker may have written one of the
        two only."""
        found = False
        for at in self._slots() if workers else ():
            row = ROW.unpack_from(self._map, at + SLOT.size)
            if any(row[i] for i in workers):
                found = True
                row = tuple(0 if i in workers else held for i, held in enumerate(row))
                ROW.pack_into(self._map, at + SLOT.size, *row)
            key, ends, wall, used, reserved = SLOT.unpack_from(self._map, at)
            if reserved != sum(row):
                found = True
                SLOT.pack_into(self._map, at, key, ends, wall, used, sum(row))
        return found

    def _slots(self) -> Iterator[int]:
        for at in range(HEAD.size, HEAD.size + SLOTS * SLOT_BYTES, SLOT_BYTES):
            if self._map[at : at + 16] != NOBODY:
                yield at

    def _place(self, worker: int) -> Path:
        return self._path.with_name(f"{self._path.name}-{worker}")

    def _take_place(self) -> BinaryIO:
        for worker in range(WORKERS):
            file = self._place(worker).open("ab")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
                continue
            self.worker = worker
            with self._lock():
                self._forget({worker})  # whoever had the place before is gone
            return file
        raise Error("overloaded", f"more than {WORKERS} gateway processes share {self._path}", "run fewer")

    def _is_gone(self, worker: int) -> bool:
        try:
            file = self._place(worker).open("rb")
        except FileNotFoundError:
            return True  # nobody has had that place yet
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True


def period_end(period: str, wall: float) -> float:
    """When the minute, day or month of UTC ends in which a time lies, as a time."""
    if period in PERIOD_S:
        return float((wall // PERIOD_S[period] + 1) * PERIOD_S[period])
    now = datetime.fromtimestamp(wall, UTC)
    year, month = now.year + now.month // 12, now.month % 12 + 1
    return datetime(year, month, 1, tzinfo=UTC).timestamp()


def _boot_id() -> bytes:
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_bytes()
    return str(int(time.time() - time.clock_gettime(_clock)) // 600).encode() + os.uname().nodename.encode()
