"""The ledger: assets, runs, aliases, events, wanted state and claims, on SQLite or PostgreSQL."""

from collections.abc import Iterator
from contextlib import contextmanager

from longrein.core.ledger.alerts import Alert, Alerts
from longrein.core.ledger.aliases import Aliases, Verdict
from longrein.core.ledger.assets import Asset, Assets, Edge, Lineage
from longrein.core.ledger.database import Database, now_ms
from longrein.core.ledger.drift import Drift
from longrein.core.ledger.events import Event, Events
from longrein.core.ledger.feedback import Feedback
from longrein.core.ledger.holds import Hold, Holds
from longrein.core.ledger.keys import ApiKey, Keys
from longrein.core.ledger.notices import Notices
from longrein.core.ledger.objectives import Objectives
from longrein.core.ledger.rollouts import Rollout, Rollouts
from longrein.core.ledger.runs import Run, Runs
from longrein.core.ledger.silences import Silence, Silences
from longrein.core.ledger.traffic import Block, Traffic
from longrein.core.ledger.work import Claim, Item, Work

__all__ = [
    "Alert",
    "ApiKey",
    "Asset",
    "Block",
    "Claim",
    "Edge",
    "Event",
    "Hold",
    "Item",
    "Ledger",
    "Lineage",
    "Rollout",
    "Run",
    "Silence",
    "Verdict",
    "now_ms",
]


class Ledger:
    """`Ledger("sqlite:///path/ledger.db")`. Parts share one transaction inside `with ledger.transaction():`."""

    def __init__(self, url: str) -> None:
        self.db = Database(url)
        self.events = Events(self.db)
        self.assets = Assets(self.db, self.events)
        self.runs = Runs(self.db, self.events)
        self.aliases = Aliases(self.db, self.events, self.assets)
        self.rollouts = Rollouts(self.db, self.events, self.aliases)
        self.work = Work(self.db, self.events)
        self.keys = Keys(self.db, self.events)
        self.feedback = Feedback(self.db)
        self.traffic = Traffic(self.db)
        self.alerts = Alerts(self.db, self.events)
        self.holds = Holds(self.db, self.events)
        self.drift = Drift(self.db, self.events)
        self.silences = Silences(self.db, self.events)
        self.notices = Notices(self.db)
        self.objectives = Objectives(self.db)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All that happens inside is kept or none of it."""
        with self.db.write(events=True):
            yield

    def close(self) -> None:
        self.db.close()
