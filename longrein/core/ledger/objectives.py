"""How the objectives of endpoints stood when somebody looked last, for all who want to show it."""

from collections.abc import Collection
from typing import Any

import sqlalchemy as sa

from longrein.core.ledger.database import Database
from longrein.core.ledger.schema import objectives


class Objectives:
    def __init__(self, db: Database) -> None:
        self.db = db

    def put(self, endpoint: str, states: dict[str, dict[str, Any]], now: int) -> None:
        """All of an endpoint's, in place of what there was of it. The states are JSON."""
        with self.db.write() as connection:
            gone = (objectives.c.endpoint == endpoint, objectives.c.name.not_in(list(states)))
            connection.execute(objectives.delete().where(*gone))
            for name, state in states.items():
                row = {"endpoint": endpoint, "name": name, "state": state, "updated_ms": now}
                insert = self.db.insert(objectives).values(row)
                changed = {"state": insert.excluded.state, "updated_ms": insert.excluded.updated_ms}
                connection.execute(insert.on_conflict_do_update(index_elements=["endpoint", "name"], set_=changed))

    def keep(self, endpoints: Collection[str]) -> None:
        """Forget those of all other endpoints."""
        gone = objectives.c.endpoint.not_in(endpoints)
        with self.db.read() as connection:
            if connection.execute(sa.select(objectives.c.name).where(gone).limit(1)).first() is None:
                return
        with self.db.write() as connection:
            connection.execute(objectives.delete().where(gone))

    def all(self) -> dict[str, dict[str, dict[str, Any]]]:
        """{endpoint: {name: state}}, each state with its updated_ms."""
        found: dict[str, dict[str, dict[str, Any]]] = {}
        with self.db.read() as connection:
            for row in connection.execute(sa.select(objectives).order_by(objectives.c.endpoint, objectives.c.name)):
                found.setdefault(row.endpoint, {})[row.name] = {**row.state, "updated_ms": row.updated_ms}
        return found
