"""PDF: the text of a document or of each page, by PDFium, with its metadata."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import msgspec

from longrein.core.blob import Blob, seekable
from longrein.core.errors import Error
from longrein.core.ports import Record
from longrein.plugins.reader._document import iso_date, package

VERSION = 1
WRONG_PASSWORD = 4  # of PDFium's errors
SCAN = "no text in it: a scan, whose text must be recognised first (OCR), for example with ocrmypdf"
_hyphen = re.compile("[\x02\ufffe]\\s*")  # where PDFium joins a word that was divided at the end of a line
_invalid = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff\ud800-\udfff]")


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    per: Literal["file", "page"] = "file"
    password: str = ""


class Pdf:
    suffixes = (".pdf",)

    def read(self, blob: Blob, options: Mapping[str, Any]) -> Iterator[Record]:
        """text, title, author, date, pages, and `page` where each is a row. `line` is the page. A document or page
        without text is rejected as `no_text`, one that wants a password as `encrypted`."""
        settings = msgspec.convert(options, Options)
        pdfium = package("pypdfium2", "pdf")
        with seekable(blob) as (file, size):
            try:
                document = pdfium.PdfDocument(file, password=settings.password or None)
            except pdfium.PdfiumError as error:
                if error.err_code == WRONG_PASSWORD:
                    yield Record(None, 1, size, "encrypted", "it wants a password: set the option `password`")
                    return
                raise Error("invalid", f"{blob.name} cannot be read as PDF: {error}", "check the file") from error
            try:
                yield from _rows(document, settings, size, pdfium.PdfiumError)
            finally:
                document.close()


def _rows(document: Any, options: Options, size: int, broken: type[Exception]) -> Iterator[Record]:
    told = document.get_metadata_dict()
    date = iso_date(told.get("CreationDate", "").removeprefix("D:"))
    about = {"title": told.get("Title", ""), "author": told.get("Author", ""), "date": date, "pages": len(document)}
    texts = []
    for number in range(1, len(document) + 1):
        try:
            text = _text(document[number - 1])
        except broken as error:
            yield Record(None, number, 0, "malformed", f"page {number}: {error}")
            continue
        if options.per == "file":
            texts.append(text)
        elif text:
            yield Record({"text": text, **about, "page": number}, number, size // len(document))
        else:
            yield Record(None, number, size // len(document), "no_text", SCAN)
    if options.per == "page":
        return
    whole = "\n\n".join(filter(None, texts))
    if whole:
        yield Record({"text": whole, **about}, len(document), size)
    else:
        yield Record(None, max(1, len(document)), size, "no_text", SCAN)


def _text(page: Any) -> str:
    content = page.get_textpage()
    try:
        text: str = content.get_text_range()
    finally:
        content.close()
        page.close()
    return _invalid.sub("", _hyphen.sub("", text)).replace("\r\n", "\n").strip()


plugin = Pdf()
