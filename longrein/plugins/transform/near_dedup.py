"""Rows whose requests are nearly the same: the best of each cluster stays, the others name it."""

import datetime
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from longrein.core.errors import Error
from longrein.core.ports import Verdict
from longrein.core.text import key
from longrein.plugins._compiled import F32, I64
from longrein.plugins.transform._near import reference, saved
from longrein.plugins.transform._near.index import BATCH_BYTES, BATCH_TEXTS, MOST_ROWS, Column, Index, signatures
from longrein.plugins.transform._row import answer, prompt

VERSION = 1
FACTS = np.dtype([("key", "V16"), ("answer", "<u8"), ("rank", "<f8")])  # begin a note; the signature follows
ROW = np.dtype([("key", "V16"), ("answer", "<u8"), ("rank", "<f8"), ("source", "<u4"), ("line", "<i8")])


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Similarity is Jaccard's, of the sets of n-grams: words, or characters where a script has no spaces."""

    threshold: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.7
    ngram: Annotated[int, msgspec.Meta(ge=1, le=64)] = 5  # 2 or 3 for texts of a sentence
    bands: Annotated[int, msgspec.Meta(ge=1, le=512)] = 14  # more of them look at more pairs
    rows: Annotated[int, msgspec.Meta(ge=1, le=64)] = 8  # similarity s is looked at with 1 - (1 - s^rows)^bands
    keep: Literal["longest", "newest", "first", "best"] = "longest"  # the first of equals
    by: str = ""  # of newest: a date or number, else the later row; of best: a number; in a column listed under `keep`
    on: Literal["row", "input"] = "row"  # row: only those with the same answer are dropped
    action: Literal["drop", "group"] = "drop"  # group drops none; the split has a cluster on one side either way
    against: list[str] | dict[str, str] = []  # earlier rows: what is near one goes. Files, or dataset:NAME@VERSION
    column: str = ""  # of those files, with the request


