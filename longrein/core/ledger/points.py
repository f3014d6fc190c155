"""Metric points into the ledger: the one hot write, in the transaction the caller holds."""

import math
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

from longrein.core.ledger.database import Database, execute
from longrein.core.ledger.schema import latest_metrics, metrics

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
        return cls(run_id, key, step, ts_ms, 0.0 if nan else max(-LARGEST, min(LARGEST, float(value))), nan)


def add(db: Database, points: Sequence[Point]) -> None:
    """Append points; the same one twice counts once. A key's latest is the one of highest (step, time, value)."""
    if not points:
        return
    hot = _hot(db.sqlite)
    with db.write() as connection:
        execute(connection, hot.insert, *points)
        execute(connection, hot.upsert, *_newest(points))


class _Hot(NamedTuple):
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
