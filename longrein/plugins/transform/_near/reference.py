"""Texts of the files that rows are compared with: an evaluation set, an earlier dataset."""

import glob
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from longrein.core import plugins
from longrein.core.errors import Error
from longrein.core.ports import Reader


class Text(NamedTuple):
    name: str  # of the file
    line: int
    text: str


def read(against: list[str] | dict[str, str], columns: list[str]) -> Iterator[Text]:
    """All texts of these files (globs, or paths by the name that a person reads), in the named columns or in any.

    Rows that cannot be read are left out. Errors: `invalid` for no file, no reader, or a file without such a text.
    """
    for name, path in files(against).items():
        empty = True
        for record in _reader(path).read(path, {}):
            for text in _texts([record.row.get(c) for c in columns] if columns and record.row else record.row):
                empty = False
                yield Text(name, record.line, text)
        if empty:
            wanted = f" in {', '.join(map(repr, columns))}" if columns else ""
            raise Error("invalid", f"{name} (`against`) holds no text{wanted}", "check its columns")


def files(against: list[str] | dict[str, str]) -> dict[str, Path]:
    """By name. Errors: `invalid` when a glob matches none."""
    if isinstance(against, dict):
        return {name: Path(path) for name, path in against.items()}
    found: dict[str, Path] = {}
    for pattern in against:
        matched = [pattern] if Path(pattern).is_file() else sorted(glob.glob(pattern, recursive=True))
        if not matched:
            raise Error("invalid", f"no file matches {pattern!r}", "check `against`")
        found |= {path: Path(path) for path in matched}
    return found


def _reader(path: Path) -> Reader:
    """By the longest suffix that fits."""
    known: dict[str, Reader] = {}
    for name in plugins.names("reader"):
        try:
            reader: Reader = plugins.load("reader", name)
        except Error as error:
            if error.code != "missing_package":
                raise
            continue
        known |= dict.fromkeys((s for s in reader.suffixes if path.name.lower().endswith(s)), reader)
    if not known:
        raise Error("invalid", f"no reader knows files like {path.name!r}", "for example JSONL, CSV, Parquet or text")
    return known[max(known, key=len)]


def _texts(value: Any) -> Iterator[str]:
    """All texts in a value, conversations and lists of choices included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)
