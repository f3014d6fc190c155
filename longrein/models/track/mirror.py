"""Runs carried outward: one run of the ledger as the plain mapping that a tracker plugin writes elsewhere."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from longrein.core import plugins
from longrein.core.errors import Error
from longrein.core.ledger import Ledger
from longrein.core.ledger.runs import ENDED
from longrein.core.ledger.schema import experiments, metrics, runs, tags

MIRRORED = "longrein.mirrored."  # begins the tag that a run gets for each tracker that had it


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A tracker in longrein.yaml: another tracking system that is sent every finished run."""

    tracker: str  # plugin of the port "tracker"
    options: dict[str, Any] = {}  # the plugin's


def catch_up(ledger: Ledger, name: str, config: Config, limit: int = 100) -> Error | None:
    """Send the finished runs that this tracker has not had yet, oldest first, `limit` at most.

    Returns why it stopped, if it had to: a tracker that is down holds nothing up, and gets them next time.
    """
    mark = MIRRORED + name
    sent = sa.select(tags.c.run_id).where(tags.c.run_id == runs.c.id, tags.c.key == mark).exists()
    query = sa.select(runs.c.id).where(runs.c.status.in_(ENDED), runs.c.lifecycle_stage == "active", ~sent)
    with ledger.db.read() as connection:
        waiting: Sequence[str] = connection.scalars(query.order_by(runs.c.id).limit(limit)).all()
    try:
        for run_id in waiting:
            mirror(ledger, run_id, config.tracker, config.options)
            ledger.runs.log(run_id, labels={mark: "yes"})
    except Error as error:
        return error
    return None


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
    around = ledger.assets.of_run(run.id)
    lineage = {side: sorted(a.ref for e, a in around if e.direction == side) for side in ("in", "out")}
    return {
        "id": run.id, "name": run.name, "experiment": experiment, "capability": run.capability, "status": run.status,
        "actor": run.actor, "started_ms": run.started_ms, "ended_ms": run.ended_ms,
        "params": ledger.runs.params(run.id),
        "tags": {k: v for k, v in ledger.runs.tags(run.id).items() if not k.startswith(MIRRORED)},
        "metrics": [
            {"key": r.key, "value": math.nan if r.is_nan else r.value, "step": r.step, "ts_ms": r.ts_ms} for r in rows
        ],
        "inputs": lineage["in"], "outputs": lineage["out"], "error": run.error,
        "assets": [
            {"direction": e.direction, "ref": a.ref, "digest": a.digest, "bytes": a.bytes, "meta": a.meta}
            for e, a in around
        ],
    }  # fmt: skip


def mirror(ledger: Ledger, run_id: str, tracker: str, options: Mapping[str, Any]) -> None:
    """Write a run to another tracking system, by the plugin of this name; twice is harmless."""
    plugins.load("tracker", tracker)(options).mirror(whole(ledger, run_id))
