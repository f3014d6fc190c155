"""What readers of whole documents share: their bytes and text, both bounded, and the packages they need."""

import codecs
import importlib
import re
from typing import Any

from longrein.core.blob import Blob
from longrein.core.encoding import marked, whole
from longrein.core.errors import Error
from longrein.core.ports import Record

# What the web means by its labels (WHATWG Encoding): the larger encoding that Windows and China really use.
_LABELS = {
    "ascii": "cp1252", "us-ascii": "cp1252", "iso-8859-1": "cp1252", "latin1": "cp1252", "latin-1": "cp1252",
    "gb2312": "gb18030", "gbk": "gb18030", "x-gbk": "gb18030", "big5": "big5hkscs", "shift_jis": "cp932",
    "shift-jis": "cp932", "x-sjis": "cp932", "euc-kr": "cp949", "ks_c_5601-1987": "cp949", "iso-8859-9": "cp1254",
}  # fmt: skip


def package(name: str, extra: str) -> Any:
    """A package that only this format needs, imported with the first file of it. Errors: `missing_package`."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        distribution = name.partition(".")[0]
        raise Error(
            "missing_package",
            f"the reader {extra!r} needs the package {distribution!r}, which is not installed",
            f"pip install 'longrein[{extra}]'  (or: pip install {distribution})",
        ) from error


def held(blob: Blob, limit: int) -> bytes | Record:
    """All bytes, or a rejected record when they are none or too many."""
    with blob.open("rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        return Record(None, 1, 0, "too_long", f"more than {limit:,} bytes, which is max_bytes")
    return data if data.strip() else Record(None, 1, len(data), "blank", "an empty file")


def decoded(data: bytes, declared: str = "") -> tuple[str, int]:
    """The text and how many characters in it had to be replaced by U+FFFD.

    A mark wins, then UTF-8 where it fits, then what was declared where that fits, then what is likely. Errors:
    UnicodeError when the text is no text.
    """
    encoding = marked(data) or whole(data)
    if encoding != "utf-8" and not marked(data) and declared and _fits(data, declared):
        encoding = _codec(declared)
    text = data.decode(encoding or _codec(declared) or "utf-8", "replace").removeprefix("\ufeff")
    replaced = text.count("\ufffd") - (data.count("\ufffd".encode()) if encoding == "utf-8" else 0)
    if replaced * 20 > len(text) or "\0" in text:
        raise UnicodeError("no encoding fits")
    return text, max(0, replaced)


def _codec(label: str) -> str:
    label = label.strip().lower()
    try:
        return codecs.lookup(_LABELS.get(label, label)).name if label else ""
    except LookupError:
        return ""


def _fits(data: bytes, label: str) -> bool:
    try:
        return bool(_codec(label) and data.decode(_codec(label)))
    except UnicodeDecodeError:
        return False


def iso_date(text: str) -> str:
    """ "2026-11-22" from any text that begins with a date in that order, or ""."""
    found = re.match(r"\D{0,2}(\d{4})[-/.年]?(\d\d?)[-/.月]?(\d\d?)", text or "")
    if not found:
        return ""
    year, month, day = map(int, found.groups())
    return f"{year:04}-{month:02}-{day:02}" if 1 <= month <= 12 and 1 <= day <= 31 else ""
