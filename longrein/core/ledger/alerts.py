"""Alerts: what is wrong, since when, on what evidence. Who notices something raises one; rules and channels read them.

An alert has a kind ("drifted"), a subject ("endpoint:support") and a name of its own ("language"). At most one of the
three together fires at a time, however many processes see it, and however often.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa

from longrein.core.ledger.database import Database, now_ms
from longrein.core.ledger.events import Events
from longrein.core.ledger.schema import alerts

SEVERITIES = ("info", "warning", "critical")


@dataclass(frozen=True)
class Alert:
    id: int
    kind: str
    subject: str  # a ref: "endpoint:support", "release:support@3", "rule:retrain", "host:gpu-1"
    name: str  # which of its kind: the objective, the detector, the metric; "" where there is but one
    severity: str  # of SEVERITIES
    summary: str  # one sentence
    evidence: dict[str, Any]  # JSON
    since_ms: int  # when what it tells began, as far as is known; not later than fired_ms
    fired_ms: int
    updated_ms: int
    resolved_ms: int | None

    @classmethod
    def of(cls, row: Any) -> "Alert":
        """From a row of the table."""
        values = dict(row._mapping)
        values.pop("firing")
        return cls(**values)

    @property
    def firing(self) -> bool:
        return self.resolved_ms is None

    @property
    def key(self) -> str:
        return f"{self.kind} {self.subject} {self.name}".rstrip()


class Alerts:
    def __init__(self, db: Database, events: Events) -> None:
        self.db, self.events = db, events

    def fire(
        self, kind: str, subject: str, name: str = "", *, summary: str, evidence: dict[str, Any] | None = None,
        severity: str = "warning", since_ms: int = 0, actor: str,
    ) -> Alert:  # fmt: skip
        """Raise an alert; one that fires already has its words and evidence brought up to date, without an event.

        since_ms: 0 is now.
        """
        assert severity in SEVERITIES
        now = now_ms()
        told = {"severity": severity, "summary": summary, "evidence": evidence or {}, "updated_ms": now}
        row = {"kind": kind, "subject": subject, "name": name, "since_ms": min(since_ms or now, now), "fired_ms": now}
        new = Alert(id=0, resolved_ms=None, **row, **told)  # type: ignore[arg-type]
        with self.db.write(events=True) as connection:
            statement = self.db.insert(alerts).values({**row, **told, "firing": new.key}).on_conflict_do_nothing()
            made = connection.execute(statement.returning(alerts.c.id)).scalar()
            if made is None:
                connection.execute(alerts.update().where(alerts.c.firing == new.key).values(told))
                return Alert.of(connection.execute(sa.select(alerts).where(alerts.c.firing == new.key)).one())
            new = replace(new, id=made)
            self._tell(new, "fired", actor)
        return new

    def resolve(self, kind: str, subject: str, name: str = "", *, summary: str = "", actor: str) -> Alert | None:
        """It is over. None when it did not fire. summary: in place of its own, where given."""
        now = now_ms()
        values = {"resolved_ms": now, "updated_ms": now, "firing": None} | ({"summary": summary} if summary else {})
        mine = (alerts.c.kind == kind, alerts.c.subject == subject, alerts.c.name == name, alerts.c.firing.is_not(None))
        if not any((a.subject, a.name) == (subject, name) for a in self.firing(kind)):
            return None  # nothing to write: this is asked every second
        with self.db.write(events=True) as connection:
            row = connection.execute(alerts.update().where(*mine).values(values).returning(alerts)).first()
            if row is None:
                return None
            over = Alert.of(row)
            self._tell(over, "resolved", actor)
        return over

    def firing(self, kind: str = "") -> list[Alert]:
        """Those that fire now, the newest first."""
        where = [alerts.c.firing.is_not(None)] + ([alerts.c.kind == kind] if kind else [])
        return self._select(where)

    def recent(self, limit: int = 100, *, subject: str = "", after: int = 0) -> list[Alert]:
        """The newest first, firing or not. after: those with a greater id only."""
        where = [alerts.c.id > after] + ([alerts.c.subject == subject] if subject else [])
        return self._select(where, limit)

    def many(self, ids: Collection[int]) -> list[Alert]:
        """Those of these ids, the newest first."""
        return self._select([alerts.c.id.in_(ids)], len(ids)) if ids else []

    def _select(self, where: Sequence[Any], limit: int = 1000) -> list[Alert]:
        query = sa.select(alerts).where(*where).order_by(alerts.c.id.desc()).limit(limit)
        with self.db.read() as connection:
            return [Alert.of(row) for row in connection.execute(query)]

    def _tell(self, alert: Alert, what: str, actor: str) -> None:
        data = {"alert": alert.id, "name": alert.name, "severity": alert.severity, "summary": alert.summary}
        self.events.append(actor, f"alert.{what}", alert.subject, about=alert.kind, **data)
