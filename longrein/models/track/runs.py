"""Runs: created, logged to, found again."""

import random
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from longrein.core.errors import Error
from longrein.core.ledger import now_ms
from longrein.core.ledger.points import Point, add
from longrein.core.ledger.runs import new_id
from longrein.core.ledger.schema import latest_metrics, metrics, params, runs, tags
from longrein.models.track import experiments, inputs, limits, logged, points
from longrein.models.track.artifacts import local_name
from longrein.models.track.call import (
    Call,
    Int,
    Json,
    Pair,
    Request,
    Time,
    check_limit,
    number,
    offset_of,
    page,
    pairs,
    stages,
)
from longrein.models.track.grammar import RUNS
from longrein.models.track.query import Target

STATUSES = {1: "RUNNING", 2: "SCHEDULED", 3: "FINISHED", 4: "FAILED", 5: "KILLED"}
RUN_NAME = "mlflow.runName"
HISTORY_PAGE, HISTORY_RUNS = 25_000, 100
MOST_EXPERIMENTS = 30_000  # SQLite takes 32,766 values in one statement
_TARGET = Target(
    RUNS,
    runs.c.id,
    {
        "run_id": runs.c.id, "run_name": runs.c.name, "status": runs.c.status, "user_id": runs.c.actor,
        "artifact_uri": runs.c.artifact_uri, "start_time": runs.c.started_ms, "end_time": runs.c.ended_ms,
    },
    {"metric": latest_metrics, "param": params, "tag": tags},
    datasets=inputs.matching,
)  # fmt: skip


class Create(Request, kw_only=True):
    experiment_id: str = "0"
    user_id: str = ""
    run_name: str = ""
    start_time: Time = 0
    tags: tuple[Pair, ...] = ()


class ById(Request, kw_only=True):
    run_id: str = ""
    run_uuid: str = ""  # the older name of the same field

    def __post_init__(self) -> None:
        if not (self.run_id or self.run_uuid):
            raise Error("invalid", "Missing value for required parameter 'run_id'.")
        self.run_id = limits.check_run_id(self.run_id or self.run_uuid)


class Update(ById, kw_only=True):
    status: int | str = ""
    end_time: Time | None = None
    run_name: str = ""


class Search(Request, kw_only=True):
    experiment_ids: tuple[str, ...] = ()
    filter: str = ""
    run_view_type: str | int = "ACTIVE_ONLY"
    max_results: int = 1000
    order_by: tuple[str, ...] = ()
    page_token: str = ""


class Metric(msgspec.Struct, kw_only=True):
    key: str
    value: float
    timestamp: Time
    step: Int = 0
    model_id: str = ""
    dataset_name: str = ""
    dataset_digest: str = ""


class LogMetric(ById, kw_only=True):
    key: str
    value: float
    timestamp: Time
    step: Int = 0
    model_id: str = ""
    dataset_name: str = ""
    dataset_digest: str = ""


class LogPair(ById, kw_only=True):
    key: str
    value: str = ""


class LogBatch(ById, kw_only=True):
    metrics: tuple[Metric, ...] = ()
    params: tuple[Pair, ...] = ()
    tags: tuple[Pair, ...] = ()


class LogModel(ById, kw_only=True):
    model_json: str


class DeleteTag(ById, kw_only=True):
    key: str


class History(ById, kw_only=True):
    metric_key: str
    max_results: int = HISTORY_PAGE
    page_token: str = ""


class HistoryBulk(Request, kw_only=True):
    run_id: tuple[str, ...]
    metric_key: str
    max_results: int = HISTORY_PAGE


class HistoryInterval(Request, kw_only=True):
    run_ids: tuple[str, ...]
    metric_key: str
    start_step: Int = -(2**63)
    end_step: Int = 2**63 - 1
    max_results: int = 2500


class Listing(ById, kw_only=True):
    path: str = ""


