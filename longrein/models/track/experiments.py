"""Experiments: named groups of runs."""

from typing import Any

import sqlalchemy as sa

from longrein.core.errors import Error
from longrein.core.ledger import now_ms
from longrein.core.ledger.schema import experiment_tags, experiments, runs
from longrein.models.track import limits
from longrein.models.track.call import Call, Json, Pair, Request, check_limit, exists, offset_of, page, pairs, stages
from longrein.models.track.grammar import EXPERIMENTS
from longrein.models.track.query import Target

PAGE = 1000
_TARGET = Target(
    EXPERIMENTS,
    experiments.c.id,
    {
        "name": experiments.c.name, "experiment_id": sa.cast(experiments.c.id, sa.String),
        "creation_time": experiments.c.created_ms, "last_update_time": experiments.c.updated_ms,
    },
    {"tag": experiment_tags},
)  # fmt: skip


class Create(Request, kw_only=True):
    name: str
    artifact_location: str = ""
    tags: tuple[Pair, ...] = ()


class ById(Request, kw_only=True):
    experiment_id: str


class ByName(Request, kw_only=True):
    experiment_name: str


class Update(ById, kw_only=True):
    new_name: str


class SetTag(ById, kw_only=True):
    key: str
    value: str = ""


class DeleteTag(ById, kw_only=True):
    key: str


class Search(Request, kw_only=True):
    filter: str = ""
    order_by: tuple[str, ...] = ()
    max_results: int = PAGE
    page_token: str = ""
    view_type: str | int = "ACTIVE_ONLY"


def create(call: Call, request: Create) -> Json:
    limits.check_experiment_name(request.name)
    if request.artifact_location.startswith("runs:"):
        raise Error("invalid", f"Artifact location cannot be a runs:/ URI. Given: {request.artifact_location!r}")
    now = now_ms()
    row = {
        "name": request.name, "artifact_location": request.artifact_location, "created_ms": now, "updated_ms": now,
    } | ({"id": 0} if request.name == "Default" else {})  # fmt: skip
    with call.ledger.db.write(events=True) as connection:
        new = call.ledger.db.insert(experiments).values(row).on_conflict_do_nothing().returning(experiments.c.id)
        experiment_id = connection.scalar(new)
        if experiment_id is None:
            raise exists(f"Experiment(name={request.name}) already exists.")
        for tag in request.tags:
            _set_tag(call, connection, experiment_id, tag.key, tag.value)
        call.ledger.events.append(call.actor, "experiment.made", f"experiment:{experiment_id}", name=request.name)
    return {"experiment_id": str(experiment_id)}


def get(call: Call, request: ById) -> Json:
    with call.ledger.db.read() as connection:
        return {"experiment": _entities(connection, [row_of(connection, request.experiment_id)])[0]}


def get_by_name(call: Call, request: ByName) -> Json:
    with call.ledger.db.read() as connection:
        row = connection.execute(sa.select(experiments).where(experiments.c.name == request.experiment_name)).first()
        if row is None:
            raise Error("not_found", f"Could not find experiment with name '{request.experiment_name}'")
        return {"experiment": _entities(connection, [row])[0]}


def search(call: Call, request: Search) -> Json:
    limit, offset = check_limit(request.max_results, 50_000), offset_of(request.page_token)
    query = (
        sa.select(experiments)
        .where(
            experiments.c.lifecycle_stage.in_(stages(request.view_type)),
            *_TARGET.where(request.filter, call.ledger.db.sqlite),
        )
        .order_by(
            *_TARGET.order(request.order_by or ["creation_time DESC"], call.ledger.db.sqlite, experiments.c.id.desc())
        )
    )
    with call.ledger.db.read() as connection:
        rows, token = page(list(connection.execute(query.limit(limit + 1).offset(offset))), offset, limit)
        return {"experiments": _entities(connection, rows), **token}


def update(call: Call, request: Update) -> Json:
    limits.check_experiment_name(request.new_name)
    with call.ledger.db.write() as connection:
        row = row_of(connection, request.experiment_id)
        if row.lifecycle_stage != "active":
            raise Error("invalid", "Cannot rename a non-active experiment.", "restore it first")
        taken = connection.scalar(sa.select(experiments.c.id).where(experiments.c.name == request.new_name))
        if taken not in (None, row.id):
            raise exists(f"Experiment(name={request.new_name}) already exists.")
        _change(connection, row.id, name=request.new_name)
    return {}


