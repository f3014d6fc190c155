"""Rebuilds a dataset version from its sources and its recorded config, aside, and compares the digests."""

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec

from longrein.core.digest import of_file
from longrein.core.errors import Error
from longrein.core.ledger import Asset, Ledger
from longrein.core.step import Context, Input, Job
from longrein.core.store import Store
from longrein.data import ingest, near, source, version


def reproduce(ledger: Ledger, store: Store, project: Path, asset: Asset, home: Path) -> dict[str, Any]:
    """Whether the same rows come out again: {"same", "digest", "found", "sources", "code", "stored", "by_hand"}.

    sources: those that are not what they were, {path: "changed" | "gone"}; with any, nothing is built. code: whether
    this version of the code made it. stored: whether the rows in the store still have their digest. by_hand: of a
    version that a person made, the versions it was made from. home: a folder with room for a second copy.
    """
    run = ledger.runs.get(asset.run_id) if asset.run_id else None
    told: dict[str, Any] = {"ref": asset.ref, "digest": asset.digest, "stored": _stored(store, asset)}
    if run is None or run.capability != "data.ingest":
        made_of = [a.ref for e, a in ledger.assets.of_run(run.id) if e.direction == "in"] if run else []
        return told | {"same": None, "by_hand": made_of}
    config = msgspec.convert(run.config, ingest.Config)
    told["code"] = msgspec.json.decode(run.code or "{}").get("data.ingest") == ingest.version(config)
    told["sources"] = _sources(project, config, asset.meta.get("sources", []))
    if told["sources"]:
        return told | {"same": False, "found": None}
    home.mkdir(parents=True, exist_ok=True)
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
