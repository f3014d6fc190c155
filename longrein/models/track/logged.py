"""Logged models, MLflow 3's first-class models: pending, then ready, when their bytes become an asset."""

import uuid
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from longrein.core.errors import Error
from longrein.core.ledger import now_ms
from longrein.core.ledger.points import Point
from longrein.core.ledger.schema import (
    logged_model_metrics,
    logged_model_params,
    logged_model_runs,
    logged_model_tags,
    logged_models,
)
from longrein.core.store import Stored
from longrein.models.track import experiments, inputs, limits
from longrein.models.track.artifacts import local_name
from longrein.models.track.call import Call, Json, Pair, Request, check_limit, number, offset_of, page, pairs
from longrein.models.track.grammar import LOGGED
from longrein.models.track.query import Column, Target

STATUSES = {
    "LOGGED_MODEL_PENDING": "PENDING", "LOGGED_MODEL_READY": "READY", "LOGGED_MODEL_UPLOAD_FAILED": "FAILED",
    "1": "PENDING", "2": "READY", "3": "FAILED",
}  # fmt: skip
_WIRE = {"PENDING": "LOGGED_MODEL_PENDING", "READY": "LOGGED_MODEL_READY", "FAILED": "LOGGED_MODEL_UPLOAD_FAILED"}
_BAD = "/:.%\"'"


class Create(Request, kw_only=True):
    experiment_id: str = "0"
    name: str = ""
    model_type: str = ""
    source_run_id: str = ""
    params: tuple[Pair, ...] = ()
    tags: tuple[Pair, ...] = ()


class ById(Request, kw_only=True):
    model_id: str
    allow_deleted: bool = False


class Finalize(ById, kw_only=True):
    status: str | int


class SetTags(ById, kw_only=True):
    tags: tuple[Pair, ...] = ()


class DeleteTag(ById, kw_only=True):
    tag_key: str


class LogParams(ById, kw_only=True):
    params: tuple[Pair, ...] = ()


class Listing(ById, kw_only=True):
    artifact_directory_path: str = ""


class OnDataset(Request, kw_only=True):
    dataset_name: str = ""
    dataset_digest: str = ""


class OrderBy(OnDataset, kw_only=True):
    field_name: str
    ascending: bool = True


class Search(Request, kw_only=True):
    experiment_ids: tuple[str, ...] = ()
    filter: str = ""
    datasets: tuple[OnDataset, ...] = ()
    max_results: int = 50
    order_by: tuple[OrderBy, ...] = ()
    page_token: str = ""


def create(call: Call, request: Create) -> Json:
    if request.name and any(c in _BAD for c in request.name):
        raise Error("invalid", f"Invalid model name ({request.name!r}): it cannot contain any of {' '.join(_BAD)}")
    model_id, now = f"m-{uuid.uuid4().hex}", now_ms()
    with call.ledger.db.write() as connection:
        experiment = experiments.active(connection, request.experiment_id)
        connection.execute(
            logged_models.insert().values(
                id=model_id, experiment_id=experiment.id, name=request.name or f"model-{model_id[2:10]}",
                type=request.model_type, status="PENDING", source_run_id=request.source_run_id,
                created_ms=now, updated_ms=now,
                artifact_uri=f"{experiments.location(experiment)}/models/{model_id}/artifacts",
            )
        )  # fmt: skip
        _put(call, connection, logged_model_params, model_id, _params(request.params))
        _put(call, connection, logged_model_tags, model_id, _tags(request.tags))
        return _answer(connection, model_id)


def get(call: Call, request: ById) -> Json:
    with call.ledger.db.read() as connection:
        row_of(connection, request.model_id, request.allow_deleted)
        return _answer(connection, request.model_id)


def finalize(call: Call, request: Finalize) -> Json:
    """Set the status. READY makes an asset of the model's bytes, `model:<its id>`, made by the run it came from.

    Reads all of them: call it outside a transaction.
    """
    status = STATUSES.get(str(request.status))
    if status is None:
        raise Error("invalid", f"Invalid model status: {request.status!r}", "valid: " + ", ".join(_WIRE.values()))
    with call.ledger.db.read() as connection:
        row = row_of(connection, request.model_id)
    stored = call.artifacts.snapshot(row.artifact_uri) if status == "READY" and row.asset_id is None else None
    with call.ledger.db.write() as connection:
        asset_id = _asset(call, row, stored) if stored else row.asset_id
        values = {"status": status, "asset_id": asset_id, "updated_ms": now_ms()}
        connection.execute(logged_models.update().where(logged_models.c.id == row.id).values(values))
        if asset_id is not None:
            inputs.join(call, connection, row.id, asset_id)
        return _answer(connection, row.id)


