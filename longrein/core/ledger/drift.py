"""Drift of endpoints, as the observer of each host sees it, and since when what is there counts as normal."""

from typing import Any

import sqlalchemy as sa

from longrein.core.ledger.database import Database, now_ms
from longrein.core.ledger.events import Events
from longrein.core.ledger.schema import drift

ACCEPTED = "drift.accepted"
GONE_MS = 7 * 86_400_000  # a host that says nothing for so long is forgotten


class Drift:
    def __init__(self, db: Database, events: Events) -> None:
        self.db, self.events = db, events

    def put(self, endpoint: str, host: str, state: dict[str, Any]) -> None:
        """What a host knows now, in place of what it said before."""
        now = now_ms()
        statement = self.db.insert(drift).values(endpoint=endpoint, host=host, state=state, updated_ms=now)
        changed = {"state": statement.excluded.state, "updated_ms": now}
        with self.db.write() as connection:
            connection.execute(drift.delete().where(drift.c.updated_ms < now - GONE_MS))
            connection.execute(statement.on_conflict_do_update(index_elements=["endpoint", "host"], set_=changed))

    def of(self, endpoint: str = "") -> list[dict[str, Any]]:
        """{"endpoint", "host", "state", "updated_ms"} of each host, of one endpoint or of all."""
        query = sa.select(drift).order_by(drift.c.endpoint, drift.c.host)
        query = query.where(drift.c.endpoint == endpoint) if endpoint else query
        with self.db.read() as connection:
            return [dict(row._mapping) for row in connection.execute(query)]

    def accept(self, endpoint: str, *, actor: str, reason: str = "") -> None:
        """What the endpoint sees now is normal from here on."""
        self.events.append(actor, ACCEPTED, f"endpoint:{endpoint}", reason=reason)

    def accepted_ms(self, endpoint: str) -> int:
        """When that was last said; 0 for never."""
        found = self.events.recent(f"endpoint:{endpoint}", ACCEPTED, limit=1)
        return found[0].ts_ms if found else 0
