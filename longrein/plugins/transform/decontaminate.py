"""Rows that hold a piece of an evaluation set go, so that its scores mean something."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Annotated, Any, ClassVar

import msgspec
import numpy as np

from longrein.core.ports import Verdict
from longrein.plugins._compiled import I32, U64
from longrein.plugins.transform._near import overlap, reference
from longrein.plugins.transform._near.fold import tables
from longrein.plugins.transform._near.index import joined
from longrein.plugins.transform._row import answer, prompt

VERSION = 1
BATCH = 256  # rows looked at in one go
MOST_TOKENS_A_BYTE = 2  # U+3316 is six kana in three bytes


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    against: list[str] | dict[str, str]  # files or globs of any kind that has a reader; or their paths by name
    columns: list[str] = []  # of those files; none is all texts in them
    words: Annotated[int, msgspec.Meta(ge=1, le=63)] = 13  # of an n-gram that ends in a word
    characters: Annotated[int, msgspec.Meta(ge=1, le=63)] = 26  # of one that ends in a Chinese, Japanese or Thai one


class Decontaminate:
    """n-gram overlap, 13 words as in Brown et al. 2020 (arXiv 2005.14165, appendix C), after folding case, accents and
    punctuation. An evaluation text that is shorter must be the whole request. Counts rows found by evaluation file.

    Takes about 32 bytes of memory for each n-gram of the evaluation sets.
    """

    rowwise: ClassVar[bool] = True

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = msgspec.convert(options, Options)
        self.counts: Counter[str] = Counter()
        self.sizes = np.array([self.options.words, self.options.characters], np.int64)
        self.keys: U64 = np.zeros(1 << 10, np.uint64)
        self.values: I32 = np.zeros(1 << 10, np.int32)
        self.taken, self.owners = 0, list[tuple[str, int]]()

    def apply(self, rows: Iterable[dict[str, Any]]) -> Iterator[Verdict]:
        if not self.owners:
            self._learn()
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

    def _learn(self) -> None:
        """Put the n-grams of the evaluation files into the table."""
        texts: list[bytes] = []
        owners: list[int] = []
        size = 0
        for name, line, text in reference.read(self.options.against, self.options.columns):
            if not self.owners or self.owners[-1] != (name, line):
                self.owners.append((name, line))
            texts.append(_bytes(text))
            owners.append(len(self.owners) - 1)
            size += len(texts[-1])
            if size > 1 << 20:
                self._add(texts, owners)
                texts, owners, size = [], [], 0
        self._add(texts, owners)

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


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


plugin = Decontaminate
