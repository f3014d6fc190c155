"""Keeps the releases of each endpoint live: started, weighted, kept warm, drained, restarted when their engines die."""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from longrein.core.errors import Error, nearest
from longrein.core.ledger import now_ms
from longrein.core.store import Store
from longrein.core.worker import as_error
from longrein.gateway.engine import EngineProcess
from longrein.gateway.metrics import Metrics
from longrein.gateway.routing import Route, Table, Target
from longrein.gateway.upstream import Upstream
from longrein.models.deploy import UPSTREAM
from longrein.models.experiment.assign import bucket

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

    model: _Part | None = None  # none: an upstream's own
    prompt: _Part | None = None
    engine: str = "torch"
    options: dict[str, Any] = {}


class _Prompt(msgspec.Struct):
    system: str | None = None


class Replica:
    """A release that answers: its engine, its system prompt, and how many requests are with it."""

    def __init__(self, target: Target, engine: EngineProcess | Upstream, system: str | None) -> None:
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


class Slot:
    """One release kept live: its engine is started, and started again, less and less often, when it ends."""

    def __init__(self, lane: "Lane", target: Target) -> None:
        self.lane, self.target = lane, target
        self.replica: Replica | None = None
        self.error: Error | None = None  # why it is not live
        self.quiet = asyncio.Event()  # it is live, or could not be started for now
        self._failures = 0
        self._task = lane.fleet.spawn(self._run())

    @property
    def live(self) -> Replica | None:
        return self.replica if self.replica and self.replica.engine.alive else None

    def close(self, drain_s: float) -> None:
        """Stop caring; what is under way there may end."""
        self._task.cancel()
        self.quiet.set()
        if self.replica:
            self.lane.fleet.spawn(self.lane.fleet.retire(self.replica, drain_s))

    async def _run(self) -> None:
        first, most = BACKOFF_S
        while True:
            if self._failures:
                await asyncio.sleep(min(first * 2 ** (self._failures - 1), most))
            try:
                await self._live()
            except (Error, OSError, ValueError) as error:
                log.error("endpoint %s: %s cannot be served: %s", self.lane.name, self.target.ref, error)
                self._failures += 1
                self.error = as_error(error)
                self.lane.troubled(self, self.error)
                self.quiet.set()

    async def _live(self) -> None:
        """From the start of an engine to its unexpected end, of which requests in flight have been told."""
        fleet, ended = self.lane.fleet, asyncio.Event()
        self.replica = await fleet.start(self.target, lambda _: ended.set())
        self.error = None
        self.lane.review()
        self.quiet.set()
        await ended.wait()
        self.quiet.clear()
        log.error("endpoint %s: the engine of %s ended unexpectedly", self.lane.name, self.target.ref)
        fleet.metrics.restarts.add((self.lane.name,))
        fleet.forget(self.replica)
        self._failures = 0 if time.monotonic() - self.replica.born > HEALTHY_S else self._failures + 1
        self.lane.troubled(self, Error("failed", f"the engine of {self.target.ref} ended unexpectedly"))


