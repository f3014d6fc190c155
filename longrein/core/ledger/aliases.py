"""Aliases: the only thing that moves. Compare-and-swap, guarded by gates bound to the digest they judged."""

from dataclasses import dataclass

import sqlalchemy as sa

from longrein.core.errors import Error
from longrein.core.ledger.assets import Asset, Assets
from longrein.core.ledger.database import Database, now_ms
from longrein.core.ledger.events import Events
from longrein.core.ledger.schema import aliases, events, gated, verdicts
from longrein.core.ref import Ref, check_name

APPROVAL = "approval"  # a gate whose judge is a person


@dataclass(frozen=True)
class Verdict:
    gate: str
    gate_digest: str
    subject: str  # digest of the judged asset
    passed: bool
    reasons: list[str]
    report_id: int | None
    run_id: str
    actor: str
    created_ms: int


class Aliases:
    def __init__(self, db: Database, events: Events, assets: Assets) -> None:
        self.db, self.events, self.assets = db, events, assets

    def get(self, kind: str, name: str) -> dict[str, tuple[Asset, int]]:
        """{alias: (asset, revision)} of one name."""
        with self.db.read() as connection:
            rows = connection.execute(sa.select(aliases).where(aliases.c.kind == kind, aliases.c.name == name)).all()
        return {r.alias: (self.assets.by_id(r.asset_id), r.revision) for r in rows}

    def holders(self, kind: str, alias: str) -> dict[str, tuple[Asset, Asset | None, int]]:
        """{name: (asset, the one before its last move, when that was)} of one alias, under every name."""
        query = sa.select(aliases).where(aliases.c.kind == kind, aliases.c.alias == alias)
        with self.db.read() as connection:
            rows = connection.execute(query).all()
        found = self.assets.many({id for r in rows for id in (r.asset_id, r.before_id) if id is not None})
        return {r.name: (found[r.asset_id], found.get(r.before_id), r.updated_ms) for r in rows}

    def move(
        self, kind: str, name: str, alias: str, to: Asset, *, actor: str, expect: int | None = None, reason: str = "",
        back: bool = False,
    ) -> int:  # fmt: skip
        """Point an alias at an asset; returns its new revision.

        expect: the revision the caller saw (0: none yet); another one means somebody moved it: `conflict`.
        back: a rollback. It needs no fresh verdict, but only an asset that held this alias before may be its aim.
        Errors: `blocked` when a gate of this alias has not passed this very digest.
        """
        check_name(alias, "alias")
        if alias == "latest" or alias.isdigit():
            raise Error("invalid", f"{alias!r} cannot be an alias", "numbers and 'latest' always mean versions")
        if (to.kind, to.name) != (kind, name):
            raise Error("invalid", f"{to.ref} is not a version of {kind}:{name}")
        subject = f"{kind}:{name}@{alias}"
        where = (aliases.c.kind == kind, aliases.c.name == name, aliases.c.alias == alias)
        with self.db.write(events=True) as connection:
            if back:
                self._check_held(subject, to)
            else:
                self.check(kind, name, alias, to)
            row = connection.execute(sa.select(aliases).where(*where).with_for_update()).first()
            seen = row.revision if row else 0
            if expect is not None and expect != seen:
                raise Error(
                    "conflict", f"{subject} was moved meanwhile (revision {seen}, not {expect})", "look and try again"
                )
            if row and row.asset_id == to.id:
                return int(seen)
            values = {"asset_id": to.id, "revision": seen + 1, "actor": actor, "updated_ms": now_ms()}
            if row:
                values["before_id"] = row.asset_id
                connection.execute(aliases.update().where(*where).values(values))
            else:
                try:
                    connection.execute(aliases.insert().values(kind=kind, name=name, alias=alias, **values))
                except sa.exc.IntegrityError as error:
                    raise Error("conflict", f"{subject} was made meanwhile", "look and try again") from error
            before = self.assets.by_id(row.asset_id).ref if row else None
            kind_of = "alias.rolled_back" if back else "alias.moved"
            self.events.append(
                actor, kind_of, subject, **{"from": before, "to": to.ref, "digest": to.digest, "reason": reason}
            )
            return int(seen) + 1

    def drop(self, kind: str, name: str, alias: str, *, actor: str) -> bool:
        """Remove an alias; False when there was none. Errors: `blocked` for one that gates guard."""
        with self.db.write(events=True) as connection:
            if self._gates(kind, name, alias):
                hint = "take its gates out of longrein.yaml first"
                raise Error("blocked", f"{kind}:{name}@{alias} is guarded by a gate", hint)
            done = connection.execute(
                aliases.delete().where(aliases.c.kind == kind, aliases.c.name == name, aliases.c.alias == alias)
            )
            if done.rowcount:
                self.events.append(actor, "alias.dropped", f"{kind}:{name}@{alias}")
            return bool(done.rowcount)

    def previous(self, kind: str, name: str, alias: str) -> Asset | None:
        """What a rollback would go to: where this alias pointed before its newest forward move that still stands.

        Rolling back twice goes back twice, and what a rollback passed over stays passed over.
        """
        trail: list[str] = []
        for event in reversed(self.events.recent(f"{kind}:{name}@{alias}", limit=1000)):
            if event.kind == "alias.rolled_back" and event.data["to"] in trail:
                while trail[-1] != event.data["to"]:
                    trail.pop()
            elif event.kind in ("alias.moved", "alias.rolled_back"):
                trail.append(event.data["to"])
        current = self.assets.find(Ref(kind, name, alias))
        found = (self.assets.find(Ref.parse(ref)) for ref in reversed(trail))
        return next((asset for asset in found if asset and asset != current), None)

    def guard(self, kind: str, name: str, alias: str, gates: dict[str, str], *, actor: str) -> None:
        """From now on this alias moves only to digests that each gate (name → digest of its definition) passed."""
        where = (gated.c.kind == kind, gated.c.name == name, gated.c.alias == alias)
        with self.db.write(events=True) as connection:
            if self._gates(kind, name, alias) == gates:
                return
            connection.execute(gated.delete().where(*where))
            if gates:
                connection.execute(gated.insert().values(kind=kind, name=name, alias=alias, gates=gates))
            self.events.append(actor, "alias.guarded", f"{kind}:{name}@{alias}", gates=gates)

    def judge(
        self, gate: str, gate_digest: str, subjects: list[Asset], passed: bool, reasons: list[str], *, actor: str,
        report: Asset | None = None, run_id: str = "",
    ) -> None:  # fmt: skip
        """Record a gate's verdict on each of these assets (a release and the model in it, say)."""
        with self.db.write(events=True) as connection:
            for asset in subjects:
                connection.execute(
                    verdicts.insert().values(
                        gate=gate, gate_digest=gate_digest, subject=asset.digest, passed=passed, reasons=reasons,
                        report_id=report.id if report else None, run_id=run_id, actor=actor, created_ms=now_ms(),
                    )
                )  # fmt: skip
                self.events.append(
                    actor,
                    "gate.passed" if passed else "gate.failed",
                    asset.ref,
                    gate=gate,
                    digest=asset.digest,
                    reasons=reasons,
                )

    def verdicts(self, subject: str) -> list[Verdict]:
        """All verdicts on a digest, the newest first."""
        with self.db.read() as connection:
            rows = connection.execute(
                sa.select(verdicts).where(verdicts.c.subject == subject).order_by(verdicts.c.id.desc())
            )
            return [
                Verdict(
                    r.gate, r.gate_digest, r.subject, r.passed, r.reasons, r.report_id, r.run_id, r.actor, r.created_ms
                )
                for r in rows
            ]

    def missing(self, kind: str, name: str, alias: str, asset: Asset) -> dict[str, str]:
        """{gate: why} for each gate of this alias that has not passed this digest; empty when the way is free."""
        newest: dict[tuple[str, str], Verdict] = {}
        for verdict in reversed(self.verdicts(asset.digest)):
            newest[verdict.gate, verdict.gate_digest] = verdict
        missing = {}
        for gate, digest in self._gates(kind, name, alias).items():
            found = newest.get((gate, digest))
            if found is None:
                missing[gate] = "awaits a person's yes" if gate == APPROVAL else "has not judged this digest"
            elif not found.passed:
                missing[gate] = "; ".join(found.reasons) or "failed"
        return missing

    def check(self, kind: str, name: str, alias: str, to: Asset) -> None:
        """Errors: `blocked` when a gate of this alias has not passed this very digest."""
        missing = self.missing(kind, name, alias, to)
        if missing:
            why = "; ".join(
                f"gate {g!r} {w}" if w.startswith(("has", "awaits")) else f"gate {g!r}: {w}" for g, w in missing.items()
            )
            hint = f"longrein promote {to.ref} --approve" if list(missing) == [APPROVAL] else f"longrein show {to.ref}"
            raise Error("blocked", f"{to.ref} may not become {alias!r}: {why}", hint, gates=missing)

    def _gates(self, kind: str, name: str, alias: str) -> dict[str, str]:
        where = (gated.c.kind == kind, gated.c.name == name, gated.c.alias == alias)
        with self.db.read() as connection:
            return dict(connection.scalar(sa.select(gated.c.gates).where(*where)) or {})

    def _check_held(self, subject: str, to: Asset) -> None:
        told = (
            events.c.kind.in_(("alias.moved", "alias.rolled_back")),
            events.c.data.contains(f'"digest":"{to.digest}"', autoescape=True),
        )
        with self.db.read() as connection:
            if connection.execute(sa.select(events.c.seq).where(events.c.subject == subject, *told).limit(1)).first():
                return
        raise Error("blocked", f"{to.ref} never was {subject}", "promote it instead: its gates decide")
