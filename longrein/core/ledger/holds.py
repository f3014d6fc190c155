"""Holds on an endpoint: nothing new moves in (frozen), or not without a person's yes (approval). Rules set them.

The newest event that says so is the state: there is no table of its own.
"""

from dataclasses import asdict, dataclass, replace

from longrein.core.ledger.database import Database
from longrein.core.ledger.events import Events

KIND = "endpoint.held"


@dataclass(frozen=True)
class Hold:
    frozen: bool = False
    approval: bool = False
    reason: str = ""
    actor: str = ""


class Holds:
    def __init__(self, db: Database, events: Events) -> None:
        self.db, self.events = db, events

    def get(self, endpoint: str) -> Hold:
        found = self.events.recent(f"endpoint:{endpoint}", KIND, limit=1)
        return Hold(**found[0].data, actor=found[0].actor) if found else Hold()

    def set(
        self, endpoint: str, *, frozen: bool | None = None, approval: bool | None = None, actor: str, reason: str = ""
    ) -> Hold:
        """Change one or both. None: as it was."""
        with self.db.write(events=True):
            was = self.get(endpoint)
            now = replace(
                was, frozen=was.frozen if frozen is None else frozen,
                approval=was.approval if approval is None else approval,
            )  # fmt: skip
            if now == was:
                return was
            now = replace(now, reason=reason, actor=actor)
            self.events.append(
                actor, KIND, f"endpoint:{endpoint}", **{k: v for k, v in asdict(now).items() if k != "actor"}
            )
        return now
