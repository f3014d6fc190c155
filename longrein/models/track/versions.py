"""Versions of registered models: assets of kind "model", in MLflow's words."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from longrein.core import digest
from longrein.core.errors import Error
from longrein.core.ledger import Asset, now_ms
from longrein.core.ledger.schema import aliases, asset_tags, assets, logged_models, names, runs
from longrein.core.store import Stored
from longrein.models.track import limits, logged
from longrein.models.track.artifacts import STORE
from longrein.models.track.call import Call, Json, Pair, Request, check_limit, offset_of, page, pairs
from longrein.models.track.grammar import VERSIONS
from longrein.models.track.query import Target

KIND = "model"
MLFLOW_STAGES = {s.lower(): s for s in ("None", "Staging", "Production", "Archived")}
_LIVE = (assets.c.kind == KIND, assets.c.state == "live", assets.c.name.not_in(sa.select(logged_models.c.id)))
_TARGET = Target(
    VERSIONS,
    assets.c.id,
    {
        "name": assets.c.name, "version_number": assets.c.version, "run_id": assets.c.run_id,
        "source_path": sa.func.coalesce(assets.c.meta["source"].as_string(), ""),
        "creation_timestamp": assets.c.created_ms, "last_updated_timestamp": assets.c.updated_ms,
    },
    {"tag": asset_tags},
)  # fmt: skip


class Create(Request, kw_only=True):
    name: str
    source: str
    run_id: str = ""
    run_link: str = ""
    description: str = ""
    model_id: str = ""
    tags: tuple[Pair, ...] = ()


class ById(Request, kw_only=True):
    name: str
    version: str

    def __post_init__(self) -> None:
        if not (self.version.isascii() and self.version.isdigit() and len(self.version) < 10):
            raise Error("invalid", f"Parameter 'version' must be an integer, got '{self.version[:100]}'.")


class Update(ById, kw_only=True):
    description: str = ""


class Transition(ById, kw_only=True):
    stage: str
    archive_existing_versions: bool = False


class SetTag(ById, kw_only=True):
    key: str
    value: str = ""


class DeleteTag(ById, kw_only=True):
    key: str


class Latest(Request, kw_only=True):
    name: str
    stages: tuple[str, ...] = ()


class Search(Request, kw_only=True):
    filter: str = ""
    order_by: tuple[str, ...] = ()
    max_results: int = 10_000
    page_token: str = ""


def create(call: Call, request: Create) -> Json:
    """A new version. Bytes that lie here are taken into the store as they are now; of others, only the place is known.

    Reads all of them: call it outside a transaction.
    """
    labels = _labels(request.tags)
    run_id, model_id, stored = _origin(call, request)
    with call.ledger.db.write(events=True) as connection:
        check_registered(connection, request.name)
        mine = (assets.c.kind == KIND, assets.c.name == request.name)
        version = (connection.scalar(sa.select(sa.func.max(assets.c.version)).where(*mine)) or 0) + 1
        now = now_ms()
        meta = {"source": request.source, "run_link": request.run_link, "model_id": model_id, "actor": call.actor}
        row = {
            "kind": KIND, "name": request.name, "version": version, "digest": stored.digest, "uri": stored.uri,
            "bytes": stored.bytes, "meta": {k: v for k, v in meta.items() if v}, "description": request.description,
            "run_id": run_id, "created_ms": now, "updated_ms": now,
        }  # fmt: skip
        asset_id = int(connection.execute(assets.insert().values(row).returning(assets.c.id)).scalar_one())
        put_tags(call, connection, asset_id, labels)
        touch(connection, request.name)
        if run_id and connection.scalar(sa.select(runs.c.id).where(runs.c.id == run_id)):
            call.ledger.assets.link(run_id, asset_id, "out", "model")
        if model_id:
            logged.registered(call, connection, model_id, request.name, version)
        subject = f"{KIND}:{request.name}@{version}"
        call.ledger.events.append(call.actor, "asset.made", subject, digest=stored.digest, run=run_id)
        return {"model_version": entities(connection, [_row(connection, request.name, version)])[0]}


def get(call: Call, request: ById) -> Json:
    with call.ledger.db.read() as connection:
        return {"model_version": entities(connection, [_row(connection, request.name, request.version)])[0]}


def update(call: Call, request: Update) -> Json:
    return _changed(call, request, description=request.description)


def transition(call: Call, request: Transition) -> Json:
    """MLflow's older way to promote. A stage whose name is a guarded alias asks the same gates."""
    stage = _stage(request.stage)
    if request.archive_existing_versions and stage not in ("Staging", "Production"):
        raise Error("invalid", f"cannot archive existing versions because {stage!r} is not an active stage")
    with call.ledger.db.write(events=True) as connection:
        asset = asset_of(call, connection, request.name, request.version)
        for alias in {stage, stage.lower()}:
            if missing := call.ledger.aliases.missing(KIND, request.name, alias, asset):
                raise Error(
                    "blocked", f"{asset.ref} may not enter {stage!r}: gates {sorted(missing)} have not passed it"
                )
        if request.archive_existing_versions:
            others = (*_LIVE, assets.c.name == request.name, assets.c.stage == stage, assets.c.id != asset.id)
            connection.execute(assets.update().where(*others).values(stage="Archived", updated_ms=now_ms()))
        call.ledger.events.append(call.actor, "model.stage", asset.ref, stage=stage)
        return _changed(call, request, stage=stage)


