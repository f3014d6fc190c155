"""Why: from an answer back to the release, model, runs, dataset version and source rows, and who let it through."""

from typing import Any

from longrein.core.ledger import Asset, Ledger
from longrein.core.store import Store
from longrein.data import version
from longrein.data.requests import RequestLog


def why(
    ledger: Ledger, store: Store, requests: RequestLog, request_id: str, *, text: str = "", rows: int = 5
) -> dict[str, Any]:
    """What stands behind one answer, as plain data.

    text: the request's text, where the log does not keep it. rows: how many training rows nearest to the text to show;
    nearness is by character n-grams: a similarity, not a proof of cause.
    """
    request = requests.get(request_id)
    release = ledger.assets.by_digest(request["release"], "release") if request["release"] else None
    found: dict[str, Any] = {"request": request, "feedback": ledger.feedback.of(request_id)}
    if release is None:
        return found
    found |= _release(ledger, release) | {"rollout": _rollout(ledger, request)}
    return found | _origin(ledger, store, release, text or request["input"] or "", rows)


def why_asset(ledger: Ledger, store: Store, ref: str, *, text: str = "", rows: int = 5) -> dict[str, Any]:
    """The same for a release, model or report itself."""
    asset = ledger.assets.get(ref)
    found = _release(ledger, asset) if asset.kind == "release" else {"asset": _asset(asset)}
    return found | _origin(ledger, store, asset, text, rows)


def _rollout(ledger: Ledger, request: dict[str, Any]) -> dict[str, Any] | None:
    """On which side of which rollout a request was answered; None when none was under way."""
    for one in ledger.rollouts.recent(request["endpoint"], limit=1000):
        sides = {one.stable.digest: "stable", one.candidate.digest: "shadow" if request["arm"] else "candidate"}
        under_way = one.started_ms <= request["ts_ms"] and (one.ended_ms is None or request["ts_ms"] <= one.ended_ms)
        if under_way and request["release"] in sides:
            against = {"stable": one.stable.ref, "candidate": one.candidate.ref, "strategy": one.config["strategy"]}
            return {"id": one.id, "arm": sides[request["release"]], "status": one.status, **against}
    return None


def _release(ledger: Ledger, release: Asset) -> dict[str, Any]:
    """A release, what its gates said, and who put it into production."""
    gates = [
        {
            "gate": v.gate,
            "passed": v.passed,
            "by": v.actor,
            "at_ms": v.created_ms,
            "reasons": v.reasons,
            "run": v.run_id,
        }
        for v in ledger.aliases.verdicts(release.digest)
    ]
    promotions = [
        {"by": e.actor, "at_ms": e.ts_ms, "kind": e.kind, **e.data}
        for e in ledger.events.recent(f"release:{release.name}@prod", limit=1000)
        if e.kind in ("alias.moved", "alias.rolled_back") and e.data.get("digest") == release.digest
    ]
    return {"release": _asset(release), "gates": gates, "promotions": promotions}


def _origin(ledger: Ledger, store: Store, asset: Asset, text: str, rows: int) -> dict[str, Any]:
    lineage = ledger.assets.lineage(asset)
    found: dict[str, Any] = {
        "assets": [_asset(a) for a in lineage.assets],
        "runs": [_run(ledger, r) for r in lineage.runs],
    }
    datasets = [a for a in lineage.assets if a.kind == "dataset"]
    found["rows"] = []
    for dataset in datasets if text else []:
        for score, row in version.nearest(store, dataset.uri, text, rows):
            found["rows"].append({"dataset": dataset.ref, "similarity": round(float(score), 4), **row})
    found["rows"] = sorted(found["rows"], key=lambda r: -r["similarity"])[:rows]
    return found


def _asset(asset: Asset) -> dict[str, Any]:
    return {
        "ref": asset.ref,
        "digest": asset.digest,
        "run": asset.run_id,
        "created_ms": asset.created_ms,
        "meta": asset.meta,
    }


def _run(ledger: Ledger, run_id: str) -> dict[str, Any]:
    run = ledger.runs.get(run_id)
    return {
        "id": run.id, "capability": run.capability, "name": run.name, "status": run.status, "by": run.actor,
        "started_ms": run.started_ms, "wall_s": run.wall_s, "cost_usd": run.cost_usd, "code": run.code,
        "inputs": [a.ref for e, a in ledger.assets.of_run(run_id) if e.direction == "in"],
        "outputs": [a.ref for e, a in ledger.assets.of_run(run_id) if e.direction == "out"],
    }  # fmt: skip
