"""Registered models: MLflow's registry over our names and aliases of kind "model"; gates block here as anywhere."""

import re
from collections import defaultdict
from typing import Any

import sqlalchemy as sa

from longrein.core.errors import Error
from longrein.core.ledger import now_ms
from longrein.core.ledger.schema import aliases, assets, gated, logged_models, name_tags, names
from longrein.core.ref import check_name
from longrein.models.track import limits, versions
from longrein.models.track.call import Call, Json, Pair, Request, check_limit, exists, offset_of, page, pairs
from longrein.models.track.grammar import MODELS
from longrein.models.track.query import Target
from longrein.models.track.versions import KIND

_MINE = (names.c.kind == KIND, names.c.name.not_in(sa.select(logged_models.c.id)))
_TARGET = Target(
    MODELS,
    names.c.name,
    {"name": names.c.name, "creation_timestamp": names.c.created_ms, "last_updated_timestamp": names.c.updated_ms},
    {"tag": name_tags},
    tagged=[name_tags.c.kind == KIND],
)


class Create(Request, kw_only=True):
    name: str
    description: str = ""
    tags: tuple[Pair, ...] = ()


class ByName(Request, kw_only=True):
    name: str


class Rename(ByName, kw_only=True):
    new_name: str


class Update(ByName, kw_only=True):
    description: str = ""


class SetTag(ByName, kw_only=True):
    key: str
    value: str = ""


class DeleteTag(ByName, kw_only=True):
    key: str


class Alias(ByName, kw_only=True):
    alias: str


class SetAlias(Alias, kw_only=True):
    version: str


class Search(Request, kw_only=True):
    filter: str = ""
    order_by: tuple[str, ...] = ()
    max_results: int = 100
    page_token: str = ""


def create(call: Call, request: Create) -> Json:
    _check(request.name)
    with call.ledger.db.write(events=True) as connection:
        if not call.ledger.assets.name(KIND, request.name, request.description):
            raise exists(f"Registered Model (name={request.name}) already exists.")
        for tag in request.tags:
            _put_tag(call, connection, request.name, tag)
        call.ledger.events.append(call.actor, "model.registered", f"{KIND}:{request.name}")
        return _answer(connection, request.name)


def get(call: Call, request: ByName) -> Json:
    with call.ledger.db.read() as connection:
        return _answer(connection, request.name)


def rename(call: Call, request: Rename) -> Json:
    """Errors: `blocked` when gates guard it, since what was judged and released goes by its name."""
    _check(request.new_name, "new_name")
    with call.ledger.db.write(events=True) as connection:
        versions.check_registered(connection, request.name)
        _check_free(connection, request.name)
        taken = sa.select(names.c.name).where(names.c.kind == KIND, names.c.name == request.new_name)
        if connection.scalar(taken) is not None:
            raise exists(f"Registered Model (name={request.new_name}) already exists.")
        for table in (names, name_tags, assets, aliases):
            mine = (table.c.kind == KIND, table.c.name == request.name)
            connection.execute(table.update().where(*mine).values(name=request.new_name))
        versions.touch(connection, request.new_name)
        call.ledger.events.append(call.actor, "model.renamed", f"{KIND}:{request.new_name}", **{"from": request.name})
        return _answer(connection, request.new_name)


def update(call: Call, request: Update) -> Json:
    with call.ledger.db.write() as connection:
        versions.check_registered(connection, request.name)
        mine = (names.c.kind == KIND, names.c.name == request.name)
        connection.execute(names.update().where(*mine).values(description=request.description, updated_ms=now_ms()))
        return _answer(connection, request.name)


def delete(call: Call, request: ByName) -> Json:
    """Remove the name, its aliases and, from view, its versions: lineage and audit keep them. Errors: `blocked`."""
    with call.ledger.db.write(events=True) as connection:
        versions.check_registered(connection, request.name)
        _check_free(connection, request.name)
        for table in (aliases, name_tags, names):
            connection.execute(table.delete().where(table.c.kind == KIND, table.c.name == request.name))
        mine = (assets.c.kind == KIND, assets.c.name == request.name)
        connection.execute(assets.update().where(*mine).values(state="deleted", updated_ms=now_ms()))
        call.ledger.events.append(call.actor, "model.deleted", f"{KIND}:{request.name}")
    return {}


def search(call: Call, request: Search) -> Json:
    limit, offset = check_limit(request.max_results, 1000), offset_of(request.page_token)
    query = (
        sa.select(names)
        .where(*_MINE, *_TARGET.where(request.filter, call.ledger.db.sqlite))
        .order_by(*_TARGET.order(request.order_by, call.ledger.db.sqlite, names.c.name))
    )
    with call.ledger.db.read() as connection:
        rows, token = page(list(connection.execute(query.limit(limit + 1).offset(offset))), offset, limit)
        return {"registered_models": _entities(connection, rows), **token}