class NearDedup:
    """MinHash LSH (Broder 1997; Leskovec, Rajaraman, Ullman, Mining of Massive Datasets, 3.4), candidates verified by
    their n-grams, clusters by union-find. Counts `clusters` of two rows and more, and the `largest`.

    Takes about 60 bytes of memory a row, and 0.2 to 2.3 KB of disk. A dropped row is near some row of the cluster, not
    always the one that stays: `detail` says how similar to that one it is.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = msgspec.convert(options, Options)
        if self.options.keep == "best" and not self.options.by:
            raise Error("invalid", "near_dedup with keep: best needs `by`, the column that tells the quality")
        self.files, self.saved = saved.apart(self.options.against)
        if self.files and not self.options.column:
            raise Error("invalid", "near_dedup with `against` needs `column`, the one to compare with")
        self.counts: Counter[str] = Counter()
        self.earlier = 0  # rows of `against`: they come first
        self.scratch: Path | None = None
        self.sources: dict[str, int] = {}

    def survey(self, rows: Iterable[dict[str, Any]]) -> None:
        index, self.rows = self._collected(chain(self._against(), rows))
        if self.saved:
            index, self.rows = self._preceded(index)
        self._judge(index)

    def save(self, rows: Iterable[dict[str, Any]], folder: Path) -> None:
        """Write an index of these rows that `against` of the same `ngram`, `bands` and `rows` may name."""
        index, facts = self._collected(rows)
        saved.write(folder, index, facts, list(self.sources), self._made())

    def apply(self, rows: Iterable[dict[str, Any]]) -> Iterator[Verdict]:
        at, members = 0, self.members
        for ordinal, row in enumerate(rows, self.earlier):
            if at == len(members) or members[at] != ordinal:
                yield Verdict(row)
                continue
            stays, similarity, first = int(self.stays[at]), self.similarity[at], self.firsts[at]
            at += 1
            if stays != ordinal and self.options.action == "drop":
                yield Verdict(row, "near_duplicate", f"of {self._place(stays)}, similarity {similarity:.2f}")
            elif "group" in row:
                yield Verdict(row)
            else:
                yield Verdict(row | {"group": self._key(first)})

    def _collected(self, rows: Iterable[dict[str, Any]]) -> tuple[Index, npt.NDArray[Any]]:
        """The index of rows, and what is remembered of each, as ROW."""
        index, column = Index(self.options.bands, self.scratch), Column(ROW, self.scratch)
        for batch in _batches(rows):
            notes = [row["note"] for row in batch] if "note" in batch[0] else self.prepare(batch)
            column.append(self._facts(batch, notes, index.texts))
            index.add([note[FACTS.itemsize :] for note in notes])
            if index.texts > MOST_ROWS:
                raise Error("too_large", f"near_dedup takes {MOST_ROWS:,} rows at most", "split the dataset")
        return index, column.map()

    def _preceded(self, index: Index) -> tuple[Index, npt.NDArray[Any]]:
        """The index again, after those saved rows that share a band with one of it: no other can matter."""
        whole, column = Index(self.options.bands, self.scratch), Column(ROW, self.scratch)
        for path in self.saved:
            one = saved.Saved(path, self._made())
            sources = np.array([self.sources.setdefault(name, len(self.sources)) for name in one.sources], np.uint32)
            for signed, facts in one.batches(one.touched(index)):
                facts["source"] = sources[facts["source"]]
                column.append(facts)
                whole.add(signed)
        self.earlier += whole.texts
        whole.extend(index)
        column.append(self.rows)
        return whole, column.map()

    def _made(self) -> dict[str, int]:
        return {"ngram": self.options.ngram, "bands": self.options.bands, "rows": self.options.rows}

    def _against(self) -> Iterator[dict[str, Any]]:
        for name, line, text in reference.read(self.files, [self.options.column]):
            self.earlier += 1
            yield {"input": text, "source": name, "line": line}

    def prepare(self, rows: Sequence[dict[str, Any]]) -> list[bytes]:
        made, width, options = [], FACTS.itemsize, self.options
        for batch in _batches(rows):
            texts = [prompt(row) for row in batch]
            facts = np.array([self._fact(*one) for one in zip(batch, texts, strict=True)], FACTS).tobytes()
            encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
            signed = signatures(encoded, options.ngram, options.bands, options.rows)
            made += [facts[i * width : (i + 1) * width] + one for i, one in enumerate(signed)]
        return made

    def _fact(self, row: dict[str, Any], text: str) -> tuple[Any, ...]:
        """What is remembered of a row, as FACTS."""
        output = answer(row) if self.options.on == "row" else None
        said = 0 if output is None else int.from_bytes(key(output)[:8], "little")
        return key(text), said, self._rank(row, text)

    def _rank(self, row: dict[str, Any], text: str) -> float:
        """The highest of a cluster stays."""
        if self.options.keep == "longest":
            return len(text) + len(answer(row) or "")
        return _number(row, self.options.by) if self.options.by and self.options.keep != "first" else 0.0

    def _facts(self, rows: Sequence[dict[str, Any]], notes: Sequence[bytes], start: int) -> npt.NDArray[Any]:
        """What is remembered of these rows, as ROW; the first of them is row `start`."""
        facts = np.frombuffer(b"".join([note[: FACTS.itemsize] for note in notes]), FACTS)
        made = np.empty(len(rows), ROW)
        for name in FACTS.names or ():
            made[name] = facts[name]
        ordinals = range(start, start + len(rows))
        if self.options.keep == "newest" and not self.options.by:
            made["rank"] = ordinals
        made["source"] = [self.sources.setdefault(row.get("source", ""), len(self.sources)) for row in rows]
        made["line"] = [row.get("line", i + 1 - self.earlier) for i, row in zip(ordinals, rows, strict=True)]
        return made

    def _judge(self, index: Index) -> None:
        """Who stays in each cluster: of the rows that may stand for one another, the highest rank."""
        parent = index.clusters(self.options.threshold)
        followers = np.flatnonzero(parent != np.arange(len(parent), dtype=np.int32))
        self.members: I64 = np.union1d(followers, parent[followers])  # in ascending order
        self.firsts: I64 = parent[self.members].astype(np.int64)
        facts = self.rows[self.members]
        order = np.lexsort((self.members, -facts["rank"], facts["answer"], self.firsts))
        firsts, answers = self.firsts[order], facts["answer"][order]
        opens = np.ones(len(order), bool)
        opens[1:] = (firsts[1:] != firsts[:-1]) | (answers[1:] != answers[:-1])
        self.stays: I64 = np.empty(len(order), np.int64)
        self.stays[order] = self.members[order[np.flatnonzero(opens)[np.cumsum(opens) - 1]]] if len(order) else order
        self.stays = np.where(self.firsts < self.earlier, self.firsts, self.stays)
        self.similarity: F32 = index.similarity(self.members, self.stays)
        sizes = np.unique(self.firsts, return_counts=True)[1]
        self.counts["clusters"], self.counts["largest"] = len(sizes), int(sizes.max(initial=0))
        ours = np.searchsorted(self.members, self.earlier)
        self.members, self.firsts = self.members[ours:], self.firsts[ours:]
        self.stays, self.similarity = self.stays[ours:], self.similarity[ours:]

    def _key(self, row: int) -> str:
        key: bytes = self.rows["key"][row].tobytes()
        return key.hex()

    def _place(self, row: int) -> str:
        source, line = list(self.sources)[self.rows["source"][row]], self.rows["line"][row]
        return f"{source}:{line}" if source else f"row {line}"


def _number(row: dict[str, Any], column: str) -> float:
    """A column of `extra` as a number, a date as its time; what is neither ranks below all."""
    value = msgspec.json.decode(row.get("extra") or "{}").get(column)
    try:
        number = float(value)
    except TypeError:
        return -np.inf
    except ValueError:
        try:
            moment = datetime.datetime.fromisoformat(value)
        except ValueError:
            return -np.inf
        return (moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).timestamp()
    return number if number == number else -np.inf


def _batches(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Rows that are looked at together; those with and those without notes apart."""
    held, size = list[dict[str, Any]](), 0
    for row in rows:
        if len(held) == BATCH_TEXTS or size >= BATCH_BYTES or (held and ("note" in held[0]) != ("note" in row)):
            yield held
            held, size = [], 0
        held.append(row)
        size += len(row.get("note") or prompt(row))
    if held:
        yield held


plugin = NearDedup
