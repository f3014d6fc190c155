"""Markdown, HTML, PDF, DOCX and WARC: documents made by real tools, and what hostile ones try."""

import gzip
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from longrein.core import plugins
from longrein.core.errors import Error
from longrein.core.ports import Record
from longrein.data import source
from longrein.data.source import File

PARAGRAPH = "The warehouse ships every order within two days, and a tracking number is sent by mail. " * 4


def read(path: Path, content: bytes | str | None = None, **options: Any) -> list[Record]:
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(source.records(File(path, path.name, "", options)))


def told(records: list[Record]) -> list[tuple[Any, int]]:
    return [(r.reason or r.row, r.line) for r in records]


# -- Markdown

GUIDE = """---
title: The guide
tags: [a, b]
date: 2026-11-22
---
Before any heading.

# Install

Run `pip`.

```bash
# not a heading
```

## On Windows

Run it.

Second part
===========

The end.
"""


def test_markdown_front_matter_and_title(tmp_path):
    (record,) = read(tmp_path / "a.md", GUIDE)
    assert {k: v for k, v in record.row.items() if k != "text"} == {
        "title": "The guide", "tags": ["a", "b"], "date": "2026-11-22",
    }  # fmt: skip
    assert record.row["text"].startswith("Before any heading.") and record.row["text"].endswith("The end.")
    assert read(tmp_path / "b.md", "# Hi there #\n\ntext")[0].row == {
        "title": "Hi there",
        "text": "# Hi there #\n\ntext",
    }
    toml = read(tmp_path / "c.md", '+++\ntitle = "T"\nweight = 3\n+++\nbody\n')
    assert toml[0].row == {"title": "T", "weight": 3, "text": "body"}
    rule = "---\n\nnot front matter\n\n---\n"
    assert read(tmp_path / "d.md", rule)[0].row["text"] == rule.strip()


def test_markdown_by_section(tmp_path):
    records = read(tmp_path / "a.md", GUIDE, per="section")
    assert [(r.row["section"], r.row["text"].split("\n")[0], r.line) for r in records if r.row] == [
        ("", "Before any heading.", 6),
        ("Install", "# Install", 8),
        ("Install > On Windows", "## On Windows", 16),
        ("Second part", "Second part", 20),
    ]
    assert "# not a heading" in records[1].row["text"]
    by_chapter = read(tmp_path / "a.md", GUIDE, per="section", level=1)
    assert [r.row["section"] for r in by_chapter if r.row] == ["", "Install", "Second part"]


def test_markdown_in_chinese_encodings_and_without_text(tmp_path):
    text = "# 安装\n\n我们的产品可以在这里下载，请按照说明进行安装。"
    assert read(tmp_path / "a.md", text.encode("gb18030"))[0].row == {"title": "安装", "text": text}
    assert told(read(tmp_path / "b.md", "---\ntitle: x\n---\n\n")) == [("blank", 4)]
    assert told(read(tmp_path / "c.md", "")) == told(read(tmp_path / "d.md", b"\xef\xbb\xbf")) == [("blank", 1)]


