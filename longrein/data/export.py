"""A version as what a training framework reads: shards of bounded size, with checksums; cut off, it goes on."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from longrein.core import digest as digests
from longrein.core import plugins
from longrein.core.errors import Error
from longrein.core.ports import Shard
from longrein.core.store import Store
from longrein.data import checkout, version

COLUMNS = ("input", "output", "messages", "rejected", "row_id")


def write(
    store: Store, uri: str, folder: Path, format: str, options: dict[str, Any], *,
    project: Path, ref: str = "", digest: str = "",
) -> dict[str, Any]:  # fmt: skip
    """Write every split of a version with the writer `format`; what stands in the folder's checkout.json afterwards.

    The same version and options give the same bytes. A folder where the same was cut off is gone on with, after a look
    at its checksums; another one must be new, empty, or an earlier checkout, which goes. {"shards": [{"split", "files":
    {name: sha256}, "rows", "carry", "counts"}], "counts": by split, …}. Errors: `invalid`, `not_found`, `conflict`.
    """
    try:
        writer = plugins.load("writer", format)(options, project)
    except msgspec.ValidationError as error:
        raise Error("invalid", f"options of the format {format!r}: {error}") from error
    schema = version.columns_of(version.open(store, uri))
    names = checkout.splits(store, uri, schema)
    mark = {"ref": ref, "digest": digest, "uri": uri, "format": format, "options": options}
    mark["code"] = digests.of_json([plugins.version("writer", format), _tokenizer(options, project), names])
    shards = _begun(folder, mark)
    if not shards:
        checkout.clear(folder)
    _save(folder, mark, shards)
    columns = [name for name in COLUMNS if name in schema.names]
    for name in names:
        own = [shard for shard in shards if shard["split"] == name]
        after = Shard(list(own[-1]["files"]), own[-1]["rows"], own[-1]["carry"], own[-1]["counts"]) if own else None
        for made in writer.write(_Rows(store, uri, name, columns), folder, checkout.safe(name), after, len(own)):
            files = {file: digests.of_file(folder / file) for file in made.files}
            told = {"split": name, "files": files, "rows": made.rows, "carry": made.carry, "counts": made.counts}
            shards.append(told)
            _save(folder, mark, shards)
    return _save(folder, mark, shards, whole=True)


class _Rows:
    """The rows of a split from the n-th on."""

    def __init__(self, store: Store, uri: str, split: str, columns: list[str]) -> None:
        self.store, self.uri, self.split, self.columns = store, uri, split, columns

    def __call__(self, start: int) -> Iterator[dict[str, Any]]:
        for batch in version.batches(self.store, self.uri, self.split, self.columns):
            if start < batch.num_rows:
                yield from batch.slice(start).to_pylist()
            start = max(0, start - batch.num_rows)


def _begun(folder: Path, mark: dict[str, Any]) -> list[dict[str, Any]]:
    """The shards that are there already and whole, of the same export."""
    try:
        found = json.loads((folder / checkout.MARK).read_text("utf-8"))
        if {name: found.get(name) for name in mark} != mark:
            return []
        whole = list[dict[str, Any]]()
        for shard in found["shards"]:
            if any(digests.of_file(folder / file) != known for file, known in shard["files"].items()):
                break
            whole.append(shard)
        return whole
    except (OSError, ValueError, KeyError):  # no export, or a damaged one: it is written anew
        return []


def _save(folder: Path, mark: dict[str, Any], shards: list[dict[str, Any]], whole: bool = False) -> dict[str, Any]:
    counts: dict[str, Counter[str]] = {}
    for shard in shards:
        counts.setdefault(shard["split"], Counter()).update(shard["counts"])
    files = [file for shard in shards for file in shard["files"]]
    summed = {name: dict(one) for name, one in counts.items()}
    told = mark | {"whole": whole, "counts": summed, "shards": shards, "files": files}
    checkout.write_json(folder / checkout.MARK, told)
    return told


def _tokenizer(options: dict[str, Any], project: Path) -> str:
    """The digest of the tokenizer's folder; "" without one."""
    given = options.get("tokenizer")
    files = sorted((project / given).glob("*token*")) if given else []
    return digests.of_json([digests.of_file(f) for f in files if f.is_file()]) if files else ""
