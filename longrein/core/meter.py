"""How long each engine process lived and worked, hour by hour, in files of the project: what its hardware was paid for.

Written by the engine itself, about once a second: a killed one loses no more than that. Read beside the request log of
the same host, which says for whom it worked.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from longrein.core.files import replace
from longrein.core.record import DAYS

FOLDER = "engines"  # in .longrein
EVERY_S = 1.0
HOUR_MS, DAY_MS = 3_600_000, 86_400_000


class Hour(msgspec.Struct):
    """Of one engine, within one hour of UTC."""

    start_ms: int
    last_ms: int  # until when it was seen alive
    alive_s: float = 0.0  # up to then, by a clock that nobody sets
    busy_s: float | None = None  # None: the engine does not tell


class Engine(msgspec.Struct):
    """One process, in one day of UTC."""

    name: str  # "of release:support@3": what it was started for
    born_ms: int
    hours: list[Hour] = []

    @property
    def endpoint(self) -> str:
        """Of the release that it was started for; "" when that is not known."""
        kind, _, name = self.name.removeprefix("of ").partition(":")
        return name.partition("@")[0] if kind == "release" else ""


class Meter:
    """The writing end. What cannot be written is written with the next look."""

    def __init__(self, folder: Path, name: str, born_s: float) -> None:
        """born_s: since when the process lives, on time.monotonic's clock."""
        self.folder, self.name = folder, name
        self._seen_s, self._busy_s = born_s, 0.0
        self._born_ms = _now_ms() - round((time.monotonic() - born_s) * 1000)
        self._day, self._today = -1, Engine(name, self._born_ms)

    def look(self, busy_s: float | None) -> None:
        """busy_s: of its whole life. A clock set back adds to an hour that is there already."""
        now_ms, now_s = _now_ms(), time.monotonic()
        if now_ms // DAY_MS != self._day:
            self._day = now_ms // DAY_MS
            self._today = _read(self._path) or Engine(self.name, self._born_ms)  # a day that was there before
        start_ms = now_ms // HOUR_MS * HOUR_MS
        hour = next((h for h in self._today.hours if h.start_ms == start_ms), None)
        if hour is None:
            hour = Hour(start_ms, now_ms)
            self._today.hours.append(hour)
        hour.alive_s += now_s - self._seen_s
        hour.last_ms, self._seen_s = now_ms, now_s
        if busy_s is not None:
            hour.busy_s = (hour.busy_s or 0.0) + busy_s - self._busy_s
            self._busy_s = busy_s
        with suppress(OSError):  # the disk is full or gone
            self._write()

    @property
    def _path(self) -> Path:
        return self.folder / f"{self._day * DAY_MS:013d}-{self._born_ms:013d}-{os.getpid()}.json"

    def _write(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        replace(self._path, msgspec.json.encode(self._today))


@contextmanager
def metered(project: str | None, name: str, born_s: float, busy: Callable[[], float | None]) -> Iterator[None]:
    """Looks by itself, in a thread, while the engine runs, and a last time when it ends."""
    if project is None:
        yield
        return
    folder = Path(project) / ".longrein" / FOLDER
    forget(folder, _now_ms())
    meter, closing = Meter(folder, name, born_s), threading.Event()

    def run() -> None:
        while not closing.wait(EVERY_S):
            meter.look(busy())

    meter.look(busy())
    thread = threading.Thread(target=run, name="meter", daemon=True)
    thread.start()
    try:
        yield
    finally:
        closing.set()
        thread.join()
        meter.look(busy())


def forget(folder: Path, now_ms: int) -> None:
    """Remove what is older than any record."""
    for path in folder.glob("*.json"):
        if _day_ms(path) < now_ms - (DAYS + 1) * DAY_MS:
            path.unlink(missing_ok=True)


def read(folder: Path, since_ms: int, until_ms: int) -> list[Engine]:
    """Engines that lived in a span of time, a day at a time. What a full disk left torn is skipped."""
    paths = (path for path in sorted(folder.glob("*.json")) if since_ms - DAY_MS < _day_ms(path) < until_ms)
    return [engine for engine in map(_read, paths) if engine]


def _read(path: Path) -> Engine | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Engine)
    except (OSError, msgspec.DecodeError):
        return None


def _day_ms(path: Path) -> int:
    first = path.name.partition("-")[0]
    return int(first) if first.isdecimal() else 0


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