class Lane:
    """One endpoint: where its requests should go, and the releases kept live for it.

    Requests go to what is live: a new release in production takes over once it is, the old one serves until then; a
    candidate that is not has no weight.
    """

    def __init__(self, fleet: "Fleet", name: str) -> None:
        self.fleet, self.name = fleet, name
        self.route = Route()
        self.slots: dict[str, Slot] = {}  # by digest
        self._stable: Slot | None = None  # what answers in the name of the release in production
        self._timer: asyncio.TimerHandle | None = None

    @property
    def serving(self) -> Replica | None:
        """The replica of the release in production, or of the one before while that is not live."""
        return self._stable.replica if self._stable else None

    @property
    def wanted(self) -> Target | None:
        """The release in production."""
        return self.route.stable

    @property
    def error(self) -> Error | None:
        """Why the release in production is not served."""
        slot = self._slot(self.route.stable)
        return slot.error if slot else None

    @property
    def live(self) -> list[Replica]:
        """All releases that could answer now: production's first."""
        slots = ([self._stable] if self._stable else []) + [s for s in self.slots.values() if s is not self._stable]
        return [slot.live for slot in slots if slot.live]

    @property
    def state(self) -> str:
        """serving, loading, unavailable, or empty (no release yet)."""
        if self.serving and self.serving.engine.alive:
            return "serving"
        if self.error:
            return "unavailable"
        return "loading" if self.route.stable else "empty"

    def want(self, route: Route) -> None:
        self.route = route
        self.review()

    def close(self, drain_s: float) -> None:
        self.route = Route()
        self._keep([], drain_s)

    def review(self) -> None:
        """Make the slots follow what is wanted, after that, a slot or the hour has changed."""
        route, stable = self.route, self._open(self.route.stable)
        if stable is None or stable.live:
            if stable and stable is not self._stable:
                log.info("endpoint %s serves %s", self.name, stable.target.ref)
            self._stable = stable
        wanted = [stable, self._stable]
        if self.serving or (stable and stable.error):  # the others wait: the one in production must not be slowed down
            wanted += [self._open(route.candidate), self._open(self._warm())]
        self._keep([slot for slot in wanted if slot], self.fleet.drain_s)

    def pick(self, unit: str, release: str) -> Replica | None:
        """What answers a request; None: nothing does. Errors: `not_found` for a release that is not live here."""
        route = self.route
        if release and release not in ("candidate", "stable"):
            return self._named(release)
        if route.weight or release == "candidate":
            drawn = release == "candidate" or (not release and bucket(route.salt, unit) < route.weight)
            if drawn and (slot := self._slot(route.candidate)) and (candidate := slot.live):
                return candidate
        return self._stable.live if self._stable else None

    def fallbacks(self, replica: Replica) -> list[Replica]:
        """Of the releases that have weight: one that was taken back, though warm, is none."""
        route = self.route
        slots = (self._stable, self._slot(route.candidate) if route.weight else None)
        return [slot.live for slot in slots if slot and slot.live and slot.live is not replica]

    def shadow(self, unit: str) -> Replica | None:
        route = self.route
        if not route.shadow or bucket("shadow:" + route.salt, unit) >= route.shadow:
            return None
        slot = self._slot(route.candidate)
        return slot.live if slot else None

    def refusal(self) -> Error:
        """Why no request can be answered now."""
        if self.error:
            message = f"the endpoint {self.name!r} is unavailable: {self.error.message}"
            return Error("unavailable", message, self.error.hint, retry_after_s=5)
        if self.route.stable:
            message = f"the endpoint {self.name!r} is loading {self.route.stable.ref}"
            return Error("unavailable", message, "try again in a moment", retry_after_s=2)
        return Error(
            "unavailable", f"the endpoint {self.name!r} has no release yet", "longrein apply", retry_after_s=30
        )

    def troubled(self, slot: Slot, error: Error) -> None:
        """A slot could not start or has ended. The rollout of a candidate is told; the others have to come back."""
        if self.route.candidate and slot.target.digest == self.route.candidate.digest:
            self.fleet.report(slot.target, error)
        self.review()

    def _slot(self, target: Target | None) -> Slot | None:
        return self.slots.get(target.digest) if target else None

    def _open(self, target: Target | None) -> Slot | None:
        if target and target.digest not in self.slots:
            self.slots[target.digest] = Slot(self, target)
        return self._slot(target)

    def _keep(self, slots: list[Slot], drain_s: float) -> None:
        kept = {slot.target.digest for slot in slots}
        for digest in self.slots.keys() - kept:
            self.slots.pop(digest).close(drain_s)

    def _warm(self) -> Target | None:
        """What stays live for a way back, until its time is over."""
        if self._timer:
            self._timer.cancel()
        left_s = (self.route.warm_until_ms - now_ms()) / 1000
        if not self.route.warm or left_s <= 0:
            return None
        self._timer = asyncio.get_running_loop().call_later(left_s, self.review)
        return self.route.warm

    def _named(self, release: str) -> Replica:
        """By version, ref or the beginning of its digest."""
        live = self.live
        for replica in live:
            target = replica.target
            names = (target.ref, target.ref.rpartition("@")[2])
            if release in names or (len(release) >= 12 and target.digest.startswith(release)):
                return replica
        hint = f"live here are: {', '.join(replica.target.ref for replica in live) or 'none'}"
        raise Error("not_found", f"the release {release[:80]!r} is not live at the endpoint {self.name!r}", hint)