def delete(call: Call, request: ById) -> Json:
    """Hide a version and drop its aliases; its number is not used again. Errors: `blocked` when a gate guards one."""
    with call.ledger.db.write(events=True) as connection:
        asset = asset_of(call, connection, request.name, request.version)
        held: list[str] = list(connection.scalars(sa.select(aliases.c.alias).where(aliases.c.asset_id == asset.id)))
        for alias in held:
            call.ledger.aliases.drop(KIND, request.name, alias, actor=call.actor)
        connection.execute(assets.update().where(assets.c.id == asset.id).values(state="deleted", updated_ms=now_ms()))
        touch(connection, request.name)
        call.ledger.events.append(call.actor, "asset.deleted", asset.ref, digest=asset.digest)
    return {}


def download_uri(call: Call, request: ById) -> Json:
    with call.ledger.db.read() as connection:
        row = _row(connection, request.name, request.version)
    return {"artifact_uri": f"mlflow-artifacts:/{STORE}/{row.uri}" if row.uri else row.meta["source"]}


def latest(call: Call, request: Latest) -> Json:
    wanted = {_stage(s) for s in request.stages} or set(MLFLOW_STAGES.values())
    with call.ledger.db.read() as connection:
        check_registered(connection, request.name)
        newest = latest_by_stage(connection, [request.name])[request.name]
        return {"model_versions": [v for v in newest if v["current_stage"] in wanted]}


def search(call: Call, request: Search) -> Json:
    limit, offset = check_limit(request.max_results, 200_000), offset_of(request.page_token)
    ties = (assets.c.name, assets.c.version.desc())
    query = (
        sa.select(assets)
        .where(*_LIVE, *_TARGET.where(request.filter, call.ledger.db.sqlite))
        .order_by(*_TARGET.order(request.order_by or ["last_updated_timestamp DESC"], call.ledger.db.sqlite, *ties))
    )
    with call.ledger.db.read() as connection:
        rows, token = page(list(connection.execute(query.limit(limit + 1).offset(offset))), offset, limit)
        return {"model_versions": entities(connection, rows), **token}


def set_tag(call: Call, request: SetTag) -> Json:
    with call.ledger.db.write() as connection:
        row = _row(connection, request.name, request.version)
        put_tags(call, connection, row.id, _labels([Pair(request.key, request.value)]))
    return {}


def delete_tag(call: Call, request: DeleteTag) -> Json:
    with call.ledger.db.write() as connection:
        row = _row(connection, request.name, request.version)
        connection.execute(asset_tags.delete().where(asset_tags.c.asset_id == row.id, asset_tags.c.key == request.key))
    return {}


def asset_of(call: Call, connection: sa.Connection, name: str, version: str) -> Asset:
    return call.ledger.assets.by_id(_row(connection, name, version).id)


def check_registered(connection: sa.Connection, name: str) -> None:
    where = (names.c.kind == KIND, names.c.name == name, names.c.name.not_in(sa.select(logged_models.c.id)))
    if connection.scalar(sa.select(names.c.name).where(*where)) is None:
        raise Error("not_found", f"Registered Model with name={name} not found")


def touch(connection: sa.Connection, name: str) -> None:
    connection.execute(names.update().where(names.c.kind == KIND, names.c.name == name).values(updated_ms=now_ms()))


