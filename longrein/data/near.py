"""The near-duplicate index of a dataset version: made when first asked for, kept beside it, and used from then on."""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from longrein.core import plugins
from longrein.core.digest import of_json
from longrein.core.store import Store

FOLDER = "near"  # of the store; collected with the versions that its names begin with
SIGNED = ("ngram", "bands", "rows")  # options that decide what a signature is
_version = re.compile(r"dataset:[^@/\s]+@[1-9]\d*")


def is_version(name: object) -> bool:
    """Whether an entry of `against` is a dataset version, "dataset:tickets@3", and no file."""
    return isinstance(name, str) and _version.fullmatch(name) is not None


def versions(options: dict[str, Any]) -> list[str]:
    """The dataset versions that a transform's options name."""
    against = options.get("against")
    return [name for name in against if is_version(name)] if isinstance(against, list) else []


def index(store: Store, uri: str, digest: str, options: dict[str, Any]) -> Path:
    """The folder with the index of a version, signed with these options of near_dedup; others are passed over.

    Rows are signed once for each choice of options. Killed, nothing is left that would be taken for an index.
    """
    from longrein.data import version  # lance, which `plan` does without

    signed = {name: options[name] for name in SIGNED if name in options}
    code = of_json([signed, plugins.version("transform", "near_dedup")])[:16]
    folder = store.root / FOLDER / f"{digest}-{code}.near"
    if folder.is_dir():
        os.utime(folder)
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=store.root, prefix="draft-") as scratch:
        transform = plugins.load("transform", "near_dedup")(signed)
        transform.scratch = Path(scratch)
        known = version.columns_of(version.open(store, uri)).names
        names = [n for n in ("input", "output", "messages", "source", "line") if n in known]
        transform.save(version.rows(store, uri, columns=names), Path(scratch) / "index")
        try:
            os.rename(Path(scratch) / "index", folder)
        except OSError:  # another run made the same meanwhile
            if not folder.is_dir():
                raise
    return folder


def unused(store: Store, digests: Iterable[str]) -> list[Path]:
    """Indexes of versions that are none of these, by digest."""
    live = set(digests)
    return [f for f in sorted((store.root / FOLDER).glob("*.near")) if f.name.partition("-")[0] not in live]
