"""Rollouts: a candidate release on its way into an endpoint's traffic, and how far it has come.

At most one an endpoint is live. Each step is a compare-and-swap on its revision, so that two loops never do one twice;
what changes the traffic is an event, and no release has traffic that the gates of `@prod` have not passed.
"""

from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa

from longrein.core.errors import Error
from longrein.core.ledger.aliases import Aliases
from longrein.core.ledger.assets import Asset
from longrein.core.ledger.database import Database, now_ms
from longrein.core.ledger.events import Events
from longrein.core.ledger.schema import rollouts

ALIAS = "prod"  # whose gates decide, and whose holder the candidate is held against
LIVE = ("running", "paused")


@dataclass(frozen=True)
class Rollout:
    id: int
    endpoint: str
    stable: Asset  # what `@prod` pointed to when it began
    candidate: Asset
    config: dict[str, Any]  # the strategy as it was declared then
    state: dict[str, Any]  # models.experiment.rollout's
    weight: int  # buckets of 10,000 that the candidate answers
    shadow: int  # buckets of 10,000 whose requests are copied to it
    status: str  # running | paused | promoted | rolled_back | replaced
    reason: str  # of the last change
    actor: str
    revision: int
    started_ms: int
    updated_ms: int
    ended_ms: int | None

    @property
    def live(self) -> bool:
        return self.status in LIVE

    @property
    def salt(self) -> str:
        """Deals the users anew in each rollout."""
        return f"{self.endpoint}:{self.candidate.digest}:{self.id}"


class Rollouts:
    def __init__(self, db: Database, events: Events, aliases: Aliases) -> None:
        self.db, self.events, self.aliases = db, events, aliases

    def start(
        self, stable: Asset, candidate: Asset, config: dict[str, Any], state: dict[str, Any], *, weight: int = 0,
        shadow: int = 0, actor: str, reason: str = "",
    ) -> Rollout:  # fmt: skip
        """Begin one in place of a live one. Errors: `blocked` by a gate, `conflict` when this very one is live."""
        endpoint, now = candidate.name, now_ms()
        with self.db.write(events=True) as connection:
            self.aliases.check("release", endpoint, ALIAS, candidate)
            if held := self.live(endpoint):
                if held.candidate == candidate:
                    raise Error("conflict", f"{candidate.ref} is being rolled out already", "longrein status")
                self.save(held, status="replaced", actor=actor, reason=f"{candidate.ref} comes in its place")
            row = {
                "endpoint": endpoint, "stable_id": stable.id, "candidate_id": candidate.id, "config": config,
                "state": state, "weight": weight, "shadow": shadow, "status": "running", "reason": reason,
                "actor": actor, "revision": 1, "started_ms": now, "updated_ms": now, "ended_ms": None,
            }  # fmt: skip
            key = connection.execute(rollouts.insert().values(row)).inserted_primary_key
            assert key is not None
            made = self.get(key[0])
            self._tell(made, "started", {})
        return made

    def save(
        self, seen: Rollout, *, actor: str, reason: str = "", evidence: dict[str, Any] | None = None, **changes: Any
    ) -> Rollout:
        """Write what changed (state, weight, shadow, status) of a rollout as the caller saw it.

        Errors: `conflict` when it changed or ended meanwhile, `blocked` when it would get more traffic and a gate has
        not passed it.
        """
        after = replace(seen, **changes)
        moved = (after.weight, after.shadow, after.status) != (seen.weight, seen.shadow, seen.status)
        with self.db.write(events=moved) as connection:
            if after.live and (after.weight > seen.weight or after.shadow > seen.shadow):
                self.aliases.check("release", seen.endpoint, ALIAS, seen.candidate)
            values: dict[str, Any] = {**changes, "revision": seen.revision + 1, "updated_ms": now_ms()}
            if moved:
                values |= {"reason": reason, "actor": actor}
            if not after.live:
                values |= {"weight": 0, "shadow": 0, "ended_ms": values["updated_ms"]}
            mine = (rollouts.c.id == seen.id, rollouts.c.revision == seen.revision, rollouts.c.status.in_(LIVE))
            if not connection.execute(rollouts.update().where(*mine).values(values)).rowcount:
                raise Error("conflict", f"the rollout of {seen.candidate.ref} moved meanwhile", "look and try again")
            after = replace(after, **values)
            if moved:
                self._tell(after, "moved" if after.status == seen.status else after.status, evidence or {})
        return after

    def get(self, id: int) -> Rollout:
        with self.db.read() as connection:
            row = connection.execute(sa.select(rollouts).where(rollouts.c.id == id)).first()
        if row is None:
            raise Error("not_found", f"there is no rollout {id}", "longrein status")
        return self._rollout(row)

    def live(self, endpoint: str) -> Rollout | None:
        """The one under way at an endpoint, paused or not."""
        return next((r for r in self.recent(endpoint, 1) if r.live), None)

    def all_live(self) -> dict[str, Rollout]:
        """Those under way, by endpoint."""
        with self.db.read() as connection:
            rows = connection.execute(sa.select(rollouts).where(rollouts.c.status.in_(LIVE))).all()
        return {row.endpoint: self._rollout(row) for row in rows}

    def recent(self, endpoint: str, limit: int = 100) -> list[Rollout]:
        """The newest first."""
        query = sa.select(rollouts).where(rollouts.c.endpoint == endpoint).order_by(rollouts.c.id.desc()).limit(limit)
        with self.db.read() as connection:
            return [self._rollout(row) for row in connection.execute(query).all()]

    def _rollout(self, row: Any) -> Rollout:
        values = dict(row._mapping)
        stable, candidate = (self.aliases.assets.by_id(values.pop(f"{role}_id")) for role in ("stable", "candidate"))
        return Rollout(stable=stable, candidate=candidate, **values)

    def _tell(self, rollout: Rollout, what: str, evidence: dict[str, Any]) -> None:
        """On the trail of the alias, where promotions and rollbacks are told too."""
        data = {
            "rollout": rollout.id, "from": rollout.stable.ref, "to": rollout.candidate.ref,
            "digest": rollout.candidate.digest, "strategy": rollout.config.get("strategy"), "weight": rollout.weight,
            "shadow": rollout.shadow, "reason": rollout.reason,
        }  # fmt: skip
        subject = f"release:{rollout.endpoint}@{ALIAS}"
        self.events.append(
            rollout.actor, f"rollout.{what}", subject, **data, **({"evidence": evidence} if evidence else {})
        )
