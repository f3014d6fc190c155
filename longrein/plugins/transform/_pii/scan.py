"""Findings in a text: one pass tells which kinds there can be, their patterns look only then."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import re2

from longrein.core.errors import Error
from longrein.plugins.transform._pii.check import anything
from longrein.plugins.transform._pii.kinds import AFTER, BEFORE, KINDS, Kind

Valid = Callable[[str], bool]

# Full-width forms, digits of other shapes, dashes and blanks, each for one character; lone surrogates.
_wide = re.compile("[\uff01-\uff5e\u3000\u00a0\u2002-\u200a\u202f\u2010-\u2015\u2212\u2043\ud800-\udfff]")
_hidden = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]+")
_run = re.compile("[A-Za-z0-9.-]*")
_PLAIN = {code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}
_PLAIN |= dict.fromkeys((0x3000, 0xA0, 0x202F, *range(0x2002, 0x200B)), " ")
_PLAIN |= dict.fromkeys((*range(0x2010, 0x2016), 0x2212, 0x2043), "-")
_PLAIN |= dict.fromkeys(range(0xD800, 0xE000), "\ufffd")


class Finding(NamedTuple):
    kind: str
    start: int  # in characters of the text
    end: int
    value: str  # as it reads in plain characters


class Scanner:
    """Finds some kinds, and what one's own patterns {name: RE2 syntax} fit. Errors: `invalid` for a pattern that is not
    RE2's: it cannot look ahead, back or at groups, and so takes time in proportion to the text, whatever that is."""

    def __init__(self, kinds: Iterable[str], patterns: Mapping[str, str]) -> None:
        wanted = set(kinds)
        self.kinds = [(name, kind) for name, kind in KINDS.items() if name in wanted]
        self.own = {name: _own(name, pattern) for name, pattern in patterns.items()}
        self.of = [-1]  # which of the kinds a sign tells; the first sign is always there
        self.signs = re2.Set.SearchSet(_options())
        self.signs.Add("")
        for place, (_, kind) in enumerate(self.kinds):
            for sign in kind.signs:
                self.signs.Add(sign)
                self.of.append(place)
        self.signs.Compile()

    def find(self, text: str) -> list[Finding]:
        """In the order of the text, none within another."""
        plain = text if text.isascii() else _wide.sub(lambda m: _PLAIN[ord(m[0])], text)
        places: list[int] = []
        if not plain.isascii() and _hidden.search(plain):
            plain, places = _shown(plain)
        found: list[Finding] = []
        for name, pattern in self.own.items():
            plain = _take(plain, name, (m.span() for m in pattern.finditer(plain)), anything, found)
        signs = self.signs.Match(plain.encode())  # None: it ran out of memory
        for place in range(len(self.kinds)) if signs is None else sorted({self.of[n] for n in signs} - {-1}):
            name, kind = self.kinds[place]
            plain = _take(plain, name, _spans(kind, plain), kind.valid, found)
        found.sort(key=lambda f: f.start)
        if places:
            return [f._replace(start=places[f.start], end=places[f.end - 1] + 1) for f in found]
        return found


def _take(plain: str, name: str, spans: Iterable[tuple[int, int]], valid: Valid, found: list[Finding]) -> str:
    """The text without what was found in it, as long as before."""
    pieces, at = list[str](), 0
    for start, end in spans:
        if start < end and valid(plain[start:end]):
            found.append(Finding(name, start, end, plain[start:end]))
            pieces += (plain[at:start], "\0" * (end - start))
            at = end
    return "".join([*pieces, plain[at:]]) if pieces else plain


def _spans(kind: Kind, plain: str) -> Iterator[tuple[int, int]]:
    """Of a match, or of the named group in it."""
    groups = list(kind.pattern.groupindex)
    for start, end in _windows(kind.near, plain) if kind.near else [(0, len(plain))]:
        for match in kind.pattern.finditer(plain, start, end):
            yield next((match.span(g) for g in groups if match[g] is not None), match.span())


def _windows(near: re.Pattern[str], plain: str) -> Iterator[tuple[int, int]]:
    """Around the places where a match can be, none within another."""
    start = end = 0
    for match in near.finditer(plain):
        if match.start() - BEFORE > end:
            if end:
                yield start, end
            start = match.start() - BEFORE
        run = _run.match(plain, min(len(plain), match.end() + AFTER))
        end = run.end() if run else len(plain)
    if end:
        yield start, end


def _shown(plain: str) -> tuple[str, list[int]]:
    """A text without hidden characters, and the place of each character that stays."""
    places, pieces, at = list[int](), list[str](), 0
    for match in _hidden.finditer(plain):
        pieces.append(plain[at : match.start()])
        places += range(at, match.start())
        at = match.end()
    places += range(at, len(plain))
    return "".join([*pieces, plain[at:]]), places


def _own(name: str, pattern: str) -> Any:
    try:
        made = re2.compile(pattern, _options())
    except re2.error as error:
        told = error.args[0].decode() if error.args and isinstance(error.args[0], bytes) else str(error)
        hint = "write it in RE2's syntax: github.com/google/re2/wiki/Syntax"
        raise Error("invalid", f"the pattern {name!r} is not one of RE2: {told}", hint) from error
    if made.search("") is not None:
        raise Error("invalid", f"the pattern {name!r} fits where there is nothing", "let it need a character at least")
    return made


def _options() -> Any:
    options = re2.Options()
    options.log_errors = False
    options.max_mem = 64 << 20
    return options
