"""Simplified and traditional Chinese, told apart by the characters that only one of them has."""

import re
from functools import cache


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
