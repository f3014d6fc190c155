"""API keys: shown once, kept as a hash, with scopes."""

import hashlib
import secrets
from dataclasses import dataclass
from typing import Any

import msgspec
import sqlalchemy as sa

from longrein.core.errors import Error, nearest
from longrein.core.ledger.database import Database, now_ms
from longrein.core.ledger.events import Events
from longrein.core.ledger.schema import api_keys
from longrein.core.limit import Limit

SECRET_CHARACTERS = 24
SCOPES = ("infer", "track", "admin")  # answers; MLflow's API; everything


@dataclass(frozen=True)
class ApiKey:
    id: str
    label: str
    scopes: tuple[str, ...]
    created_ms: int
    revoked_ms: int | None
    team: str = ""
    limits: dict[str, float] | None = None  # core.limit.Limit, as it was declared
    release: str = ""  # what answers it, whatever is rolled out: "stable", "candidate", a version; "": what others get


class Keys:
    def __init__(self, db: Database, events: Events) -> None:
        self.db, self.events = db, events

    def create(
        self, label: str, scopes: tuple[str, ...] = ("infer",), *, team: str = "", limits: Limit | None = None,
        release: str = "", secret: str = "", actor: str,
    ) -> str:  # fmt: skip
        """A new key's secret, which is nowhere else from now on. secret: one that was made elsewhere.

        Errors: `invalid` for an unknown scope, or a secret that could be guessed.
        """
        for scope in scopes:
            if scope not in SCOPES:
                raise Error("invalid", f"there is no scope {scope!r}", nearest(scope, SCOPES))
        if secret and len(secret) < SECRET_CHARACTERS:
            raise Error(
                "invalid", f"the secret has {len(secret)} characters", f"use {SECRET_CHARACTERS} random ones at least"
            )
        secret = secret or "lr-" + secrets.token_urlsafe(32)
        key_id = secrets.token_hex(4)
        told = {"label": label, "scopes": list(scopes)}
        more = {"team": team, "release": release, "limits": msgspec.to_builtins(limits) if limits else None}
        row = {"id": key_id, "hash": hashed(secret), **told, **more, "created_ms": now_ms()}
        with self.db.write(events=True) as connection:
            connection.execute(api_keys.insert().values(row))
            given = {name: value for name, value in more.items() if value}
            self.events.append(actor, "key.created", f"key:{key_id}", **told, **given)
        return secret

    def live(self) -> dict[str, ApiKey]:
        """{hash of the secret: key} of all keys not revoked: what a gateway holds in memory."""
        with self.db.read() as connection:
            rows = connection.execute(sa.select(api_keys).where(api_keys.c.revoked_ms.is_(None))).all()
        return {r.hash: _key(r) for r in rows}

    def all(self) -> list[ApiKey]:
        with self.db.read() as connection:
            rows = connection.execute(sa.select(api_keys).order_by(api_keys.c.created_ms)).all()
        return [_key(r) for r in rows]

    def revoke(self, key_id: str, *, actor: str) -> None:
        with self.db.write(events=True) as connection:
            done = connection.execute(
                api_keys.update()
                .where(api_keys.c.id == key_id, api_keys.c.revoked_ms.is_(None))
                .values(revoked_ms=now_ms())
            )
            if not done.rowcount:
                raise Error("not_found", f"there is no live key {key_id!r}", "longrein ls keys")
            self.events.append(actor, "key.revoked", f"key:{key_id}")


def _key(r: Any) -> ApiKey:
    return ApiKey(r.id, r.label, tuple(r.scopes), r.created_ms, r.revoked_ms, r.team, r.limits, r.release)


def hashed(secret: str) -> str:
    """SHA-256 is enough for 256-bit random secrets: there is nothing to guess."""
    return hashlib.sha256(secret.encode()).hexdigest()