class Fleet:
    """The lanes of all endpoints. All methods belong to the event loop."""

    def __init__(
        self, store: Store, project: Path, metrics: Metrics, drain_s: float = DRAIN_S,
        report: Callable[[Target, Error], None] = lambda target, error: None,
    ) -> None:  # fmt: skip
        """report: told, without waiting, of each failure of a release that is being rolled out."""
        self.store, self.project, self.metrics, self.drain_s, self.report = store, project, metrics, drain_s, report
        self.lanes: dict[str, Lane] = {}
        self.endpoints: Mapping[str, Mapping[str, Any]] = {}  # what the lifecycle file says of each
        self.shared: Path | None = None  # where engines are found that several gateway processes ask
        self._replicas: set[Replica] = set()  # all that run, the draining ones too
        self._tasks: set[asyncio.Task[Any]] = set()

    def apply(self, table: Table) -> None:
        """Make the lanes follow a new routing table: at once, where what it wants is live already."""
        self.endpoints = table.endpoints
        for name in self.lanes.keys() - table.routes.keys():
            self.lanes.pop(name).close(self.drain_s)
        for name, route in table.routes.items():
            lane = self.lanes.get(name) or self.lanes.setdefault(name, Lane(self, name))
            lane.want(route)

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
        if replica := lane.pick(unit, release):
            return replica
        raise lane.refusal()

    def fallbacks(self, name: str, replica: Replica) -> list[Replica]:
        """Other live replicas that may answer when this one failed before its first byte; the best first."""
        return lane.fallbacks(replica) if (lane := self.lanes.get(name)) else []

    def shadow(self, name: str, unit: str) -> Replica | None:
        """The replica that should get a copy of a request, if this one is drawn; unit: the request's id."""
        return lane.shadow(unit) if (lane := self.lanes.get(name)) else None

    @property
    def engines(self) -> int:
        """Engine processes of ours that are alive: the same one, asked for several releases, counts once."""
        engines = (replica.engine for replica in self._replicas)
        return len({engine.pid for engine in engines if isinstance(engine, EngineProcess) and engine.alive})

    async def settled(self) -> None:
        """Wait until every release that should be live is, or could not be started for now."""
        while loading := [s for lane in self.lanes.values() for s in lane.slots.values() if not s.quiet.is_set()]:
            await loading[0].quiet.wait()

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
        system = await asyncio.to_thread(self._system, bundle.prompt) if bundle.prompt else None
        engine = await self._engine(target, bundle, on_exit)
        engine.info.setdefault("engine", bundle.engine)  # `auto` says itself what it chose
        replica = Replica(target, engine, system)
        self._replicas.add(replica)
        return replica

    async def retire(self, replica: Replica, drain_s: float) -> None:
        """Stop a replica once nothing is under way there, or after drain_s."""
        await replica.idle(drain_s)
        await replica.engine.stop()
        self._replicas.discard(replica)

    def forget(self, replica: Replica) -> None:
        """Its engine has ended by itself."""
        self._replicas.discard(replica)

    def spawn(self, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        """A task that is kept alive, and ended with the fleet."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _engine(self, target: Target, bundle: _Bundle, on_exit: Any) -> EngineProcess | Upstream:
        if bundle.engine == UPSTREAM:
            return await Upstream.start(target.ref, bundle.options)
        if bundle.model is None:
            raise Error("corrupt", f"{target.ref} has no model to serve", "longrein apply")
        model = await asyncio.to_thread(self.store.verify, bundle.model.uri, bundle.model.digest)
        logs = self.project / ".longrein" / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        patience = {k: v for k, v in self.endpoints.get(target.endpoint, {}).items() if k in ("start_s", "silent_s")}
        return await EngineProcess.start(
            bundle.engine, model, bundle.options, name=f"of {target.ref}", project=self.project, on_exit=on_exit,
            log=logs / f"engine-{target.endpoint[:48]}.log", shared=self.shared, **patience,
        )  # fmt: skip

    def _system(self, prompt: _Part) -> str | None:
        path = self.store.verify(prompt.uri, prompt.digest)
        try:
            return msgspec.json.decode(path.read_bytes(), type=_Prompt).system
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Error("corrupt", f"the prompt {prompt.uri} cannot be read: {error}", "longrein apply") from error
