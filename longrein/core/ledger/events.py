"""The audit trail: an append-only chain of events in which each row's hash covers the row before it.

A chain alone shows any edited, removed or inserted row but not a cut or rewritten tail: for that, signed checkpoints
leave the host (`longrein audit checkpoint`) and `verify` holds the chain against them.
"""

import hashlib
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import sqlalchemy as sa

from longrein.core.digest import canonical
from longrein.core.errors import Error
from longrein.core.ledger.database import Database, execute, now_ms
from longrein.core.ledger.schema import events

GENESIS = "0" * 64


class Event(NamedTuple):
    seq: int
    ts_ms: int
    actor: str
    kind: str  # "asset.made", "alias.moved", …
    subject: str  # "release:support@prod"
    data: dict[str, Any]
    hash: str


def link(seq: int, ts_ms: int, actor: str, kind: str, subject: str, data: str, prev: str) -> str:
    """The hash of one row: SHA-256 over the canonical JSON of all its fields and the hash before it."""
    return hashlib.sha256(canonical([seq, ts_ms, actor, kind, subject, data, prev])).hexdigest()


class Events:
    def __init__(self, db: Database) -> None:
        self.db = db

    def append(self, actor: str, kind: str, subject: str, **data: Any) -> int:
        """Add one event in the caller's transaction; returns its sequence number (from 1, without gaps)."""
        with self.db.write(events=True) as connection:
            last = connection.execute(
                sa.select(events.c.seq, events.c.hash).order_by(events.c.seq.desc()).limit(1)
            ).first()
            seq, prev = (last.seq + 1, last.hash) if last else (1, GENESIS)
            ts_ms, text = now_ms(), canonical(data).decode()
            connection.execute(
                events.insert().values(
                    seq=seq, ts_ms=ts_ms, actor=actor, kind=kind, subject=subject, data=text, prev=prev,
                    hash=link(seq, ts_ms, actor, kind, subject, text, prev),
                )
            )  # fmt: skip
            return int(seq)

    def recent(self, subject: str = "", kind: str = "", limit: int = 100, after: int = 0) -> list[Event]:
        """The newest `limit` events, newest first; `after` leaves out those up to that sequence number."""
        query = sa.select(events).where(events.c.seq > after).order_by(events.c.seq.desc()).limit(limit)
        if subject:
            query = query.where(events.c.subject == subject)
        if kind:
            query = query.where(events.c.kind == kind)
        with self.db.read() as connection:
            return [_event(row) for row in connection.execute(query)]

    def head(self) -> tuple[int, str]:
        """(sequence number, hash) of the newest event; (0, 64 zeros) when there is none."""
        with self.db.read() as connection:
            row = execute(connection, "SELECT seq, hash FROM events ORDER BY seq DESC LIMIT 1").fetchone()
        return (row[0], row[1]) if row else (0, GENESIS)  # every gateway asks it ten times a second

    def verify(self, checkpoint: dict[str, Any] | None = None) -> int:
        """Walk the whole chain; returns the number of events. Errors: `corrupt`, naming the first bad row."""
        prev, seq, seen = GENESIS, 0, GENESIS
        wanted = int(checkpoint["seq"]) if checkpoint else -1
        for row in self._walk():
            seq += 1
            if row.seq != seq:
                raise Error("corrupt", f"event {seq} is missing from the audit trail", "restore the ledger from a copy")
            good = link(row.seq, row.ts_ms, row.actor, row.kind, row.subject, row.data, prev)
            if row.prev != prev or row.hash != good:
                raise Error("corrupt", f"event {seq} ({row.kind} {row.subject}) was changed", "compare it with a copy")
            prev = row.hash
            seen = prev if seq == wanted else seen
        if checkpoint and (seq < wanted or (wanted > 0 and seen != checkpoint["hash"])):
            what = "shorter than" if seq < wanted else "different from"
            raise Error(
                "corrupt", f"the audit trail is {what} the checkpoint taken at event {wanted}", "its tail was rewritten"
            )
        return seq

    def _walk(self, page: int = 10_000) -> Iterator[Any]:
        last = -(2**63)  # a row before the first is one too many
        with self.db.read() as connection:
            while rows := connection.execute(
                sa.select(events).where(events.c.seq > last).order_by(events.c.seq).limit(page)
            ).all():
                yield from rows
                last = rows[-1].seq


def _event(row: Any) -> Event:
    return Event(row.seq, row.ts_ms, row.actor, row.kind, row.subject, json.loads(row.data), row.hash)