def create(call: Call, request: Create) -> Json:
    labels = {t.key: t.value for t in request.tags}
    tagged = labels.get(RUN_NAME, "")
    if request.run_name and tagged and request.run_name != tagged:
        raise Error(
            "invalid",
            "Both 'run_name' argument and 'mlflow.runName' tag are specified, but with different values "
            f"(run_name='{request.run_name}', mlflow.runName='{tagged}').",
        )
    name = request.run_name or tagged or _random_name()
    actor = request.user_id or labels.get("mlflow.user", "") or call.actor
    run_id = new_id(now_ms())
    with call.ledger.db.write(events=True) as connection:
        experiment = experiments.active(connection, request.experiment_id)
        connection.execute(
            runs.insert().values(
                id=run_id, experiment_id=experiment.id, name=name, status="RUNNING", actor=actor, config={},
                environment={"logged by": "an MLflow client"}, started_ms=request.start_time or now_ms(),
                artifact_uri=f"{experiments.location(experiment)}/{run_id}/artifacts",
            )
        )  # fmt: skip
        points.set_tags(call, run_id, _checked(labels | {RUN_NAME: name}))
        call.ledger.events.append(call.actor or actor, "run.started", f"run:{run_id}", capability="", name=name)
        return {"run": _entities(connection, [row_of(connection, run_id)])[0]}


def get(call: Call, request: ById) -> Json:
    with call.ledger.db.read() as connection:
        return {"run": _entities(connection, [row_of(connection, request.run_id)])[0]}


def search(call: Call, request: Search) -> Json:
    limit, offset = check_limit(request.max_results, 50_000), offset_of(request.page_token)
    if len(request.experiment_ids) > MOST_EXPERIMENTS:
        raise Error("invalid", f"a search may name at most {MOST_EXPERIMENTS} experiments", "name fewer")
    if bad := [e for e in request.experiment_ids if not (e.isascii() and e.isdigit() and len(e) < 19)]:
        raise Error("invalid", f"Invalid experiment ID '{bad[0][:100]}'. Experiment ID must be a valid integer.")
    query = (
        sa.select(runs)
        .where(
            runs.c.experiment_id.in_([int(e) for e in request.experiment_ids]),
            runs.c.lifecycle_stage.in_(stages(request.run_view_type)),
            *_TARGET.where(request.filter, call.ledger.db.sqlite),
        )
        .order_by(*_TARGET.order(request.order_by, call.ledger.db.sqlite, runs.c.started_ms.desc(), runs.c.id))
    )
    with call.ledger.db.read() as connection:
        rows, token = page(list(connection.execute(query.limit(limit + 1).offset(offset))), offset, limit)
        return {"runs": _entities(connection, rows), **token}


def update(call: Call, request: Update) -> Json:
    status = STATUSES.get(request.status, "") if isinstance(request.status, int) else request.status
    if request.status and status not in STATUSES.values():
        raise Error("invalid", f"Invalid status {request.status!r}", f"valid: {', '.join(STATUSES.values())}")
    values: dict[str, Any] = {"status": status} if status else {}
    if request.end_time is not None:
        values["ended_ms"] = request.end_time
    if request.run_name:
        values["name"] = request.run_name
    with call.ledger.db.write(events=True) as connection:
        points.check_active(call, request.run_id)
        before = row_of(connection, request.run_id)
        if values:
            connection.execute(runs.update().where(runs.c.id == request.run_id).values(values))
        if request.run_name:
            points.set_tags(call, request.run_id, {RUN_NAME: request.run_name})
        if status and status != before.status:
            call.ledger.events.append(call.actor or before.actor, f"run.{status.lower()}", f"run:{request.run_id}")
        return {"run_info": _info(row_of(connection, request.run_id))}


def delete(call: Call, request: ById) -> Json:
    """Mark a run as deleted; `restore` brings it back."""
    return _move(call, request.run_id, "deleted")


def restore(call: Call, request: ById) -> Json:
    return _move(call, request.run_id, "active")


def log_metric(call: Call, request: LogMetric) -> Json:
    return log_points(call, request.run_id, [request])


def log_points(call: Call, run_id: str, values: Sequence[Any]) -> Json:
    """Log metrics of one run, `Metric`s or `LogMetric`s."""
    found = [Point.of(run_id, limits.check_key(m.key, "name"), m.value, m.step, m.timestamp) for m in values]
    points.check_active(call, run_id)
    add(call.ledger.db, found)
    if about := [m for m in values if m.model_id]:
        logged.add_metrics(call, run_id, about)
    return {}


