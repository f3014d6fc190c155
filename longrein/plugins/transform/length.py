"""Too short or too long, in characters."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

import msgspec

from longrein.core.ports import Verdict
from longrein.plugins.transform._row import answer, prompt

VERSION = 1


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    min: int = 1
    max: int = 100_000
    output_max: int = 100_000


class Length:
    rowwise: ClassVar[bool] = True

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = msgspec.convert(options, Options)
        self.counts: Counter[str] = Counter()

    def apply(self, rows: Iterable[dict[str, Any]]) -> Iterator[Verdict]:
        limits = self.options
        for row in rows:
            size, answered = len(prompt(row)), len(answer(row) or "")
            if size < limits.min:
                yield Verdict(row, "too_short", f"{size} characters; min is {limits.min}")
            elif size > limits.max or answered > limits.output_max:
                most = limits.max if size > limits.max else limits.output_max
                yield Verdict(row, "too_long", f"{max(size, answered)} characters; max is {most}")
            else:
                yield Verdict(row)


plugin = Length
