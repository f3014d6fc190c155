"""Garbage: what no asset in the ledger refers to, or nobody needs any more; found first, removed when asked."""

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import lance

from longrein.core.digest import size_of
from longrein.core.ledger import Asset, Ledger
from longrein.core.store import Store
from longrein.data import near
from longrein.data.part import PARTS

GRACE_S = 3600.0  # what is younger may belong to work that has not recorded it yet
CHECKPOINTS_S = 7 * 86_400.0  # how long a step that failed or was killed may still go on from where it was
LASTING = ("job.json", "events.jsonl", "log.txt", "error.json")  # of a step that ended, for people
EVERY = 1_000_000


@dataclass
class Garbage:
    """Everything that may go, and how many bytes that frees."""

    versions: dict[str, list[int]] = field(default_factory=dict)  # by table, relative to the store: "lance/a.lance"
    assets: list[str] = field(default_factory=list)  # refs of dataset versions that are let go
    paths: list[Path] = field(default_factory=list)  # files and folders of the store, and scratch
    bytes: int = 0

    def as_dict(self) -> dict[str, Any]:
        return {
            "versions": self.versions, "assets": self.assets, "paths": [str(p) for p in self.paths], "bytes": self.bytes
        }  # fmt: skip


def find(ledger: Ledger, store: Store, work: Path, *, keep: int | None = None, grace_s: float = GRACE_S) -> Garbage:
    """What may go.

    Of tables and files in the store: what no live asset names. keep: of each dataset only the newest so many versions
    stay, and those that have an alias or that something with an alias was made from. work: the folder of scratch.
    """
    found = Garbage()
    live = ledger.assets.recent(limit=EVERY)
    let_go = _surplus(ledger, live, keep) if keep is not None else set()
    found.assets = [a.ref for a in live if a.id in let_go]
    named = {uri for a in live if a.id not in let_go for uri in (a.uri, *_uris(a.meta))}
    before = time.time() - grace_s
    for folder in sorted((store.root / "lance").glob("*.lance")):
        _table(found, store, folder, named, before)
    for folder in sorted((store.root / "sha256").glob("*/*")):
        if f"sha256/{folder.parent.name}/{folder.name}" not in named:
            _path(found, folder, before)
    for folder in near.unused(store, (a.digest for a in live if a.id not in let_go)):
        _path(found, folder, before)
    for folder in [*sorted((store.root / "staging").glob("*")), *sorted(store.root.glob("draft-*"))]:
        _path(found, folder, before)
    for folder in sorted((store.root / PARTS).glob("*/*")):
        _path(found, folder, before - CHECKPOINTS_S)
    running = {item.key[:20] for item in ledger.work.running() if item.live}
    for folder in sorted(work.glob("*")):
        if folder.name not in running:
            for path in sorted(p for p in folder.iterdir() if p.name not in LASTING):
                _path(found, path, before - CHECKPOINTS_S)
    return found


def remove(ledger: Ledger, store: Store, garbage: Garbage, *, actor: str) -> None:
    """Remove what `find` found. Interrupted, it is found again."""
    for table, numbers in garbage.versions.items():
        dataset = lance.dataset(str(store.root / table))
        gone = set(numbers)
        for tag, one in dataset.tags.list().items():
            if one["version"] in gone:
                dataset.tags.delete(tag)
        dataset.cleanup_old_versions(older_than=timedelta(0), versions=numbers, error_if_tagged_old_versions=False)
    for path in garbage.paths:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    if garbage.bytes or garbage.versions:
        told = {"bytes": garbage.bytes, "assets": garbage.assets[:100], "paths": len(garbage.paths)}
        ledger.events.append(actor, "store.collected", "store", **told)


def _surplus(ledger: Ledger, live: list[Asset], keep: int) -> set[int]:
    """The ids of dataset versions beyond the newest `keep` that nothing with an alias needs."""
    needed: set[int] = set()
    for kind, name in sorted({(a.kind, a.name) for a in live}):
        for asset, _ in ledger.aliases.get(kind, name).values():
            needed |= {a.id for a in ledger.assets.lineage(asset).assets}
    datasets: dict[str, list[Asset]] = {}
    for asset in sorted((a for a in live if a.kind == "dataset"), key=lambda a: -a.version):
        datasets.setdefault(asset.name, []).append(asset)
    return {a.id for versions in datasets.values() for a in versions[keep:] if a.id not in needed}


def _table(found: Garbage, store: Store, folder: Path, named: set[str], before: float) -> None:
    """The versions of one table that may go: never the latest, which the next commit builds upon."""
    try:
        table = lance.dataset(str(folder))
    except ValueError:  # a first commit that never ended
        _path(found, folder, before)
        return
    name, kept, gone = f"lance/{folder.name}", dict[str, int](), dict[str, int]()
    for one in table.versions():
        number = int(one["version"])
        stays = f"{name}?version={number}" in named or number == table.version or one["timestamp"].timestamp() > before
        (kept if stays else gone).update(_files(table.checkout_version(number)))
        if not stays:
            found.versions.setdefault(name, []).append(number)
    found.bytes += sum(size for path, size in gone.items() if path not in kept)


def _files(table: lance.LanceDataset) -> dict[str, int]:
    return {file.path: file.file_size_bytes or 0 for f in table.get_fragments() for file in f.data_files()}


def _path(found: Garbage, path: Path, before: float) -> None:
    if max((p.stat().st_mtime for p in (path, *path.rglob("*"))), default=0.0) < before:
        found.paths.append(path)
        found.bytes += size_of(path)


def _uris(value: Any) -> Iterator[str]:
    """What a meta names in the store."""
    if isinstance(value, str) and value.startswith(("lance/", "sha256/")):
        yield value
    elif isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _uris(one)
