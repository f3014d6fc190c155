"""Row-level lineage, both ways: where a row came from and what became of it; what became of a source's lines."""

from typing import Any

from longrein.core.errors import Error
from longrein.core.ledger import Asset, Ledger
from longrein.core.store import Store
from longrein.data import version


def row(ledger: Ledger, store: Store, asset: Asset, name: str) -> dict[str, Any]:
    """Everything about a row, by its id (or the first 8 or more digits of it) or its place, "data/a.csv:7".

    {"rows": the row and its copies, each with "since" (the first version of the dataset that has it) and, in a mixture,
    "parent"; "run"; "used_by": refs of what was made from this version}. Errors: `not_found`, with
    what dropped it when it was.
    """
    found = _find(store, asset, name)
    if not found:
        dropped = [r for r in _dropped(store, asset, *_place(name))] if ":" in name else []
        if dropped:
            one = dropped[0]
            detail = f" ({one['detail']})" if one["detail"] else ""
            raise Error("not_found", f"{name} was dropped by {one['stage']}: {one['reason']}{detail}", row=one["row"])
        raise Error("not_found", f"{asset.ref} has no row {name}", f"longrein lineage {asset.ref} --rows")
    versions = sorted(ledger.assets.recent("dataset", asset.name, limit=10_000), key=lambda a: a.version)
    earlier = [a for a in versions if a.version <= asset.version]
    run = ledger.runs.get(asset.run_id) if asset.run_id else None
    down = ledger.assets.lineage(asset, "down")
    mixed = {name: one["ref"] for name, one in asset.meta.get("mix", {}).items()}
    parents = [{"parent": mixed[one["origin"]]} if one.get("origin") in mixed else {} for one in found]
    return {
        "ref": asset.ref,
        "rows": [
            one | {"since": _since(store, earlier, one["row_id"])} | of for one, of in zip(found, parents, strict=True)
        ],
        "run": run and {"id": run.id, "capability": run.capability, "by": run.actor, "started_ms": run.started_ms},
        "used_by": [a.ref for a in down.assets if a.id != asset.id],
    }


def sources(store: Store, asset: Asset, name: str = "", limit: int = 20) -> dict[str, Any]:
    """What became of the sources: each with its digest, and how many of its rows stayed or were dropped, and why.

    name: one file, or "file:line": then up to `limit` rows of it that stayed ("kept"), and that did not ("dropped").
    """
    if not name:
        kept = _counts(store, asset.uri, ["source"])
        dropped = _counts(store, asset.meta.get("rejected", ""), ["source", "reason"])
        about = {s["path"]: s for s in asset.meta.get("sources", [])}
        listed = []
        for path in sorted({*about, *(k[0] for k in kept), *(k[0] for k in dropped)}, key=str):
            reasons = {k[1]: n for k, n in sorted(dropped.items(), key=lambda p: -p[1]) if k[0] == path}
            one = about.get(path, {})
            listed.append(
                {"source": path, "digest": one.get("digest", ""), "rows": one.get("rows"), "kept": kept.get((path,), 0),
                 "dropped": reasons}
            )  # fmt: skip
        return {"ref": asset.ref, "sources": listed}
    path, line = _place(name)
    found = version.find(store, asset.uri, source=path, line=line, limit=limit)
    gone = _dropped(store, asset, path, line, limit)
    if not found and not gone:
        known = ", ".join(s["path"] for s in asset.meta.get("sources", []))
        raise Error("not_found", f"nothing in {asset.ref} came from {name}", f"its sources are {known}")
    return {"ref": asset.ref, "source": path, "kept": found, "dropped": gone}


def _find(store: Store, asset: Asset, name: str) -> list[dict[str, Any]]:
    if ":" in name:
        path, line = _place(name)
        return version.find(store, asset.uri, source=path, line=line)
    if len(name) == 32:
        return version.find(store, asset.uri, row_id=name)
    if len(name) < 8 or not name.isalnum():
        raise Error("invalid", f"{name!r} is no row", "give its row_id (8 digits or more), or its place: data/a.csv:7")
    ids = version.open(store, asset.uri).to_table(columns=["row_id"], filter=f"starts_with(row_id, '{name}')")
    unique = sorted(set(ids["row_id"].to_pylist()))
    if len(unique) > 1:
        raise Error("invalid", f"{len(unique)} rows begin with {name}", "give more digits")
    return version.find(store, asset.uri, row_id=unique[0]) if unique else []


def _since(store: Store, versions: list[Asset], row_id: str) -> str | None:
    """The first of these versions, oldest first, that has the row."""
    for one in versions:
        if store.holds(one.uri) and version.find(store, one.uri, row_id=row_id, limit=1):
            return one.ref
    return None


def _dropped(
    store: Store, asset: Asset, path: str, line: int | None = None, limit: int | None = None
) -> list[dict[str, Any]]:
    uri = asset.meta.get("rejected", "")
    return version.find(store, uri, source=path, line=line, limit=limit) if uri and store.holds(uri) else []


def _counts(store: Store, uri: str, columns: list[str]) -> dict[tuple[Any, ...], int]:
    if not uri or not store.holds(uri):
        return {}
    found = version.open(store, uri).to_table(columns=columns).group_by(columns).aggregate([([], "count_all")])
    return {tuple(r[c] for c in columns): r["count_all"] for r in found.to_pylist()}


def _place(name: str) -> tuple[str, int | None]:
    """("data/a.csv", 7) of "data/a.csv:7"; no line for a file alone."""
    path, colon, line = name.rpartition(":")
    return (path, int(line)) if colon and line.isdigit() else (name, None)
