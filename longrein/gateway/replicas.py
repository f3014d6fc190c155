"""Keeps one live engine an endpoint: starts it, switches to a new release, drains the old one, restarts a dead one."""

import asyncio
import logging
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from longrein.core.errors import Error, nearest
from longrein.core.store import Store
from longrein.core.worker import as_error
from longrein.gateway.engine import EngineProcess
from longrein.gateway.metrics import Metrics
from longrein.gateway.routing import Table, Target

DRAIN_S = 600.0  # how long a replaced release may finish what it has begun
BACKOFF_S = (0.5, 60.0)  # before the second try, and at most
HEALTHY_S = 60.0  # an engine that lived so long is restarted at once
log = logging.getLogger(__name__)
T = TypeVar("T")


class _Part(msgspec.Struct):
    digest: str
    uri: str


class _Bundle(msgspec.Struct):
    """The meta of a release, as models.deploy writes it."""

    model: _Part
    prompt: _Part | None = None
    engine: str = "torch"
    options: dict[str, Any] = {}


class _Prompt(msgspec.Struct):
    system: str | None = None


class Replica:
    """A release that answers: its engine, its system prompt, and how many requests are with it."""

    def __init__(self, target: Target, engine: EngineProcess, system: str | None) -> None:
        self.target, self.engine, self.system = target, engine, system
        self.born = time.monotonic()
        self.inflight = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @contextmanager
    def lease(self, count: int = 1) -> Iterator[None]:
        """`count` answers are under way; while they are, no switch of releases stops the engine."""
        self.inflight += count
        self._idle.clear()
        try:
            yield
        finally:
            self.inflight -= count
            if not self.inflight:
                self._idle.set()

    async def idle(self, timeout_s: float) -> None:
        """Wait until nothing is under way, or for timeout_s."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), timeout_s)


class Lane:
    """One endpoint: what it should serve, what it serves, and the task that brings the second to the first."""

    def __init__(self, fleet: "Fleet", name: str) -> None:
        self.fleet, self.name = fleet, name
        self.wanted: Target | None = None
        self.serving: Replica | None = None
        self.error: Error | None = None  # why the wanted release is not served
        self.quiet = asyncio.Event()  # nothing is being started now
        self._changed = asyncio.Event()
        self._failures = 0
        self._task = fleet.spawn(self._run())

    def want(self, target: Target | None) -> None:
        if target != self.wanted:
            self._failures, self.error = 0, None
            self.wanted = target
            self._wake()

    def close(self) -> Replica | None:
        """Stop caring; returns what is left to retire."""
        self._task.cancel()
        self.quiet.set()
        left, self.serving = self.serving, None
        return left

    @property
    def state(self) -> str:
        """serving, loading, unavailable, or empty (no release yet)."""
        if self.serving and self.serving.engine.alive:
            return "serving"
        if self.error:
            return "unavailable"
        return "loading" if self.wanted else "empty"

    def refusal(self) -> Error:
        """Why no request can be answered now."""
        if self.error:
            message = f"the endpoint {self.name!r} is unavailable: {self.error.message}"
            return Error("unavailable", message, self.error.hint, retry_after_s=5)
        if self.wanted:
            message = f"the endpoint {self.name!r} is loading {self.wanted.ref}"
            return Error("unavailable", message, "try again in a moment", retry_after_s=2)
        return Error(
            "unavailable", f"the endpoint {self.name!r} has no release yet", "longrein apply", retry_after_s=30
        )

    def _wake(self) -> None:
        self.quiet.clear()
        self._changed.set()

    async def _run(self) -> None:
        while True:
            self._changed.clear()
            if self._settled():
                self.quiet.set()
                await self._changed.wait()
            elif self.wanted is None:
                self._switch(None)
            elif self._failures and not await self._pause():
                continue  # something changed meanwhile
            else:
                await self._attempt(self.wanted)

    def _settled(self) -> bool:
        if self.wanted is None:
            return self.serving is None
        return bool(self.serving and self.serving.engine.alive and self.serving.target.digest == self.wanted.digest)

    async def _pause(self) -> bool:
        """Wait before the next try; False when the wanted release changed meanwhile."""
        if self.error:
            self.quiet.set()
        first, most = BACKOFF_S
        try:
            await asyncio.wait_for(self._changed.wait(), min(first * 2 ** (self._failures - 1), most))
        except TimeoutError:
            return True
        return False

    async def _attempt(self, target: Target) -> None:
        """Start the wanted release; given up as soon as another one is wanted."""
        starting = self.fleet.spawn(self.fleet.start(target, self._ended))
        starting.add_done_callback(lambda _: self._changed.set())
        try:
            while not starting.done() and self.wanted == target:
                self._changed.clear()
                await self._changed.wait()
            if self.wanted == target:
                self._switch(starting.result())
        except (Error, OSError, ValueError) as error:
            log.error("endpoint %s: %s cannot be served: %s", self.name, target.ref, error)
            self._failures += 1
            self.error = as_error(error)
        finally:
            if not starting.cancel() and not starting.exception() and starting.result() is not self.serving:
                self.fleet.spawn(self.fleet.retire(starting.result(), 0))

    def _switch(self, replica: Replica | None) -> None:
        old, self.serving = self.serving, replica
        self.error = None
        if replica:
            log.info("endpoint %s serves %s", self.name, replica.target.ref)
        if old:
            self.fleet.spawn(self.fleet.retire(old, self.fleet.drain_s))

    def _ended(self, engine: EngineProcess) -> None:
        """An engine died. In-flight requests have been told; a new one is on its way."""
        if self.serving is None or engine is not self.serving.engine:
            return
        log.error("endpoint %s: the engine of %s ended unexpectedly", self.name, self.serving.target.ref)
        self.fleet.metrics.restarts.add((self.name,))
        lived = time.monotonic() - self.serving.born
        self._failures = 0 if lived > HEALTHY_S else self._failures + 1
        self._wake()


class Fleet:
    """The lanes of all endpoints. All methods belong to the event loop."""

    def __init__(self, store: Store, project: Path, metrics: Metrics, drain_s: float = DRAIN_S) -> None:
        self.store, self.project, self.metrics, self.drain_s = store, project, metrics, drain_s
        self.lanes: dict[str, Lane] = {}
        self._replicas: set[Replica] = set()  # all that run, the draining ones too
        self._tasks: set[asyncio.Task[Any]] = set()

    def apply(self, table: Table) -> None:
        """Make the lanes follow a new routing table."""
        for name in self.lanes.keys() - table.targets.keys():
            if left := self.lanes.pop(name).close():
                self.spawn(self.retire(left, self.drain_s))
        for name, target in table.targets.items():
            lane = self.lanes.get(name) or self.lanes.setdefault(name, Lane(self, name))
            lane.want(target)

    def route(self, name: str, unit: str = "", release: str = "") -> Replica:
        """What answers a request to an endpoint now.

        unit: what stickiness hangs on (models.experiment.assign.unit): the same unit stays on its release. release: a
        release asked for by name, for keys that may: "candidate", "stable", a version or a digest.
        Errors: `not_found` with the nearest names, `unavailable`.
        """
        lane = self.lanes.get(name)
        if lane is None:
            hint = nearest(name[:200], self.lanes)
            raise Error("not_found", f"there is no model called {name[:200]!r}", hint, param="model")
        if lane.serving is None or not lane.serving.engine.alive:
            raise lane.refusal()
        return lane.serving

    def fallbacks(self, name: str, replica: Replica) -> list[Replica]:
        """Other live replicas that may answer when this one failed before its first byte; the best first."""
        return []

    def shadow(self, name: str, unit: str) -> Replica | None:
        """The replica that should get a copy of a request, if this one is drawn; unit: the request's id."""
        return None

    async def settled(self) -> None:
        """Wait until every lane serves what it should, or has failed to for now."""
        for lane in list(self.lanes.values()):
            await lane.quiet.wait()

    async def close(self) -> None:
        """End every engine, the ones that still drain as well."""
        self.lanes = {}
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(replica.engine.stop() for replica in self._replicas), return_exceptions=True)

    async def start(self, target: Target, on_exit: Any) -> Replica:
        """Verify the bytes of a release and start its engine. Errors: `corrupt`, `not_found`, the engine's own."""
        try:
            bundle = msgspec.convert(target.meta, _Bundle)
        except msgspec.ValidationError as error:
            raise Error(
                "corrupt", f"{target.ref} is not a release that can be served: {error}", "longrein apply"
            ) from error
        model = await asyncio.to_thread(self.store.verify, bundle.model.uri, bundle.model.digest)
        system = await asyncio.to_thread(self._system, bundle.prompt) if bundle.prompt else None
        logs = self.project / ".longrein" / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        engine = await EngineProcess.start(
            bundle.engine, model, bundle.options, name=f"of {target.ref}", project=self.project, on_exit=on_exit,
            log=logs / f"engine-{target.endpoint[:48]}.log",
        )  # fmt: skip
        replica = Replica(target, engine, system)
        self._replicas.add(replica)
        return replica

    async def retire(self, replica: Replica, drain_s: float) -> None:
        """Stop a replica once nothing is under way there, or after drain_s."""
        await replica.idle(drain_s)
        await replica.engine.stop()
        self._replicas.discard(replica)

    def spawn(self, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        """A task that is kept alive, and ended with the fleet."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _system(self, prompt: _Part) -> str | None:
        path = self.store.verify(prompt.uri, prompt.digest)
        try:
            return msgspec.json.decode(path.read_bytes(), type=_Prompt).system
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Error("corrupt", f"the prompt {prompt.uri} cannot be read: {error}", "longrein apply") from error
