"""Silences: alerts that nobody is to be told of, for a while. They fire all the same, and rules act on them."""

from dataclasses import dataclass

import sqlalchemy as sa

from longrein.core.errors import Error
from longrein.core.ledger.alerts import Alert
from longrein.core.ledger.database import Database, now_ms
from longrein.core.ledger.events import Events
from longrein.core.ledger.schema import silences


@dataclass(frozen=True)
class Silence:
    id: int
    kind: str  # of the alerts that it covers; "" is any, here and below
    subject: str
    name: str
    reason: str
    actor: str
    start_ms: int
    end_ms: int

    def covers(self, alert: Alert) -> bool:
        pairs = ((self.kind, alert.kind), (self.subject, alert.subject), (self.name, alert.name))
        return all(wanted in ("", found) for wanted, found in pairs)

    @property
    def about(self) -> str:
        return " ".join(word for word in (self.kind, self.subject, self.name) if word) or "all alerts"


class Silences:
    def __init__(self, db: Database, events: Events) -> None:
        self.db, self.events = db, events

    def add(
        self, kind: str = "", subject: str = "", name: str = "", *, for_s: float, reason: str, actor: str
    ) -> Silence:
        """From now on. Errors: `invalid` for no time at all."""
        if not 0 < for_s <= 366 * 86_400:
            raise Error("invalid", f"a silence cannot last {for_s:g} s", "at most a year: --for 2h")
        now = now_ms()
        row = {
            "kind": kind, "subject": subject, "name": name, "reason": reason, "actor": actor, "start_ms": now,
            "end_ms": now + int(for_s * 1000),
        }  # fmt: skip
        with self.db.write(events=True) as connection:
            key = connection.execute(silences.insert().values(row)).inserted_primary_key
            assert key is not None
            made = Silence(id=key[0], **row)  # type: ignore[arg-type]
            self.events.append(
                actor, "silence.began", f"silence:{made.id}", about=made.about, reason=reason, end_ms=made.end_ms
            )
        return made

    def end(self, id: int, *, actor: str) -> Silence:
        """End one before its time. Errors: `not_found` when it is not in force."""
        now = now_ms()
        with self.db.write(events=True) as connection:
            mine = (silences.c.id == id, silences.c.end_ms > now)
            row = connection.execute(silences.update().where(*mine).values(end_ms=now).returning(silences)).first()
            if row is None:
                raise Error("not_found", f"no silence {id} is in force", "longrein silence")
            ended = Silence(**row._mapping)
            self.events.append(actor, "silence.ended", f"silence:{id}", about=ended.about)
        return ended

    def active(self, now: int) -> list[Silence]:
        """Those in force at a time (ms), the next to end first."""
        query = sa.select(silences).where(silences.c.end_ms > now)
        with self.db.read() as connection:
            return [Silence(**row._mapping) for row in connection.execute(query.order_by(silences.c.end_ms))]
