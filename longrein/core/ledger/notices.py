"""The outbox of alerts: what each channel is to be told, until it was; and how each channel does.

Written before it is sent, and marked after: who is killed between the two sends at most one message twice. A channel is
claimed with a token and a lease, so that of many who watch one ledger one sends, and messages keep their order.
"""

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import sqlalchemy as sa

from longrein.core.ledger.alerts import SEVERITIES, Alert
from longrein.core.ledger.database import Database
from longrein.core.ledger.schema import channels, notices

FIRING, RESOLVED = "firing", "resolved"
DAY_MS = 86_400_000
LEASE_MS = 60_000
KEPT_MS = 30 * DAY_MS  # what was told
GIVE_UP_MS = DAY_MS
FIRST_MS, MOST_MS = 5_000, 600_000  # before a failed message is sent again: at first, and at most on our own account
LONGEST_MS = 3_600_000  # on the receiver's
MOST = 500  # notices of one message


@dataclass(frozen=True)
class Notice:
    channel: str
    alert_id: int
    turn: int
    what: str  # FIRING | RESOLVED
    severity: str  # of the alert as it was noticed
    due_ms: int
    done_ms: int | None
    error: str


@dataclass(frozen=True)
class Claim:
    """All that a channel is to be told now, in one message, by who holds this."""

    channel: str
    token: str
    notices: Sequence[Notice]

    @property
    def id(self) -> str:
        """Of the message: the same when it is sent again as it was."""
        ends = (self.notices[0], self.notices[-1])
        return "-".join(f"{n.alert_id}.{n.turn}" for n in ends) + f"-{len(self.notices)}"


@dataclass(frozen=True)
class Channel:
    """How sending to it goes."""

    name: str
    waiting: int
    given_up: int  # notices, in the last day
    failing_ms: int | None  # since when; None: the last message arrived
    retry_ms: int  # 0, or not before
    error: str


