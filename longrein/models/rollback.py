"""Rollback: an endpoint's alias moved back, and with it model, prompt, engine and settings, in one write."""

from longrein.core.errors import Error
from longrein.core.ledger import Asset, Ledger
from longrein.core.ref import Ref
from longrein.models.deploy import ALIAS


def rollback(ledger: Ledger, endpoint: str, to: str = "", *, actor: str, reason: str = "") -> Asset:
    """Serve the previous release again, or version `to` ("3"), which must have been in production before.

    While a release is being rolled out, the one in production is the previous one: the rollout ends, and that is all.
    Errors: `invalid` for a release of another endpoint, `not_found` when there is nothing to go back to, `blocked` when
    `to` never was in production, `conflict` when somebody moved the alias meanwhile.
    """
    held = ledger.aliases.get("release", endpoint).get(ALIAS)
    if held is None:
        raise Error("not_found", f"nothing is in production at endpoint {endpoint!r}", "longrein ls releases")
    target = ledger.assets.get(Ref.parse(to if ":" in to else f"release:{endpoint}@{to}")) if to else None
    if target and (target.kind, target.name) != ("release", endpoint):
        raise Error("invalid", f"{target.ref} is no release of endpoint {endpoint!r}", "give its version")
    moving = ledger.rollouts.live(endpoint)
    if moving and moving.stable == held[0] and target in (None, held[0]):
        ledger.rollouts.save(moving, status="rolled_back", actor=actor, reason=reason or "rollback")
        return held[0]
    target = target or ledger.aliases.previous("release", endpoint, ALIAS)
    if target is None:
        raise Error(
            "not_found", f"endpoint {endpoint!r} has had no release before {held[0].ref}", "longrein ls releases"
        )
    with ledger.transaction():
        if moving:
            ledger.rollouts.save(moving, status="rolled_back", actor=actor, reason=reason or "rollback")
        ledger.aliases.move(
            "release", endpoint, ALIAS, target, actor=actor, expect=held[1], reason=reason or "rollback", back=True
        )
    return target
