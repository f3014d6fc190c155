"""What each kind of personal data looks like: a rough sign for the scan, a pattern, and what proves a match.

A sign is in RE2's syntax and fits wherever the pattern does. The pattern's first group, where it has one, is what is
meant; the rest is what gives it away. No pattern can look at a place more than some dozens of characters long twice.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

from longrein.plugins.transform._pii import check, words
from longrein.plugins.transform._pii.check import anything

HAN = "\u4e00-\u9fff"
_L, _R = r"(?<![0-9A-Za-z])", r"(?![0-9A-Za-z])"


BEFORE, AFTER = 80, 40


class Kind(NamedTuple):
    signs: tuple[str, ...]
    pattern: re.Pattern[str]
    valid: Callable[[str], bool] = anything
    near: re.Pattern[str] | None = (
        None  # a match is within BEFORE and AFTER it, and the word that goes on there; None: anywhere
    )


def _re(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


def _iban() -> str:
    lengths: dict[int, list[str]] = {}
    for country, length in check.IBANS.items():
        lengths.setdefault(length, []).append(country)
    forms = (f"(?:{'|'.join(names)})[0-9]{{2}}(?:[ -]?[A-Z0-9]){{{n - 4}}}" for n, names in sorted(lengths.items()))
    return f"{_L}(?i:{'|'.join(forms)}){_R}"


_keys = (
    r"(?:AKIA|ASIA|ABIA|ACCA)[A-Z2-7]{16}|LTAI[A-Za-z0-9]{12,20}|AKID[A-Za-z0-9]{32}|AIza[A-Za-z0-9_-]{35}"
    r"|GOCSPX-[A-Za-z0-9_-]{28}|ya29\.[A-Za-z0-9_-]{20,200}|gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9_]{22,255}"
    r"|glpat-[A-Za-z0-9_-]{20,64}|sk-[A-Za-z0-9_-]{20,200}|[sr]k_(?:live|test)_[A-Za-z0-9]{10,99}"
    r"|xox[abeoprs]-[A-Za-z0-9-]{10,250}|hf_[A-Za-z0-9]{30,60}|npm_[A-Za-z0-9]{36}|pypi-AgE[A-Za-z0-9_-]{50,250}"
    r"|SG\.[A-Za-z0-9_-]{16,32}\.[A-Za-z0-9_-]{16,64}|dop_v1_[a-f0-9]{64}|shp(?:at|ca|pa|ss)_[a-fA-F0-9]{32}"
    r"|[0-9]{8,10}:AA[A-Za-z0-9_-]{33}|eyJ[A-Za-z0-9_-]{8,4096}\.eyJ[A-Za-z0-9_-]{8,8192}\.[A-Za-z0-9_-]{0,1024}"
)
_key_signs = (
    "AKIA", "ASIA", "ABIA", "ACCA", "LTAI", "AKID", "AIza", "GOCSPX-", r"ya29\.", "gh[pousr]_", "github_pat_", "glpat-",
    "sk-", "[sr]k_(?:live|test)", "xox[abeoprs]-", "hf_", "npm_", "pypi-AgE", r"SG\.", "dop_v1_", "shp(?:at|ca|pa|ss)_",
    ":AA", "eyJ",
)  # fmt: skip
_date = (
    r"(?:19|20)[0-9]{2}(?:[-/.][0-9]{1,2}[-/.][0-9]{1,2}|年[0-9]{1,2}月[0-9]{1,2}日?)"
    rf"|[0-9]{{1,2}}[-/.][0-9]{{1,2}}[-/.](?:19|20)?[0-9]{{2}}"
    rf"|{words.MONTHS}\.? [0-9]{{1,2}}(?:st|nd|rd|th)?,? (?:19|20)[0-9]{{2}}"
    rf"|[0-9]{{1,2}}(?:st|nd|rd|th)?(?: of)? {words.MONTHS},? (?:19|20)[0-9]{{2}}"
)
_up, _low = "A-Z\u00c0-\u00d6\u00d8-\u00de\u0100-\u017f", "a-z\u00df-\u00f6\u00f8-\u024f"
_cap = f"(?!(?:{words.STREETS})\\b)[{_up}][{_low}’']{{1,20}}(?:[-’'{_low}][{_up}]?[{_low}]{{1,20}})?"
_rest = rf"(?: (?:[A-Z]\.? )?{_cap}){{0,2}}"
_given = "|".join(  # by their first letter, so that most are not tried
    f"{first}(?:{'|'.join(name[1:] for name in words.GIVEN.split() if name[0] == first)})"
    for first in sorted({name[0] for name in words.GIVEN.split()})
)
_surname = f"(?:{words.COMPOUND}|[{words.SURNAMES}])"
_seats = "京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼"
_start = r"(?<![0-9A-Za-z])(?<![0-9][.-])"  # of a number that is no piece of another one
_start_near = r"(?<![0-9A-Za-z$€£¥.])"  # of one that a word announces: not a price
_gap = r"[^0-9\n。\[\]\0]{0,25}?"  # between a word and what it announces; not across what was found already
_grouped = r"[(+]?[0-9](?:[ .()-]{0,2}[0-9]){6,13}"
_ext = r"(?: ?(?:x|ext\.?) ?[0-9]{1,5})?"
_street = rf"[A-Z][A-Za-z'’.]{{1,20}}(?: [A-Z][A-Za-z'’.]{{1,20}}){{0,3}}? (?:{words.STREETS})\b\.?"
_flat = r"(?:,? (?:Apt|Apartment|Suite|Ste|Unit|Floor|Room|#)\.? ?[0-9A-Z-]{1,6})?"
_town = r"(?:(?:,|\n| )[ \n]?[A-Z][A-Za-z.]{1,20}(?: [A-Z][a-z]{1,20}){0,2},? [A-Z]{2}(?: [0-9]{5}(?:-[0-9]{4})?)?)?"
_unit = r"[0-9A-Za-z]{1,5}(?:[-][0-9]{1,5}){0,2}(?:号楼|号院|号|弄|栋|幢|座|单元|楼|层|室|房)"
_place = (
    rf"(?:(?:{words.PROVINCES})(?:省|市|自治区)?)"
    rf"(?>(?:[{HAN}]{{1,9}}?(?:市|自治州|地区|盟|区|县|旗|镇|乡|街道)){{0,4}})"
)
_way = rf"[{HAN}0-9]{{1,10}}?(?:路|街|大道|道|巷|胡同|弄|村|里|苑|小区|花园|大厦|广场)"

# In the order in which they are looked for: what is more certain goes first, and what it takes is gone.
KINDS: dict[str, Kind] = {
    "private_key": Kind(
        ("-----BEGIN",),
        _re(
            r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----"
            r"(?:[^-]{0,20000}-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----|(?:\s{0,4}[A-Za-z0-9+/=]{20,100})*)"
        ),
    ),
    "url_credentials": Kind(
        ("://[^/@]{0,330}@",),
        _re(r"[A-Za-z][A-Za-z0-9+.-]{1,15}://(?P<v>[^\s/:@]{0,100}:[^\s/@]{1,200})@(?=[A-Za-z0-9\[])"),
    ),
    "api_key": Kind(_key_signs, _re(rf"{_L}(?:{_keys})(?![A-Za-z0-9_])")),
    "secret": Kind(
        (r"(?i)api.?key|access.?key|secret|token|passw|pwd|credential|密钥|密码|口令|令牌",),
        _re(
            r"(?i:(?:api|access)[ _-]?key(?:[ _-]?id)?|secret(?:[ _-]?(?:access)?[ _-]?key)?|token|passw(?:or)?d|pwd"
            r"|credentials?|密钥|密码|口令|令牌)[\"']?[ \t]{0,3}(?::=|=>|[:=：]|是|为|is)[ \t]{0,3}[\"']?(?:Bearer )?"
            r"(?P<v>[A-Za-z0-9+/_=.~-]{16,256})"
        ),
        check.secret,
    ),
    "email": Kind(
        ("@",),
        _re(
            r"[A-Za-z0-9._%+'-]{0,63}[A-Za-z0-9_%+-]@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,62})\.){1,8}[A-Za-z]{2,24}"
            r"(?![A-Za-z0-9-])"
        ),
        check.email,
        _re("@"),
    ),
    "id_number": Kind(
        (r"[0-9][0-9 -]{13,}[0-9Xx]",),
        _re(r"(?<![0-9A-Za-z])[1-9](?:[ -]?[0-9]){16}[ -]?[0-9Xx](?![0-9A-Za-z])"),
        check.chinese_id,
    ),
    "credit_code": Kind(
        ("[0-9A-Y][129][0-9]{6}[0-9A-Y]{10}", "[0-9A-Y][3-9][0-9]{6}[0-9A-Y]{10}"),
        _re(rf"{_L}(?:[159][1-39]|[2-4678][19]|3[2-5]|A[19]|N[1-39]|Y1)[0-9]{{6}}[{check.CREDIT}]{{10}}{_R}"),
        check.credit_code,
    ),
    "iban": Kind((r"(?i)[a-z]{2}[0-9]{2}(?:[ -]?[a-z0-9]){11}",), _re(_iban()), check.iban),
    "card": Kind(
        ("[1-6](?:[ -]?[0-9]){11}",),
        _re(r"(?<![0-9])(?<![0-9][.-])[1-6](?:[ -]?[0-9]){11,18}(?![0-9])"),
        check.card,
    ),
    "mac": Kind(
        (r"(?i)[0-9a-f]{2}[:-][0-9a-f]{2}[:-][0-9a-f]{2}[:-]", r"(?i)[0-9a-f]{4}\.[0-9a-f]{4}\.[0-9a-f]{4}"),
        _re(
            r"(?i)(?<![0-9a-z:-])[0-9a-f]{2}([:-])[0-9a-f]{2}(?:\1[0-9a-f]{2}){4}(?![0-9a-z:-])"
            r"|(?<![0-9a-z.])[0-9a-f]{4}\.[0-9a-f]{4}\.[0-9a-f]{4}(?![0-9a-z.])"
        ),
        check.mac,
    ),
    "ip": Kind(
        (r"[0-9]\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]", r"(?i):[0-9a-f]{0,4}:"),
        _re(
            r"(?<![0-9.A-Za-z])(?<!ersion )(?<!版本)(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?![0-9]|\.[0-9])"
            r"|(?<![0-9A-Za-z:])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{1,4}(?![0-9A-Za-z:])"
        ),
        check.ip,
    ),
    "ssn": Kind(
        ("[0-9]{3}[- ][0-9]{2}[- ][0-9]{4}", "(?i)ssn|social security"),
        _re(
            r"(?<![0-9A-Za-z-])[0-9]{3}([- ])[0-9]{2}\1[0-9]{4}(?![0-9A-Za-z]|-[0-9])"
            rf"|(?i:ssn|social security){_gap}(?<![0-9])(?P<v>[0-9]{{9}})(?![0-9])"
        ),
        check.ssn,
    ),
    "passport": Kind(
        ("(?i)passport|护照",),
        _re(rf"(?i:passport|护照){_gap}(?<![0-9A-Za-z])(?P<v>[A-Za-z]{{1,2}}[0-9]{{7,8}}|[0-9]{{9}})(?![0-9A-Za-z])"),
        check.passport,
    ),
    "plate": Kind(
        (f"[{_seats}][A-Z]",),
        _re(
            f"[{_seats}][A-HJ-NP-Z][ ·•-]?(?:[DF][A-HJ-NP-Z0-9][0-9]{{4}}"
            "|[0-9]{5}[DF]|[A-HJ-NP-Z0-9]{4}[A-HJ-NP-Z0-9挂学警港澳])(?![A-Za-z0-9])"
        ),
        check.plate,
    ),
    "birth_date": Kind(
        (f"(?i){words.BIRTH}", "日出生|日生"),
        _re(
            rf"(?i:{words.BIRTH}){_gap}(?P<v>{_date})(?![0-9])"
            r"|(?P<w>(?:19|20)[0-9]{2}年[0-9]{1,2}月[0-9]{1,2}日)(?=出?生)"
        ),
    ),
    "phone": Kind(
        (r"[0-9][0-9 .)-]{5,}[0-9]", r"\([0-9]{2,5}\)"),
        _re(
            rf"(?=[0-9(+])(?:{_start}(?:(?:\+|00)?86[ .-]?)?1[3-9][0-9][ .-]?[0-9]{{4}}[ .-]?[0-9]{{4}}{_R}"
            r"|(?<![0-9])(?:(?:\+|00)?86[ .-]?)?(?:\(0[1-9][0-9]{1,2}\) ?|0[1-9][0-9]{1,2}[ -])[2-8][0-9]{6,7}(?![0-9])"
            rf"|{_start}(?:(?:\+|00)?1[ .-]?)?(?:\([2-9][0-9]{{2}}\) ?|[2-9][0-9]{{2}}[ .-])"
            rf"[2-9][0-9]{{2}}[ .-][0-9]{{4}}{_ext}(?![0-9])"
            rf"|(?<![0-9A-Za-z])(?:\+|00)[1-9](?:[ .-]?\(?[0-9]{{1,5}}\)?){{2,6}}{_ext}(?![0-9])"
            rf"|{_start}(?:0[1-9][0-9]{{0,3}}(?:[ -][0-9]{{2,4}}){{2,4}}"
            rf"|\([0-9]{{2,4}}\) ?[0-9]{{3,4}}[ -][0-9]{{3,4}})"
            rf"(?![0-9])|{_start_near}(?P<w>{_grouped})(?=[ -](?i:office|fax|mobile|cell|home)\b))"
            rf"|(?=[a-zA-Z电手联拨致传座])(?i:{words.PHONE}){_gap}\n?{_start_near}(?P<v>{_grouped}{_ext})(?![0-9])"
        ),
        check.phone,
        _re(r"[0-9(][0-9 .()-]{4,}[0-9]"),
    ),
    "address": Kind(
        (f"(?:{words.PROVINCES}|[市区县镇路街道村])[{HAN}0-9A-Za-z]{{0,40}}(?:[号弄栋幢座楼层室房省市区县镇]|单元)",
         rf"[0-9] (?:[A-Z][a-z.]+ ){{1,4}}(?:{words.STREETS})\b", r"P\.? ?O\.? Box [0-9]"),
        _re(
            rf"(?:地址|住址|住在|家住|位于|寄到|寄往|送到)[是为:： ]{{0,3}}"
            rf"(?P<v>[{HAN}]{{2,20}}[{HAN}0-9A-Za-z-]{{0,20}}?{_unit}(?:{_unit}){{0,4}})"
            rf"|{_place}{_way}(?:{_unit}){{1,5}}|{_place}{_way}(?={_unit}|[^{HAN}]|$)"
            rf"|(?<![{HAN}])[{HAN}]{{2,8}}(?:路|街|大道|巷|胡同){_unit}(?:{_unit}){{0,4}}"
            rf"|(?<![0-9A-Za-z.,$])[0-9]{{1,6}} (?:[NSEW]\.? )?{_street}{_flat}{_town}"
            rf"|P\.? ?O\.? Box [0-9]{{1,6}}"
        ),
    ),
    "name": Kind(
        (rf"(?:{words.COMPOUND}|[{words.SURNAMES}])[{HAN}]{{0,2}}(?:{words.HONORIFICS})", words.NAMED,
         r"(?:Mr|Mrs|Ms|Miss|Dr|Prof)\.? [A-Z]", r"(?i)my name is |\bname: |\bdear ",
         rf"\b(?:{_given}) (?:[A-Z]\.? )?[A-ZÀ-ž]"),
        _re(
            rf"(?=[{HAN}])(?:(?:{words.NAMED})[:：是为叫 ]{{0,3}}(?P<v>{_surname}[{HAN}]{{1,2}})"
            rf"(?=[^{HAN}]|$|电话|手机|身份证|联系|先生|女士|的手机|的电话|住)"
            rf"|(?<![{words.SURNAMES}])(?P<w>{_surname}[{HAN}]{{0,2}}?)(?={words.HONORIFICS}))"
            rf"|\b(?=[A-Zdmn])(?:(?:Mr|Mrs|Ms|Miss|Dr|Prof)\.? (?P<x>{_cap}{_rest})"
            rf"|(?:[Mm]y name is |[Nn]ame: {{1,8}}|[Dd]ear (?!Sir|Madam|All|Team|Customer|Friend))"
            rf"(?P<y>{_cap}{_rest})"
            rf"|(?:{_given}) (?:[A-Z]\.? )?{_cap}(?: {_cap})?)"
        ),
    ),
}  # fmt: skip
