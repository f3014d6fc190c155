"""Runs the gateway: in the foreground (`serve`), or beside other work in one process (`Gateway.start` and `stop`)."""

import asyncio
import concurrent.futures
import contextlib
import errno
import logging
import os
import resource
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import msgspec
import uvicorn
from sqlalchemy.exc import SQLAlchemyError
from starlette.applications import Starlette

from longrein.core.errors import Error
from longrein.core.ledger import Ledger
from longrein.core.record import FOLDER
from longrein.core.store import Store
from longrein.gateway import feedback, mlflow
from longrein.gateway.app import build
from longrein.gateway.auth import Door, is_loopback
from longrein.gateway.batches import Batches
from longrein.gateway.inference import MAX_BODY_BYTES, Inference
from longrein.gateway.limits import Limits
from longrein.gateway.management import Hooks, Why
from longrein.gateway.management import routes as management_routes
from longrein.gateway.metrics import Counter, Metrics, watch_gauges
from longrein.gateway.protocol import BOUNDS, Bounds, bounded
from longrein.gateway.record import Recorder, policies
from longrein.gateway.replicas import DRAIN_S, Fleet
from longrein.gateway.responses import Responses
from longrein.gateway.routing import Table, Target, Watch, report
from longrein.gateway.sampler import Sampler
from longrein.gateway.snapshot import Snapshots, folder
from longrein.gateway.tally import Tally
from longrein.gateway.tap import Tap

LOOK_S = 0.1
APPLY_S = 5  # a loop that is ending applies nothing any more
MOST_FILES = 1 << 16
SHUTDOWN_S = 30  # what is under way at SIGTERM may take so long to finish
log = logging.getLogger(__name__)


