"""Personal data and secrets masked, hashed, replaced by stand-ins, counted, or their rows dropped."""

import heapq
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import msgspec

from longrein.core.errors import Error, nearest
from longrein.core.ports import Verdict
from longrein.plugins.transform._pii.kinds import KINDS
from longrein.plugins.transform._pii.scan import Finding, Scanner
from longrein.plugins.transform._pii.standin import Standins
from longrein.plugins.transform._row import edit, texts

VERSION = 2
Action = Literal["mask", "hash", "pseudonym", "drop", "keep"]
KEY_BYTES = 32
NEAR = 40  # characters of context on each side


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    action: Action = "mask"
    actions: dict[str, Action] = {}  # of single kinds, in place of that
    kinds: list[str] | None = None  # None is all
    patterns: dict[str, str] = {}  # kinds of one's own: name and pattern, in RE2's syntax
    key: str = ""  # for hash and pseudonym: a file of 64 hexadecimal digits, as `openssl rand -hex 32` writes it


class Pii:
    """Counts findings by kind.

    mask: [EMAIL]. hash: [EMAIL:…], the same for the same value. pseudonym: a stand-in of the same form, see
    longrein.plugins.transform._pii.standin. drop: the row is set aside, masked, so that the table of rejected rows
    holds no copy; its source line does. keep: counted only.
    """

    rowwise: ClassVar[bool] = True

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = msgspec.convert(options, Options)
        self.counts: Counter[str] = Counter()
        own = self.options.patterns
        for name in own:
            if name in KINDS or not name.isidentifier():
                raise Error("invalid", f"a pattern cannot be called {name!r}", "letters, digits, _; no kind there is")
        known = [*own, *KINDS]
        wanted = known if self.options.kinds is None else [*own, *self.options.kinds]
        for kind in (*wanted, *self.options.actions):
            if kind not in known:
                raise Error("invalid", f"pii has no kind {kind!r}", nearest(kind, known))
        self.actions = {kind: self.options.actions.get(kind, self.options.action) for kind in wanted}
        self.scanner = Scanner(wanted, own)
        needed = [kind for kind, action in self.actions.items() if action in ("hash", "pseudonym")]
        self.standins = Standins(read_key(self.options.key, needed[0])) if needed else None

    def apply(self, rows: Iterable[dict[str, Any]]) -> Iterator[Verdict]:
        for row in rows:
            dropped = set[str]()
            changed = edit(row, lambda text, dropped=dropped: self.change(text, dropped))  # type: ignore[misc]
            yield Verdict(changed, "pii", ", ".join(sorted(dropped))) if dropped else Verdict(changed)

    def change(self, text: str, dropped: set[str]) -> str:
        pieces, at = list[str](), 0
        for found in self.scanner.find(text):
            self.counts[found.kind] += 1
            action = self.actions[found.kind]
            if action == "drop":
                dropped.add(found.kind)
            if action != "keep":
                pieces += (text[at : found.start], self._instead(found, action))
                at = found.end
        return "".join([*pieces, text[at:]]) if pieces else text

    def _instead(self, found: Finding, action: Action) -> str:
        if self.standins is not None and action == "pseudonym" and (made := self.standins.of(found.kind, found.value)):
            return made
        if self.standins is not None and action in ("hash", "pseudonym"):
            return f"[{found.kind.upper()}:{self.standins.mark(found.kind, found.value)}]"
        return f"[{found.kind.upper()}]"


class Example(NamedTuple):
    """A finding to look at. It holds no more than the text's surroundings, themselves masked."""

    kind: str
    source: str
    line: int
    shape: str  # of what was found: a 9 for a digit, an x for a letter
    context: str


def review(
    rows: Iterable[Mapping[str, Any]], many: int = 10, options: Mapping[str, Any] | None = None
) -> list[Example]:
    """Of each kind up to so many findings, the same for the same rows, wherever they stand: what is still in a dataset,
    or what a transform with these options would find in it. For a person to judge, not for a log."""
    transform = Pii({**(options or {}), "action": "mask", "actions": {}, "key": ""})
    held: dict[str, list[tuple[int, int, Example]]] = {}
    number = 0
    for row in rows:
        for text in texts(row):
            for found in transform.scanner.find(text):
                number += 1
                rank = zlib.crc32(f"{row.get('source')}:{row.get('line')}:{found.start}".encode("utf-8", "replace"))
                kept = held.setdefault(found.kind, [])
                if len(kept) < many or -kept[0][0] > rank:
                    example = _example(transform, row, text, found)
                    (heapq.heappush if len(kept) < many else heapq.heapreplace)(kept, (-rank, number, example))
    return [one for kind in sorted(held) for _, _, one in sorted(held[kind], key=lambda e: (-e[0], e[1]))]


def _example(transform: Pii, row: Mapping[str, Any], text: str, found: Finding) -> Example:
    """The context is cut from the masked text, so that a cut through another finding does not show half of it."""
    before, after = text[max(0, found.start - 400) : found.start], text[found.end : found.end + 400]
    shape = re.sub("[^\\W0-9_]", "x", re.sub("[0-9]", "9", found.value))
    context = f"{transform.change(before, set())[-NEAR:]}[{found.kind.upper()}]{transform.change(after, set())[:NEAR]}"
    return Example(found.kind, str(row.get("source", "")), int(row.get("line", 0)), shape, " ".join(context.split()))


def read_key(path: str, needed: str = "") -> bytes:
    """Errors: `invalid` when there is no key, or it is short."""
    hint = "openssl rand -hex 32 > .longrein/pii.key; chmod 600 .longrein/pii.key; then key: .longrein/pii.key"
    if not path:
        raise Error("invalid", f"pii needs a key to replace {needed!r} by something that can be told apart", hint)
    try:
        key = bytes.fromhex(Path(path).read_text("ascii"))
    except (OSError, ValueError) as error:
        raise Error(
            "invalid", f"the key in {path} cannot be read: it is no file of hexadecimal digits", hint
        ) from error
    if len(key) < KEY_BYTES:
        raise Error("invalid", f"the key in {path} has {len(key)} bytes, {KEY_BYTES} are needed", hint)
    return key


def reveal(key: str, kind: str, standin: str) -> str:
    """What a stand-in stands for; names, and kinds without a form, do not lead back. key: the file's path.

    Errors: `invalid`.
    """
    try:
        return Standins(read_key(key)).back(kind, standin)
    except (ValueError, IndexError) as error:
        raise Error("invalid", f"{standin!r} is no stand-in of the kind {kind!r}: {error}") from error


plugin = Pii
