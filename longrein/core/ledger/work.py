"""Wanted state, and claims on the steps that make it true.

A step is claimed with a token and a lease, worked on outside any transaction, and its result recorded only by who holds
the token. A lease is renewed while its owner lives; a dead owner on this host is noticed at once.
"""

import os
import socket
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psutil
import sqlalchemy as sa

from longrein.core.digest import of_json
from longrein.core.errors import Error
from longrein.core.ledger.database import Database, now_ms
from longrein.core.ledger.events import Events
from longrein.core.ledger.schema import wanted, work

LEASE_S = 30.0
CLOCK_S = 5.0  # the system tells a start time by the wall clock, which may be set or jitter by a second meanwhile


@dataclass(frozen=True)
class Claim:
    key: str
    token: str
    run_id: str
    attempts: int


@dataclass(frozen=True)
class Item:
    key: str
    step: str
    status: str  # running | done | failed
    run_id: str
    attempts: int
    basis: dict[str, Any]
    error: dict[str, Any] | None
    owner: str
    live: bool  # running, and its owner is still there
    updated_ms: int


class Work:
    def __init__(self, db: Database, events: Events) -> None:
        self.db, self.events = db, events

    def want(self, spec: dict[str, Any], *, actor: str) -> int:
        """Write the wanted state; returns its revision. The same spec again is the same revision."""
        digest = of_json(spec)
        with self.db.write(events=True) as connection:
            last = connection.execute(sa.select(wanted).order_by(wanted.c.revision.desc()).limit(1)).first()
            if last and last.digest == digest:
                return int(last.revision)
            row = {"spec": spec, "digest": digest, "actor": actor, "created_ms": now_ms()}
            key = connection.execute(wanted.insert().values(row)).inserted_primary_key
            assert key is not None
            self.events.append(actor, "wanted", f"wanted@{key[0]}", digest=digest)
            return int(key[0])

    def wanted(self) -> dict[str, Any] | None:
        """The newest wanted state."""
        with self.db.read() as connection:
            spec = connection.scalar(sa.select(wanted.c.spec).order_by(wanted.c.revision.desc()).limit(1))
        return dict(spec) if spec is not None else None

    def declared_ms(self, part: Callable[[dict[str, Any]], Any]) -> int:
        """Since when the wanted state has had this part of it as it has now."""
        newest, since = None, 0
        query = sa.select(wanted.c.spec, wanted.c.created_ms).order_by(wanted.c.revision.desc())
        with self.db.read() as connection:
            for i, row in enumerate(connection.execute(query)):
                newest = part(row.spec) if i == 0 else newest
                if part(row.spec) != newest:
                    break
                since = row.created_ms
        return since

    def claim(self, key: str, step: str, basis: dict[str, Any], run_id: str, *, retry: bool = False) -> Claim | None:
        """Take a step; None when it is done, failed (unless `retry`), or somebody else's.

        A step that died keeps its run: the claim carries the run of the first attempt, not `run_id`.
        """
        token, now = uuid.uuid4().hex, now_ms()
        mine = {"token": token, "owner": this_owner(), "lease_ms": now + int(LEASE_S * 1000), "updated_ms": now}
        with self.db.write() as connection:
            row = connection.execute(sa.select(work).where(work.c.key == key).with_for_update()).first()
            if row is None:
                fresh = {"key": key, "step": step, "status": "running", "attempts": 1, "run_id": run_id, "basis": basis}
                # RETURNING, for psycopg does not count the rows of an INSERT.
                insert = self.db.insert(work).values(**fresh, **mine).on_conflict_do_nothing().returning(work.c.key)
                return Claim(key, token, run_id, 1) if connection.scalar(insert) is not None else None
            if row.status == "done" or (row.status == "failed" and not retry) or _live(row, now):
                return None
            kept = row.run_id if row.status == "running" else run_id
            again = {"status": "running", "attempts": row.attempts + 1, "run_id": kept, "error": None, **mine}
            connection.execute(work.update().where(work.c.key == key).values(**again))
            return Claim(key, token, kept, row.attempts + 1)

    def renew(self, claim: Claim) -> bool:
        """Lengthen the lease; False when the claim was lost: stop working."""
        with self.db.write() as connection:
            done = connection.execute(
                work.update()
                .where(work.c.key == claim.key, work.c.token == claim.token, work.c.status == "running")
                .values(lease_ms=now_ms() + int(LEASE_S * 1000))
            )
            return bool(done.rowcount)

    def release(self, claim: Claim) -> None:
        """Give a claim up, so that anybody may go on with it at once."""
        with self.db.write() as connection:
            mine = (work.c.key == claim.key, work.c.token == claim.token, work.c.status == "running")
            connection.execute(work.update().where(*mine).values(lease_ms=0))

    def finish(self, claim: Claim, error: Error | None = None) -> None:
        """Record the end, in the caller's transaction. Errors: `conflict` when the claim was lost meanwhile."""
        with self.db.write() as connection:
            done = connection.execute(
                work.update()
                .where(work.c.key == claim.key, work.c.token == claim.token, work.c.status == "running")
                .values(
                    status="failed" if error else "done", error=error.as_dict() if error else None,
                    updated_ms=now_ms(), lease_ms=0,
                )
            )  # fmt: skip
            if not done.rowcount:
                raise Error("conflict", "another loop took this step over: its result stands", "nothing to do")

    def get(self, key: str) -> Item | None:
        return next(iter(self.many([key]).values()), None)

    def many(self, keys: list[str]) -> dict[str, Item]:
        with self.db.read() as connection:
            rows = connection.execute(sa.select(work).where(work.c.key.in_(keys))).all()
        return {r.key: _item(r) for r in rows}

    def last(self, step: str) -> Item | None:
        """The newest finished work of a step, under whatever key: what `plan` compares with."""
        query = sa.select(work).where(work.c.step == step, work.c.status == "done").order_by(work.c.updated_ms.desc())
        with self.db.read() as connection:
            row = connection.execute(query.limit(1)).first()
        return _item(row) if row else None

    def forget(self, key: str) -> None:
        """Let a finished step run again (its output was lost or damaged)."""
        with self.db.write() as connection:
            connection.execute(work.delete().where(work.c.key == key, work.c.status != "running"))

    def running(self) -> list[Item]:
        with self.db.read() as connection:
            return [_item(r) for r in connection.execute(sa.select(work).where(work.c.status == "running"))]


def this_owner() -> str:
    """host:pid:start time (s): the start time tells a process from a later one with its number."""
    return f"{_host()}:{os.getpid()}:{psutil.Process().create_time():.2f}"


def _host() -> str:
    """The host's name and, on Linux, its process namespace: two containers may share the one but not the other."""
    try:
        return f"{socket.gethostname()}/{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return socket.gethostname()


def _live(row: Any, now: int) -> bool:
    if row.status != "running" or row.lease_ms < now:
        return False
    host, pid, start = row.owner.rsplit(":", 2)
    if host != _host():
        return True
    try:
        process = psutil.Process(int(pid))
        same = abs(process.create_time() - float(start)) < CLOCK_S
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _item(row: Any) -> Item:
    live = _live(row, now_ms())
    return Item(
        row.key, row.step, row.status, row.run_id, row.attempts, row.basis, row.error, row.owner, live, row.updated_ms
    )