class Gateway:
    """One OpenAI-compatible server over a ledger and a store. `workspace` is the folder of longrein.yaml.

    sock: one that listens already, which other gateway processes have too (see workers). Errors of the constructor:
    `conflict` when the port is taken, `forbidden` for an address that others can reach without any API key.
    """

    def __init__(
        self, ledger: Ledger, store: Store, workspace: Path, *, host: str = "127.0.0.1", port: int = 8000,
        auth: bool = True, max_body_bytes: int = MAX_BODY_BYTES, drain_s: float = DRAIN_S, why: Why | None = None,
        bounds: Bounds = BOUNDS, sock: socket.socket | None = None,
    ) -> None:  # fmt: skip
        ledger.events.head()  # a ledger that is down says so now
        self.ledger, self.store, self.workspace, self.host = ledger, store, workspace, host
        self.shared = sock is not None  # with other processes: the socket, the engines, the counters
        if sock is None:
            check_exposure(ledger, host, auth)
            sock = bind(host, port)
        self.socket = sock
        self.port: int = self.socket.getsockname()[1]
        self.door, self.metrics = Door(auth), Metrics()
        self.max_body_bytes, self.drain_s, self.why, self.bounds = max_body_bytes, drain_s, why, bounds
        self.watch = Watch(ledger, self._new_table)
        self.fleet: Fleet
        self.recorder: Recorder
        self.tally: Tally
        self.tap: Tap
        self.limits: Limits
        self.inference: Inference
        self.batches: Batches
        self._loop: asyncio.AbstractEventLoop | None = None
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None
        self._listening = threading.Event()
        self._failure: BaseException | None = None

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    def serve(self) -> None:
        """Serve until SIGTERM or SIGINT, then finish what is under way. A second signal ends at once."""
        self._server = _Server(self._config())
        with contextlib.closing(self.socket):
            try:
                self._server.run(sockets=[self.socket])
            except SystemExit:  # uvicorn's way to say that the start failed
                raise self._failure or Error("failed", "the server did not start", "its log says why") from None
            finally:
                self.recorder.close()
                self.tap.close()
                self.tally.close()
                self.limits.close()

    def start(self) -> None:
        """Serve in a thread; returns when the server listens. Errors: those of the ledger."""
        self._thread = threading.Thread(target=self._in_thread, name="gateway", daemon=True)
        self._thread.start()
        self._listening.wait()
        if self._failure:
            raise self._failure

    def check(self) -> None:
        """Errors: what ended it, should it have ended by itself."""
        if self._thread and not self._thread.is_alive():
            raise self._failure or Error("failed", "the gateway ended by itself", "its log says why")

    def stop(self) -> None:
        """Finish what is under way and end; twice is harmless."""
        if self._server:
            self._server.should_exit = True
        if self._thread:
            self._thread.join()
        self.socket.close()

    def refresh(self) -> None:
        """Follow the ledger now instead of within half a second. Errors: the ledger's."""
        self.watch.refresh()

    def settled(self, timeout_s: float = 300.0, stop: threading.Event | None = None) -> dict[str, str]:
        """Wait, outside the loop, until no release is being started, for timeout_s at most, or until `stop` is set;
        {endpoint: state}."""
        assert self._loop, "start it first"
        settled = asyncio.run_coroutine_threadsafe(self.fleet.settled(), self._loop)
        deadline = time.monotonic() + timeout_s
        while not settled.done() and time.monotonic() < deadline and not (stop and stop.is_set()):
            concurrent.futures.wait([settled], LOOK_S)
        settled.cancel()
        return {name: lane.state for name, lane in self.fleet.lanes.items()}

    def _in_thread(self) -> None:
        try:
            self.serve()
        except BaseException as error:  # noqa: BLE001 - the edge of the thread: start() raises it
            self._failure = error
        finally:
            self._listening.set()

    def _config(self) -> uvicorn.Config:
        self.tally = Tally(self.ledger)
        self.recorder = Recorder(self.workspace / ".longrein" / FOLDER, self.tally)
        self.fleet = Fleet(self.store, self.workspace, self.metrics, self.drain_s, self._report)
        self.fleet.shared = self.workspace / ".longrein" / "run" if self.shared else None
        self.limits = Limits(self.workspace / ".longrein" / "run" / "budget")
        self.tap = Tap(self.workspace / ".longrein")
        self.inference = Inference(self.fleet, self.recorder, self.metrics, self.limits, self.tap, self.max_body_bytes)
        self.batches = Batches(self.workspace / ".longrein" / "batches", self.inference, self.door)

        @contextlib.asynccontextmanager
        async def lifespan(app: Starlette) -> AsyncIterator[None]:
            self._loop = asyncio.get_running_loop()
            counted = self._counted()
            try:
                await asyncio.to_thread(self.watch.start)
                self.batches.start()
                self._listening.set()
                yield
            except Error as error:
                self._failure = error
                raise
            finally:
                await self.batches.close()
                await asyncio.to_thread(self.watch.close)
                await self.fleet.close()
                await asyncio.to_thread(counted.close)

        app = build(self.inference, self.door, self._more_routes(), lambda: self.watch.error, lifespan, self._watched)
        return uvicorn.Config(
            app, http=bounded(_affordable(self.bounds)), loop="auto", lifespan="on", ws="none", log_config=None,
            access_log=False, backlog=2048, server_header=False, timeout_graceful_shutdown=SHUTDOWN_S,
        )  # fmt: skip

    def _counted(self) -> contextlib.ExitStack:
        """One /metrics for all processes on this port."""
        stack = contextlib.ExitStack()
        assert self._loop
        stack.callback(Sampler(self.fleet, self.tally, self.workspace, self._loop).close)
        self.metrics.served = self.tally.served
        if self.shared:
            snapshots = Snapshots(folder(self.workspace / ".longrein" / "run", os.getppid()), self.metrics)
            self.metrics.others = snapshots.others
            stack.callback(snapshots.close)
        return stack

    def _watched(self) -> list[Counter]:
        """What observers say. Nothing while the ledger is away, which /metrics tells too."""
        if self.watch.error:
            return []
        try:
            return watch_gauges(self.ledger.alerts.firing(), self.ledger.drift.of())
        except (Error, SQLAlchemyError):
            return []

    def _more_routes(self) -> list[Any]:
        hooks = Hooks(self.refresh, self.recorder.flush, self.recorder.folder, self.why)
        management = management_routes(self.ledger, self.store, hooks)
        said = feedback.routes(self.ledger, self.recorder.folder, self.tally, self.metrics, self.recorder.flush)
        return [
            *self.door.guard(management, "admin"),
            *self.door.guard(said, "infer"),
            *self.door.guard(self.batches.routes(), "infer"),
            *self.door.guard(Responses(self.inference).routes(), "infer"),
            *self.door.guard(mlflow.routes(self.ledger, self.store), "track"),
        ]

    def _report(self, target: Target, error: Error) -> None:
        """From the loop: the ledger may take its time, or be away."""
        assert self._loop
        self._loop.run_in_executor(None, report, self.ledger, target, error)

    def _new_table(self, table: Table) -> None:
        """From the watching thread: hand the table to the loop, and wait until it stands.

        Errors: `invalid` for one that this version cannot read; the same is tried again until there is another.
        """
        assert self._loop
        done: Future[None] = Future()

        def apply() -> None:
            try:
                self.limits.configure(table.keys, table.endpoints, table.teams)
                self.inference.follow(table)
                self.recorder.policies = policies(table.endpoints)
                self.door.keys = table.keys
                self.fleet.apply(table)
                done.set_result(None)
            except ValueError as error:  # msgspec's too
                hint = "is the gateway older than the `longrein apply` that wrote it? restart it"
                done.set_exception(Error("invalid", f"the wanted state cannot be followed: {error}", hint))

        self._loop.call_soon_threadsafe(apply)
        with contextlib.suppress(TimeoutError):
            done.result(APPLY_S)


