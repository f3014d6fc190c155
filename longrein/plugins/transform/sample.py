"""A share of the rows, a number of them, or so many of each kind: always the same ones, by a hash of what they say."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Annotated, Any

import msgspec
import numpy as np

from longrein.core.errors import Error
from longrein.core.ports import Verdict
from longrein.plugins.transform._row import texts

VERSION = 1
NOTE = np.dtype([("rank", "<u8"), ("group", "<u8")])
Positive = Annotated[int, msgspec.Meta(ge=1)]


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    share: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0  # of all rows; of each group where there are groups
    rows: Positive | None = None  # in all; each group keeps its part of them
    most: Positive | None = None  # of one group
    by: str = ""  # what makes a group: output, language, source, or a column of `keep`
    seed: int = 0


class Sample:
    """Each row has a place in a lottery, drawn from its texts and the seed; the lowest win.

    A share alone is a bound on the place: what else there is changes nothing. Where rows are counted, a row that comes
    takes the place of one that goes, and the others stay. Copies of a row win together. Groups are parts of the whole
    as in stratified sampling: `rows` is dealt out by their sizes (largest remainders), and a share leaves each one row
    at least. 16 bytes of memory a row.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = msgspec.convert(options, Options)
        if self.options.most is not None and not self.options.by:
            raise Error("invalid", "`most` is a number of rows of each group", "say what makes a group, by: output")
        if self.options == Options(by=self.options.by, seed=self.options.seed):
            raise Error("invalid", "a sample of what size?", "give share, rows or most: `sample: {share: 0.1}`")
        self.counts: Counter[str] = Counter()
        self.seed = self.options.seed.to_bytes(8, "little", signed=True)
        self.bounds: dict[int, tuple[int, int]] = {}  # by group, the highest place that wins, and how many hold it

    def survey(self, rows: Iterable[dict[str, Any]]) -> None:
        notes = np.frombuffer(b"".join(self._noted(row) for row in rows), NOTE)
        if self.options.by and len(notes) and not notes["group"].any():
            raise Error("invalid", f"no row has {self.options.by!r}", "output, language, source, or a column in `keep`")
        groups, sizes = np.unique(notes["group"], return_counts=True)
        self.counts["groups"] = len(groups)
        order = np.lexsort((notes["rank"], notes["group"]))
        starts = np.concatenate(([0], np.cumsum(sizes)))
        for at, (group, quota) in enumerate(zip(groups.tolist(), self._quotas(sizes.tolist()), strict=True)):
            ranks = notes["rank"][order[starts[at] : starts[at + 1]]]
            bound = int(ranks[quota - 1]) if quota else -1
            self.bounds[group] = bound, quota - int(np.searchsorted(ranks, max(bound, 0)))

    def apply(self, rows: Iterable[dict[str, Any]]) -> Iterator[Verdict]:
        plain = not self.options.by and self.options.rows is None
        taken: Counter[int] = Counter()
        for row in rows:
            note = np.frombuffer(self._noted(row), NOTE)[0]
            rank, group = int(note["rank"]), int(note["group"])
            if plain:
                stays = rank < self.options.share * 2**64
            else:
                bound, room = self.bounds[group]
                stays = rank < bound or (rank == bound and taken[group] < room)
                taken[group] += rank == bound
            yield Verdict(row) if stays else Verdict(row, "not_sampled", f"it drew {rank / 2**64:.6f} of 1")

    def prepare(self, rows: Sequence[dict[str, Any]]) -> list[bytes]:
        return [self._note(row) for row in rows]

    def _quotas(self, sizes: list[int]) -> list[int]:
        """Rows of each group that stay."""
        asked = self.options
        quotas = [max(1, round(asked.share * size)) for size in sizes]
        if asked.rows is not None and sum(quotas) > asked.rows:
            parts = [asked.rows * quota / sum(quotas) for quota in quotas]
            left = asked.rows - sum(map(math.floor, parts))
            last = sorted(range(len(parts)), key=lambda i: (math.floor(parts[i]) - parts[i], i))[:left]
            quotas = [math.floor(part) + (i in last) for i, part in enumerate(parts)]
        return [min(quota, asked.most or quota) for quota in quotas]

    def _noted(self, row: dict[str, Any]) -> bytes:
        note: bytes | None = row.get("note")
        return self._note(row) if note is None else note

    def _note(self, row: dict[str, Any]) -> bytes:
        content = "\0".join(texts(row)).encode("utf-8", "surrogatepass")
        rank = blake2b(content, digest_size=8, key=self.seed).digest()
        value = self._value(row) if self.options.by else None
        group = bytes(8) if value is None else blake2b(msgspec.json.encode(value), digest_size=8).digest()
        return rank + group

    def _value(self, row: dict[str, Any]) -> Any:
        by = self.options.by
        if by == "output" and "messages" in row:
            return row["messages"][-1]["content"]
        return row[by] if by in row else msgspec.json.decode(row.get("extra") or "{}").get(by)


plugin = Sample
