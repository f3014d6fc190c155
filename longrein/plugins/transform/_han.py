"""Simplified and traditional Chinese, told apart by the characters that only one of them has."""

import re
from collections.abc import Callable
from functools import cache

from longrein.core.errors import Error
from longrein.core.text import language

_surrogate = re.compile("([\ud800-\udfff]+)")


@cache
def only(mine: str, other: str) -> re.Pattern[str]:
    """Han characters that one character set has and the other lacks: ("gb2312", "big5") are the simplified ones."""
    return re.compile(f"[{''.join(c for c in map(chr, range(0x4E00, 0xA000)) if _in(c, mine) and not _in(c, other))}]")


def script(text: str) -> str:
    """ "Hans" or "Hant" by the majority of such characters, Hans when there is none."""
    simplified, traditional = only("gb2312", "big5"), only("big5", "gb2312")
    return "Hant" if len(traditional.findall(text)) > len(simplified.findall(text)) else "Hans"


def _in(character: str, encoding: str) -> bool:
    return bool(character.encode(encoding, "ignore"))


def converter(target: str) -> Callable[[str], str]:
    """To "simplified" or "traditional", by OpenCC's phrases: 头发 is 頭髮, 发展 is 發展. Texts that are so already, and
    Japanese, stay as they are. Errors: `missing_package`."""
    try:
        from opencc import OpenCC
    except ModuleNotFoundError as error:
        raise Error(
            "missing_package",
            "normalize with `han` needs the package 'opencc', which is not installed",
            "pip install 'longrein[normalize]'  (or: pip install opencc)",
        ) from error
    convert: Callable[[str], str] = OpenCC("t2s" if target == "simplified" else "s2t").convert
    # 里 and 干 are in both scripts: texts without a character that is simplified alone stay, or right ones go wrong.
    candidates = only("gb2312", "big5") if target == "traditional" else only("big5", "gb2312")
    telling = frozenset(c for c in candidates.pattern[1:-1] if convert(c) != c)

    def converted(text: str) -> str:
        for _ in range(2):  # a rare phrase appears in the conversion of another
            if text.isascii() or telling.isdisjoint(text) or language(text) == "ja":
                break
            text = "".join(p if _surrogate.match(p) else convert(p) for p in _surrogate.split(text))
        return text

    return converted
