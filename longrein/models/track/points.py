"""The hot path: metric points, params and tags of one run into the ledger, in the transaction the caller holds."""

import math
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import sqlalchemy as sa

from longrein.core.errors import Error
from longrein.core.ledger.database import execute
from longrein.core.ledger.schema import latest_metrics, metrics, params, runs, tags
from longrein.models.track.call import Call

LARGEST = 1.7976931348623157e308  # MLflow keeps the infinities as this and NaN as 0 with a mark


class Point(NamedTuple):
    """One row of `metrics`, in its columns' order."""

    run_id: str
    key: str
    step: int
    ts_ms: int
    value: float
    is_nan: bool

    @classmethod
    def of(cls, run_id: str, key: str, value: float, step: int, ts_ms: int) -> "Point":
        nan = math.isnan(value)
        return cls(run_id, key, step, ts_ms, 0.0 if nan else max(-LARGEST, min(LARGEST, value)), nan)


def check_active(call: Call, run_id: str) -> None:
    """Errors: `not_found`; `invalid` for a deleted run."""
    with call.ledger.db.read() as connection:
        row = execute(connection, _hot(call.ledger.db.sqlite).stage, (run_id,)).fetchone()
    if row is None:
        raise Error("not_found", f"Run with id={run_id} not found")
    if row[0] != "active":
        raise Error(
            "invalid", f"The run {run_id} must be in the 'active' state. Current state is {row[0]}.", "restore it"
        )


def add_points(call: Call, points: Sequence[Point]) -> None:
    """Append points; the same one twice counts once. A key's latest is the one of highest (step, time, value)."""
    if not points:
        return
    hot = _hot(call.ledger.db.sqlite)
    with call.ledger.db.write() as connection:
        execute(connection, hot.insert, *points)
        execute(connection, hot.upsert, *_newest(points))


def add_params(call: Call, run_id: str, values: dict[str, str]) -> None:
    """Errors: `invalid` when a param is there with another value: params do not change."""
    if not values:
        return
    with call.ledger.db.write() as connection:
        rows = [{"run_id": run_id, "key": k, "value": v} for k, v in values.items()]
        connection.execute(call.ledger.db.insert(params).on_conflict_do_nothing(), rows)
        kept = connection.execute(_KEPT, {"run_id": run_id, "keys": list(values)})
        for row in kept:
            if row.value != values[row.key]:
                raise Error(
                    "invalid",
                    f"Changing param values is not allowed. Param with key='{row.key}' was already logged with "
                    f"value='{row.value}' for run ID='{run_id}'. Attempted logging new value '{values[row.key]}'.",
                    "log it in a nested run of its own",
                )


def set_tags(call: Call, run_id: str, values: dict[str, str]) -> None:
    if not values:
        return
    insert = call.ledger.db.insert(tags)
    with call.ledger.db.write() as connection:
        connection.execute(
            insert.on_conflict_do_update(index_elements=["run_id", "key"], set_={"value": insert.excluded.value}),
            [{"run_id": run_id, "key": k, "value": v} for k, v in values.items()],
        )
        if "mlflow.runName" in values:
            connection.execute(runs.update().where(runs.c.id == run_id).values(name=values["mlflow.runName"]))


_KEPT = sa.select(params).where(
    params.c.run_id == sa.bindparam("run_id"), params.c.key.in_(sa.bindparam("keys", expanding=True))
)


class _Hot(NamedTuple):
    stage: str
    insert: str
    upsert: str


@cache
def _hot(sqlite: bool) -> _Hot:
    """The statements of every logged metric as text for the driver: a third of what SQLAlchemy takes for one row."""
    names = [c.name for c in metrics.c]
    mark = "?" if sqlite else "%s"
    into = "INSERT INTO {} ({}) VALUES ({}) ON CONFLICT "
    values = ", ".join(names), ", ".join(mark for _ in names)
    new, old = (", ".join(f"{t}.{n}" for n in ("step", "ts_ms", "value")) for t in ("excluded", latest_metrics.name))
    change = ", ".join(f"{n} = excluded.{n}" for n in ("step", "ts_ms", "value", "is_nan"))
    return _Hot(
        f"SELECT lifecycle_stage FROM {runs.name} WHERE id = {mark}",
        into.format(metrics.name, *values) + "DO NOTHING",
        into.format(latest_metrics.name, *values) + f"(run_id, key) DO UPDATE SET {change} WHERE ({new}) > ({old})",
    )


def _newest(points: Sequence[Point]) -> Sequence[Point]:
    """One point a key, the newest."""
    if len(points) == 1:
        return points
    newest: dict[str, Point] = {}
    for point in points:
        old = newest.get(point.key)
        if old is None or point[2:5] > old[2:5]:
            newest[point.key] = point
    return list(newest.values())
