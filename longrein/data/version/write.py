"""Versions made: the commit of a draft, which is all or nothing."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

import lance
import pyarrow as pa

from longrein.core.store import Store
from longrein.data.version import delta
from longrein.data.version.draft import Draft
from longrein.data.version.edit import Edit
from longrein.data.version.table import bytes_of, digest_of, errors, open, tag_of

ATTEMPTS = 20  # to commit, each lost to another that succeeded
T = TypeVar("T")


class Version(NamedTuple):
    uri: str
    digest: str
    rows: int
    bytes: int


def commit(store: Store, name: str, draft: Draft | Edit, base: str = "") -> Version:
    """Make the draft a version of the table `name`, all or nothing; a sound version with the same rows is used again.

    Rows that come again from the table's latest version, or from the one that `base` names, are not written again.
    Many may commit at once: one that comes second looks again and writes after the first.
    """
    digest = draft.close()
    path, _, number = base.partition("?version=")
    path = path or f"lance/{name}.lance"
    folder = store.root / path
    folder.parent.mkdir(parents=True, exist_ok=True)
    with errors(f"the table {name}"):
        made = retried(lambda: _placed(folder, draft, digest, int(number or 0)))
    draft.path.unlink()
    uri = f"{path}?version={made}"
    return Version(uri, digest, draft.rows, bytes_of(open(store, uri)))


def retried(work: Callable[[], T]) -> T:
    """What `work` gives, done again where another commit came first."""
    for left in reversed(range(ATTEMPTS)):
        try:
            return work()
        except (OSError, ValueError) as error:  # what Lance raises when another was faster
            if not left or not any(sign in str(error).lower() for sign in ("conflict", "already exists")):
                raise
    raise AssertionError("the last attempt returns or raises")


def _placed(folder: Path, draft: Draft | Edit, digest: str, base: int) -> int:
    """The number of the version that holds the draft's rows: one that is there, or a new one. Tagged either way."""
    table = _latest(folder)
    tags = table.tags.list() if table is not None else {}
    tag = tag_of(digest)  # keeps clean-up from taking the version away
    if table is not None and tag in tags and _sound(table, int(tags[tag]["version"]), digest):
        return int(tags[tag]["version"])
    made = _shared(table, draft, digest, base) if table is not None else None
    if made is None:
        made = lance.write_dataset(
            delta.numbered(draft.schema, draft.batches()),
            str(folder),
            mode="create" if table is None else "overwrite",
            enable_stable_row_ids=True,
        )
    number = int(made.version)
    if tag not in tags:
        made.tags.create(tag, number)
    elif tags[tag]["version"] != number:
        made.tags.update(tag, number)
    return number


def _shared(table: lance.LanceDataset, draft: Draft | Edit, digest: str, base: int) -> lance.LanceDataset | None:
    """The draft as what changed since a version before; None when that is too much, or reads back as other rows."""
    try:
        if base and base != table.version:
            table = table.checkout_version(base)
            table.restore()  # as the latest; nothing is copied
        if isinstance(draft, Draft):
            made = delta.write(table, draft.schema, draft.batches)
            return made if made is not None and digest_of(made) == digest else None
        made = delta.edit(table, draft.schema, draft.fresh.batches, draft.at)
        return made if made is not None and draft.sound(made) else None
    except (pa.ArrowException, OSError, ValueError) as error:
        if "conflict" in str(error).lower():
            raise
        return None  # what is there is damaged: write anew, and meet a full disk there


def _latest(folder: Path) -> lance.LanceDataset | None:
    if not (folder / "_versions").is_dir():
        return None
    try:
        return lance.dataset(str(folder))
    except ValueError:  # the first commit never ended: data files without a version
        return None


def _sound(table: lance.LanceDataset, number: int, digest: str) -> bool:
    """Whether a version's rows, read back, have this digest: building a damaged version again mends it."""
    try:
        return digest_of(table.checkout_version(number)) == digest
    except (pa.ArrowException, OSError, ValueError):  # damaged, or gone
        return False
