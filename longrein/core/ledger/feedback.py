"""What people and programs said of answers: one value for each request, metric and source; and late labels."""

from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa

from longrein.core.ledger.database import Database, now_ms
from longrein.core.ledger.schema import feedback

CORRECT = "correct"  # the metric that a label gives: 1 where the answer was the label, else 0
LATE_S = 86_400.0  # what is said of an older answer is counted as late


class Feedback:
    def __init__(self, db: Database) -> None:
        self.db = db

    def put(
        self, request_id: str, values: Sequence[tuple[str, float | None, str]], *, source: str, endpoint: str,
        release: str, arm: str = "", label: str | None = None,
    ) -> list[str]:  # fmt: skip
        """Keep (metric, value, comment) of one request; the metrics that were new. What this source said of it before
        stands: saying it again changes nothing. label: what the answer should have been, kept with the metric CORRECT.
        """
        whole = {"request_id": request_id, "source": source, "ts_ms": now_ms()}
        where = {"endpoint": endpoint, "release": release, "arm": arm}
        new = []
        with self.db.write() as connection:
            for name, value, comment in values:
                row = {**whole, **where, "name": name, "value": value, "comment": comment}
                row["label"] = label if name == CORRECT else None
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

    def labels(self, endpoint: str, since_ms: int = 0) -> Iterator[tuple[str, str]]:
        """(request id, label) of an endpoint's answers, of what was said since then, the oldest first. Where several
        said something of one answer, what came last is the last."""
        here = (feedback.c.endpoint == endpoint, feedback.c.ts_ms >= since_ms, feedback.c.label.is_not(None))
        query = sa.select(feedback.c.request_id, feedback.c.label).where(*here)
        with self.db.read() as connection:
            for row in connection.execute(query.order_by(feedback.c.ts_ms, feedback.c.request_id)):
                yield row.request_id, row.label

    def values(self, endpoint: str, since_ms: int, limit: int) -> list[Any]:
        """Rows with request_id, name, source, value, release, arm and ts_ms of what was said since then, the oldest
        first; without those that have no value."""
        here = (feedback.c.endpoint == endpoint, feedback.c.ts_ms >= since_ms, feedback.c.value.is_not(None))
        columns = [feedback.c[n] for n in ("request_id", "name", "source", "value", "release", "arm", "ts_ms")]
        with self.db.read() as connection:
            return list(connection.execute(sa.select(*columns).where(*here).order_by(feedback.c.ts_ms).limit(limit)))

    def erase(self, request_ids: Sequence[str]) -> int:
        """Forget what was said of requests, comments and all; the blocks of traffic keep their counts."""
        with self.db.write() as connection:
            return sum(
                connection.execute(
                    feedback.delete().where(feedback.c.request_id.in_(request_ids[i : i + 500]))
                ).rowcount
                for i in range(0, len(request_ids), 500)
            )