def delete(call: Call, request: ById) -> Json:
    """Mark an experiment and its runs as deleted: `restore` brings them back."""
    return _move(call, request.experiment_id, "active", "deleted")


def restore(call: Call, request: ById) -> Json:
    return _move(call, request.experiment_id, "deleted", "active")


def set_tag(call: Call, request: SetTag) -> Json:
    with call.ledger.db.write() as connection:
        row = active(connection, request.experiment_id)
        _set_tag(call, connection, row.id, request.key, request.value)
        _change(connection, row.id)
    return {}


def delete_tag(call: Call, request: DeleteTag) -> Json:
    with call.ledger.db.write() as connection:
        row = active(connection, request.experiment_id)
        where = (experiment_tags.c.experiment_id == row.id, experiment_tags.c.key == request.key)
        if not connection.execute(experiment_tags.delete().where(*where)).rowcount:
            raise Error("not_found", f"No tag with name: {request.key} in experiment with id {request.experiment_id}")
        _change(connection, row.id)
    return {}


def row_of(connection: sa.Connection, experiment_id: str) -> Any:
    """The row behind MLflow's id, a number as text. Errors: `invalid`, `not_found`."""
    if not (experiment_id.isascii() and experiment_id.isdigit() and len(experiment_id) < 19):
        raise Error("invalid", f"Invalid experiment ID '{experiment_id[:100]}'. Experiment ID must be a valid integer.")
    row = connection.execute(sa.select(experiments).where(experiments.c.id == int(experiment_id))).first()
    if row is None:
        raise Error("not_found", f"No Experiment with id={experiment_id} exists")
    return row


def active(connection: sa.Connection, experiment_id: str) -> Any:
    row = row_of(connection, experiment_id)
    if row.lifecycle_stage != "active":
        raise Error("invalid", f"The experiment {experiment_id} must be in the 'active' state.", "restore it first")
    return row


def location(row: Any) -> str:
    return row.artifact_location or f"mlflow-artifacts:/{row.id}"


def _move(call: Call, experiment_id: str, before: str, after: str) -> Json:
    with call.ledger.db.write(events=True) as connection:
        row = row_of(connection, experiment_id)
        if row.lifecycle_stage != before:
            raise Error("not_found", f"No Experiment with id={experiment_id} exists in the {before!r} stage")
        _change(connection, row.id, lifecycle_stage=after)
        connection.execute(runs.update().where(runs.c.experiment_id == row.id).values(lifecycle_stage=after))
        verb = "experiment.deleted" if after == "deleted" else "experiment.restored"
        call.ledger.events.append(call.actor, verb, f"experiment:{row.id}", name=row.name)
    return {}


def _set_tag(call: Call, connection: sa.Connection, experiment_id: int, key: str, value: str) -> None:
    limits.check_key(key)
    limits.within(value, limits.EXPERIMENT_TAG, "value")
    insert = call.ledger.db.insert(experiment_tags)
    connection.execute(
        insert.on_conflict_do_update(index_elements=["experiment_id", "key"], set_={"value": insert.excluded.value}),
        {"experiment_id": experiment_id, "key": key, "value": value},
    )


def _change(connection: sa.Connection, experiment_id: int, **values: Any) -> None:
    connection.execute(
        experiments.update().where(experiments.c.id == experiment_id).values(updated_ms=now_ms(), **values)
    )


def _entities(connection: sa.Connection, rows: list[Any]) -> list[Json]:
    tags: dict[int, dict[str, str]] = {row.id: {} for row in rows}
    for tag in connection.execute(sa.select(experiment_tags).where(experiment_tags.c.experiment_id.in_(list(tags)))):
        tags[tag.experiment_id][tag.key] = tag.value
    return [
        {
            "experiment_id": str(row.id), "name": row.name, "artifact_location": location(row),
            "lifecycle_stage": row.lifecycle_stage, "creation_time": row.created_ms, "last_update_time": row.updated_ms,
            "tags": pairs(tags[row.id]),
        }
        for row in rows
    ]  # fmt: skip