@pytest.mark.parametrize(
    "front",
    [
        "a: [1, 2",
        "!!python/object/apply:os.system ['touch owned']",
        "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]",
        "[" * 20_000,
    ],
)
def test_front_matter_that_is_wrong_or_hostile(tmp_path, front, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert told(read(tmp_path / "a.md", f"---\n{front}\n---\nbody")) == [("malformed", 1)]
    assert not (tmp_path / "owned").exists()


# -- HTML


def page(body: str, head: str = "", lang: str = "en") -> str:
    return f'<!DOCTYPE html><html lang="{lang}"><head>{head}</head><body>{body}</body></html>'


ARTICLE = page(
    f"""<nav><a href="/">Home</a> <a href="/shop">Shop</a> <a href="/about">About us</a></nav>
    <header>Cookie banner: accept all</header>
    <main><article><h1>Shipping</h1><p>{PARAGRAPH}</p>
    <ul><li>Returns are free for thirty days.</li><li>Lamps are sent separately.</li></ul>
    <p>{PARAGRAPH}</p></article></main>
    <aside class="sidebar">Related: ten other pages</aside><script>var tracked = 1;</script>
    <footer>Copyright 2026. All rights reserved. <a href="/imprint">Imprint</a></footer>""",
    '<title>Shipping\n &amp; returns</title><meta property="article:published_time" content="2026-03-04T05:06:07Z">',
)


def test_html_main_text_title_language_and_date(tmp_path):
    (record,) = read(tmp_path / "a.html", ARTICLE)
    row = record.row
    assert (row["title"], row["language"], row["date"], row["replaced"]) == (
        "Shipping & returns",
        "en",
        "2026-03-04",
        0,
    )
    assert (
        row["text"].startswith("Shipping")
        and row["text"].count("tracking number") == 8
        and "Returns are free" in row["text"]
    )
    for boilerplate in ("Cookie", "Home", "Related", "tracked", "Copyright", "Imprint"):
        assert boilerplate not in row["text"]
    plain = page(f"<h1>Rules</h1><p>{PARAGRAPH}</p><ul><li>Be kind.</li></ul><p>{PARAGRAPH}</p>")
    assert "Be kind." in read(tmp_path / "b.html", plain)[0].row["text"]
    assert "Home" in read(tmp_path / "a.html", None, main=False)[0].row["text"]


@pytest.mark.parametrize("encoding", ["utf-8", "gb18030", "big5", "utf-16", "utf-8-sig"])
@pytest.mark.parametrize("said", ["", "gb2312", "utf-8", "nonsense-8"])
def test_html_encodings_whatever_the_page_says(tmp_path, encoding, said):
    text = "我們的產品可以在這裡下載" if encoding == "big5" else "我们的产品可以在这里下载，请按照说明进行安装。"
    head = f'<meta charset="{said}">' if said else ""
    if encoding == "big5" and said == "gb2312":
        pytest.skip("Big5 text that claims to be GB 2312 decodes as that")
    (record,) = read(tmp_path / "a.html", page(f"<p>{text * 5}</p>", head, "zh-CN").encode(encoding))
    assert record.row["text"] == text * 5 and record.row["language"] == "zh-CN"


def test_html_with_a_few_wrong_bytes_counts_them(tmp_path):
    good = page(f"<p>{PARAGRAPH}</p><p>{'价格' * 50}</p>").encode()
    (record,) = read(tmp_path / "a.html", good.replace("价格".encode(), b"\xe4\xbb\xff", 1))
    assert record.row["replaced"] >= 1 and record.row["text"].count("\ufffd") == record.row["replaced"]
    assert told(read(tmp_path / "b.html", b"<p>" + bytes(range(128, 256)) * 40)) == [("bad_encoding", 1)]


def test_html_that_has_no_text_or_too_much(tmp_path):
    assert told(read(tmp_path / "a.html", page("<script>x()</script><img src=a.png>"))) == [("no_text", 1)]
    assert told(read(tmp_path / "b.html", ARTICLE, max_bytes=100)) == [("too_long", 1)]
    assert told(read(tmp_path / "c.html", b"")) == [("blank", 1)]


def test_html_nested_deeply_does_not_end_the_process(tmp_path):
    for deep in ("<div>" * 100_000 + PARAGRAPH, "<b><i>" * 5_000 + PARAGRAPH, "<table><tr><td>" * 5_000 + PARAGRAPH):
        (record,) = read(tmp_path / "a.html", page(deep))
        assert record.row and "tracking number" in record.row["text"]


# -- PDF


def pdf(*pages: str, **options: Any) -> bytes:
    from reportlab.pdfbase import pdfmetrics
    from reportlab.pdfbase.cidfonts import UnicodeCIDFont
    from reportlab.pdfgen.canvas import Canvas

    pdfmetrics.registerFont(UnicodeCIDFont("STSong-Light"))
    sink = io.BytesIO()
    canvas = Canvas(sink, **options)
    canvas.setTitle("Manual 手册")
    canvas.setAuthor("Ann")
    for text in pages:
        canvas.setFont("STSong-Light", 11)
        for number, line in enumerate(text.split("\n")):
            canvas.drawString(72, 760 - 14 * number, line)
        canvas.rect(10, 10, 20, 20)
        canvas.showPage()
    canvas.save()
    return sink.getvalue()


def test_pdf_whole_and_by_page(tmp_path):
    content = pdf("First page.\n第一页的内容", "A long hyphen-\nated word.", "")
    (record,) = read(tmp_path / "a.pdf", content)
    assert record.row["text"] == "First page.\n第一页的内容\n\nA long hyphenated word."
    assert (record.row["title"], record.row["author"], record.row["pages"]) == ("Manual 手册", "Ann", 3)
    assert len(record.row["date"]) == 10 and record.bytes == len(content)
    records = read(tmp_path / "a.pdf", None, per="page")
    assert [(r.row and r.row["page"], r.reason, r.line) for r in records] == [
        (1, "", 1),
        (2, "", 2),
        (None, "no_text", 3),
    ]


def test_pdf_without_text_encrypted_or_damaged(tmp_path):
    from reportlab.lib.pdfencrypt import StandardEncryption

    (scan,) = read(tmp_path / "a.pdf", pdf("", ""))
    assert scan.reason == "no_text" and "OCR" in scan.detail
    content = pdf("secret text", encrypt=StandardEncryption("pass", strength=128))
    assert told(read(tmp_path / "b.pdf", content)) == [("encrypted", 1)]
    assert read(tmp_path / "b.pdf", None, password="pass")[0].row["text"] == "secret text"
    for wrong in (b"", b"%PDF-1.7 and no more", content[:300]):
        assert told(read(tmp_path / "c.pdf", wrong)) == [("unreadable", 1)]


def test_pdf_in_an_archive(tmp_path):
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("手册/a.pdf", pdf("inside"))
    (record,) = read(tmp_path / "x.zip", sink.getvalue())
    assert record.row["text"] == "inside" and record.member == "手册/a.pdf"


# -- DOCX


def docx() -> bytes:
    import docx as word

    document = word.Document()
    document.core_properties.title, document.core_properties.author = "合同", "Ann"
    document.add_heading("Contract", 1)
    document.add_paragraph("第一条：双方同意。")
    table = document.add_table(2, 2)
    for number, text in enumerate(["item", "price", "lamp", "10"]):
        table.cell(number // 2, number % 2).text = text
    document.add_paragraph("a\tb").add_run("\nc")
    sink = io.BytesIO()
    document.save(sink)
    return sink.getvalue()


def replaced(content: bytes, name: str, old: bytes, new: bytes) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as before, zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as after:
        for info in before.infolist():
            data = before.read(info)
            after.writestr(info.filename, data.replace(old, new, 1) if info.filename == name else data)
    return sink.getvalue()


def test_docx_paragraphs_tables_and_properties(tmp_path):
    (record,) = read(tmp_path / "a.docx", docx())
    assert record.row["text"] == "Contract\n\n第一条：双方同意。\n\nitem | price\nlamp | 10\n\na\tb\nc"
    assert (record.row["title"], record.row["author"]) == ("合同", "Ann") and len(record.row["date"]) == 10


def test_docx_text_that_word_shows_and_text_that_it_does_not(tmp_path):
    changed = (
        b"<w:p><w:ins><w:r><w:t>inserted</w:t></w:r></w:ins><w:del><w:r><w:delText>deleted</w:delText></w:r></w:del>"
        b"<w:sdt><w:sdtContent><w:r><w:t> control</w:t></w:r></w:sdtContent></w:sdt>"
        b"<w:moveFrom><w:r><w:t>moved</w:t></w:r></w:moveFrom></w:p><w:p>"
    )
    (record,) = read(tmp_path / "a.docx", replaced(docx(), "word/document.xml", b"<w:p>", changed))
    assert "inserted control" in record.row["text"]
    assert "deleted" not in record.row["text"] and "moved" not in record.row["text"]


def test_docx_that_is_hostile_encrypted_or_empty(tmp_path):
    entity = b'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b SYSTEM "file:///etc/passwd">]><w:document '
    bomb = replaced(docx(), "word/document.xml", b"<w:document ", entity)
    assert told(read(tmp_path / "a.docx", bomb)) == [("unreadable", 1)]
    assert told(read(tmp_path / "b.docx", docx(), max_bytes=500)) == [("too_long", 1)]
    assert told(read(tmp_path / "c.docx", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600))) == [("encrypted", 1)]
    for wrong in (b"", b"PK\x03\x04", docx()[:2000], replaced(docx(), "word/document.xml", b"<w:p>", b"<w:q>")):
        assert told(read(tmp_path / "d.docx", wrong)) == [("unreadable", 1)]
    import docx as word

    word.Document().save(str(tmp_path / "e.docx"))
    assert told(read(tmp_path / "e.docx")) == [("no_text", 1)]


# -- WARC


def warc(*answers: tuple[str, str, bytes], status: str = "200 OK") -> bytes:
    out = b"WARC/1.0\r\nWARC-Type: warcinfo\r\nContent-Length: 0\r\n\r\n\r\n\r\n"
    for url, kind, body in answers:
        http = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n\r\n".encode() + body
        out += (
            f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: {url}\r\nWARC-Date: 2026-11-22T00:00:00Z\r\n"
            f"Content-Type: application/http; msgtype=response\r\nContent-Length: {len(http)}\r\n\r\n"
        ).encode() + http + b"\r\n\r\n"  # fmt: skip
    return out


ANSWERS = (
    ("http://a.example/1", "text/html; charset=utf-8", ARTICLE.encode()),
    ("http://a.example/2", "text/html; charset=gb2312", page("<p>我们的产品在这里</p>").encode("gb18030")),
    ("http://a.example/3.png", "image/png", b"\x89PNG"),
    ("http://a.example/4.txt", "text/plain", b"plain text"),
)


@pytest.mark.parametrize("suffix", [".warc", ".warc.gz"])
def test_warc_pages_with_their_addresses(tmp_path, suffix):
    content = warc(*ANSWERS)
    if suffix == ".warc.gz":  # a member of its own for each record, as crawlers write them
        content = b"".join(gzip.compress(b"WARC/1.0" + part) for part in content.split(b"WARC/1.0")[1:])
    records = read(tmp_path / f"a{suffix}", content)
    assert [(r.row and r.row["url"], r.reason, r.line) for r in records] == [
        ("http://a.example/1", "", 1),
        ("http://a.example/2", "", 2),
        (None, "not_text", 3),
        ("http://a.example/4.txt", "", 4),
    ]  # fmt: skip
    assert records[0].row["title"] == "Shipping & returns" and records[0].row["fetched"] == "2026-11-22T00:00:00Z"
    assert records[1].row["text"] == "我们的产品在这里" and records[3].row["text"] == "plain text"
    assert records[2].raw == "http://a.example/3.png"


def test_warc_compressed_answers_errors_and_limits(tmp_path):
    packed = gzip.compress(ARTICLE.encode())
    http = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Encoding: gzip\r\n\r\n" + packed
    record = (
        b"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: http://a.example/\r\nContent-Type: application/http\r\n"
        b"Content-Length: %d\r\n\r\n%s\r\n\r\n" % (len(http), http)
    )
    assert read(tmp_path / "a.warc", record)[0].row["title"] == "Shipping & returns"
    assert told(read(tmp_path / "b.warc", warc(*ANSWERS[:1], status="404 Not Found"))) == [("http_status", 1)]
    assert told(read(tmp_path / "c.warc", warc(*ANSWERS[:1]), max_bytes=100)) == [("too_long", 1)]


def test_warc_that_breaks_off_or_is_none(tmp_path):
    content = warc(*ANSWERS)
    half = read(tmp_path / "a.warc", content[: content.index(b"http://a.example/3") - 120])
    assert next(r.row["url"] for r in half if r.row) == "http://a.example/1"
    packed = gzip.compress(content, 1)
    assert [r.reason for r in read(tmp_path / "a.warc.gz", packed[: len(packed) // 2])][-1] == "unreadable"
    assert told(read(tmp_path / "b.warc", b"garbage\r\n" * 99)) == [("unreadable", 1)]


# -- all


@pytest.mark.parametrize(("name", "module"), [("html", "resiliparse"), ("pdf", "pypdfium2"), ("warc", "fastwarc")])
def test_a_missing_package_names_the_extra(tmp_path, name, module, monkeypatch):
    import sys

    for loaded in [m for m in sys.modules if m.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, module, None)
    path = tmp_path / f"a.{name}"
    path.write_bytes(ARTICLE.encode())
    with pytest.raises(Error, match=f"needs the package '{module}'") as caught:
        read(path)
    assert caught.value.code == "missing_package" and f"longrein[{name}]" in caught.value.hint


def test_their_packages_are_imported_with_the_first_file_only():
    import subprocess
    import sys

    script = (
        "import sys\nfrom longrein.core import plugins\n"
        "[plugins.load('reader', n) for n in ('html', 'pdf', 'docx', 'warc', 'markdown')]\n"
        "print([m for m in ('resiliparse', 'pypdfium2', 'fastwarc') if m in sys.modules])"
    )
    root = Path(__file__).parents[2]
    assert subprocess.check_output([sys.executable, "-c", script], cwd=root, text=True).strip() == "[]"


def test_every_document_reader_yields_what_json_can_hold(tmp_path):
    for name, content in (("a.md", GUIDE), ("a.html", ARTICLE), ("a.pdf", pdf("x")), ("a.docx", docx())):
        for record in read(tmp_path / name, content):
            json.dumps(record.row)
    assert {"html", "pdf", "docx", "warc", "markdown"} <= set(plugins.names("reader"))
