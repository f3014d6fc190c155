"""What each character is when near-duplicates are compared: a table that the compiled kernel looks up."""

import re
import unicodedata
from functools import cache

import numpy as np
import numpy.typing as npt

from longrein.core.text import INVISIBLE

# The upper 8 bits of an entry; the lower 24 are the folded code point, or where an expansion starts.
SEPARATOR, WORD, CHARACTER, SKIP, EXPANSION = range(5)
KIND_BITS = 24
SIZE = 0x32400  # code points from here on are skipped: private use, tags

Table = npt.NDArray[np.uint32]

_invisible = re.compile(f"[{INVISIBLE}\ufe00-\ufe0f]")
# Scripts written without spaces: each character is a token. Kana, Han, Thai, Lao, Myanmar, Khmer.
_unspaced = re.compile(
    "[\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U000323af"
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]"
)
VOICED, IOTA = 8, "\u0345"  # marks that stay: が is not か; ᾳ is αι when case is folded


@cache
def tables() -> tuple[Table, Table]:
    """(entry of each code point, expansions: a length, then that many entries).

    Texts that longrein.core.text.fold holds equal have equal entries, and so have texts that differ in accents or
    punctuation alone.
    """
    expansions: list[int] = []
    entries = np.empty(SIZE, np.uint32)
    for code in range(SIZE):
        folded = [_entry(c) for c in _folded(chr(code))]
        folded = [e for e in folded if e >> KIND_BITS != SKIP]
        if len(folded) == 1:
            entries[code] = folded[0]
        elif not folded:
            entries[code] = SKIP << KIND_BITS
        else:
            entries[code] = EXPANSION << KIND_BITS | len(expansions)
            expansions += [len(folded), *folded]
    return entries, np.array(expansions, np.uint32)


def _folded(character: str) -> str:
    if character.isascii():
        return character.lower()
    if _invisible.match(character) or "\u4e00" <= character <= "\u9fff":
        return character
    plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", character).casefold())
    return unicodedata.normalize("NFKD", plain.casefold())


def _entry(character: str) -> int:
    if _invisible.match(character) or unicodedata.combining(character) not in (0, VOICED):
        return SKIP << KIND_BITS
    if character != "_" and unicodedata.category(character)[0] not in "LNM":
        return SEPARATOR << KIND_BITS
    return (CHARACTER if _unspaced.match(character) else WORD) << KIND_BITS | ord(character)
