"""Documents that are no good text, by the rules of Gopher, C4 and FineWeb, and by their equivalents for Chinese."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import msgspec

from longrein.core.errors import Error, nearest
from longrein.core.ports import Verdict
from longrein.core.text import language
from longrein.plugins.transform._quality.measure import NAMES, measure
from longrein.plugins.transform._quality.rules import PRESETS, RULES, Range
from longrein.plugins.transform._quality.table import CHINESE, ENGLISH
from longrein.plugins.transform._row import edit, prompt, scored

VERSION = 1
BATCH, BATCH_CHARS = 256, 1 << 22  # looked at in one go
UNSPACED = ("zh", "ja", "th", "lo", "my", "km")  # languages without spaces between words
_citation = re.compile(r"\[+(?:\d*|edit|citation needed)\]+")


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Rules are for documents, of paragraphs: not for requests of a sentence."""

    rules: tuple[Literal["auto", "gopher", "c4", "fineweb", "zh"], ...] = ("auto",)  # auto: zh, or gopher and fineweb
    limits: dict[str, Range | None] = {}  # of single rules, in place of theirs: words: [20, null]; null: not this rule
    stop_words: Annotated[
        list[str], msgspec.Meta(max_length=64)
    ] = []  # of another language; without them the rule is for English and Chinese only
    columns: list[str] = []  # numbers written into `extra`, for later transforms and, listed under `keep`, to stay


class Quality:
    """Drops with the name of the rule set; the detail tells each number that is out of bounds. Counts by rule.

    `c4` also takes lines out of the text: without a full stop at their end, of two words, with JavaScript or cookies.
    """

    rowwise: ClassVar[bool] = True

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = msgspec.convert(options, Options)
        self.counts: Counter[str] = Counter()
        for name in (*self.options.limits, *self.options.columns):
            if name not in NAMES:
                raise Error("invalid", f"quality has no number {name!r}", nearest(name, NAMES))
        self.words = (*(self.options.stop_words or (*ENGLISH, *CHINESE)),)
        self.sets = {code: self._rules(code) for code in ("en", *UNSPACED, "other")}

    def apply(self, rows: Iterable[dict[str, Any]]) -> Iterator[Verdict]:
        for batch in _batches(rows):
            if "c4" in self.options.rules:
                yield from self._c4(batch)
                continue
            values = measure([prompt(r) for r in batch], self.words).values
            yield from map(self._judge, batch, values.tolist())

    def _c4(self, batch: list[dict[str, Any]]) -> Iterator[Verdict]:
        """Each row without the lines that C4 leaves out, by the numbers of the lines that stay."""
        before, texts = [edit(r, _cited) for r in batch], dict[str, str]()
        for row in before:
            edit(row, lambda t: texts.setdefault(t, t))
        for text, kept in zip(texts, measure(list(texts), self.words).kept, strict=True):
            texts[text] = "\n".join(s.strip() for s, k in zip(text.split("\n"), kept, strict=True) if k)
        after = [edit(r, lambda t: texts[t] or t) for r in before]
        yield from map(self._judge, after, measure([prompt(r) for r in after], self.words).values.tolist())

    def _rules(self, code: str) -> list[tuple[str, str, int, Range]]:
        """(set, rule, its column, bounds) for texts in a language."""
        chosen: list[str] = []
        for preset in self.options.rules:
            chosen += (["zh"] if code in UNSPACED else ["gopher", "fineweb"]) if preset == "auto" else [preset]
        sets = [name for one in dict.fromkeys(chosen) for name in PRESETS[one]]
        found: dict[str, tuple[str, Range | None]] = {}
        for name in sets:
            for rule, bounds in RULES[name].items():
                found.setdefault(rule, (name, bounds))
        if code not in ("en", "zh"):
            found.pop("han", None)
            found.pop("" if self.options.stop_words else "stop_words", None)
        for rule, limit in self.options.limits.items():
            found[rule] = (found.get(rule, ("quality", None))[0], limit)
        order = ["quality", *RULES]
        listed = [(name, rule, NAMES.index(rule), bounds) for rule, (name, bounds) in found.items() if bounds]
        return sorted(listed, key=lambda entry: order.index(entry[0]))

    def _judge(self, row: dict[str, Any], values: Sequence[float]) -> Verdict:
        code = row.get("language") or language(prompt(row))
        code = code.partition("-")[0]
        failed = []
        for name, rule, column, (least, most) in self.sets[code if code in self.sets else "other"]:
            value = values[column]
            if (least is not None and value < least) or (most is not None and value > most):
                self.counts[rule] += 1
                side = f"at least {least:g}" if least is not None and value < least else f"at most {most:g}"
                failed.append((name, f"{rule} {value:.4g}, {side}"))
        if self.options.columns:
            row = scored(row, {name: round(values[NAMES.index(name)], 6) for name in self.options.columns})
        return Verdict(row, failed[0][0], "; ".join(told for _, told in failed)) if failed else Verdict(row)


def _cited(text: str) -> str:
    return _citation.sub("", text) if "[" in text else text


def _batches(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    batch, size = list[dict[str, Any]](), 0
    for row in rows:
        batch.append(row)
        size += len(prompt(row))
        if len(batch) == BATCH or size > BATCH_CHARS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


plugin = Quality
