"""Personal data masked or its rows dropped: e-mail, phone, Chinese ID, bank card, IP address."""

import ipaddress
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import date
from typing import Any, ClassVar, Literal

import msgspec

from longrein.core.errors import Error, nearest
from longrein.core.ports import Verdict
from longrein.plugins.transform._row import edit

VERSION = 1


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    action: Literal["mask", "drop"] = "mask"
    kinds: list[str] | None = None  # None is all


class Pii:
    """Masks with the kind's name, [EMAIL]; counts findings by kind. Put `normalize` before it: it reads ASCII digits.

    What a rule can see, no more: names, addresses and numbers spelled out stay. A dropped row is masked too, so the
    table of rejected rows holds no copy; its source line does.
    """

    rowwise: ClassVar[bool] = True

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = msgspec.convert(options, Options)
        self.counts: Counter[str] = Counter()
        wanted = KINDS if self.options.kinds is None else self.options.kinds
        for kind in wanted:
            if kind not in KINDS:
                raise Error("invalid", f"pii has no kind {kind!r}", nearest(kind, KINDS))
        self.kinds = [(k, *KINDS[k]) for k in KINDS if k in wanted]

    def apply(self, rows: Iterable[dict[str, Any]]) -> Iterator[Verdict]:
        for row in rows:
            before = self.counts.copy() if self.options.action == "drop" else self.counts
            masked = edit(row, self.mask)
            if masked is row or self.options.action == "mask":
                yield Verdict(masked)
            else:
                yield Verdict(masked, "pii", ", ".join(sorted(self.counts - before)))

    def mask(self, text: str) -> str:
        if not _hint.search(text) or not _possible.search(text):
            return text
        for kind, pattern, valid in self.kinds:

            def replace(match: re.Match[str], kind: str = kind, valid: Callable[[str], bool] = valid) -> str:
                if not valid(match[0]):
                    return match[0]
                self.counts[kind] += 1
                return f"[{kind.upper()}]"

            text = pattern.sub(replace, text)
        return text


def chinese_id(number: str) -> bool:
    """GB 11643-1999: a date of birth, and a check digit by weights 2^(17-i) mod 11."""
    try:
        date(int(number[6:10]), int(number[10:12]), int(number[12:14]))
    except ValueError:
        return False
    total = sum(int(d) * pow(2, 17 - i, 11) for i, d in enumerate(number[:17]))
    return "10X98765432"[total % 11] == number[17].upper()


def luhn(number: str) -> bool:
    """ISO/IEC 7812-1: the check digit of bank cards."""
    digits = [int(d) for d in number if d.isdigit()]
    doubled = [d if i % 2 == 0 else d * 2 - 9 * (d > 4) for i, d in enumerate(reversed(digits))]
    return 13 <= len(digits) <= 19 and len(set(digits)) > 1 and sum(doubled) % 10 == 0


def ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return "." in text or len(text.replace(":", "")) >= 4  # C::D is code, more likely than an address


def anything(_: str) -> bool:
    return True


_hint = re.compile("[0-9@:]")  # far cheaper than what follows, and absent from most texts
_possible = re.compile(r"@|[0-9][0-9. -]{5}|[0-9)][)0-9. -]{5}|:[0-9A-Fa-f]{0,4}:")
# In the order in which they are masked: what is more certain goes first.
KINDS: dict[str, tuple[re.Pattern[str], Callable[[str], bool]]] = {
    "email": (re.compile(r"[A-Za-z0-9._%+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}"), anything),
    "id_number": (re.compile(r"(?<![0-9A-Za-z])[1-9][0-9]{16}[0-9Xx](?![0-9A-Za-z])"), chinese_id),
    "card": (re.compile(r"(?<![0-9])[2-6](?:[ -]?[0-9]){12,18}(?![0-9])"), luhn),
    "ip": (
        re.compile(
            r"(?<![0-9.A-Za-z])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?![0-9]|\.[0-9])"
            r"|(?<![0-9A-Za-z:])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{1,4}(?![0-9A-Za-z:])"
        ),
        ip,
    ),
    "phone": (
        re.compile(
            r"(?<![0-9A-Za-z])(?:(?:\+|00)?86[ .-]?)?1[3-9][0-9][ .-]?[0-9]{4}[ .-]?[0-9]{4}(?![0-9A-Za-z])"
            r"|(?<![0-9])0[1-9][0-9]{1,2}[ -][2-8][0-9]{6,7}(?![0-9])"
            r"|(?<![0-9A-Za-z])(?:\+?1[ .-])?(?:\([2-9][0-9]{2}\) ?|[2-9][0-9]{2}[ .-])"
            r"[2-9][0-9]{2}[ .-][0-9]{4}(?![0-9])"
            r"|\+[1-9][0-9]{0,2}(?:[ .-]?[0-9]{2,4}){2,5}(?![0-9])"
        ),
        anything,
    ),
}

plugin = Pii
