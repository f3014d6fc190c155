"""Which endpoint serves which release: a table read whole from the ledger whenever its head moves."""

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from longrein.core.errors import Error
from longrein.core.ledger import ApiKey, Ledger
from longrein.core.ref import Ref

EVERY_S = 0.5
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Target:
    """The release that an endpoint should serve."""

    endpoint: str
    ref: str
    digest: str
    meta: Mapping[str, Any]  # what models.deploy bundled: model, prompt, engine, options
    created_ms: int


@dataclass(frozen=True)
class Table:
    head: tuple[int, str]
    targets: Mapping[str, Target | None]  # by endpoint; None: no release yet
    endpoints: Mapping[str, Mapping[str, Any]]  # what the lifecycle file says of each
    log_text: frozenset[str]  # endpoints whose texts may be kept
    keys: Mapping[str, ApiKey]  # by the hash of the secret


def read(ledger: Ledger) -> Table:
    """The wanted endpoints and their releases as the ledger has them now."""
    head = ledger.events.head()  # first: a change while the rest is read moves it, and so is seen next time
    endpoints = (ledger.work.wanted() or {}).get("endpoints") or {}
    return Table(
        head,
        {name: _target(ledger, name) for name in endpoints},
        endpoints,
        frozenset(name for name, config in endpoints.items() if config.get("log_text")),
        ledger.keys.live(),
    )


def _target(ledger: Ledger, endpoint: str) -> Target | None:
    asset = ledger.assets.find(Ref("release", endpoint, "prod"))
    return Target(endpoint, asset.ref, asset.digest, asset.meta, asset.created_ms) if asset else None


class Watch:
    """Looks at the ledger's head twice a second and hands every new table to `apply`, in a thread of its own.

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
            except (Error, SQLAlchemyError) as error:
                if not self.error:
                    log.warning("serving goes on from the last routing table: %s", error)
                self.error = str(error)
