"""DOCX (Office Open XML, ISO/IEC 29500): the text in reading order, tables row by row, with title, author and date.

Read by its XML, not by a library of Word's objects: those leave out inserted text, content controls and text boxes.
"""

import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO
from xml.parsers import expat

import msgspec

from longrein.core.blob import Blob, seekable
from longrein.core.errors import Error
from longrein.core.ports import Record
from longrein.plugins.reader._document import iso_date

VERSION = 1
OLE = b"\xd0\xcf\x11\xe0"  # begins an encrypted document, and one of Word before 2007
BLOCK_BYTES = 1 << 16
SKIPPED = ("moveFrom", "Fallback")  # text that stands elsewhere too
SIGNS = {"tab": "\t", "br": "\n", "cr": "\n", "noBreakHyphen": "-"}
NOTES = ("word/footnotes.xml", "word/endnotes.xml")
_main = re.compile(r'Type="[^"]*/officeDocument"[^>]*Target="/?([^"]+)"|Target="/?([^"]+)"[^>]*/officeDocument"')


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    max_bytes: int = 256 << 20  # of its text as XML; a larger document is rejected


class Docx:
    suffixes = (".docx", ".docm")

    def read(self, blob: Blob, options: Mapping[str, Any]) -> Iterator[Record]:
        """One row: text (an empty line between paragraphs, " | " between a table's cells; notes at the end), title,
        author, date. Deleted text, headers and footers are left out."""
        settings = msgspec.convert(options, Options)
        with seekable(blob) as (file, size):
            start = file.read(len(OLE))
            file.seek(0)
            if start == OLE:
                yield Record(None, 1, size, "encrypted", "encrypted, or of Word before 2007: save it again as DOCX")
                return
            try:
                yield _row(file, size, settings.max_bytes)
            except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, NotImplementedError, RuntimeError,
                    expat.ExpatError) as error:  # fmt: skip
                message = f"{blob.name} cannot be read as DOCX: {error}"
                raise Error("invalid", message, "check the file") from error


def _row(file: BinaryIO, size: int, limit: int) -> Record:
    with zipfile.ZipFile(file) as package:
        relations = package.open("_rels/.rels").read(BLOCK_BYTES).decode("utf-8", "replace")
        found = _main.search(relations)
        main = (found[1] or found[2]) if found else "word/document.xml"
        parts = [main, *(name for name in NOTES if name in package.namelist())]
        if sum(package.getinfo(name).file_size for name in parts) > limit:
            return Record(None, 1, size, "too_long", f"more than {limit:,} bytes of XML, which is max_bytes")
        text = "\n\n".join(filter(None, (_Text(package, name).read(limit) for name in parts)))
        about = _properties(package)
    if not text:
        return Record(None, 1, size, "no_text", "no text in it; it may hold pictures")
    return Record({"text": text, **about}, 1, size)


class _Xml:
    """Parses a part by expat, in pieces. A document type is refused: Office writes none, and entities can be a bomb."""

    def __init__(self, package: zipfile.ZipFile, name: str) -> None:
        self.package, self.name = package, name
        self.parser = expat.ParserCreate(namespace_separator="}")
        self.parser.StartElementHandler = lambda tag, values: self.start(tag.rpartition("}")[2], values)
        self.parser.EndElementHandler = lambda tag: self.end(tag.rpartition("}")[2])
        self.parser.CharacterDataHandler = self.data
        self.parser.StartDoctypeDeclHandler = self.refuse

    def parse(self, limit: int) -> None:
        with self.package.open(self.name) as part:
            while block := part.read(BLOCK_BYTES):
                limit -= len(block)
                if limit < 0:
                    raise zipfile.BadZipFile(f"{self.name} is larger than it says")
                self.parser.Parse(block)
            self.parser.Parse(b"", True)

    def refuse(self, *_: object) -> None:
        raise zipfile.BadZipFile(f"{self.name} has a document type")

    def start(self, tag: str, values: dict[str, str]) -> None: ...

    def end(self, tag: str) -> None: ...

    def data(self, text: str) -> None: ...


class _Text(_Xml):
    """A part's paragraphs, cells and rows."""

    def read(self, limit: int) -> str:
        self.blocks: list[str] = []  # done
        self.tables: list[list[str]] = []  # the rows of the tables one is in
        self.cells: list[list[list[str]]] = []  # the cells of the rows one is in, and their paragraphs
        self.lines: list[list[str]] = []  # the paragraphs one is in: a text box is in a paragraph
        self.taking, self.skipping = False, 0
        self.parse(limit)
        return "\n\n".join(self.blocks)

    def start(self, tag: str, values: dict[str, str]) -> None:
        if tag in SKIPPED or self.skipping:
            self.skipping += 1
        elif tag == "p":
            self.lines.append([])
        elif tag == "tbl":
            self.tables.append([])
        elif tag == "tr":
            self.cells.append([])
        elif tag == "tc" and self.cells:
            self.cells[-1].append([])
        elif tag == "t":
            self.taking = True
        elif self.lines and tag in SIGNS:
            self.lines[-1].append(SIGNS[tag])

    def end(self, tag: str) -> None:
        if self.skipping:
            self.skipping -= 1
        elif tag == "t":
            self.taking = False
        elif tag == "p" and self.lines:
            self.add("".join(self.lines.pop()).strip())
        elif tag == "tr" and self.cells and self.tables:
            self.tables[-1].append(" | ".join(" ".join(cell) for cell in self.cells.pop()))
        elif tag == "tbl" and self.tables:
            self.add("\n".join(row for row in self.tables.pop() if row.strip(" |")))

    def data(self, text: str) -> None:
        if self.taking and self.lines and not self.skipping:
            self.lines[-1].append(text)

    def add(self, text: str) -> None:
        """Into the cell one is in, or as a block of its own."""
        if text and self.cells and self.cells[-1]:
            self.cells[-1][-1].append(text)
        elif text:
            self.blocks.append(text)


class _Properties(_Xml):
    """The elements of docProps/core.xml."""

    def read(self) -> dict[str, str]:
        self.found: dict[str, str] = {}
        self.tag = ""
        self.parse(BLOCK_BYTES)
        return self.found

    def start(self, tag: str, values: dict[str, str]) -> None:
        self.tag = tag

    def data(self, text: str) -> None:
        self.found[self.tag] = self.found.get(self.tag, "") + text


def _properties(package: zipfile.ZipFile) -> dict[str, Any]:
    name = "docProps/core.xml"
    try:
        told = _Properties(package, name).read() if name in package.namelist() else {}
    except (zipfile.BadZipFile, expat.ExpatError):  # the text is worth more
        told = {}
    date = iso_date(told.get("created", ""))
    return {"title": told.get("title", "").strip(), "author": told.get("creator", "").strip(), "date": date}


plugin = Docx()
