"""Runs carried outward: one run of the ledger as the plain mapping that a tracker plugin writes elsewhere."""

import math
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from longrein.core import plugins
from longrein.core.ledger import Ledger
from longrein.core.ledger.schema import experiments, metrics


def whole(ledger: Ledger, run_id: str) -> dict[str, Any]:
    """All that is known of a run: see `longrein.core.ports.Tracker`. Errors: `not_found`."""
    run = ledger.runs.get(run_id)
    with ledger.db.read() as connection:
        experiment = connection.scalar(sa.select(experiments.c.name).where(experiments.c.id == run.experiment_id))
        rows = connection.execute(
            sa.select(metrics)
            .where(metrics.c.run_id == run.id)
            .order_by(metrics.c.step, metrics.c.ts_ms, metrics.c.key)
        ).all()
    lineage: dict[str, list[str]] = {"in": [], "out": []}
    for edge, asset in ledger.assets.of_run(run.id):
        lineage[edge.direction].append(asset.ref)
    return {
        "id": run.id, "name": run.name, "experiment": experiment, "capability": run.capability, "status": run.status,
        "actor": run.actor, "started_ms": run.started_ms, "ended_ms": run.ended_ms,
        "params": ledger.runs.params(run.id), "tags": ledger.runs.tags(run.id),
        "metrics": [
            {"key": r.key, "value": math.nan if r.is_nan else r.value, "step": r.step, "ts_ms": r.ts_ms} for r in rows
        ],
        "inputs": sorted(lineage["in"]), "outputs": sorted(lineage["out"]),
    }  # fmt: skip


def mirror(ledger: Ledger, run_id: str, tracker: str, options: Mapping[str, Any]) -> None:
    """Write a run to another tracking system, by the plugin of this name; twice is harmless."""
    plugins.load("tracker", tracker)(options).mirror(whole(ledger, run_id))