def delete(call: Call, request: ById) -> Json:
    with call.ledger.db.write(events=True) as connection:
        row = row_of(connection, request.model_id)
        values = {"lifecycle_stage": "deleted", "updated_ms": now_ms()}
        connection.execute(logged_models.update().where(logged_models.c.id == row.id).values(values))
        call.ledger.events.append(call.actor, "logged_model.deleted", f"model:{row.id}")
    return {}


def set_tags(call: Call, request: SetTags) -> Json:
    with call.ledger.db.write() as connection:
        row_of(connection, request.model_id)
        _put(call, connection, logged_model_tags, request.model_id, _tags(request.tags))
        return _answer(connection, request.model_id)


def delete_tag(call: Call, request: DeleteTag) -> Json:
    tags = logged_model_tags.c
    with call.ledger.db.write() as connection:
        row_of(connection, request.model_id)
        where = (tags.model_id == request.model_id, tags.key == request.tag_key)
        if not connection.execute(logged_model_tags.delete().where(*where)).rowcount:
            raise Error(
                "not_found", f"No tag with key {request.tag_key!r} found for model with ID {request.model_id!r}."
            )
    return {}


def log_params(call: Call, request: LogParams) -> Json:
    with call.ledger.db.write() as connection:
        row_of(connection, request.model_id)
        _put(call, connection, logged_model_params, request.model_id, _params(request.params))
    return {}


def add_metrics(call: Call, run_id: str, values: Sequence[Any]) -> None:
    """Keep the latest of each metric that a run logs about a logged model."""
    table = logged_model_metrics
    insert = call.ledger.db.insert(table)
    new, old = ([c[n] for n in ("step", "ts_ms", "value")] for c in (insert.excluded, table.c))
    upsert = insert.on_conflict_do_update(
        index_elements=list(table.primary_key.columns),
        set_={n: insert.excluded[n] for n in ("step", "ts_ms", "value", "is_nan")},
        where=sa.tuple_(*new) > sa.tuple_(*old),
    )
    with call.ledger.db.write() as connection:
        for model_id in {m.model_id for m in values}:
            row_of(connection, model_id)
        for m in values:
            point = Point.of(run_id, m.key, m.value, m.step, m.timestamp)._asdict()
            about = {"model_id": m.model_id, "dataset_name": m.dataset_name, "dataset_digest": m.dataset_digest}
            connection.execute(upsert, point | about)


def search(call: Call, request: Search) -> Json:
    limit, offset = check_limit(request.max_results, 1000), offset_of(request.page_token)
    order = [o for item in request.order_by for o in _ordered(item, call.ledger.db.sqlite)] or [
        logged_models.c.created_ms.desc()
    ]
    query = (
        sa.select(logged_models)
        .where(
            logged_models.c.experiment_id.in_([int(e) for e in request.experiment_ids if e.isascii() and e.isdigit()]),
            logged_models.c.lifecycle_stage == "active",
            *_target(request.datasets).where(request.filter, call.ledger.db.sqlite),
        )
        .order_by(*order, logged_models.c.id)
    )
    if request.datasets and "metrics." not in request.filter:
        measured = sa.select(logged_model_metrics.c.model_id).where(*_target(request.datasets).measured)
        query = query.where(logged_models.c.id.in_(measured))
    with call.ledger.db.read() as connection:
        rows, token = page(list(connection.execute(query.limit(limit + 1).offset(offset))), offset, limit)
        return {"models": _entities(connection, rows), **token}


def list_artifacts(call: Call, request: Listing) -> Json:
    with call.ledger.db.read() as connection:
        row = row_of(connection, request.model_id)
    name, path = local_name(row.artifact_uri), request.artifact_directory_path.strip("/")
    if name is None:
        raise Error(
            "invalid", f"the artifacts of this model are at {row.artifact_uri}, which this server does not serve"
        )
    return {"root_uri": row.artifact_uri, "files": call.artifacts.list(f"{name}/{path}" if path else name, path)}


def row_of(connection: sa.Connection, model_id: str, deleted: bool = False) -> Any:
    row = connection.execute(sa.select(logged_models).where(logged_models.c.id == model_id)).first()
    if row is None or (row.lifecycle_stage == "deleted" and not deleted):
        raise Error("not_found", f"Logged model with ID '{model_id}' not found.")
    return row