def put_tags(call: Call, connection: sa.Connection, asset_id: int, values: dict[str, str]) -> None:
    if values:
        insert = call.ledger.db.insert(asset_tags)
        connection.execute(
            insert.on_conflict_do_update(index_elements=["asset_id", "key"], set_={"value": insert.excluded.value}),
            [{"asset_id": asset_id, "key": k, "value": v} for k, v in values.items()],
        )


def latest_by_stage(connection: sa.Connection, wanted: list[str]) -> dict[str, list[Json]]:
    """The newest version of each model in each stage."""
    newest = (
        sa.select(sa.func.max(assets.c.id))
        .where(*_LIVE, assets.c.name.in_(wanted))
        .group_by(assets.c.name, assets.c.stage)
    )
    rows = list(connection.execute(sa.select(assets).where(assets.c.id.in_(newest)).order_by(assets.c.id)))
    found: dict[str, list[Json]] = {name: [] for name in wanted}
    for entity in entities(connection, rows):
        found[entity["name"]].append(entity)
    return found


def entities(connection: sa.Connection, rows: list[Any]) -> list[Json]:
    tags: dict[int, dict[str, str]] = defaultdict(dict)
    alias: dict[int, list[str]] = defaultdict(list)
    for start in range(0, len(rows), 500):
        ids = [row.id for row in rows[start : start + 500]]
        for t in connection.execute(sa.select(asset_tags).where(asset_tags.c.asset_id.in_(ids))):
            tags[t.asset_id][t.key] = t.value
        for a in connection.execute(sa.select(aliases).where(aliases.c.asset_id.in_(ids)).order_by(aliases.c.alias)):
            alias[a.asset_id].append(a.alias)
    return [
        {
            "name": row.name, "version": str(row.version), "creation_timestamp": row.created_ms,
            "last_updated_timestamp": row.updated_ms, "user_id": row.meta.get("actor", ""), "current_stage": row.stage,
            "description": row.description, "source": row.meta.get("source") or f"mlflow-artifacts:/{STORE}/{row.uri}",
            "run_id": row.run_id, "run_link": row.meta.get("run_link", ""), "status": "READY",
            "model_id": row.meta.get("model_id", ""), "aliases": alias[row.id],
            "tags": pairs(tags[row.id]),
        }
        for row in rows
    ]  # fmt: skip


def _origin(call: Call, request: Create) -> tuple[str, str, Stored]:
    """(run, logged model, bytes) that a new version comes from."""
    run_id, model_id, source = request.run_id, request.model_id, request.source
    if source.startswith("models:/m-"):
        model_id = model_id or source.removeprefix("models:/")
    with call.ledger.db.read() as connection:
        if model_id:
            row = logged.row_of(connection, model_id)
            run_id = run_id or row.source_run_id
            if row.asset_id is not None:
                made = call.ledger.assets.by_id(row.asset_id)
                return run_id, model_id, Stored(made.digest, made.uri, made.bytes)
            source = row.artifact_uri
        elif source.startswith("models:/"):
            name, _, version = source.removeprefix("models:/").partition("/")
            copied = _row(connection, name, version)
            return run_id or copied.run_id, "", Stored(copied.digest, copied.uri, copied.bytes)
    stored = call.artifacts.snapshot(source)
    return run_id, model_id, stored or Stored(digest.of_json({"source": source}), "", 0)


def _changed(call: Call, request: ById, **values: Any) -> Json:
    with call.ledger.db.write() as connection:
        row = _row(connection, request.name, request.version)
        connection.execute(assets.update().where(assets.c.id == row.id).values(updated_ms=now_ms(), **values))
        touch(connection, request.name)
        return {"model_version": entities(connection, [_row(connection, request.name, request.version)])[0]}


def _row(connection: sa.Connection, name: str, version: str | int) -> Any:
    if not str(version).isdigit():
        raise Error("invalid", f"Parameter 'version' must be an integer, got {version!r}.")
    where = (*_LIVE, assets.c.name == name, assets.c.version == int(version))
    row = connection.execute(sa.select(assets).where(*where)).first()
    if row is None:
        raise Error("not_found", f"Model Version (name={name}, version={version}) not found")
    return row


def _stage(stage: str) -> str:
    if stage.lower() not in MLFLOW_STAGES:
        raise Error(
            "invalid", f"Invalid Model Version stage: {stage}. Value must be one of {list(MLFLOW_STAGES.values())}."
        )
    return MLFLOW_STAGES[stage.lower()]


def _labels(items: Sequence[Pair]) -> dict[str, str]:
    return {limits.check_key(t.key): limits.within(t.value, limits.REGISTRY_TAG, "value") for t in items}
