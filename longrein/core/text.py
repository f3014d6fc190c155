"""When are two texts the same? One answer for duplicates, splits, conflicts and comparisons."""

import re
import unicodedata
from hashlib import blake2b

# Characters that a reader never sees: zero-width, bidi controls, soft hyphen, byte order mark, tag characters,
# supplementary variation selectors, C0 and C1 controls other than white space.
INVISIBLE = (
    "\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\xad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f"
    "\ufeff\ufff9-\ufffb\U000e0000-\U000e007f\U000e0100-\U000e01ef"
)
_invisible = re.compile(f"[{INVISIBLE}]")
_han = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003134f]")
_kana = re.compile("[\u3040-\u30ff]")


def fold(text: str) -> str:
    """The text as a person compares it: NFKC, no invisible characters, case folded, white space collapsed."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return " ".join(_invisible.sub("", text).casefold().split())


def key(*texts: str) -> bytes:
    """16 bytes (BLAKE2b) that are equal when all folded texts are equal."""
    parts = [fold(t).encode() for t in texts]
    return digest16(*parts)


def digest16(*parts: bytes) -> bytes:
    """BLAKE2b-128 over length-prefixed parts, so that ("ab", "c") and ("a", "bc") differ."""
    joined = b"".join([len(p).to_bytes(8, "little") + p for p in parts])
    return blake2b(joined, digest_size=16).digest()


def language(text: str) -> str:
    """By script alone: "zh" when a third of the letters are Han and none is kana, "en" when nearly all are ASCII."""
    han = 0 if text.isascii() else len(_han.findall(text))
    letters = sum(map(str.isalpha, text))
    if han and han * 3 >= letters:
        return "other" if _kana.search(text) else "zh"
    plain = letters if text.isascii() else sum(1 for c in text if c.isascii() and c.isalpha())
    return "en" if plain and plain * 10 >= letters * 9 else "other"
