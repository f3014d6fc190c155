"""Stand-ins: the same value has the same one, of the same form; only the key leads back.

A value becomes a number of a finite range, is moved to another place in it by a keyed permutation (a Feistel network
with cycle walking: Black & Rogaway, "Ciphers with Arbitrary Finite Domains", 2002; SHAKE-256 gives the rounds), and is
written down again; a country's code, an issuer's and separators stay. In a range of thousands of values who holds many
pairs can guess others; the ranges here have 10^7 and more, plates aside.
"""

import hashlib
import hmac
import ipaddress
import re
from collections.abc import Callable
from datetime import date, timedelta
from string import ascii_lowercase, ascii_uppercase
from string import digits as DIGITS

from longrein.plugins.transform._pii import check, words

ROUNDS = 10
_DAYS = (date(2100, 1, 1) - date(1900, 1, 1)).days
_BORN, _STANDS = date(1900, 1, 1), date(1700, 1, 1)  # nobody lives who was born in the years of stand-ins
_PROVINCES = sorted(check.DIVISIONS)
_PLATE = "ABCDEFGHJKLMNPQRSTUVWXYZ"
Shape = list[str]  # of each character the ones that may stand there; one of its own keeps it


class Standins:
    """Errors of `back`: ValueError for what is no stand-in."""

    def __init__(self, key: bytes) -> None:
        self.key = hashlib.sha256(b"longrein pii" + key).digest()

    def mark(self, kind: str, value: str) -> str:
        """Sixty bits of a keyed hash as letters, which no pattern takes for a number."""
        told = f"{kind}\0{_same(kind, value)}".encode("utf-8", "replace")
        whole = int.from_bytes(hmac.digest(self.key, told, "sha256")[:8], "big")
        return "".join(chr(97 + (whole >> 4 * n & 15)) for n in range(15))

    def of(self, kind: str, value: str) -> str | None:
        """The stand-in, None for kinds whose form says nothing."""
        if kind == "name":
            return self._name(value)
        return None if kind in FORMLESS else self._moved(kind, value, False)

    def back(self, kind: str, standin: str) -> str:
        if kind == "name" or kind in FORMLESS:
            raise ValueError(f"stand-ins of the kind {kind!r} do not lead back")
        return self._moved(kind, standin, True)

    def _moved(self, kind: str, value: str, back: bool) -> str:
        if kind in _WHOLE:
            read, write = _WHOLE[kind]
            number, size = read(value, back)
            return write(self._permute(number, size, kind, back), not back)
        if kind == "email":
            value = value.removesuffix(".example").lower() if back else value.lower()
        shape = _SHAPES.get(kind, _generic)(value)
        number, size = 0, 1
        for char, choice in zip(value, shape, strict=True):
            number, size = number * len(choice) + choice.index(char), size * len(choice)
        number = self._permute(number, size, kind, back)
        made = list[str]()
        for choice in reversed(shape):
            number, place = divmod(number, len(choice))
            made.append(choice[place])
        return _checked(kind, "".join(reversed(made)), back)

    def _permute(self, number: int, size: int, tweak: str, back: bool) -> int:
        if size < 2:
            return number
        half = max(1, ((size - 1).bit_length() + 1) // 2)
        mask, length = (1 << half) - 1, (half + 7) // 8
        while True:
            left, right = number >> half, number & mask
            for turn in reversed(range(ROUNDS)) if back else range(ROUNDS):
                told = f"{tweak}\0{size}\0{turn}\0{left if back else right}".encode("utf-8", "replace")
                moved = int.from_bytes(hashlib.shake_256(self.key + told).digest(length), "big") & mask
                left, right = (right ^ moved, left) if back else (right, left ^ moved)
            number = left << half | right
            if number < size:
                return number

    def _name(self, value: str) -> str:
        """One of the same length in Chinese, of as many words in other scripts."""
        seed = hmac.digest(self.key, f"name\0{_same('name', value)}".encode("utf-8", "replace"), "sha512")
        draw = [int.from_bytes(seed[n : n + 4], "big") for n in range(0, 64, 4)]
        if re.match("[\u4e00-\u9fff]", value):
            rest = (words.HAN_GIVEN[n % len(words.HAN_GIVEN)] for n in draw[1 : len(value)])
            return words.SURNAMES[draw[0] % len(words.SURNAMES)] + "".join(rest)
        given, family, many = words.GIVEN.split(), words.FAMILY.split(), len(value.split())
        parts = [given[draw[0] % len(given)], *(family[n % len(family)] for n in draw[1 : min(many, 2)])]
        return " ".join(parts if many > 1 else parts[:1])


def _same(kind: str, value: str) -> str:
    """What two ways to write one value have in common."""
    if kind in ("phone", "card", "ssn"):
        number = check.digits(value)
        return number[-10:] if kind == "phone" else number
    return re.sub(r"[\s.-]" if kind in ("iban", "plate", "id_number", "mac") else r"\s+", "", value).casefold()


def _generic(value: str) -> Shape:
    """Digits for digits, letters for letters of their case."""
    return [next((a for a in (DIGITS, ascii_lowercase, ascii_uppercase) if c in a), c) for c in value]


def _phone(value: str) -> Shape:
    """What stays: the country of Chinese and North American numbers, of others the first three digits."""
    shape, places = list(value), [n for n, c in enumerate(value) if c.isdigit()]
    number = check.digits(value)
    if re.search("(?:^|86)1[3-9][0-9]{9}$", number):
        free = ["3456789", *[DIGITS] * 9]
    elif (len(number) == 10 and number[0] > "1") or re.fullmatch("1[2-9][0-9]{9}", number):
        free = ["23456789", DIGITS, DIGITS, "23456789", *[DIGITS] * 6]
    else:
        free = [DIGITS] * max(0, len(number) - 3)
    for place, choice in zip(places[len(places) - len(free) :], free, strict=True):
        shape[place] = choice if value[place] in choice else DIGITS
    return shape


def _card(value: str) -> Shape:
    places = [n for n, c in enumerate(value) if c.isdigit()]
    free = set(places[6:-1])
    return [DIGITS if n in free else c for n, c in enumerate(value)]


def _iban(value: str) -> Shape:
    return [*value[:4], *_generic(value[4:])]


def _email(value: str) -> Shape:
    """The last label stays; a name ends in one that nobody can have (RFC 2606)."""
    name, dot, top = value.rpartition(".")
    return [*_generic(name), *dot, *top]


def _hex(value: str) -> Shape:
    alphabet = "0123456789ABCDEF" if re.search("[A-F]", value) else "0123456789abcdef"
    return [alphabet if c in alphabet else c for c in value]


def _plate(value: str) -> Shape:
    return [*value[:2], *(DIGITS if c in DIGITS else _PLATE if c in _PLATE else c for c in value[2:])]


def _checked(kind: str, value: str, back: bool) -> str:
    """With its check digits, and an address of mail where none can be."""
    if kind == "card":
        return re.sub("[0-9](?=[^0-9]*$)", check.luhn(check.digits(value)[:-1]), value)
    if kind == "iban":
        plain = re.sub("[ -]", "", value).upper()
        return value[:2] + check.iban_check(plain) + value[4:]
    return f"{value}.example" if kind == "email" and not back else value


def _read_id(value: str, standin: bool) -> tuple[int, int]:
    number = re.sub("[^0-9Xx]", "", value)
    born = date(int(number[6:10]), int(number[10:12]), int(number[12:14]))
    day = (born - (_STANDS if standin else _BORN)).days
    return (int(number[:6]) * _DAYS + day) * 1000 + int(number[14:17]), 10**6 * _DAYS * 1000


def _write_id(number: int, standin: bool) -> str:
    rest, serial = divmod(number, 1000)
    place, day = divmod(rest, _DAYS)
    born = (_STANDS if standin else _BORN) + timedelta(day)
    body = f"{place:06d}{born:%Y%m%d}{serial:03d}"
    return body + check.id_check(body)


def _read_credit(value: str, _: bool) -> tuple[int, int]:
    number = check.CREDIT.index(value[0]) * 31 + check.CREDIT.index(value[1])
    number = (number * len(_PROVINCES) + _PROVINCES.index(value[2:4])) * 10_000 + int(value[4:8])
    for char in value[8:17]:
        number = number * 31 + check.CREDIT.index(char)
    return number, 31 * 31 * len(_PROVINCES) * 10_000 * 31**9


def _write_credit(number: int, _: bool) -> str:
    tail = ""
    for _n in range(9):
        number, place = divmod(number, 31)
        tail = check.CREDIT[place] + tail
    number, division = divmod(number, 10_000)
    number, province = divmod(number, len(_PROVINCES))
    body = f"{check.CREDIT[number // 31]}{check.CREDIT[number % 31]}{_PROVINCES[province]}{division:04d}{tail}"
    return body + check.credit_check(body)


def _read_ssn(value: str, _: bool) -> tuple[int, int]:
    number = check.digits(value)
    area = int(number[:3]) - 1 - (number > "666")
    return (area * 99 + int(number[3:5]) - 1) * 9999 + int(number[5:]) - 1, 898 * 99 * 9999


def _write_ssn(number: int, _: bool) -> str:
    rest, serial = divmod(number, 9999)
    area, group = divmod(rest, 99)
    return f"{area + 1 + (area >= 665):03d}-{group + 1:02d}-{serial + 1:04d}"


def _read_ip(value: str, _: bool) -> tuple[int, int]:
    address = ipaddress.ip_address(value)
    return int(address), 1 << address.max_prefixlen


def _write_ip(number: int, _: bool) -> str:
    return str(ipaddress.IPv4Address(number) if number < 1 << 32 else ipaddress.IPv6Address(number))


FORMLESS = ("private_key", "url_credentials", "api_key", "secret", "birth_date", "address")
_SHAPES: dict[str, Callable[[str], Shape]] = {
    "phone": _phone, "card": _card, "iban": _iban, "email": _email, "mac": _hex, "plate": _plate,
}  # fmt: skip
_Whole = tuple[Callable[[str, bool], tuple[int, int]], Callable[[int, bool], str]]
_WHOLE: dict[str, _Whole] = {
    "id_number": (_read_id, _write_id), "credit_code": (_read_credit, _write_credit),
    "ssn": (_read_ssn, _write_ssn), "ip": (_read_ip, _write_ip),
}  # fmt: skip
