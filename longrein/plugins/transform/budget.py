"""Rows up to a total of tokens or characters: what comes after it is dropped."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any

import msgspec

from longrein.core.ports import Verdict
from longrein.plugins.transform._row import answer, prompt
from longrein.plugins.transform._size import Unit, measure

VERSION = 1


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    total: Annotated[int, msgspec.Meta(ge=1)]  # of requests and answers together
    unit: Unit = "tokens"
    tokenizer: str = ""  # a tokenizer.json, or a model's folder; without it tokens are reckoned from bytes


class Budget:
    """In the order of the sources. A row that does not fit goes, a later, shorter one may stay; `used` is the sum."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = msgspec.convert(options, Options)
        self.counts: Counter[str] = Counter()
        self.measure = measure(self.options.unit, self.options.tokenizer)

    def apply(self, rows: Iterable[dict[str, Any]]) -> Iterator[Verdict]:
        total, used = self.options.total, 0
        for row in rows:
            size = self.measure.of(prompt(row)) + self.measure.of(answer(row) or "")
            if used + size > total:
                yield Verdict(row, "over_budget", f"{size:,} more than the {total - used:,} {self.options.unit} left")
                continue
            used += size
            self.counts["used"] = used
            yield Verdict(row)


plugin = Budget
