"""The request log: one row per answered request, written in batches by the gateway, off the request path."""

from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

from longrein.core.errors import Error
from longrein.core.ledger.database import Database
from longrein.core.ledger.schema import requests


class Requests:
    def __init__(self, db: Database) -> None:
        self.db = db

    def put(self, rows: Iterable[dict[str, Any]]) -> None:
        """Add records (columns of schema.requests); a record written twice counts once."""
        batch = list(rows)
        if batch:
            with self.db.write() as connection:
                connection.execute(self.db.insert(requests).on_conflict_do_nothing(), batch)

    def get(self, request_id: str) -> dict[str, Any]:
        with self.db.read() as connection:
            row = connection.execute(sa.select(requests).where(requests.c.id == request_id)).first()
        if row is None:
            raise Error("not_found", f"there is no request {request_id!r} in the log", "longrein ls requests")
        return dict(row._mapping)

    def recent(self, endpoint: str = "", limit: int = 100) -> list[dict[str, Any]]:
        """The newest first."""
        query = sa.select(requests).order_by(requests.c.ts_ms.desc(), requests.c.id.desc()).limit(limit)
        if endpoint:
            query = query.where(requests.c.endpoint == endpoint)
        with self.db.read() as connection:
            return [dict(row._mapping) for row in connection.execute(query)]
