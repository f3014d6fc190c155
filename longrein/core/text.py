"""When are two texts the same? One answer for duplicates, splits, conflicts and comparisons."""

import re
import unicodedata
from functools import lru_cache
from hashlib import blake2b

# Characters that a reader never sees: zero-width, bidi controls, soft hyphen, byte order mark, tag characters,
# supplementary variation selectors, C0 and C1 controls other than white space.
INVISIBLE = (
    "\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\xad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f"
    "\ufeff\ufff9-\ufffb\U000e0000-\U000e007f\U000e0100-\U000e01ef"
)
TOKEN_BYTES = 3.5  # of UTF-8 a token, about: English or Chinese, with a tokenizer trained on it
CACHED_CHARS = 4096  # longer texts are folded anew each time, so that the cache stays small
_invisible = re.compile(f"[{INVISIBLE}]")
_han = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003134f]")
_kana = re.compile("[\u3040-\u30ff]")
_hangul = re.compile("[\uac00-\ud7af]")
_latin = re.compile("[A-Za-z]")


def fold(text: str) -> str:
    """The text as a person compares it: NFKC, no invisible characters, case folded, white space collapsed."""
    return _recent(text) if len(text) <= CACHED_CHARS else _fold(text)


def key(*texts: str) -> bytes:
    """16 bytes (BLAKE2b) that are equal when all folded texts are equal."""
    joined = "\0".join([fold(t) for t in texts])  # a folded text holds no NUL
    return blake2b(joined.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def language(text: str) -> str:
    """By script alone, for rows that nothing else told: "zh" when a third of the letters are Han, "ja" with kana among
    them, "ko" when a third are Hangul, "en" when nearly all are ASCII, else "other". See the transform too.
    """
    if text.isascii():
        return "en" if _latin.search(text) else "other"
    han, kana, letters = len(_han.findall(text)), len(_kana.findall(text)), sum(map(str.isalpha, text))
    if han + kana and (han + kana) * 3 >= letters:
        return "ja" if kana * 8 >= han + kana else "zh"  # の stands in Chinese texts too
    if (hangul := len(_hangul.findall(text))) and hangul * 3 >= letters:
        return "ko"
    plain = len(_latin.findall(text))
    return "en" if plain and plain * 10 >= letters * 9 else "other"


def _fold(text: str) -> str:
    if not text.isascii():
        text = _invisible.sub("", unicodedata.normalize("NFKC", text))
    elif not text.isprintable():
        text = _invisible.sub("", text)
    return " ".join(text.casefold().split())


_recent = lru_cache(256)(_fold)  # the steps of a pipeline fold the same text one after another