def registered(call: Call, connection: sa.Connection, model_id: str, name: str, version: int) -> None:
    """Note on a logged model, as MLflow does, that it is now a version of a registered model."""
    tag, tags = "mlflow.modelVersions", logged_model_tags.c
    old = connection.scalar(sa.select(tags.value).where(tags.model_id == model_id, tags.key == tag))
    known = msgspec.json.decode(old) if old else []
    if (new := {"name": name, "version": str(version)}) not in known:
        _put(call, connection, logged_model_tags, model_id, {tag: msgspec.json.encode([*known, new]).decode()})


def _target(datasets: Sequence[OnDataset]) -> Target:
    m, c = logged_models.c, logged_model_metrics.c
    only = [
        sa.and_(c.dataset_name == d.dataset_name, *([c.dataset_digest == d.dataset_digest] if d.dataset_digest else []))
        for d in datasets
    ]
    return Target(
        LOGGED,
        m.id,
        {
            "name": m.name, "model_id": m.id, "model_type": m.type, "status": m.status,
            "source_run_id": m.source_run_id,
            "experiment_id": sa.cast(m.experiment_id, sa.String), "creation_timestamp": m.created_ms,
            "last_updated_timestamp": m.updated_ms,
        },
        {"metric": logged_model_metrics, "param": logged_model_params, "tag": logged_model_tags},
        measured=[sa.or_(*only)] if only else (),
    )  # fmt: skip


def _ordered(item: OrderBy, sqlite: bool) -> list[Column]:
    on = [item] if item.dataset_name else []
    return _target(list(on)).order([f"{item.field_name} {'ASC' if item.ascending else 'DESC'}"], sqlite)


def _asset(call: Call, row: Any, stored: Stored) -> int:
    return call.ledger.assets.put(
        "model", row.id, stored.digest, uri=stored.uri, bytes=stored.bytes, run_id=row.source_run_id, actor=call.actor,
        role="model", meta={"name": row.name, "type": row.type, "source": row.artifact_uri},
    ).id  # fmt: skip


def _params(items: Sequence[Pair]) -> dict[str, str]:
    return {limits.within(p.key, limits.KEY, "key"): p.value[: limits.PARAM] for p in items}


def _tags(items: Sequence[Pair]) -> dict[str, str]:
    return {limits.within(t.key, limits.KEY, "key"): t.value[: limits.TAG] for t in items}


def _put(call: Call, connection: sa.Connection, table: sa.Table, model_id: str, values: dict[str, str]) -> None:
    if values:
        insert = call.ledger.db.insert(table)
        connection.execute(
            insert.on_conflict_do_update(index_elements=["model_id", "key"], set_={"value": insert.excluded.value}),
            [{"model_id": model_id, "key": k, "value": v} for k, v in values.items()],
        )


def _answer(connection: sa.Connection, model_id: str) -> Json:
    return {"model": _entities(connection, [row_of(connection, model_id, True)])[0]}


def _entities(connection: sa.Connection, rows: list[Any]) -> list[Json]:
    side: dict[sa.Table, dict[str, list[Any]]] = {}
    for table in (logged_model_params, logged_model_tags, logged_model_metrics, logged_model_runs):
        side[table] = defaultdict(list)
        for item in connection.execute(sa.select(table).where(table.c.model_id.in_([r.id for r in rows]))):
            side[table][item.model_id].append(item)
    return [
        {
            "info": {
                "model_id": row.id, "experiment_id": str(row.experiment_id), "name": row.name, "model_type": row.type,
                "creation_timestamp_ms": row.created_ms, "last_updated_timestamp_ms": row.updated_ms,
                "artifact_uri": row.artifact_uri, "status": _WIRE[row.status], "source_run_id": row.source_run_id,
                "tags": pairs({t.key: t.value for t in side[logged_model_tags][row.id]}),
            },
            "data": {
                "params": pairs({p.key: p.value for p in side[logged_model_params][row.id]}),
                "metrics": [_metric(m) for m in side[logged_model_metrics][row.id]],
            },
        }
        for row in rows
    ]  # fmt: skip


def _metric(row: Any) -> Json:
    on = {k: v for k, v in (("dataset_name", row.dataset_name), ("dataset_digest", row.dataset_digest)) if v}
    return {
        "key": row.key, "value": number(row.value, row.is_nan), "timestamp": row.ts_ms, "step": row.step,
        "model_id": row.model_id, "run_id": row.run_id, **on,
    }  # fmt: skip
