"""The registry: versions, aliases, notes and comparison of models and releases. An alias moves only past its gates."""

from typing import Any

from longrein.core.digest import of_json
from longrein.core.ledger import Asset, Ledger
from longrein.core.ledger.aliases import APPROVAL
from longrein.core.ledger.rollouts import ALIAS


def promote(
    ledger: Ledger, asset: Asset, alias: str = "prod", *, actor: str, approve: bool = False, reason: str = ""
) -> Asset:
    """Point an alias at a version. Errors: `blocked` unless every gate of the alias passed this very digest.

    approve: record the person's yes that `approval: manual` asks for, bound to this digest, in the same transaction.
    A rollout under way at the endpoint is over then, whatever it was of.
    """
    with ledger.transaction():
        if approve:
            say_yes(ledger, asset, actor=actor, reason=reason)
        ledger.aliases.move(asset.kind, asset.name, alias, asset, actor=actor, reason=reason)
        moving = ledger.rollouts.live(asset.name) if (asset.kind, alias) == ("release", ALIAS) else None
        if moving:
            status = "promoted" if moving.candidate == asset else "replaced"
            ledger.rollouts.save(moving, status=status, actor=actor, reason=reason or f"{asset.ref} was promoted")
    return asset


def say_yes(ledger: Ledger, release: Asset, *, actor: str, reason: str = "") -> None:
    """Record a person's yes to a digest, for the gate that `approval: manual`, or a rule, puts before production.

    What a rule held back because of it moves again.
    """
    with ledger.transaction():
        ledger.aliases.judge(APPROVAL, of_json(APPROVAL), [release], True, [reason or "approved"], actor=actor)
        if release.kind == "release":
            ledger.holds.set(release.name, frozen=False, approval=False, actor=actor, reason=reason or "approved")


def versions(ledger: Ledger, kind: str, name: str, limit: int = 100) -> list[dict[str, Any]]:
    """The newest first, each with its aliases, the run that made it and its evaluation's metrics."""
    held: dict[int, list[str]] = {}
    for alias, (asset, _) in ledger.aliases.get(kind, name).items():
        held.setdefault(asset.id, []).append(alias)
    return [
        {"ref": a.ref, "digest": a.digest, "aliases": sorted(held.get(a.id, [])), "run": a.run_id,
         "created_ms": a.created_ms, "metrics": metrics(ledger, a)}
        for a in ledger.assets.recent(kind, name, limit)
    ]  # fmt: skip


def metrics(ledger: Ledger, asset: Asset) -> dict[str, Any]:
    """The newest evaluation of an asset: {"exact_match": {"value", "low", "high"}, …}; {} when there is none."""
    reports = [
        other
        for run in ledger.assets.readers(asset.id)
        for edge, other in ledger.assets.of_run(run)
        if edge.direction == "out" and other.meta.get("subject", {}).get(asset.kind) == asset.digest
    ]
    return dict(max(reports, key=lambda r: r.id).meta.get("metrics", {})) if reports else {}


def compare(ledger: Ledger, one: Asset, other: Asset) -> dict[str, Any]:
    """Two versions side by side: {"config": {key: [a, b]} where they differ, "metrics": {name: [a, b]}, …}."""
    runs = [ledger.runs.get(a.run_id) if a.run_id else None for a in (one, other)]
    configs = [dict(r.config) if r else {} for r in runs]
    measured = [metrics(ledger, a) for a in (one, other)]
    inputs = [{e.role: a.ref for e, a in ledger.assets.of_run(r.id) if e.direction == "in"} if r else {} for r in runs]
    return {
        "refs": [one.ref, other.ref],
        "same": one.digest == other.digest,
        "config": _pairs(configs[0], configs[1], differing=True),
        "inputs": _pairs(inputs[0], inputs[1], differing=True),
        "metrics": _pairs(
            {k: v["value"] for k, v in measured[0].items()}, {k: v["value"] for k, v in measured[1].items()}
        ),
        "meta": _pairs(one.meta, other.meta, differing=True),
    }


def _pairs(a: dict[str, Any], b: dict[str, Any], *, differing: bool = False) -> dict[str, list[Any]]:
    keys = sorted(a.keys() | b.keys())
    return {k: [a.get(k), b.get(k)] for k in keys if not differing or a.get(k) != b.get(k)}
