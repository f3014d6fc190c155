"""Which endpoint serves which releases: a table read whole from the ledger whenever its head moves."""

import logging
import os
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from longrein.core.errors import Error
from longrein.core.ledger import ApiKey, Asset, Ledger
from longrein.core.ledger.rollouts import ALIAS
from longrein.models.experiment import rollout

EVERY_S = 0.1  # a look is one small query: a rollback is in force everywhere in less than twice that
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Target:
    """A release that an endpoint should have live."""

    endpoint: str
    ref: str
    digest: str
    meta: Mapping[str, Any]  # what models.deploy bundled: model, prompt, engine, options
    created_ms: int


@dataclass(frozen=True)
class Route:
    """Where an endpoint's requests should go. Weights are buckets of models.experiment.assign."""

    stable: Target | None = None  # the release in production; None: none yet
    candidate: Target | None = None  # the one that is being rolled out
    weight: int = 0  # buckets that the candidate answers
    shadow: int = 0  # buckets whose requests it gets a copy of
    salt: str = ""
    warm: Target | None = None  # what was in production before: it stays live, so that a way back is never cold
    warm_until_ms: int = 0


@dataclass(frozen=True)
class Table:
    head: tuple[int, str]
    routes: Mapping[str, Route]  # by endpoint
    endpoints: Mapping[str, Mapping[str, Any]]  # what the lifecycle file says of each
    log_text: frozenset[str]  # endpoints whose texts may be kept
    keys: Mapping[str, ApiKey]  # by the hash of the secret
    teams: Mapping[str, Any] = field(default_factory=dict)  # their limits
    costs: Mapping[str, Any] = field(default_factory=dict)  # of hardware
    compute: Mapping[str, Any] = field(default_factory=dict)


def read(ledger: Ledger) -> Table:
    """The wanted endpoints and their releases as the ledger has them now, in a few queries however many they are."""
    head = ledger.events.head()  # first: a change while the rest is read moves it, and so is seen next time
    wanted = ledger.work.wanted() or {}
    endpoints = wanted.get("endpoints") or {}
    held = ledger.aliases.holders("release", ALIAS)
    live = ledger.rollouts.all_live()
    routes = {}
    for name, config in endpoints.items():
        stable, before, since_ms = held.get(name, (None, None, 0))
        route = Route(_target(stable), warm=_target(before), warm_until_ms=since_ms + _keep_warm_ms(config))
        if (moving := live.get(name)) and moving.stable == stable:  # else production moved on without it
            candidate = _target(moving.candidate)
            route = replace(route, candidate=candidate, weight=moving.weight, shadow=moving.shadow, salt=moving.salt)
        routes[name] = route
    log_text = frozenset(name for name, config in endpoints.items() if config.get("log_text"))
    costs = {name: wanted.get(name) or {} for name in ("teams", "costs", "compute")}
    return Table(head, routes, endpoints, log_text, ledger.keys.live(), **costs)


def report(ledger: Ledger, target: Target, error: Error) -> None:
    """Say that a release cannot be served here, for its rollout to hear; while the ledger is away, in the log alone."""
    try:
        told = {"digest": target.digest, "gateway": f"{socket.gethostname()}:{os.getpid()}", "error": error.as_dict()}
        ledger.events.append("gateway", "release.failed", target.ref, **told)
    except (Error, SQLAlchemyError) as away:
        log.warning("a failure of %s could not be told: %s", target.ref, away)


def _target(asset: Asset | None) -> Target | None:
    return Target(asset.name, asset.ref, asset.digest, asset.meta, asset.created_ms) if asset else None


def _keep_warm_ms(config: Mapping[str, Any]) -> int:
    return int(rollout.declared(config.get("rollout")).keep_warm_s * 1000)


class Watch:
    """Looks at the ledger's head ten times a second and hands every new table to `apply`, in a thread of its own.

    While the ledger is down, the last table stands and `error` says why.
    """

    def __init__(self, ledger: Ledger, apply: Callable[[Table], None]) -> None:
        self.ledger, self._apply = ledger, apply
        self.error = ""
        self._head: tuple[int, str] | None = None
        self._reading = threading.Lock()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="routing", daemon=True)

    def start(self) -> None:
        """Read the first table, then keep watching. Errors: the ledger's, when there is no first table."""
        self.refresh()
        self._thread.start()

    def refresh(self) -> None:
        """Look now. Errors: the ledger's."""
        with self._reading:
            if self.ledger.events.head() != self._head:
                table = read(self.ledger)
                self._apply(table)
                self._head = table.head

    def close(self) -> None:
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._closing.wait(EVERY_S):
            try:
                self.refresh()
                self.error = ""
            except Exception as error:  # noqa: BLE001 - this thread must not end: the next table may be good
                if not self.error:
                    log.warning("serving goes on from the last routing table: %s", error)
                self.error = str(error) or repr(error)
