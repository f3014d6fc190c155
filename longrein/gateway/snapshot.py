"""What each of several gateway processes has counted, in files, so that any of them can tell all of it."""

import contextlib
import os
import threading
from pathlib import Path
from typing import Any

import msgspec

from longrein.core.files import replace
from longrein.gateway.metrics import Metrics

EVERY_S = 1.0


class Snapshots:
    """A worker's counters, written once a second for the others, and theirs. Those of a worker that ended stay: a
    counter never falls."""

    def __init__(self, folder: Path, metrics: Metrics) -> None:
        self.folder, self.metrics = folder, metrics
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)
        self._thread.start()

    def others(self) -> list[Any]:
        found = []
        for file in self.folder.glob("*.json"):
            if file.stem != str(os.getpid()):
                with contextlib.suppress(OSError, msgspec.DecodeError):
                    state = msgspec.json.decode(file.read_bytes())
                    found.append(state if _is_alive(int(file.stem)) else {**state, "gauges": {}})
        return found

    def close(self) -> None:
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closing.wait(EVERY_S):
            self._write()
        self._write()

    def _write(self) -> None:
        file = self.folder / f"{os.getpid()}.json"
        with contextlib.suppress(OSError):  # a full disk: the others see older numbers
            replace(file, msgspec.json.encode(self.metrics.state()))


def folder(run: Path, parent: int) -> Path:
    """Where the workers of a parent keep their counters."""
    return run / f"metrics-{parent}"


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