def set_tag(call: Call, request: SetTag) -> Json:
    with call.ledger.db.write() as connection:
        versions.check_registered(connection, request.name)
        _put_tag(call, connection, request.name, Pair(request.key, request.value))
        versions.touch(connection, request.name)
    return {}


def delete_tag(call: Call, request: DeleteTag) -> Json:
    t = name_tags.c
    with call.ledger.db.write() as connection:
        versions.check_registered(connection, request.name)
        connection.execute(name_tags.delete().where(t.kind == KIND, t.name == request.name, t.key == request.key))
    return {}


def set_alias(call: Call, request: SetAlias) -> Json:
    """Point an alias at a version. Errors: `blocked` when a gate that guards it has not passed this very digest."""
    _check_alias(request.alias)
    with call.ledger.db.write(events=True) as connection:
        versions.check_registered(connection, request.name)
        asset = versions.asset_of(call, connection, request.name, request.version)
        call.ledger.aliases.move(KIND, request.name, request.alias, asset, actor=call.actor, reason="over MLflow's API")
    return {}


def delete_alias(call: Call, request: Alias) -> Json:
    with call.ledger.db.write(events=True) as connection:
        versions.check_registered(connection, request.name)
        call.ledger.aliases.drop(KIND, request.name, request.alias, actor=call.actor)
    return {}


def by_alias(call: Call, request: Alias) -> Json:
    a = aliases.c
    with call.ledger.db.read() as connection:
        versions.check_registered(connection, request.name)
        where = (a.kind == KIND, a.name == request.name, a.alias == request.alias)
        row = connection.execute(sa.select(assets).join(aliases, a.asset_id == assets.c.id).where(*where)).first()
        if row is None:
            raise Error("invalid", f"Registered model alias {request.alias} not found.")
        return {"model_version": versions.entities(connection, [row])[0]}


def _check(name: str, what: str = "name") -> None:
    if not name.strip():
        raise Error("invalid", f"Missing value for required parameter '{what}'.")
    if "/" in name or ":" in name:
        raise Error("invalid", f"Invalid model name '{name[:300]}'. Names cannot contain '/' or ':'.")
    if name in (".", ".."):
        raise Error("invalid", f"Invalid value {name!r} for parameter '{what}' supplied: it would read as a folder")
    check_name(name)


def _check_alias(alias: str) -> None:
    if not re.fullmatch(r"[\w\-]+", limits.within(alias, limits.ALIAS, "Registered model alias name")):
        raise Error(
            "invalid",
            f"Invalid alias name: '{alias}'. Names may only contain alphanumerics, underscores (_), and dashes (-).",
        )
    if alias.lower() == "latest" or re.fullmatch(r"[vV]\d+", alias):
        raise Error("invalid", f"Version alias name '{alias}' is reserved.")


def _check_free(connection: sa.Connection, name: str) -> None:
    where = (gated.c.kind == KIND, gated.c.name == name)
    guarded: list[str] = list(connection.scalars(sa.select(gated.c.alias).where(*where)))
    if guarded:
        raise Error(
            "blocked", f"{KIND}:{name} has aliases that gates guard: {', '.join(guarded)}", "take them off first"
        )


def _put_tag(call: Call, connection: sa.Connection, name: str, tag: Pair) -> None:
    limits.check_key(tag.key)
    limits.within(tag.value, limits.REGISTRY_TAG, "value")
    insert = call.ledger.db.insert(name_tags)
    connection.execute(
        insert.on_conflict_do_update(index_elements=["kind", "name", "key"], set_={"value": insert.excluded.value}),
        {"kind": KIND, "name": name, "key": tag.key, "value": tag.value},
    )


def _answer(connection: sa.Connection, name: str) -> Json:
    row = connection.execute(sa.select(names).where(*_MINE, names.c.name == name)).first()
    if row is None:
        raise Error("not_found", f"Registered Model with name={name} not found")
    return {"registered_model": _entities(connection, [row])[0]}


def _entities(connection: sa.Connection, rows: list[Any]) -> list[Json]:
    wanted = [row.name for row in rows]
    tags: dict[str, dict[str, str]] = defaultdict(dict)
    for t in connection.execute(sa.select(name_tags).where(name_tags.c.kind == KIND, name_tags.c.name.in_(wanted))):
        tags[t.name][t.key] = t.value
    points: dict[str, list[Json]] = defaultdict(list)
    found = (
        sa.select(aliases.c.name, aliases.c.alias, assets.c.version)
        .join(assets, assets.c.id == aliases.c.asset_id)
        .where(aliases.c.kind == KIND, aliases.c.name.in_(wanted))
    )
    for a in connection.execute(found.order_by(aliases.c.alias)):
        points[a.name].append({"alias": a.alias, "version": str(a.version)})
    newest = versions.latest_by_stage(connection, wanted)
    return [
        {
            "name": row.name, "creation_timestamp": row.created_ms, "last_updated_timestamp": row.updated_ms,
            "description": row.description, "latest_versions": newest[row.name], "tags": pairs(tags[row.name]),
            "aliases": points[row.name],
        }
        for row in rows
    ]  # fmt: skip
