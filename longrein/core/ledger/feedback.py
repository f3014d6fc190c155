"""What people and programs said of answers: one value for each request, metric and source."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from longrein.core.ledger.database import Database, now_ms
from longrein.core.ledger.schema import feedback


class Feedback:
    def __init__(self, db: Database) -> None:
        self.db = db

    def put(
        self, request_id: str, values: Sequence[tuple[str, float | None, str]], *, source: str, endpoint: str,
        release: str, arm: str = "",
    ) -> list[str]:  # fmt: skip
        """Keep (metric, value, comment) of one request; the metrics that were new. What this source said of it before
        stands: saying it again changes nothing."""
        whole = {"request_id": request_id, "source": source, "ts_ms": now_ms()}
        where = {"endpoint": endpoint, "release": release, "arm": arm}
        new = []
        with self.db.write() as connection:
            for name, value, comment in values:
                row = {**whole, **where, "name": name, "value": value, "comment": comment}
                statement = self.db.insert(feedback).values(row).on_conflict_do_nothing().returning(feedback.c.name)
                if connection.execute(statement).first():
                    new.append(name)
        return new

    def of(self, request_id: str) -> list[dict[str, Any]]:
        """All that was said of a request, the oldest first."""
        query = sa.select(feedback).where(feedback.c.request_id == request_id)
        with self.db.read() as connection:
            rows = connection.execute(query.order_by(feedback.c.ts_ms, feedback.c.name, feedback.c.source)).all()
        return [dict(row._mapping) for row in rows]

    def erase(self, request_ids: Sequence[str]) -> int:
        """Forget what was said of requests, comments and all; the blocks of traffic keep their counts."""
        with self.db.write() as connection:
            return sum(
                connection.execute(
                    feedback.delete().where(feedback.c.request_id.in_(request_ids[i : i + 500]))
                ).rowcount
                for i in range(0, len(request_ids), 500)
            )
