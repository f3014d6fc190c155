"""Several gateway processes on one port: a parent that holds the socket and starts again what was killed.

The parent binds and listens; its workers inherit the socket, so that what waits to be accepted is lost with none of
them. They find one engine for each release (engine_hub), one log (core.record) and one set of budgets (budget).
"""

import contextlib
import ctypes
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

from longrein.core.errors import Error
from longrein.core.ledger import Ledger
from longrein.gateway.server import SHUTDOWN_S, bind, check_exposure
from longrein.gateway.snapshot import folder

LOOK_S = 0.1
CHECK_S = 1.0
BACKOFF_S = (0.5, 30.0)  # before the second try at once, and at most
HEALTHY_S = 10.0  # a worker that lived so long is started again at once
log = logging.getLogger(__name__)


class _Worker:
    """One process, and the pipe on which it says "l" when it listens and "s" when its releases have settled."""

    def __init__(self, command: Sequence[str], sock: socket.socket, failures: int = 0) -> None:
        self.failures, self.born = failures, time.monotonic()
        ours, theirs = os.pipe()
        os.set_blocking(ours, False)
        self._said = os.fdopen(ours, "rb", buffering=0)
        with os.fdopen(theirs, "wb") as pipe:
            fds = (sock.fileno(), pipe.fileno())
            self.process = subprocess.Popen(
                [*command, f"{fds[0]},{fds[1]}"], pass_fds=fds, stdin=subprocess.DEVNULL,
                env={**os.environ, "LONGREIN_PARENT": str(os.getpid())},
            )  # fmt: skip
        self.told = b""  # so far

    def look(self) -> bytes:
        """By one thread only; others read `told`."""
        self.told += self._said.read(16) or b""
        return self.told

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def end(self, number: int = signal.SIGTERM) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)

    def close(self) -> None:
        self._said.close()


class Workers:
    """`count` gateway processes. `command` starts one, with "SOCKET,PIPE" behind it; see `serve`.

    Has the surface of a Gateway. Errors of the constructor: those of a Gateway's. SIGHUP to the parent, or `reload`,
    replaces them one by one, each once the new one answers.
    """

    def __init__(
        self, ledger: Ledger, command: Sequence[str], count: int, *, run: Path, host: str = "127.0.0.1",
        port: int = 8000, auth: bool = True,
    ) -> None:  # fmt: skip
        ledger.events.head()  # a ledger that is down says so now
        check_exposure(ledger, host, auth)
        self.host, self.command, self.count = host, command, count
        self.socket = bind(host, port)
        self.port: int = self.socket.getsockname()[1]
        self._folder = folder(run, os.getpid())
        self._workers: list[_Worker] = []
        self._failing = False
        self._failure: BaseException | None = None
        self._stopping, self._reload = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="workers", daemon=True)

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    @property
    def pids(self) -> list[int]:
        return [worker.process.pid for worker in list(self._workers) if worker.alive]

    def start(self) -> None:
        """Returns when one listens. Errors: `failed` when none of them could."""
        for old in self._folder.parent.glob("metrics-*"):
            for file in old.iterdir():
                file.unlink(missing_ok=True)
            old.rmdir()
        self._folder.mkdir(parents=True)
        self._thread.start()
        while not any(b"l" in worker.told for worker in list(self._workers)):
            self.check()
            if self._workers and all(worker.failures > 2 for worker in self._workers):
                self.stop()
                raise Error("failed", "the gateway's workers end as soon as they start", "what they said is above")
            time.sleep(LOOK_S)

    def refresh(self) -> None:
        """They follow the ledger by themselves, within a fifth of a second."""

    def settled(self, timeout_s: float = 300.0, stop: threading.Event | None = None) -> dict[str, str]:
        """As a Gateway's."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline and not (stop and stop.is_set()):
            self.check()
            if all(b"s" in worker.told for worker in list(self._workers)) and (found := _endpoints(self.url)):
                return found
            time.sleep(LOOK_S)  # under a flood from the first moment on, we are turned away as others are
        return _endpoints(self.url) or {}

    def reload(self) -> None:
        self._reload.set()

    def check(self) -> None:
        """Errors: what ended it, should it have ended by itself."""
        if self._failure:
            raise self._failure

    def stop(self) -> None:
        """Let all finish what is under way, and end; twice is harmless."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()
        self.socket.close()

    def _run(self) -> None:
        """The thread that starts them: Linux ends them when it ends, so it does not without `check` knowing."""
        try:
            for _ in range(self.count):
                self._workers.append(_Worker(self.command, self.socket))
            while not self._stopping.wait(LOOK_S):
                try:
                    self._look()
                    self._failing = False
                except OSError as error:  # no more processes, memory or files for now: those that live go on
                    if not self._failing:
                        log.error("no gateway worker can be started: %s", error)
                    self._failing = True
        except BaseException as error:  # noqa: BLE001 - the edge of the thread: check() raises it
            self._failure = error
        finally:
            _end(self._workers)

    def _look(self) -> None:
        for i, worker in enumerate(self._workers):
            worker.look()
            if not worker.alive:
                self._workers[i] = self._again(worker)
        if self._reload.is_set():
            self._reload.clear()
            self._replace()

    def _again(self, worker: _Worker) -> _Worker:
        lived = time.monotonic() - worker.born
        failures = 0 if lived > HEALTHY_S else worker.failures + 1
        first, most = BACKOFF_S
        if failures > 1 and lived < min(first * 2 ** (failures - 2), most):
            return worker  # not yet
        new = _Worker(self.command, self.socket, failures)
        log.error("gateway worker %d ended with status %d", worker.process.pid, worker.process.returncode)
        worker.close()
        return new

    def _replace(self) -> None:
        for i, old in enumerate(self._workers):
            new = _Worker(self.command, self.socket)
            while new.alive and b"s" not in new.look():
                if self._stopping.wait(LOOK_S):
                    break
            if not new.alive or self._stopping.is_set():  # the old ones stay
                _end([new])
                return
            self._workers[i] = new
            _end([old])


def serve(gateway: Any, pipe: int) -> None:
    """A worker's life: serve until SIGTERM, or until the parent is gone."""
    end = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: end.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    _follow_parent(end)
    gateway.start()
    try:
        os.write(pipe, b"l")
        gateway.settled()
        os.write(pipe, b"s")
        while not end.wait(CHECK_S):
            gateway.check()
    finally:
        gateway.stop()


def _endpoints(url: str) -> dict[str, str] | None:
    """{endpoint: state} as /readyz tells it, whatever its status; None where it tells nothing."""
    try:
        try:
            answer = urlopen(f"{url}/readyz", timeout=10)
        except HTTPError as error:
            answer = error
        with answer:
            return {name: endpoint["state"] for name, endpoint in json.load(answer)["endpoints"].items()}
    except (OSError, HTTPException, ValueError, KeyError):
        return None


def _end(workers: Iterable[_Worker]) -> None:
    left = list(workers)
    for worker in left:
        worker.end()
    deadline = time.monotonic() + SHUTDOWN_S + 5
    for worker in left:
        try:
            worker.process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            worker.end(signal.SIGKILL)
            worker.process.wait()
        worker.close()


def _follow_parent(end: threading.Event) -> None:
    """When the parent is killed, finish what is under way and end."""
    if sys.platform == "linux":
        PR_SET_PDEATHSIG = 1
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(os.environ["LONGREIN_PARENT"]):
        end.set()
