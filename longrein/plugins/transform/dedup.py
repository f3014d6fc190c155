"""Exact duplicates dropped: the first stays, each other one names it."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import msgspec

from longrein.core.ports import Verdict
from longrein.core.text import key
from longrein.plugins.transform._row import answer, prompt

VERSION = 1


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    on: Literal["row", "input"] = "row"  # input: one answer for each request, the first


class Dedup:
    """Equal means equal after folding (longrein.core.text.fold). About 200 bytes of memory for each kept row."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = msgspec.convert(options, Options)
        self.counts: Counter[str] = Counter()

    def apply(self, rows: Iterable[dict[str, Any]]) -> Iterator[Verdict]:
        first: dict[bytes, tuple[str, int]] = {}
        for ordinal, row in enumerate(rows, 1):
            digest = row.get("note") or self._key(row)
            at = (row.get("source", ""), row.get("line", ordinal))
            found = first.setdefault(digest, at)
            if found is at:
                yield Verdict(row)
            else:
                yield Verdict(row, "duplicate", f"of {found[0]}:{found[1]}" if found[0] else f"of row {found[1]}")

    def prepare(self, rows: Sequence[dict[str, Any]]) -> list[bytes]:
        return [self._key(row) for row in rows]

    def _key(self, row: dict[str, Any]) -> bytes:
        text, output = prompt(row), answer(row)
        if self.options.on == "input" or output is None:
            return key(text)
        return key(text, output) if row.get("rejected") is None else key(text, output, row["rejected"])


plugin = Dedup
