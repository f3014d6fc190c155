"""Assets: immutable, named, versioned, content-addressed; and the lineage between them, which is a query over edges."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import sqlalchemy as sa

from longrein.core.errors import Error, nearest
from longrein.core.ledger.database import Database, now_ms
from longrein.core.ledger.events import Events
from longrein.core.ledger.schema import aliases, assets, edges, names
from longrein.core.ref import Ref, check_name

T = TypeVar("T", int, str)


@dataclass(frozen=True)
class Asset:
    id: int
    kind: str
    name: str
    version: int
    digest: str
    uri: str  # relative to the store's root
    bytes: int
    meta: dict[str, Any]
    run_id: str  # the run that made it first; "" when it came from outside
    created_ms: int
    state: str = "live"

    @property
    def ref(self) -> str:
        return f"{self.kind}:{self.name}@{self.version}"


@dataclass(frozen=True)
class Edge:
    run_id: str
    asset_id: int
    direction: str  # "in": the run read the asset; "out": it made it
    role: str


@dataclass(frozen=True)
class Lineage:
    """A subgraph: assets nearest the start first, the ids of the runs between them, and the edges."""

    assets: list[Asset]
    runs: list[str]
    edges: list[Edge]


class Assets:
    def __init__(self, db: Database, events: Events) -> None:
        self.db, self.events = db, events

    def put(
        self, kind: str, name: str, digest: str, *, uri: str = "", bytes: int = 0, meta: dict[str, Any] | None = None,
        run_id: str = "", actor: str = "", role: str = "",
    ) -> Asset:  # fmt: skip
        """Record an asset made by `run_id`. The same content under the same name is the same version, made again."""
        Ref.parse(f"{kind}:{name}")
        with self.db.write(events=True) as connection:
            self.name(kind, name)
            old = connection.execute(
                sa.select(assets)
                .where(
                    assets.c.kind == kind, assets.c.name == name, assets.c.digest == digest, assets.c.state == "live"
                )
                .order_by(assets.c.version.desc())
            ).first()
            if old is None:
                last = connection.scalar(
                    sa.select(sa.func.max(assets.c.version)).where(assets.c.kind == kind, assets.c.name == name)
                )
                now = now_ms()
                row = Asset(0, kind, name, (last or 0) + 1, digest, uri, bytes, meta or {}, run_id, now)
                values = {k: v for k, v in vars(row).items() if k != "id"}
                key = connection.execute(assets.insert().values(**values, updated_ms=now)).inserted_primary_key
                assert key is not None
                asset = replace(row, id=key[0])
                self.events.append(actor, "asset.made", asset.ref, digest=digest, run=run_id)
            else:
                asset = _asset(old)
                if asset.uri != uri and uri:  # rebuilt after its bytes were lost: point at the new copy
                    connection.execute(assets.update().where(assets.c.id == asset.id).values(uri=uri, bytes=bytes))
                    asset = _asset(connection.execute(sa.select(assets).where(assets.c.id == asset.id)).one())
            if run_id:
                self.link(run_id, asset.id, "out", role)
            return asset

    def name(self, kind: str, name: str, description: str = "") -> bool:
        """Make sure the name exists; True when it is new."""
        check_name(name)
        with self.db.write() as connection:
            now = now_ms()
            row = {"kind": kind, "name": name, "description": description, "created_ms": now, "updated_ms": now}
            insert = self.db.insert(names).values(row).on_conflict_do_nothing().returning(names.c.name)
            return connection.scalar(insert) is not None

    def describe(self, asset: Asset, text: str, *, actor: str) -> None:
        """Replace an asset's note: the only thing about it that may change."""
        with self.db.write() as connection:
            where = assets.c.id == asset.id
            connection.execute(assets.update().where(where).values(description=text, updated_ms=now_ms()))
            self.events.append(actor, "asset.described", asset.ref, text=text[:200])

    def description(self, asset: Asset) -> str:
        with self.db.read() as connection:
            return connection.scalar(sa.select(assets.c.description).where(assets.c.id == asset.id)) or ""

    def link(self, run_id: str, asset_id: int, direction: str, role: str = "") -> None:
        """Record that a run read ("in") or made ("out") an asset; twice is harmless."""
        row = {"run_id": run_id, "asset_id": asset_id, "direction": direction, "role": role}
        with self.db.write() as connection:
            connection.execute(self.db.insert(edges).values(row).on_conflict_do_nothing())

    def get(self, ref: str | Ref) -> Asset:
        """The asset behind a reference. Errors: `not_found`, with the nearest names."""
        ref = Ref.parse(ref) if isinstance(ref, str) else ref
        asset = self.find(ref)
        if asset is not None:
            return asset
        with self.db.read() as connection:
            known: Sequence[str] = connection.scalars(sa.select(names.c.name).where(names.c.kind == ref.kind)).all()
            if ref.name not in known:
                raise Error("not_found", f"there is no {ref.kind} called {ref.name!r}", nearest(ref.name, known))
            live = (assets.c.kind == ref.kind, assets.c.name == ref.name, assets.c.state == "live")
            versions: Sequence[int] = connection.scalars(
                sa.select(assets.c.version).where(*live).order_by(assets.c.version)
            ).all()
            have: Sequence[str] = connection.scalars(
                sa.select(aliases.c.alias).where(aliases.c.kind == ref.kind, aliases.c.name == ref.name)
            ).all()
        valid = [*have, *(str(v) for v in versions[-8:]), *(["latest"] if versions else [])]
        raise Error(
            "not_found", f"{ref.kind}:{ref.name} has no version or alias {ref.selector!r}", nearest(ref.selector, valid)
        )

    def find(self, ref: Ref) -> Asset | None:
        query = sa.select(assets).where(assets.c.kind == ref.kind, assets.c.name == ref.name, assets.c.state == "live")
        if ref.selector.isdecimal():
            query = query.where(assets.c.version == min(int(ref.selector), 2**31 - 1))
        elif ref.selector == "latest":
            query = query.order_by(assets.c.version.desc()).limit(1)
        else:
            query = query.join(aliases, aliases.c.asset_id == assets.c.id).where(
                aliases.c.kind == ref.kind, aliases.c.name == ref.name, aliases.c.alias == ref.selector
            )
        with self.db.read() as connection:
            row = connection.execute(query).first()
        return _asset(row) if row else None

    def by_id(self, asset_id: int) -> Asset:
        with self.db.read() as connection:
            return _asset(connection.execute(sa.select(assets).where(assets.c.id == asset_id)).one())

    def many(self, ids: set[int]) -> dict[int, Asset]:
        """Assets by their ids, in a few queries."""
        with self.db.read() as connection:
            return {
                row.id: _asset(row)
                for chunk in _chunks(ids)
                for row in connection.execute(sa.select(assets).where(assets.c.id.in_(chunk)))
            }

    def by_digest(self, digest: str, kind: str = "", name: str = "") -> Asset | None:
        """The newest asset whose digest is, or begins with, `digest` (8 hex digits or more)."""
        # A range, not LIKE, so that both databases use the index.
        query = sa.select(assets).where(assets.c.digest >= digest, assets.c.digest < digest + "g")
        if kind:
            query = query.where(assets.c.kind == kind)
        if name:
            query = query.where(assets.c.name == name)
        with self.db.read() as connection:
            row = connection.execute(query.order_by(assets.c.id.desc()).limit(1)).first()
        return _asset(row) if row else None

    def recent(self, kind: str = "", name: str = "", limit: int = 100) -> list[Asset]:
        """The newest first."""
        query = sa.select(assets).where(assets.c.state == "live").order_by(assets.c.id.desc()).limit(limit)
        if kind:
            query = query.where(assets.c.kind == kind)
        if name:
            query = query.where(assets.c.name == name).order_by(None).order_by(assets.c.version.desc())
        with self.db.read() as connection:
            return [_asset(row) for row in connection.execute(query)]

    def latest(self, kind: str = "", limit: int = 1000) -> list[tuple[Asset, int]]:
        """(newest version, number of versions) of each name, sorted by kind and name."""
        last = sa.select(
            assets.c.kind, assets.c.name, sa.func.max(assets.c.version).label("version"), sa.func.count().label("n")
        ).where(assets.c.state == "live")
        last = last.where(assets.c.kind == kind) if kind else last
        top = last.group_by(assets.c.kind, assets.c.name).order_by(assets.c.kind, assets.c.name).limit(limit).subquery()
        query = sa.select(assets, top.c.n).join(
            top,
            sa.and_(assets.c.kind == top.c.kind, assets.c.name == top.c.name, assets.c.version == top.c.version),
        )
        with self.db.read() as connection:
            rows = connection.execute(query.order_by(assets.c.kind, assets.c.name)).all()
        return [(_asset(row), row.n) for row in rows]

    def makers(self, asset_id: int) -> list[Edge]:
        return self._edges(edges.c.asset_id == asset_id, edges.c.direction == "out")

    def readers(self, asset_id: int) -> list[str]:
        """The ids of the runs that read an asset."""
        return [e.run_id for e in self._edges(edges.c.asset_id == asset_id, edges.c.direction == "in")]

    def of_run(self, run_id: str) -> list[tuple[Edge, Asset]]:
        """What a run read and made."""
        found = self._edges(edges.c.run_id == run_id)
        by_id = self.many({e.asset_id for e in found})
        return [(e, by_id[e.asset_id]) for e in found if e.asset_id in by_id]

    def lineage(self, asset: Asset, direction: str = "up", limit: int = 10_000) -> Lineage:
        """What it came from ("up") or what came from it ("down"), `limit` assets at most, nearest first."""
        near, far = ("out", "in") if direction == "up" else ("in", "out")
        reach = sa.select(sa.literal(asset.id, sa.BigInteger).label("id")).cte("reach", recursive=True)
        here, there = edges.alias(), edges.alias()
        reach = reach.union(
            sa.select(there.c.asset_id)
            .join(here, there.c.run_id == here.c.run_id)
            .join(reach, here.c.asset_id == reach.c.id)
            .where(here.c.direction == near, there.c.direction == far)
        )
        with self.db.read() as connection:
            ids: Sequence[int] = connection.scalars(sa.select(reach.c.id).limit(limit)).all()
        found = self._edges_among(set(ids))
        order = {id_: i for i, id_ in enumerate(ids)}
        return Lineage(
            sorted(self.many(set(ids)).values(), key=lambda a: order[a.id]), sorted({e.run_id for e in found}), found
        )

    def _edges_among(self, ids: set[int]) -> list[Edge]:
        """Edges of the runs that made some of these assets: what they made, and what of these they read."""
        made = [e for some in _chunks(ids) for e in self._edges(edges.c.asset_id.in_(some), edges.c.direction == "out")]
        read = [
            e
            for some in _chunks({e.run_id for e in made})
            for e in self._edges(edges.c.run_id.in_(some), edges.c.direction == "in")
            if e.asset_id in ids
        ]
        return sorted([*made, *read], key=lambda e: (e.run_id, e.direction, e.asset_id))

    def _edges(self, *where: Any) -> list[Edge]:
        columns = (edges.c.run_id, edges.c.asset_id, edges.c.direction, edges.c.role)
        with self.db.read() as connection:
            rows: Any = connection.execute(
                sa.select(*columns).where(*where).order_by(edges.c.run_id, edges.c.direction)
            )
            return [Edge(run, asset, direction, role) for run, asset, direction, role in rows]


def _chunks(ids: Iterable[T], size: int = 5000) -> Iterable[list[T]]:
    ordered = sorted(ids)
    return (ordered[i : i + size] for i in range(0, len(ordered), size))


def _asset(row: Any) -> Asset:
    return Asset(
        row.id,
        row.kind,
        row.name,
        row.version,
        row.digest,
        row.uri,
        row.bytes,
        row.meta,
        row.run_id,
        row.created_ms,
        row.state,
    )
