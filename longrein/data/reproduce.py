"""Rebuilds a dataset version from its sources and its recorded config, aside, and compares the digests."""

import os
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec

from longrein.core.digest import of_file
from longrein.core.errors import Error
from longrein.core.ledger import Asset, Edge, Ledger, Run
from longrein.core.step import Context, Input, Job
from longrein.core.store import Store
from longrein.data import ingest, mix, near, source, version


def reproduce(ledger: Ledger, store: Store, project: Path, asset: Asset, home: Path) -> dict[str, Any]:
    """Whether the same rows come out again: {"same", "digest", "found", "sources", "code", "stored", "by_hand"}.

    sources: those that are not what they were, {path: "changed" | "gone"}; with any, nothing is built. code: whether
    this version of the code made it. stored: whether the rows in the store still have their digest. by_hand: of a
    version that a person made, the versions it was made from. home: a folder with room for a second copy.
    """
    run = ledger.runs.get(asset.run_id) if asset.run_id else None
    told: dict[str, Any] = {"ref": asset.ref, "digest": asset.digest, "stored": _stored(store, asset)}
    home.mkdir(parents=True, exist_ok=True)
    if run and run.capability == "data.mix":
        return told | _mixed(store, project, asset, run, ledger.assets.of_run(run.id), home)
    if run is None or run.capability != "data.ingest":
        made_of = [a.ref for e, a in ledger.assets.of_run(run.id) if e.direction == "in"] if run else []
        return told | {"same": None, "by_hand": made_of}
    config = msgspec.convert(run.config, ingest.Config)
    told["code"] = msgspec.json.decode(run.code or "{}").get("data.ingest") == ingest.version(config)
    told["sources"] = _sources(project, config, asset.meta.get("sources", []))
    if told["sources"]:
        return told | {"same": False, "found": None}
    with TemporaryDirectory(dir=home, prefix="reproduce-") as folder:
        scratch = Path(folder)
        inputs = _compared(ledger, store, config, scratch / "store")
        job = Job("longrein.data.ingest:run", asset.name, run.config, inputs, str(scratch / "store"), str(project))
        context = Context(job, scratch / "work")
        ingest.run(context)
        found = context.outputs[0].digest
        shutil.rmtree(scratch / "store", ignore_errors=True)
    return told | {"same": found == asset.digest, "found": found}


def _compared(ledger: Ledger, store: Store, config: ingest.Config, aside: Path) -> dict[str, Input]:
    """The versions that its rows are compared with; their indexes are seen from the store aside, too."""
    found = dict[str, Input]()
    for _, options in ingest.transforms(config):
        for ref in near.versions(options):
            asset = ledger.assets.get(ref)
            near.index(store, asset.uri, asset.digest, options)
            found[ref] = Input(asset.ref, asset.digest, asset.uri)
    if found:
        aside.mkdir()
        (aside / near.FOLDER).symlink_to((store.root / near.FOLDER).resolve())
    return found


def _mixed(
    store: Store, project: Path, asset: Asset, run: Run, edges: list[tuple[Edge, Asset]], home: Path
) -> dict[str, Any]:
    """A mixture from the versions it was made from, which are only looked at."""
    parents = {edge.role: one for edge, one in edges if edge.direction == "in"}
    gone = {one.ref: "gone" for one in parents.values() if not store.holds(one.uri)}
    code = msgspec.json.decode(run.code or "{}").get("data.mix") == str(mix.VERSION)
    if gone:
        return {"code": code, "sources": gone, "same": False, "found": None}
    name = f"{asset.name}.reproduce-{os.getpid()}"  # a table beside its parents, for a moment
    inputs = {role: Input(one.ref, one.digest, one.uri, one.meta) for role, one in parents.items()}
    job = Job("longrein.data.mix:run", name, run.config, inputs, str(store.root), str(project))
    with TemporaryDirectory(dir=home, prefix="reproduce-") as folder:
        try:
            context = Context(job, Path(folder))
            mix.run(context)
            found = context.outputs[0].digest
        finally:
            shutil.rmtree(store.root / "lance" / f"{name}.lance", ignore_errors=True)
    return {"code": code, "sources": {}, "same": found == asset.digest, "found": found}


def _stored(store: Store, asset: Asset) -> bool:
    try:
        return version.digest(store, asset.uri) == asset.digest
    except Error:
        return False


def _sources(project: Path, config: ingest.Config, recorded: list[dict[str, Any]]) -> dict[str, str]:
    """What is no longer as it was. What is remote is fetched, if it is not here."""
    far = [s for s in config.sources if source.plugin_of(s)]
    now = {f.name: f.digest for f in source.find(far, project, fetch=True)} if far else {}
    found = {}
    for one in recorded:
        name, path = one["path"], project / one["path"]
        digest = now.get(name) or (of_file(path) if path.is_file() else "")
        if digest != one["digest"]:
            found[name] = "changed" if digest else "gone"
    return found