class Notices:
    def __init__(self, db: Database) -> None:
        self.db = db

    def add(self, channel: str, alert: Alert, turn: int, due_ms: int) -> bool:
        """Tell a channel of an alert as it is now. False: that turn of it is taken."""
        row = {
            "channel": channel, "alert_id": alert.id, "turn": turn, "what": FIRING if alert.firing else RESOLVED,
            "severity": alert.severity, "due_ms": due_ms,
        }  # fmt: skip
        statement = self.db.insert(notices).values(row).on_conflict_do_nothing().returning(notices.c.turn)
        with self.db.write() as connection:
            return connection.execute(statement).first() is not None

    def open(self) -> dict[tuple[str, int], Notice]:
        """The last notice by (channel, alert id) of alerts whose end was not noticed yet; its severity is the highest
        of all of them."""
        rank = sa.case({name: i for i, name in enumerate(SEVERITIES)}, value=notices.c.severity)
        of = (notices.c.channel, notices.c.alert_id)
        last = sa.select(*of, sa.func.max(notices.c.turn).label("turn"), sa.func.max(rank).label("rank"))
        grouped = last.group_by(*of).subquery()
        joined = sa.and_(*(notices.c[name] == grouped.c[name] for name in ("channel", "alert_id", "turn")))
        query = sa.select(notices, grouped.c.rank).join(grouped, joined).where(notices.c.what == FIRING)
        with self.db.read() as connection:
            found = [replace(Notice(*row[:-1]), severity=SEVERITIES[row.rank]) for row in connection.execute(query)]
        return {(n.channel, n.alert_id): n for n in found}

    def claim(self, channel: str, now: int, wait_ms: int) -> Claim | None:
        """What waits, once the first of it is due; None when nothing is, or another sends, or it is too early to try
        again. wait_ms: how long ahead a notice is made due; a clock that was set back delays none for longer."""
        due = sa.or_(notices.c.due_ms <= now, notices.c.due_ms > now + wait_ms)
        with self.db.read() as connection:
            waits = sa.select(notices.c.turn).where(notices.c.channel == channel, notices.c.done_ms.is_(None), due)
            if connection.execute(waits.limit(1)).first() is None:
                return None
        token = uuid.uuid4().hex
        with self.db.write() as connection:
            connection.execute(self.db.insert(channels).values(name=channel).on_conflict_do_nothing())
            free = (
                channels.c.name == channel,
                sa.or_(channels.c.lease_ms <= now, channels.c.lease_ms > now + LEASE_MS),
                sa.or_(channels.c.retry_ms <= now, channels.c.retry_ms > now + LONGEST_MS),
            )
            mine = {"token": token, "lease_ms": now + LEASE_MS}
            if not connection.execute(channels.update().where(*free).values(mine)).rowcount:
                return None
            order = (notices.c.due_ms, notices.c.alert_id, notices.c.turn)
            waiting = sa.select(notices).where(notices.c.channel == channel, notices.c.done_ms.is_(None))
            rows = connection.execute(waiting.order_by(*order).limit(MOST)).all()
            if rows:
                return Claim(channel, token, [Notice(**row._mapping) for row in rows])
            self._release(connection, channel, token)  # another has just sent them
        return None

    def sent(self, claim: Claim, now: int) -> bool:
        """It arrived. False: the lease had ended, and it may have been sent twice."""
        with self.db.write() as connection:
            values = {"tries": 0, "retry_ms": 0, "failing_ms": None, "error": ""}
            held = self._release(connection, claim.channel, claim.token, **values)
            self._done(connection, claim.notices, now)
            old = notices.c.done_ms < now - KEPT_MS
            connection.execute(notices.delete().where(notices.c.channel == claim.channel, old))
        return held

    def failed(self, claim: Claim, error: str, now: int, retry_after_s: float = 0.0) -> list[Notice]:
        """It did not arrive: it is sent again later, each time after twice as long; what is a day old is given up,
        and returned."""
        late = [n for n in claim.notices if n.due_ms < now - GIVE_UP_MS]
        with self.db.write() as connection:
            mine = (channels.c.name == claim.channel, channels.c.token == claim.token)
            row = connection.execute(sa.select(channels).where(*mine)).first()
            if row is None:
                return []
            wait_ms = min(FIRST_MS << min(row.tries, 20), MOST_MS)
            wait_ms = min(max(wait_ms, int(retry_after_s * 1000)), LONGEST_MS)
            since = now if row.failing_ms is None else row.failing_ms
            values = {"tries": row.tries + 1, "retry_ms": now + wait_ms, "failing_ms": since, "error": error}
            self._release(connection, claim.channel, claim.token, **values)
            self._done(connection, late, now, error)
        return late

    def abandon(self, known: Iterable[str], now: int) -> None:
        """Give up what waits for channels that are no more."""
        gone = sa.and_(notices.c.channel.not_in(list(known)), notices.c.done_ms.is_(None))
        with self.db.read() as connection:
            if connection.execute(sa.select(notices.c.turn).where(gone).limit(1)).first() is None:
                return
        with self.db.write() as connection:
            connection.execute(notices.update().where(gone).values(done_ms=now, error="there is no such channel now"))

    def channels(self, now: int) -> dict[str, Channel]:
        """Of those that were ever told anything."""
        waits = sa.func.count().filter(notices.c.done_ms.is_(None))
        lost = sa.func.count().filter(notices.c.error != "", notices.c.done_ms > now - DAY_MS)
        counts = sa.select(notices.c.channel, waits, lost).group_by(notices.c.channel)
        with self.db.read() as connection:
            found = {row[0]: (row[1], row[2]) for row in connection.execute(counts)}
            rows = {row.name: row for row in connection.execute(sa.select(channels))}
        told = {}
        for name in sorted(found.keys() | rows.keys()):
            waiting, given_up = found.get(name, (0, 0))
            row = rows.get(name)
            how = (row.failing_ms, row.retry_ms, row.error) if row else (None, 0, "")
            told[name] = Channel(name, waiting, given_up, *how)
        return told

    def _release(self, connection: sa.Connection, channel: str, token: str, **values: object) -> bool:
        mine = (channels.c.name == channel, channels.c.token == token)
        return bool(connection.execute(channels.update().where(*mine).values(token="", lease_ms=0, **values)).rowcount)

    def _done(self, connection: sa.Connection, which: Iterable[Notice], now: int, error: str = "") -> None:
        for n in which:
            key = (notices.c.channel == n.channel, notices.c.alert_id == n.alert_id, notices.c.turn == n.turn)
            connection.execute(
                notices.update().where(*key, notices.c.done_ms.is_(None)).values(done_ms=now, error=error)
            )
