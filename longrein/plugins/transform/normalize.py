"""Unicode and white space made uniform, without changing what a reader sees."""

import html
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, Literal

import msgspec

from longrein.core.ports import Verdict
from longrein.core.text import INVISIBLE
from longrein.plugins.transform._han import converter
from longrein.plugins.transform._row import edit

VERSION = 1

# Joiners shape emoji and Indic or Arabic words; after Latin or Han characters they only hide.
_invisible = re.compile(f"(?![\u200c\u200d])[{INVISIBLE}]")
_joiners = re.compile("(?:^|(?<=[\\x00-\u05ff\u2e80-\u9fff]))[\u200c\u200d]+")
_controls = dict.fromkeys([*range(9), *range(14, 32), 127])  # the invisible ones of ASCII
_odd = re.compile(f"[{INVISIBLE}]|\\s\\s|[^\\S ]|^\\s|\\s$")  # what the rules below could change
_wide = re.compile("[\uff01-\uff5e\u3000]")
_latin = re.compile("[\u00c2-\u00f4][\u0080-\u00bf\u0152-\u0192\u02c6\u02dc\u2013-\u203a€™]")  # see _repair
# Chinese punctuation that NFKC would turn into its ASCII look-alike.
_kept = "，。！？：；（）【】《》、～…"
_other = re.compile(f"[^{_kept}]+")
# Full-width letters, digits and signs as their ASCII forms, the Chinese punctuation above excepted.
_narrow = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F) if chr(code) not in _kept} | {0x3000: 0x20}


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`form` NFC keeps what NFKC would flatten (m², ½, ①); duplicates are compared by NFKC in any case."""

    form: Literal["NFC", "NFKC"] = "NFC"
    width: bool = True  # full-width letters and digits to ASCII; ，。！？ and their like stay
    space: Literal["collapse", "keep"] = "collapse"  # runs of blanks to one, of empty lines to one; keep for code
    html: bool = False  # decode &amp; and &#128514;
    han: Literal["", "simplified", "traditional"] = ""  # Chinese in one script, phrase by phrase


class Normalize:
    """Counts `changed` rows, and texts `repaired` of a wrong decoding."""

    rowwise: ClassVar[bool] = True

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = msgspec.convert(options, Options)
        self.counts: Counter[str] = Counter()
        self.converted = converter(self.options.han) if self.options.han else str

    def apply(self, rows: Iterable[dict[str, Any]]) -> Iterator[Verdict]:
        for row in rows:
            clean = edit(row, self.clean)
            if clean is not row:
                self.counts["changed"] += 1
            yield Verdict(clean)

    def clean(self, text: str) -> str:
        """The text made uniform; what it returns, it returns unchanged."""
        if self.options.html and "&" in text:
            text = html.unescape(text)
        while (clean := self._once(text)) != text:
            text = clean  # one rule may make work for another: a control character gone, a wrong decoding shows
        return self.converted(text)

    def _once(self, text: str) -> str:
        options = self.options
        if text.isascii() and text.isprintable():
            return " ".join(text.split()) if options.space == "collapse" else text
        if not text.isascii():
            text = self._form(self._repair(text) if _latin.search(text) else text)
            text = text.translate(_narrow) if options.width and _wide.search(text) else text
        if not _odd.search(text):
            return text
        text = text.replace("\r\n", "\n").replace("\r", "\n")
        text = text.translate(_controls) if text.isascii() else _joiners.sub("", _invisible.sub("", text))
        return _collapse(text) if options.space == "collapse" else text

    def _form(self, text: str) -> str:
        if self.options.form == "NFKC":
            return _other.sub(lambda m: unicodedata.normalize("NFKC", m[0]), text)
        return text if unicodedata.is_normalized("NFC", text) else unicodedata.normalize("NFC", text)

    def _repair(self, text: str) -> str:
        """Text that was UTF-8 and was read as Latin-1 or Windows-1252 (cafÃ©), when all of it is."""
        for encoding in ("cp1252", "latin-1"):
            try:
                right = text.encode(encoding).decode("utf-8")
            except UnicodeError:
                continue
            self.counts["repaired"] += 1
            return right
        return text


def _collapse(text: str) -> str:
    """Far faster, line by line, than by regular expressions over all of it."""
    text = "\n".join([" ".join(line.split()) for line in text.split("\n")]).strip("\n")
    while "\n\n\n" in text:
        text = text.replace("\n\n\n", "\n\n")
    return text


plugin = Normalize
