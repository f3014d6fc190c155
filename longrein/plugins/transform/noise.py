"""Rows that carry no language: symbols, one thing repeated, mojibake, mark-up."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any, ClassVar

import msgspec
import numpy as np

from longrein.core.ports import Verdict
from longrein.plugins.transform._row import prompt

VERSION = 1
SHORT = 256  # characters

_repeat = re.compile(r"(.{1,8}?)\1{4,}", re.DOTALL)
_markup = re.compile(r"<[a-zA-Z/!][^<>]{0,500}>|&(?:[a-zA-Z]{2,8}|#\d{1,6});")
_han = re.compile("[\u4e00-\u9fff]")
_replacement = re.compile("\ufffd|锟斤拷|烫烫烫|屯屯屯")
# UTF-8 read as Latin-1 or Windows-1252: a lead byte's character, then what a continuation byte looks like.
_latin = re.compile(
    "[\u00c2-\u00f4][\u0080-\u00bf\u0152\u0153\u0160\u0161\u0178\u017d\u017e\u0192\u02c6\u02dc\u2013-\u203a€™]"
)


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Shares of a row's characters, white space aside."""

    min_letters: float = 0.2  # letters and digits of any script, at least
    max_repeat: float = 0.75  # in runs of the same 1 to 8 characters, five times or more
    max_markup: float = 0.4  # in tags and entities
    max_mojibake: float = 0.05  # from a wrong decoding; a single one is forgiven


class Noise:
    """Drops with the reason "noise" and what it found; counts each kind."""

    rowwise: ClassVar[bool] = True

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = msgspec.convert(options, Options)
        self.counts: Counter[str] = Counter()

    def apply(self, rows: Iterable[dict[str, Any]]) -> Iterator[Verdict]:
        for row in rows:
            kind = self.judge(prompt(row))
            if kind:
                self.counts[kind] += 1
                yield Verdict(row, "noise", kind)
            else:
                yield Verdict(row)

    def judge(self, text: str) -> str:
        """The kind of noise a text is, or ""."""
        solid = "".join(text.split())
        if not solid:
            return "empty"
        size, options = len(solid), self.options
        if ("<" in text or "&" in text) and sum(map(len, _markup.findall(text))) > options.max_markup * size:
            return "mark-up"
        if not solid.isalnum() and sum(map(str.isalnum, solid)) < options.min_letters * size:
            return "symbols"
        if size >= 6 and _repetitive(solid, options.max_repeat):
            return "repetition"
        if not text.isascii() and _mojibake(text) > max(1, options.max_mojibake * size):
            return "mojibake"
        return ""


def _repetitive(text: str, share: float) -> bool:
    """Whether runs can make that much of it is cheap to know, and settles most texts: of a short one, they have few
    distinct pairs of characters, at most 2 in 5; of a long one, four in five are the same as one 1 to 8 before."""
    if len(text) < SHORT and len(set(pairwise(text))) > (1 - 0.6 * share) * len(text):
        return False
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    same = np.zeros(len(codes), bool)
    for back in range(1, 9):
        same[back:] |= codes[back:] == codes[:-back]
    if np.count_nonzero(same) < 0.8 * share * len(codes):
        return False
    return sum(len(m[0]) for m in _repeat.finditer(text)) > share * len(text)


def _mojibake(text: str) -> int:
    """How many characters come from a wrong decoding."""
    wrong = sum(map(len, _replacement.findall(text))) + sum(map(len, _latin.findall(text)))
    return max(wrong, _utf8_as_gbk(text))


def _utf8_as_gbk(text: str) -> int:
    """浣犲ソ was 你好: as GB18030 bytes it is UTF-8 again, three bytes a character; real Chinese hardly ever is."""
    back = len(_han.findall(text.encode("gb18030", "ignore").decode("utf-8", "ignore")))
    return round(back * 1.5) if back >= 2 and back * 3 >= len(text) else 0


plugin = Noise
