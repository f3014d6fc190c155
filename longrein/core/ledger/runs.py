"""Runs: the only makers of assets, with their config, code, environment, metrics, params, tags and cost."""

import math
import os
import platform
import socket
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from longrein.core.errors import Error
from longrein.core.ledger.database import Database, now_ms
from longrein.core.ledger.events import Events
from longrein.core.ledger.points import Point, add
from longrein.core.ledger.schema import experiments, latest_metrics, metrics, params, runs, tags

ENDED = ("FINISHED", "FAILED", "KILLED")


@dataclass(frozen=True)
class Run:
    id: str
    experiment_id: int
    name: str
    capability: str
    status: str
    actor: str
    step_key: str
    config: dict[str, Any]
    code: str
    environment: dict[str, Any]
    started_ms: int
    ended_ms: int | None
    cpu_s: float | None
    wall_s: float | None
    max_rss_bytes: int | None
    cost_usd: float | None
    error: dict[str, Any] | None


class Runs:
    def __init__(self, db: Database, events: Events) -> None:
        self.db, self.events = db, events

    def experiment(self, name: str) -> int:
        """The id of the experiment with this name, made when new."""
        with self.db.write() as connection:
            now = now_ms()
            row: dict[str, Any] = {"name": name, "created_ms": now, "updated_ms": now}
            if name == "Default":  # MLflow's clients know it as 0
                row["id"] = 0
            connection.execute(self.db.insert(experiments).values(row).on_conflict_do_nothing())
            return int(connection.scalar(sa.select(experiments.c.id).where(experiments.c.name == name)) or 0)

    def start(
        self, run_id: str = "", *, capability: str = "", name: str = "", experiment: str = "Default",
        actor: str = "", step_key: str = "", config: Mapping[str, Any] | None = None, code: str = "",
        environment: Mapping[str, Any] | None = None,
    ) -> str:  # fmt: skip
        """Open a run; returns its id (`run_id` when one is given, see `new_id`). Ids sort by age."""
        started = now_ms()
        run_id = run_id or new_id(started)
        with self.db.write(events=True) as connection:
            connection.execute(
                runs.insert().values(
                    id=run_id, experiment_id=self.experiment(experiment), name=name, capability=capability,
                    status="RUNNING", actor=actor, step_key=step_key, config=dict(config or {}), code=code,
                    environment=dict(environment if environment is not None else this_machine()), started_ms=started,
                )
            )  # fmt: skip
            self.events.append(actor, "run.started", f"run:{run_id}", capability=capability, name=name)
        return run_id

    def finish(
        self, run_id: str, status: str = "FINISHED", *, actor: str = "", error: Error | None = None,
        usage: Mapping[str, float] | None = None, cost_usd: float | None = None,
    ) -> None:  # fmt: skip
        """Close a run. `usage`: cpu_s, wall_s, max_rss_bytes."""
        assert status in ENDED, status
        used = usage or {}
        with self.db.write(events=True) as connection:
            connection.execute(
                runs.update().where(runs.c.id == run_id).values(
                    status=status, ended_ms=now_ms(), error=error.as_dict() if error else None, cost_usd=cost_usd,
                    cpu_s=used.get("cpu_s"), wall_s=used.get("wall_s"),
                    max_rss_bytes=int(used["max_rss_bytes"]) if "max_rss_bytes" in used else None,
                )
            )  # fmt: skip
            self.events.append(
                actor, f"run.{status.lower()}", f"run:{run_id}", **({"error": error.message} if error else {})
            )

    def get(self, run_id: str) -> Run:
        """A run by its id or the first 8 or more digits of it. Errors: `not_found`, `invalid` when several match."""
        with self.db.read() as connection:
            rows = connection.execute(
                sa.select(runs).where(runs.c.id >= run_id, runs.c.id < run_id + "g").limit(2)
            ).all()
        if not rows or len(run_id) < 8:
            raise Error("not_found", f"there is no run {run_id!r}", "longrein ls runs")
        if len(rows) > 1:
            raise Error("invalid", f"several runs begin with {run_id!r}", "give more digits")
        return _run(rows[0])

    def many(self, run_ids: Iterable[str]) -> dict[str, Run]:
        """Runs by their whole ids; those that are not there are left out."""
        ids, found = list(run_ids), dict[str, Run]()
        with self.db.read() as connection:
            for start in range(0, len(ids), 500):
                rows = connection.execute(sa.select(runs).where(runs.c.id.in_(ids[start : start + 500])))
                found |= {row.id: _run(row) for row in rows}
        return found

    def recent(self, capability: str = "", name: str = "", limit: int = 100) -> list[Run]:
        """The newest first."""
        query = sa.select(runs).where(runs.c.lifecycle_stage == "active").order_by(runs.c.id.desc()).limit(limit)
        if capability:
            query = query.where(runs.c.capability == capability)
        if name:
            query = query.where(runs.c.name == name)
        with self.db.read() as connection:
            return [_run(row) for row in connection.execute(query)]

    def log(
        self, run_id: str, points: Iterable[tuple[str, float, int, int]] = (), *,
        parameters: Mapping[str, str] | None = None, labels: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        """Log (key, value, step, ts_ms) points, params and tags in one transaction. Points logged twice count once."""
        rows = [Point.of(run_id, *point) for point in points]
        with self.db.write() as connection:
            add(self.db, rows)
            for table, pairs in ((params, parameters), (tags, labels)):
                if pairs:
                    insert = self.db.insert(table)
                    connection.execute(
                        insert.on_conflict_do_update(
                            index_elements=["run_id", "key"], set_={"value": insert.excluded.value}
                        ),
                        [{"run_id": run_id, "key": k, "value": v} for k, v in pairs.items()],
                    )

    def drop_after(self, run_id: str, step: int) -> None:
        """Forget the points after `step`: an attempt that died logged them, and the resumed one logs them again."""
        with self.db.write() as connection:
            connection.execute(metrics.delete().where(metrics.c.run_id == run_id, metrics.c.step > step))
            keys: Sequence[str] = connection.scalars(
                sa.select(latest_metrics.c.key).where(latest_metrics.c.run_id == run_id)
            ).all()
            connection.execute(latest_metrics.delete().where(latest_metrics.c.run_id == run_id))
            for key in keys:
                last = connection.execute(
                    sa.select(metrics)
                    .where(metrics.c.run_id == run_id, metrics.c.key == key)
                    .order_by(metrics.c.step.desc(), metrics.c.ts_ms.desc(), metrics.c.value.desc())
                    .limit(1)
                ).first()
                if last:
                    add(self.db, [Point(**last._mapping)])

    def metrics(self, run_id: str) -> dict[str, float]:
        """The last value of each metric."""
        with self.db.read() as connection:
            rows = connection.execute(sa.select(latest_metrics).where(latest_metrics.c.run_id == run_id)).all()
        return {r.key: math.nan if r.is_nan else r.value for r in rows}

    def history(self, run_id: str, key: str) -> list[tuple[int, int, float]]:
        """(step, ts_ms, value) of one metric, by step and time."""
        query = sa.select(metrics).where(metrics.c.run_id == run_id, metrics.c.key == key)
        with self.db.read() as connection:
            rows = connection.execute(query.order_by(metrics.c.step, metrics.c.ts_ms)).all()
        return [(r.step, r.ts_ms, math.nan if r.is_nan else r.value) for r in rows]

    def params(self, run_id: str) -> dict[str, str]:
        return self._pairs(params, run_id)

    def tags(self, run_id: str) -> dict[str, str]:
        return self._pairs(tags, run_id)

    def _pairs(self, table: sa.Table, run_id: str) -> dict[str, str]:
        with self.db.read() as connection:
            return {r.key: r.value for r in connection.execute(sa.select(table).where(table.c.run_id == run_id))}


def new_id(started_ms: int) -> str:
    return f"{started_ms:012x}{uuid.uuid4().hex[:20]}"


def this_machine() -> dict[str, Any]:
    return {
        "host": socket.gethostname(), "python": platform.python_version(), "system": platform.platform(),
        "cpus": os.cpu_count(), "pid": os.getpid(),
    }  # fmt: skip


def _run(row: Any) -> Run:
    return Run(
        row.id, row.experiment_id, row.name, row.capability, row.status, row.actor, row.step_key, row.config or {},
        row.code, row.environment or {}, row.started_ms, row.ended_ms, row.cpu_s, row.wall_s, row.max_rss_bytes,
        row.cost_usd, row.error,
    )  # fmt: skip