class _Server(uvicorn.Server):
    """uvicorn's server; a signal that ended it gracefully is not raised again afterwards."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._asked) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _asked(self, number: int, frame: object) -> None:
        self.force_exit = self.should_exit
        self.should_exit = True


def serve(
    ledger: Ledger, store: Store, workspace: Path, host: str = "127.0.0.1", port: int = 8000, **options: Any
) -> None:
    """Serve in the foreground until a signal; see Gateway for the options and errors."""
    Gateway(ledger, store, workspace, host=host, port=port, **options).serve()


def check_exposure(ledger: Ledger, host: str, auth: bool) -> None:
    if is_loopback(host):
        return
    if not auth:
        raise Error(
            "forbidden", f"without API keys the server may not listen on {host}", "use --host 127.0.0.1, or keys"
        )
    if not ledger.keys.live():
        raise Error(
            "forbidden", f"there is no API key, so the server may not listen on {host}", "longrein init makes one"
        )


def bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
        sock.listen(2048)  # from now on nobody else gets the port
    except OSError as error:
        sock.close()
        if error.errno in (errno.EADDRINUSE, errno.EACCES) and port:
            why = "is in use" if error.errno == errno.EADDRINUSE else "needs more rights"
            raise Error("conflict", f"port {port} {why}", f"try --port {_free_port(host, port)}") from error
        raise Error(
            "invalid", f"the server cannot listen on {host}: {error.strerror}", "try --host 127.0.0.1"
        ) from error
    return sock


def _affordable(bounds: Bounds) -> Bounds:
    """As many open files as the system lets us have, and connections in three of four: at the limit the kernel would
    turn away whoever comes next, in place of whom the flood is made of."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < files:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    return msgspec.structs.replace(bounds, connections=min(bounds.connections, files * 3 // 4))


def _free_port(host: str, above: int) -> int:
    """The next free one, or any."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for port in [*range(max(above, 1024) + 1, min(max(above, 1024) + 21, 65536)), 0]:
        with socket.socket(family) as probe, contextlib.suppress(OSError):
            probe.bind((host, port))
            return int(probe.getsockname()[1])
    return above + 1
