"""Rollback: an endpoint's alias moved back, and with it model, prompt, engine and settings, in one write."""

from longrein.core.errors import Error
from longrein.core.ledger import Asset, Ledger
from longrein.core.ref import Ref
from longrein.models.deploy import ALIAS


def rollback(ledger: Ledger, endpoint: str, to: str = "", *, actor: str, reason: str = "") -> Asset:
    """Serve the previous release again, or version `to` ("3"), which must have been in production before.

    Errors: `not_found` when there is nothing to go back to, `blocked` when `to` never was in production, `conflict`
    when somebody moved the alias meanwhile.
    """
    held = ledger.aliases.get("release", endpoint).get(ALIAS)
    if held is None:
        raise Error("not_found", f"nothing is in production at endpoint {endpoint!r}", "longrein ls releases")
    target = ledger.assets.get(Ref("release", endpoint, to.rpartition("@")[2])) if to else None
    target = target or ledger.aliases.previous("release", endpoint, ALIAS)
    if target is None:
        raise Error(
            "not_found", f"endpoint {endpoint!r} has had no release before {held[0].ref}", "longrein ls releases"
        )
    ledger.aliases.move(
        "release", endpoint, ALIAS, target, actor=actor, expect=held[1], reason=reason or "rollback", back=True
    )
    return target
