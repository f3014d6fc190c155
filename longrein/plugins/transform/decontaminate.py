"""Rows that hold a piece of an evaluation set go, so that its scores mean something."""

import glob
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np

from longrein.core import plugins
from longrein.core.errors import Error
from longrein.core.ports import Reader, Verdict
from longrein.plugins.transform._near import overlap
from longrein.plugins.transform._near.compiled import I32, U64
from longrein.plugins.transform._near.fold import tables
from longrein.plugins.transform._near.index import joined
from longrein.plugins.transform._row import answer, prompt

VERSION = 1
BATCH = 256  # rows looked at in one go
MOST_TOKENS_A_BYTE = 2  # U+3316 is six kana in three bytes


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An n-gram that ends in a word counts words, one that ends in a Chinese character characters."""

    against: list[str] | dict[str, str]  # files or globs of any kind that has a reader; or their paths by name
    columns: list[str] = []  # of those files; none is all texts in them
    words: Annotated[int, msgspec.Meta(ge=1, le=63)] = 13
    characters: Annotated[int, msgspec.Meta(ge=1, le=63)] = 26


class Decontaminate:
    """n-gram overlap, 13 words as in Brown et al. 2020 (arXiv 2005.14165, appendix C), after folding case, accents and
    punctuation. An evaluation text that is shorter must be the whole request. Counts rows found by evaluation file.

    Takes about 32 bytes of memory for each n-gram of the evaluation sets.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = msgspec.convert(options, Options)
        self.counts: Counter[str] = Counter()
        self.sizes = np.array([self.options.words, self.options.characters], np.int64)
        self.keys: U64 = np.zeros(1 << 10, np.uint64)
        self.values: I32 = np.zeros(1 << 10, np.int32)
        self.taken, self.owners = 0, list[tuple[str, int]]()
        for name, path in _files(self.options.against).items():
            self._learn(name, path)

    def apply(self, rows: Iterable[dict[str, Any]]) -> Iterator[Verdict]:
        stream = iter(rows)
        while batch := list(islice(stream, BATCH)):
            texts = [_bytes(t) for row in batch for t in (prompt(row), answer(row) or "")]
            whole = np.tile(np.array([1, 0], np.uint8), len(batch))  # a short answer is a label: everyone has it
            found = overlap.match(*joined(texts), whole, self.sizes, *tables(), self.keys, self.values)
            for row, asked, answered in zip(batch, found[::2], found[1::2], strict=True):
                owner = max(asked, answered) if min(asked, answered) < 0 else asked
                if owner < 0:
                    yield Verdict(row)
                    continue
                name, line = self.owners[owner]
                self.counts[name] += 1
                yield Verdict(row, "contaminated", f"in the {'request' if asked >= 0 else 'answer'}: {name}:{line}")

    def _learn(self, name: str, path: Path) -> None:
        """Put the n-grams of an evaluation file into the table."""
        texts: list[bytes] = []
        owners: list[int] = []
        columns, size = self.options.columns, 0
        for record in _reader(path).read(path, {}):
            if record.row is None:
                continue
            for text in _texts([record.row.get(c) for c in columns] if columns else record.row):
                if not self.owners or self.owners[-1] != (name, record.line):
                    self.owners.append((name, record.line))
                texts.append(_bytes(text))
                owners.append(len(self.owners) - 1)
                size += len(texts[-1])
            if size > 1 << 20:
                self._add(texts, owners)
                texts, owners, size = [], [], 0
        self._add(texts, owners)
        if not self.owners or self.owners[-1][0] != name:
            wanted = f" in {', '.join(map(repr, columns))}" if columns else ""
            raise Error("invalid", f"the evaluation set {name} holds no text{wanted}", "check its columns")

    def _add(self, texts: list[bytes], owners: list[int]) -> None:
        data, offsets = joined(texts)
        room = MOST_TOKENS_A_BYTE * len(data) + len(texts)
        hashes, owner = np.empty(room, np.uint64), np.empty(room, np.int32)
        count = overlap.collect(data, offsets, self.sizes, *tables(), hashes, owner)
        while 2 * (self.taken + count) > len(self.keys):
            used, keys, values = np.flatnonzero(self.keys), self.keys, self.values
            self.keys, self.values = np.zeros(2 * len(keys), np.uint64), np.zeros(2 * len(keys), np.int32)
            overlap.fill(self.keys, self.values, keys[used], values[used])
        belongs = np.array(owners, np.int32)[owner[:count]] if count else owner[:0]
        self.taken += overlap.fill(self.keys, self.values, hashes[:count], belongs)


def _files(against: list[str] | dict[str, str]) -> dict[str, Path]:
    """Paths by the name that a person reads."""
    if isinstance(against, dict):
        return {name: Path(path) for name, path in against.items()}
    found: dict[str, Path] = {}
    for pattern in against:
        matched = [pattern] if Path(pattern).is_file() else sorted(glob.glob(pattern, recursive=True))
        if not matched:
            raise Error("invalid", f"no file matches the evaluation set {pattern!r}", "check `against`")
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
        raise Error("invalid", f"no reader knows evaluation sets like {path.name!r}", "JSONL, CSV and text are known")
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


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


plugin = Decontaminate
