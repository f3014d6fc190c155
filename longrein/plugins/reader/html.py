"""HTML pages: the main text without menus, sidebars and footers, with title, language and date.

The text is Resiliparse's, which DataComp-LM (arXiv:2406.11794) found as good for training as trafilatura's.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from longrein.core.blob import Blob
from longrein.core.ports import Record
from longrein.plugins.reader._document import decoded, held, iso_date, package

VERSION = 1
HEAD_BYTES = 4096  # where a page says its encoding
WRAP = "> div"
MANY_TAGS, MOST_DEEP = 5000, 512  # browsers nest no deeper either
SKIPPED = [
    f"body {WRAP * 3} > header",
    "[role=banner]",
    "[role=contentinfo]",
]  # what Resiliparse takes for the title of an article
_tag = re.compile(
    r"<(/?)(?!(?:area|base|br|col|embed|hr|img|input|link|meta|source|track|wbr|li|p|td|tr|th|dd|dt|option)\b)[a-zA-Z]"
)
# Lists less than four elements deep are taken for menus, which costs simple pages theirs: all are put deeper.
_body = re.compile(r"<body\b[^>]*>", re.I)
_charset = re.compile(rb"""charset\s*=\s*["']?\s*([\w-]+)""", re.I)
DATES = (
    'meta[property="article:published_time"], meta[itemprop="datePublished"], meta[name="pubdate"], '
    'meta[name="publishdate"], meta[name="date" i], meta[name="dc.date" i], meta[name="dcterms.created" i]',
    "time[datetime]",
)
_written = re.compile(r'"datePublished"\s*:\s*"([^"]+)"')  # JSON-LD


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    main: bool = True  # False keeps all visible text, menus too
    encoding: str = ""  # "" finds out: mark, UTF-8, what the page says, what is likely
    max_bytes: int = 16 << 20  # of a page; a larger one is rejected


class Html:
    suffixes = (".html", ".htm", ".xhtml", ".shtml")

    def read(self, blob: Blob, options: Mapping[str, Any]) -> Iterator[Record]:
        """One row: text, title, language and date ("" where the page does not say), and `replaced`, how many
        characters could not be decoded."""
        settings = msgspec.convert(options, Options)
        data = held(blob, settings.max_bytes)
        yield data if isinstance(data, Record) else page(data, settings)


def page(data: bytes, options: Options, declared: str = "") -> Record:
    """A page as a record. declared: the encoding that its HTTP header names."""
    found = _charset.search(data[:HEAD_BYTES])
    try:
        source, replaced = decoded(data, options.encoding or declared or (found[1].decode() if found else ""))
    except UnicodeError as error:
        return Record(None, 1, len(data), "bad_encoding", str(error))
    parse = package("resiliparse.parse.html", "html")
    extract = package("resiliparse.extract.html2text", "html").extract_plain_text
    tree = parse.HTMLTree.parse(_body.sub(r"\g<0><div><div><div>", source, count=1))
    # Its search for the main text takes time quadratic in the depth of the tree
    main = options.main and (source.count("<") < MANY_TAGS or _depth(source) <= MOST_DEEP)
    text = extract(tree, main_content=main, alt_texts=False, skip_elements=SKIPPED if main else None).strip()
    if not text:
        return Record(None, 1, len(data), "no_text", "the page has no main text", tree.title or "")
    root = tree.document.query_selector("html")
    language = (root.getattr("lang") or root.getattr("xml:lang") or "") if root else ""
    row = {"text": text, "title": " ".join((tree.title or "").split()), "language": language.strip()}
    return Record(row | {"date": _date(tree, source), "replaced": replaced}, 1, len(data))


def _depth(source: str) -> int:
    """How deep elements are nested, those left out that may stay open."""
    depth = deepest = 0
    for tag in _tag.finditer(source):
        depth += -1 if tag[1] else 1
        deepest = max(deepest, depth)
    return deepest


def _date(tree: Any, source: str) -> str:
    for selector in DATES:
        found = tree.document.query_selector(selector)
        if found and (date := iso_date(found.getattr("content") or found.getattr("datetime") or "")):
            return date
    written = _written.search(source)
    return iso_date(written[1]) if written else ""


plugin = Html()
