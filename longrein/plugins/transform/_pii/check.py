"""What proves a number: check digits, dates, areas and lengths as their standards have them."""

import ipaddress
import math
import re
from collections import Counter
from datetime import date

# The first two digits of a Chinese division (GB/T 2260), in credit codes.
_divisions = (*range(11, 16), *range(21, 24), *range(31, 38), *range(41, 47), *range(50, 55), *range(61, 66))
DIVISIONS = frozenset(map(str, (*_divisions, 71, 81, 82, 83)))
CREDIT = "0123456789ABCDEFGHJKLMNPQRTUWXY"  # the digits of GB 32100
# The length of an IBAN by country (ISO 13616, the registry of SWIFT).
IBANS = {
    "AD": 24, "AE": 23, "AL": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22, "BI": 27, "BR": 29,
    "BY": 28, "CH": 21, "CR": 22, "CY": 28, "CZ": 24, "DE": 22, "DJ": 27, "DK": 18, "DO": 28, "EE": 20, "EG": 29,
    "ES": 24, "FI": 18, "FK": 18, "FO": 18, "FR": 27, "GB": 22, "GE": 22, "GI": 23, "GL": 18, "GR": 27, "GT": 28,
    "HR": 21, "HU": 28, "IE": 22, "IL": 23, "IQ": 23, "IS": 26, "IT": 27, "JO": 30, "KW": 30, "KZ": 20, "LB": 28,
    "LC": 32, "LI": 21, "LT": 20, "LU": 20, "LV": 21, "LY": 25, "MC": 27, "MD": 24, "ME": 22, "MK": 19, "MN": 20,
    "MR": 27, "MT": 31, "MU": 30, "NI": 28, "NL": 18, "NO": 15, "OM": 23, "PK": 24, "PL": 28, "PS": 29, "PT": 25,
    "QA": 29, "RO": 24, "RS": 22, "RU": 33, "SA": 24, "SC": 31, "SD": 18, "SE": 24, "SI": 19, "SK": 24, "SM": 27,
    "SO": 23, "ST": 25, "SV": 28, "TL": 23, "TN": 24, "TR": 26, "UA": 29, "VA": 22, "VG": 24, "XK": 20, "YE": 30,
}  # fmt: skip
_FILES = ("png", "jpg", "jpeg", "gif", "svg", "webp", "css", "js", "html", "json", "py", "md")
_brand = re.compile(
    r"4(?:.{12}|.{15}|.{18})$|(?=.{16}$)(?:5[1-5]|222[1-9]|22[3-9]|2[3-6]|27[01]|2720|220[0-4]|35)|(?=.{16,19}$)6"
    r"|(?=.{15}$)(?:3[47]|1800|2131)|(?=.{14}$|.{16}$)3(?:0[0-59]|[689])|(?=.{12,19}$)(?:50(?:18|20|38)|5[6-8]|6304|67)"
)


def digits(text: str) -> str:
    return "".join(c for c in text if c.isdigit())


def anything(_: str) -> bool:
    return True


def email(text: str) -> bool:
    """Not the name of a picture for a finer screen, logo@2x.png."""
    return text.rpartition(".")[2].lower() not in _FILES


def chinese_id(text: str) -> bool:
    """GB 11643-1999: a date of birth, and a check digit by weights 2^(17-i) mod 11."""
    number = re.sub("[^0-9Xx]", "", text)
    return _born(number) and id_check(number[:17]) == number[17].upper()


def id_check(number: str) -> str:
    return "10X98765432"[sum(int(d) * pow(2, 17 - i, 11) for i, d in enumerate(number)) % 11]


def _born(number: str) -> bool:
    try:
        return 1900 <= date(int(number[6:10]), int(number[10:12]), int(number[12:14])).year < 2100
    except ValueError:
        return False


def credit_code(text: str) -> bool:
    """GB 32100-2015: a division, and a check digit by weights 3^i mod 31."""
    return text[2:4] in DIVISIONS and credit_check(text[:17]) == text[17]


def credit_check(text: str) -> str:
    return CREDIT[-sum(CREDIT.index(c) * pow(3, i, 31) for i, c in enumerate(text)) % 31]


def card(text: str) -> bool:
    """ISO/IEC 7812-1: the lengths of the issuer's range, and the check digit."""
    number = digits(text)
    return _brand.match(number) is not None and len(set(number)) > 1 and luhn(number[:-1]) == number[-1]


def luhn(number: str) -> str:
    """The check digit that belongs behind a number."""
    doubled = [d if i % 2 else d * 2 - 9 * (d > 4) for i, d in enumerate(map(int, reversed(number)))]
    return str(-sum(doubled) % 10)


def iban(text: str) -> bool:
    """ISO 13616: the country's length, 1 modulo 97."""
    value = re.sub("[ -]", "", text).upper()
    return len(value) == IBANS[value[:2]] and iban_check(value) == value[2:4]


def iban_check(value: str) -> str:
    rest = "".join(str(int(c, 36)) for c in value[4:] + value[:2]) + "00"
    return f"{98 - int(rest) % 97:02d}"


def ssn(text: str) -> bool:
    """Areas, groups and serials that the SSA gives out."""
    number = digits(text)
    area = number[:3]
    return area not in ("000", "666") and area < "900" and number[3:5] != "00" and number[5:] != "0000"


def ip(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    if "." in text:
        return not address.is_unspecified
    return len(text.replace(":", "")) >= 4  # C::D is code, more likely than an address


def mac(text: str) -> bool:
    """Not 12-34-56-78-90-12, which may be anything; not all ones or zeros."""
    value = re.sub("[:.-]", "", text).lower()
    return value not in ("f" * 12, "0" * 12) and (":" in text or not value.isdigit())


def plate(text: str) -> bool:
    """GA 36: at most two letters after the city's."""
    return sum(c.isdigit() for c in text) >= 3


def phone(text: str) -> bool:
    """E.164: 7 to 15 digits, not one digit again and again."""
    number = digits(text)
    return 7 <= len(number) <= 18 and len(set(number)) > 1


def passport(text: str) -> bool:
    return sum(c.isdigit() for c in text) >= 6


def secret(text: str) -> bool:
    """Random enough: letters and digits, of 3.3 bits a character and more."""
    counts = Counter(text)
    bits = -sum(n / len(text) * math.log2(n / len(text)) for n in counts.values())
    return bits >= 3.3 and any(c.isdigit() for c in text) and any(c.isalpha() for c in text)