def log_param(call: Call, request: LogPair) -> Json:
    points.check_active(call, request.run_id)
    points.add_params(call, request.run_id, {limits.check_key(request.key): request.value[: limits.PARAM]})
    return {}


def set_tag(call: Call, request: LogPair) -> Json:
    points.check_active(call, request.run_id)
    points.set_tags(call, request.run_id, _checked({request.key: request.value}))
    return {}


def delete_tag(call: Call, request: DeleteTag) -> Json:
    with call.ledger.db.write() as connection:
        points.check_active(call, request.run_id)
        if not connection.execute(
            tags.delete().where(tags.c.run_id == request.run_id, tags.c.key == request.key)
        ).rowcount:
            raise Error("not_found", f"No tag with name: {request.key} in run with id {request.run_id}")
    return {}


def log_batch(call: Call, request: LogBatch) -> Json:
    """All of it or nothing. Errors: `invalid` as MLflow has them, naming the limit or the param."""
    limits.check_batch(request.metrics, request.params, request.tags)
    parameters: dict[str, str] = {}
    for p in request.params:
        if p.key in parameters:
            raise Error(
                "invalid", f"Duplicate parameter keys have been submitted: {[p.key]}.", "send one value per key"
            )
        parameters[limits.check_key(p.key)] = p.value[: limits.PARAM]
    with call.ledger.db.write():
        log_points(call, request.run_id, request.metrics)
        points.add_params(call, request.run_id, parameters)
        points.set_tags(call, request.run_id, _checked({t.key: t.value for t in request.tags}))
    return {}


