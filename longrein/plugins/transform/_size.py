"""How long a text is, in characters or tokens, and its beginning that is no longer than so many of them."""

import re
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from longrein.core.errors import Error
from longrein.core.text import TOKEN_BYTES

Unit = Literal["characters", "tokens"]
_surrogate = re.compile("[\ud800-\udfff]")  # alone, which no tokenizer takes
_ZWJ, _MODIFIERS, _FLAGS = "\u200d", range(0x1F3FB, 0x1F400), range(0x1F1E6, 0x1F200)


class Measure(NamedTuple):
    of: Callable[[str], int]
    first: Callable[[str, int], str]  # the longest beginning of at most so many; never a part of a character


def measure(unit: Unit, tokenizer: str) -> Measure:
    """tokenizer: a tokenizer.json or the folder of a model that has one; without it tokens are reckoned, one for
    TOKEN_BYTES bytes of UTF-8. Errors: `not_found`, `invalid`."""
    if unit == "characters":
        return Measure(len, cut)
    if not tokenizer:
        return Measure(
            lambda t: round(len(t.encode("utf-8", "surrogatepass")) / TOKEN_BYTES),
            lambda t, most: cut(
                t, len(t.encode("utf-8", "ignore")[: int(most * TOKEN_BYTES)].decode("utf-8", "ignore"))
            ),
        )
    return _counted(Path(tokenizer))


def cut(text: str, most: int) -> str:
    """At most so many code points, without a letter's accent or a piece of an emoji left behind."""
    if len(text) <= most:
        return text
    while most > 0 and _joined(text, most):
        most -= 1
    return text[:most]


def _joined(text: str, at: int) -> bool:
    """Whether what stands before and after this place is one character to a reader."""
    before, after = text[at - 1], text[at]
    if before in (_ZWJ, "\r") and (before != "\r" or after == "\n"):
        return True
    if after == _ZWJ or ord(after) in _MODIFIERS or unicodedata.category(after)[0] == "M":
        return True
    start = at
    while start and ord(text[start - 1]) in _FLAGS:
        start -= 1
    return ord(after) in _FLAGS and (at - start) % 2 == 1


class _File(msgspec.Struct):
    """What every tokenizer.json has."""

    model: dict[str, Any]


def _counted(path: Path) -> Measure:
    from tokenizers import Tokenizer

    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        raise Error("not_found", f"there is no tokenizer {file}", "give a tokenizer.json, or a model's folder with one")
    try:
        msgspec.json.decode(file.read_bytes(), type=_File)  # tokenizers itself raises no particular error
    except msgspec.DecodeError as error:
        raise Error("invalid", f"{file} is no tokenizer: {error}", "give a tokenizer.json") from error
    made = Tokenizer.from_file(str(file))
    made.no_truncation()
    made.no_padding()

    def of(text: str) -> int:
        return len(made.encode(_surrogate.sub("\ufffd", text), add_special_tokens=False).ids)

    def first(text: str, most: int) -> str:
        ends = [end for _, end in made.encode(_surrogate.sub("\ufffd", text), add_special_tokens=False).offsets]
        if len(ends) <= most:
            return text
        kept = cut(text, ends[most - 1] if most else 0)
        while kept and of(kept) > most:  # a character of several tokens, or one that joins its neighbours otherwise
            kept = cut(kept, len(kept) - 1)
        return kept

    return Measure(of, first)
