"""CSV and TSV (RFC 4180, leniently): the delimiter found, quoted line feeds kept, a lost quote survived."""

import csv
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from longrein.core.blob import Blob
from longrein.core.errors import Error
from longrein.core.ports import Piece, Record
from longrein.plugins.reader import _cut, _lines
from longrein.plugins.reader._lines import Line, lines, rejected

VERSION = 2
DELIMITERS = "\t,;|"
MAX_RECORD_LINES = 5_000  # a record over more lines has lost its closing quote
RESYNCS = 100  # lost quotes after which a file's reader stops going back, so that its cost stays linear


class Options(_lines.Options, frozen=True, forbid_unknown_fields=True, kw_only=True):
    delimiter: str = ""  # "" finds out: tab, comma, semicolon or bar, whichever the first line has most
    quote: str = '"'
    header: list[str] | None = None  # None: the first record names the columns

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("delimiter", "quote"):
            if len(getattr(self, name)) > 1:
                raise ValueError(f"the {name} {getattr(self, name)!r} is not one character")


class Csv:
    suffixes = (".csv", ".tsv", ".tab")

    def read(self, blob: Blob, options: Mapping[str, Any]) -> Iterator[Record]:
        yield from _Parser(blob, msgspec.convert(options, Options)).records()

    def split(self, path: Path, options: Mapping[str, Any], bytes: int) -> list[Piece]:
        """Only where no value is quoted: a quoted one may hold line feeds."""
        settings = msgspec.convert(options, Options)
        if settings.quote and _cut.holds(path, settings.quote.encode()):
            return []
        header, delimiter = _Parser(path, settings).columns()
        return _cut.lines(path, bytes, options, {**options, "header": header, "delimiter": delimiter})


class _Parser:
    """Feeds csv.reader line by line and remembers the lines of the record in work, to go back when a quote is lost."""

    def __init__(self, blob: Blob, options: Options) -> None:
        self.options, self.name = options, blob.name
        self.source: Iterator[Line | Record] = lines(blob, options)
        self.again: deque[Line] = deque()  # lines to be read a second time, after a lost quote
        self.current: list[Line] = []  # lines of the record in work
        self.bad: list[Record] = []  # lines that could not be decoded
        self.resyncs = 0
        self.trouble = "a quote that does not close"

    def records(self) -> Iterator[Record]:
        header = self.options.header
        for fields in self._parse(self.options.delimiter or self._sniff()):
            taken, self.current = self.current, []
            yield from self._bad()
            if fields is None or (header and len(fields) != len(header) and len(taken) > 1):
                yield self._go_back(taken)
            elif not any(map(str.strip, fields)):
                yield Record(None, taken[0].number, _size(taken), "blank", "an empty row")
            elif header is None:
                header = self._header(fields, taken[0])
            elif len(fields) != len(header):
                detail = f"{len(fields)} fields; the header has {len(header)}"
                yield rejected(taken[0].text, taken[0].number, _size(taken), "wrong_columns", detail)
            else:
                yield Record(dict(zip(header, fields, strict=True)), taken[0].number, _size(taken))
        yield from self._bad()

    def columns(self) -> tuple[list[str], str]:
        """The names of the columns, and the delimiter; once, in place of `records`."""
        delimiter = self.options.delimiter or self._sniff()
        fields = None if self.options.header else next(self._parse(delimiter), None)
        return self.options.header or self._header(fields or [], self.current[0]), delimiter

    def _parse(self, delimiter: str) -> Iterator[list[str] | None]:
        """Fields of one record after another; None where a record never ends. Starts afresh after each None."""
        csv.field_size_limit(max(csv.field_size_limit(), self.options.max_line_bytes))
        while True:
            try:
                yield from csv.reader(self._feed(), delimiter=delimiter, quotechar=self.options.quote, strict=True)
                return
            except csv.Error as error:
                self.trouble = str(error)
                yield None

    def _feed(self) -> Iterator[str]:
        size = 0
        while True:
            if not self.current:
                size = 0
            line = self.again.popleft() if self.again else self._next()
            if line is None:
                return
            self.current.append(line)
            size += line.bytes
            if len(self.current) > MAX_RECORD_LINES or size > self.options.max_line_bytes:
                return
            yield line.text + "\n"

    def _next(self) -> Line | None:
        for line in self.source:
            if isinstance(line, Line):
                return line
            self.bad.append(line)
        return None

    def _bad(self) -> Iterator[Record]:
        yield from self.bad
        self.bad.clear()

    def _go_back(self, taken: list[Line]) -> Record:
        """Reject the first line and read the others again; past RESYNCS reject them all together."""
        self.resyncs += 1
        if self.resyncs <= RESYNCS:
            self.again.extendleft(reversed(taken[1:]))
        detail = f"{self.trouble}; {len(taken)} lines looked at"
        taken = taken[: 1 if self.resyncs <= RESYNCS else None]
        return rejected(taken[0].text, taken[0].number, _size(taken), "malformed", detail)

    def _header(self, fields: list[str], line: Line) -> list[str]:
        names = [f.strip() for f in fields]
        doubled = sorted({n for n in names if names.count(n) > 1})
        if doubled:
            raise Error(
                "invalid",
                f"{self.name} line {line.number} names the column {doubled[0]!r} twice",
                "rename it, or name all columns: {path: …, options: {header: [a, b]}}",
            )
        return names

    def _sniff(self) -> str:
        first = self._next()
        if first is None:
            return ","
        self.again.append(first)
        counts = {d: len(next(csv.reader([first.text], delimiter=d))) for d in DELIMITERS}
        return max(counts, key=lambda d: counts[d]) if max(counts.values()) > 1 else ","


def _size(taken: list[Line]) -> int:
    return sum(line.bytes for line in taken)


plugin = Csv()