def log_model(call: Call, request: LogModel) -> Json:
    """The way of MLflow 2: remembers the model's description in a tag of the run."""
    try:
        model = msgspec.json.decode(request.model_json, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise Error(
            "invalid", f"Malformed model info. \n {request.model_json[:200]} \n is not a JSON object."
        ) from error
    missing = {"artifact_path", "flavors", "utc_time_created", "run_id"} - set(model)
    if missing:
        raise Error("invalid", f"Model json is missing mandatory fields: {sorted(missing)}")
    with call.ledger.db.write() as connection:
        points.check_active(call, request.run_id)
        where = (tags.c.run_id == request.run_id, tags.c.key == "mlflow.log-model.history")
        old = connection.scalar(sa.select(tags.c.value).where(*where))
        history = [*(msgspec.json.decode(old) if old else []), model]
        points.set_tags(call, request.run_id, {"mlflow.log-model.history": msgspec.json.encode(history).decode()})
    return {}


def history(call: Call, request: History) -> Json:
    limit, offset = check_limit(request.max_results, 100_000), offset_of(request.page_token)
    query = (
        sa.select(metrics)
        .where(metrics.c.run_id == request.run_id, metrics.c.key == request.metric_key)
        .order_by(metrics.c.ts_ms, metrics.c.step, metrics.c.value)
        .limit(limit + 1)
        .offset(offset)
    )
    with call.ledger.db.read() as connection:
        row_of(connection, request.run_id)
        rows, token = page(list(connection.execute(query)), offset, limit)
    return {"metrics": [_metric(row) for row in rows], **token}


def history_bulk(call: Call, request: HistoryBulk) -> Json:
    """One metric of many runs, run by run, `max_results` points in all."""
    limit, found = check_limit(request.max_results, HISTORY_PAGE), list[Json]()
    for run_id in sorted(_few(request.run_id)):
        if len(found) < limit:
            points_of_run = _points(call, run_id, request.metric_key, metrics.c.ts_ms, metrics.c.step, metrics.c.value)
            found += points_of_run[: limit - len(found)]
    return {"metrics": found}


def history_interval(call: Call, request: HistoryInterval) -> Json:
    """One metric of many runs between two steps, thinned out evenly to `max_results` a run; first and last are kept."""
    limit, found = check_limit(request.max_results, 2500), list[Json]()
    within = metrics.c.step.between(request.start_step, request.end_step)
    for run_id in _few(request.run_ids):
        rows = _points(call, run_id, request.metric_key, metrics.c.step, metrics.c.ts_ms, where=within)
        if len(rows) > limit:
            rows = [rows[i * (len(rows) - 1) // max(1, limit - 1)] for i in range(limit)]
        found += rows
    return {"metrics": found}


def list_artifacts(call: Call, request: Listing) -> Json:
    with call.ledger.db.read() as connection:
        uri = _uri(row_of(connection, request.run_id))
    name = local_name(uri)
    if name is None:
        raise Error("invalid", f"the artifacts of this run are at {uri}, which this server does not serve")
    path = request.path.strip("/")
    return {"root_uri": uri, "files": call.artifacts.list(f"{name}/{path}" if path else name, path)}


def _few(ids: tuple[str, ...]) -> tuple[str, ...]:
    if not 0 < len(ids) <= HISTORY_RUNS:
        raise Error(
            "invalid", f"the request must specify at least one and at most {HISTORY_RUNS} run_ids. Got {len(ids)}."
        )
    return ids


def _points(call: Call, run_id: str, key: str, *order: Any, where: Any = sa.true()) -> list[Json]:  # noqa: B008
    query = sa.select(metrics).where(metrics.c.run_id == run_id, metrics.c.key == key, where).order_by(*order)
    with call.ledger.db.read() as connection:
        return [_metric(row) | {"run_id": run_id} for row in connection.execute(query)]


def row_of(connection: sa.Connection, run_id: str) -> Any:
    row = connection.execute(sa.select(runs).where(runs.c.id == run_id)).first()
    if row is None:
        raise Error("not_found", f"Run with id={run_id} not found")
    return row


def _move(call: Call, run_id: str, stage: str) -> Json:
    with call.ledger.db.write(events=True) as connection:
        if row_of(connection, run_id).lifecycle_stage != stage:
            connection.execute(runs.update().where(runs.c.id == run_id).values(lifecycle_stage=stage))
            verb = "run.deleted" if stage == "deleted" else "run.restored"
            call.ledger.events.append(call.actor, verb, f"run:{run_id}")
    return {}


def _checked(labels: dict[str, str]) -> dict[str, str]:
    return {limits.check_key(k): v[: limits.TAG] for k, v in labels.items()}


def _metric(row: Any) -> Json:
    return {"key": row.key, "value": number(row.value, row.is_nan), "timestamp": row.ts_ms, "step": row.step}


def _uri(row: Any) -> str:
    return row.artifact_uri or f"mlflow-artifacts:/{row.experiment_id}/{row.id}/artifacts"


def _info(row: Any) -> Json:
    return {
        "run_id": row.id, "run_uuid": row.id, "run_name": row.name, "experiment_id": str(row.experiment_id),
        "user_id": row.actor, "status": row.status, "start_time": row.started_ms, "artifact_uri": _uri(row),
        "lifecycle_stage": row.lifecycle_stage, **({"end_time": row.ended_ms} if row.ended_ms is not None else {}),
    }  # fmt: skip


def _entities(connection: sa.Connection, rows: list[Any]) -> list[Json]:
    ids = [row.id for row in rows]
    values = {table: _side(connection, table, ids) for table in (latest_metrics, params, tags)}
    reads, writes = inputs.of_runs(connection, ids)
    return [
        {
            "info": _info(row),
            "data": {
                "metrics": [_metric(m) for m in values[latest_metrics][row.id]],
                "params": pairs({p.key: p.value for p in values[params][row.id]}),
                "tags": pairs({RUN_NAME: row.name} | {t.key: t.value for t in values[tags][row.id]}),
            },
            "inputs": reads[row.id],
            "outputs": writes[row.id],
        }
        for row in rows
    ]


def _side(connection: sa.Connection, table: sa.Table, ids: list[str]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = defaultdict(list)
    for start in range(0, len(ids), 500):
        for row in connection.execute(sa.select(table).where(table.c.run_id.in_(ids[start : start + 500]))):
            found[row.run_id].append(row)
    return found


def _random_name() -> str:
    first = (
        "agile amused bold brave bright calm clever curious eager fair gentle keen kind lively nimble quiet swift wise"
    )
    last = "ant bee crane deer eagle finch fox gull hare ibis lark lynx mole moth otter owl seal shrew swan wren"
    return f"{random.choice(first.split())}-{random.choice(last.split())}-{random.randrange(1000)}"
