"""Too short or too long, in characters or tokens; what is too long may be cut."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, ClassVar

import msgspec

from longrein.core.ports import Verdict
from longrein.plugins.transform._row import answer, prompt
from longrein.plugins.transform._size import Unit, measure

VERSION = 1
Size = Annotated[int, msgspec.Meta(ge=0)]


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    min: Size = 1
    max: Size = 100_000
    output_max: Size = 100_000
    unit: Unit = "characters"
    tokenizer: str = ""  # a tokenizer.json, or a model's folder; without it tokens are reckoned from bytes
    truncate: bool = False  # cut a request or an answer that is too long; conversations: the last answer only


class Length:
    """Counts rows `truncated`."""

    rowwise: ClassVar[bool] = True

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = msgspec.convert(options, Options)
        self.counts: Counter[str] = Counter()
        self.measure = measure(self.options.unit, self.options.tokenizer)

    def apply(self, rows: Iterable[dict[str, Any]]) -> Iterator[Verdict]:
        limits = self.options
        for row in rows:
            row = self._truncated(row) if limits.truncate else row
            size, answered = self.measure.of(prompt(row)), self.measure.of(answer(row) or "")
            if size < limits.min:
                yield Verdict(row, "too_short", f"{size} {limits.unit}; min is {limits.min}")
            elif size > limits.max or answered > limits.output_max:
                most = limits.max if size > limits.max else limits.output_max
                yield Verdict(row, "too_long", f"{max(size, answered)} {limits.unit}; max is {most}")
            else:
                yield Verdict(row)

    def _truncated(self, row: dict[str, Any]) -> dict[str, Any]:
        said = answer(row)
        changed: dict[str, Any] = {} if said is None else {"output": self.measure.first(said, self.options.output_max)}
        if "messages" in row:
            *before, last = row["messages"]
            changed = {"messages": [*before, last | {"content": changed["output"]}]}
        else:
            changed["input"] = self.measure.first(row["input"], self.options.max)
        if all(row[name] == value for name, value in changed.items()):
            return row
        self.counts["truncated"] += 1
        return row | changed


plugin = Length
