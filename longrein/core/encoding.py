"""Which encoding bytes are in: by their mark, else by the commonest characters of the languages written in each."""

import codecs
import re

MARKS = (  # UTF-32's little-endian mark begins with UTF-16's
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
LEAST = 0.25  # share of common characters in real text; bytes read as a wrong encoding show less than half of it
SURE = 0.4  # the same for a single record, and twice the share of the next likely encoding
SAMPLE_BYTES = 64 << 10
_CYRILLIC = "оеаинтсрвл"
_KANA = "".join(map(chr, (*range(0x3041, 0x3094), *range(0x30A1, 0x30F7), *map(ord, "ー、。「」・"))))
_PUNCTUATION = "，。、：；！？“”（）《》「」"
# About half of what stands in running text. Accented Latin letters stand alone between ASCII ones; Cyrillic do not.
_COMMON = {
    "gb18030": _PUNCTUATION
    + "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过发后作里用道行所然家"
    "种事成方多经么去法学如都同现当没动面起看定天分还进好小部其些主样理心本前开但因只从想实日者意无力它与长把机第公此"
    "工使情明性知全三又关点正外将两高间由问很最重并物手应头文体相见被利什二等或新制加月话合回请件您吗息名信用户数据"
    "运输单品款退换购买支付收货",
    "big5": _PUNCTUATION
    + "的一是不了在人有我他這個們中來上大為和國地到以說時要就出會可也你對生能而子那得於著下自之年過發後作裡用道行所然家"
    "種事成方多經麼去法學如都同現當沒動面起看定天分還進好小部其些主樣理心本前開但因只從想實日者意無力它與長把機第公此"
    "工使情明性知全三又關點正外將兩高間由問很最重並物手應頭文體相見被利什二等或新製加月話合回請件您嗎息名信用戶數據",
    "cp932": _KANA,
    "euc_jp": _KANA,
    "cp949": "이다는의에가을를은하고한지사기도로시어아자서대정인부리수나일그전제있보해스라주장구국들게면으만여성상과원"
    "동공되안우경적신위실유조생요것중세무소물학방내관계문분미연발마비오개간모습니합때명선설",
    "cp1252": "éèêëàâäáãåæçíìîïñóòôöõøœúùûüßýÿÉÈÀÄÖÜÅØÇÑ’‘“”–—…«»°·€£§©®¿¡",
    "cp1250": "ąćęłńśźżčďěňřšťůžőűĄĆĘŁŃŚŹŻČŘŠŽéáíóúýäöüßô’“”„–",
    "cp1251": _CYRILLIC,
    "koi8_r": _CYRILLIC,
}
_SHAPES = {
    "cp1252": "(?<![^\\x00-\\x7f])[{}](?![^\\x00-\\x7f])",
    "cp1250": "(?<![^\\x00-\\x7f])[{}](?![^\\x00-\\x7f])",
    "cp1251": "(?<=[а-яё])[{0}]|[{0}](?=[а-яё])",
    "koi8_r": "(?<=[а-яё])[{0}]|[{0}](?=[а-яё])",
}
_common = {name: re.compile(_SHAPES.get(name, "[{}]").format(chars)) for name, chars in _COMMON.items()}
_ascii = re.compile(rb"([\x00-\x7f]{8})[\x00-\x7f]{64,}")  # says nothing; its beginning may be half a character
_foreign = re.compile(r"[^\x00-\x7f]")


def marked(start: bytes) -> str:
    """What the first bytes of a file say themselves, or "": by a byte order mark, or as UTF-16 of mostly ASCII."""
    return next((name for mark, name in MARKS if start.startswith(mark)), "") or _wide(start[:256])


def whole(data: bytes) -> str:
    """The encoding of a file, from all of it or its beginning, or "" when none is likely."""
    return (
        marked(data)
        or (is_utf8(data, cut=True) and "utf-8")
        or detect(_ascii.sub(rb"\1\n", data)[:SAMPLE_BYTES], cut=True)
    )


def is_utf8(data: bytes, *, cut: bool = False) -> bool:
    """cut: the last character may be incomplete."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(data, final=not cut)
    except UnicodeDecodeError:
        return False
    return True


def detect(data: bytes, *, cut: bool = False, least: float = LEAST) -> str:
    """The codec most likely to be right for a piece of a file, or "" when none is likely.

    UTF-8, GB18030 (so GBK and GB 2312), Big5, Shift-JIS, EUC-JP, EUC-KR (CP949), Windows-1250, -1251, -1252 and KOI8-R.
    cut: the bytes may end within a character. least: share of common characters below which nothing is said.
    """
    if is_utf8(data, cut=cut):
        return "utf-8"
    texts = {name: _decoded(data, name, cut) for name in _COMMON}
    shares = {name: _share(text, name) for name, text in texts.items() if text}
    if not shares:
        return ""
    best = max(shares, key=lambda name: shares[name])
    second = max((share for name, share in shares.items() if texts[name] != texts[best]), default=0.0)
    return best if shares[best] >= least and (least < SURE or shares[best] >= 2 * second) else ""


def _decoded(data: bytes, name: str, cut: bool) -> str:
    try:
        return codecs.getincrementaldecoder(name)().decode(data, final=not cut)
    except UnicodeDecodeError:
        return ""


def _share(text: str, name: str) -> float:
    """How much of what is not ASCII is common in the languages of this encoding."""
    return len(_common[name].findall(text)) / max(1, len(_foreign.findall(text)))


def _wide(data: bytes) -> str:
    """UTF-16 without its mark, where the text is mostly ASCII: every other byte is zero."""
    even, odd = data[::2], data[1::2]
    for zeros, others, name in ((odd, even, "utf-16-le"), (even, odd, "utf-16-be")):
        if len(zeros) >= 8 and zeros.count(0) > 0.7 * len(zeros) and others.count(0) < 0.01 * len(others):
            return name
    return ""
