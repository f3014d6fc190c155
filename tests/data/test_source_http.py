"""Files on a real web server that cuts, redirects, changes, answers 304, or never."""

import gzip
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from longrein.core.errors import Error
from longrein.data import source
from longrein.data.source import Source

pytest.importorskip("httpx")
from longrein.plugins.source import http

LINES = "".join(json.dumps({"text": f"第 {i} 行"}, ensure_ascii=False) + "\n" for i in range(5000)).encode()
QUICK = {"wait_s": 0.001, "timeout_s": 5}


class Server:
    """Answers by path; remembers what was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, Callable[[Any], None]] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.closing = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                server.asked.append((self.path, {k.lower(): v for k, v in self.headers.items()}))
                server.answers.get(self.path.partition("?")[0], lambda r: send(r, b"no", status=404))(self)

            def log_message(self, *_: Any) -> None: ...

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def file(self, path: str, body: bytes, tag: str = "", **headers: str) -> None:
        """With validators, so with 304, and ranges."""

        def answer(request: Any) -> None:
            if tag and request.headers.get("If-None-Match") == tag:
                return send(request, b"", status=304, ETag=tag)
            wanted = request.headers.get("Range", "")
            if tag and wanted and request.headers.get("If-Range") == tag:
                start = int(wanted.removeprefix("bytes=").rstrip("-"))
                told = {"Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}", "ETag": tag}
                return send(request, body[start:], status=206, **told, **headers)
            return send(request, body, **({"ETag": tag} if tag else {}), **headers)

        self.answers[path] = answer


def send(request: Any, body: bytes, status: int = 200, length: int | None = None, **headers: str) -> None:
    request.send_response(status)
    for name, value in headers.items():
        request.send_header(name.replace("_", "-"), value)
    if status != 304:
        request.send_header("Content-Length", str(len(body) if length is None else length))
    request.end_headers()
    try:
        request.wfile.write(body)
    except OSError:  # whoever asked has gone
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.closing.set()
    made.http.shutdown()
    made.http.server_close()


def find(root: Path, *urls: str, fetch: bool = True, reader: str = "", **remote: Any) -> list[source.File]:
    return source.find([Source(path=u, reader=reader, remote=QUICK | remote) for u in urls], root, fetch=fetch)


def texts(files: list[source.File]) -> list[str]:
    return [r.row["text"] for f in files for r in source.records(f)]


def test_fetched_once_and_asked_again(server, tmp_path):
    server.file("/数据.jsonl".encode().decode("latin-1"), b"", '"x"')
    server.file("/a.jsonl", LINES, '"one"')
    url = f"{server.url}/a.jsonl"
    planned = find(tmp_path, url, fetch=False)
    (file,) = find(tmp_path, url)
    assert file.name == url and len(texts([file])) == 5000
    assert find(tmp_path, url, fetch=False) == planned
    server.asked.clear()
    assert find(tmp_path, url) == [file]
    assert [a[1]["if-none-match"] for a in server.asked] == ['"one"']  # and no body was sent
    server.file("/a.jsonl", b'{"text": "new"}\n', '"two"')
    assert find(tmp_path, url, fetch=False) != planned
    assert texts(find(tmp_path, url)) == ["new"]


def test_without_validators_the_content_tells(server, tmp_path):
    server.file("/a.jsonl", b'{"text": "a"}\n')
    planned = find(tmp_path, f"{server.url}/a.jsonl", fetch=False)
    assert find(tmp_path, f"{server.url}/a.jsonl") == planned
    server.file("/a.jsonl", b'{"text": "b"}\n')
    assert find(tmp_path, f"{server.url}/a.jsonl", fetch=False) != planned
    assert texts(find(tmp_path, f"{server.url}/a.jsonl")) == ["b"]


def test_a_cut_is_resumed(server, tmp_path):
    sent: list[int] = []

    def cut(request: Any) -> None:
        """Breaks off after 50,000 bytes, each time; knows ranges."""
        start = int(request.headers.get("Range", "bytes=0-")[6:-1])
        sent.append(start)
        told = {"Content-Range": f"bytes {start}-{len(LINES) - 1}/{len(LINES)}"} if start else {}
        rest = LINES[start:]
        send(request, rest[:50_000], status=206 if start else 200, length=len(rest), ETag='"v"', **told)
        request.close_connection = True

    server.answers["/a.jsonl"] = cut
    assert len(texts(find(tmp_path, f"{server.url}/a.jsonl", retries=1))) == 5000
    assert sent == [0, *range(0, len(LINES), 50_000)]  # the first was the question whether it changed


def test_a_cut_without_ranges_ends(server, tmp_path):
    def cut(request: Any) -> None:
        send(request, LINES[:50_000], length=len(LINES), ETag='"v"')
        request.close_connection = True

    server.answers["/a.jsonl"] = cut
    with pytest.raises(Error) as raised:
        find(tmp_path, f"{server.url}/a.jsonl", retries=2)
    assert raised.value.code == "unavailable" and len(server.asked) == 1 + 1 + 2 + 0
    server.file("/a.jsonl", LINES, '"v"')
    assert len(texts(find(tmp_path, f"{server.url}/a.jsonl", retries=2))) == 5000
    assert server.asked[-1][1]["range"] == "bytes=50000-"  # what was there was used


def test_a_file_that_changes_between(server, tmp_path):
    tags = iter(['"one"', '"two"', '"two"', '"two"'])
    server.answers["/a.jsonl"] = lambda r: send(r, b'{"text": "a"}\n', ETag=next(tags))
    with pytest.raises(Error) as raised:
        find(tmp_path, f"{server.url}/a.jsonl")
    assert raised.value.code == "conflict"
    assert texts(find(tmp_path, f"{server.url}/a.jsonl")) == ["a"]


def test_busy_servers_are_asked_again(server, tmp_path):
    left = [503, 429, 500]

    def busy(request: Any) -> None:
        if left:
            return send(request, b"", status=left.pop(), Retry_After="0")
        return send(request, b'{"text": "a"}\n', ETag='"v"')

    server.answers["/a.jsonl"] = busy
    assert texts(find(tmp_path, f"{server.url}/a.jsonl")) == ["a"]


def test_redirects(server, tmp_path):
    server.file("/b.jsonl", b'{"text": "b"}\n', '"v"')
    server.answers["/a.jsonl"] = lambda r: send(r, b"", status=302, Location="/b.jsonl")
    server.answers["/loop.jsonl"] = lambda r: send(r, b"", status=302, Location="/loop.jsonl")
    server.answers["/ftp.jsonl"] = lambda r: send(r, b"", status=302, Location="file:///etc/passwd")
    (file,) = find(tmp_path, f"{server.url}/a.jsonl")
    assert file.name.endswith("/a.jsonl") and texts([file]) == ["b"]
    for path, message in (("loop", "more than 5 times"), ("ftp", "something else than the web")):
        with pytest.raises(Error, match=message):
            find(tmp_path, f"{server.url}/{path}.jsonl")


def test_credentials_stay_with_their_host(server, tmp_path, monkeypatch):
    other = Server()
    other.file("/b.jsonl", b'{"text": "b"}\n', '"v"')
    server.answers["/a.jsonl"] = lambda r: send(r, b"", status=302, Location=f"{other.url}/b.jsonl")
    monkeypatch.setenv("TOKEN", "s3cret-t0ken")
    headers = {"Authorization": "Bearer ${TOKEN}"}
    assert texts(find(tmp_path, f"{server.url}/a.jsonl?key=${{TOKEN}}", headers=headers)) == ["b"]
    assert server.asked[0][1]["authorization"] == "Bearer s3cret-t0ken" and "s3cret" in server.asked[0][0]
    assert all("authorization" not in asked for _, asked in other.asked)
    (file,) = find(tmp_path, f"{server.url}/a.jsonl?key=${{TOKEN}}", headers=headers)
    assert "s3cret" not in str(file)
    with pytest.raises(Error, match="Authorization stands in"):
        find(tmp_path, f"{server.url}/a.jsonl", headers={"Authorization": "Bearer abc"})
    other.http.shutdown()
    other.http.server_close()


def test_the_public_does_not_lead_into_private_networks(server, tmp_path):
    server.file("/b.jsonl", b"{}\n", '"v"')
    plugin = http.plugin(f"{server.url}/b.jsonl", QUICK, tmp_path)
    plugin.private = False  # as after a first answer from a public address
    with pytest.raises(Error, match="private network"):
        list(plugin.scan({}))


@pytest.mark.parametrize(
    ("path", "headers", "reader"),
    [
        ("/export", {"Content_Type": "application/x-ndjson; charset=utf-8"}, ".jsonl"),
        ("/v1.0", {"Content_Type": "application/jsonl"}, ".jsonl"),
        (
            "/get.php",
            {"Content_Type": "application/octet-stream", "Content_Disposition": 'a; filename="x.jsonl"'},
            ".jsonl",
        ),
        ("/", {"Content_Type": "text/csv"}, ".csv"),
        ("/page", {"Content_Type": "text/html"}, ".html"),
        ("/a%20b.jsonl", {"Content_Type": "text/plain"}, ".jsonl"),
    ],
)
def test_the_type_where_there_is_no_suffix(server, tmp_path, path, headers, reader):
    server.file(path, b'{"text": "a"}\n', '"v"', **headers)
    for _ in range(2):  # asked anew, and unchanged
        (file,) = find(tmp_path, server.url + path)
        assert reader in source.reader_of(file).suffixes


def test_packed(server, tmp_path):
    server.file("/a.jsonl.gz", gzip.compress(LINES), '"a"', Content_Type="application/gzip")
    server.file("/b.jsonl", gzip.compress(LINES), '"b"', Content_Encoding="gzip")
    found = find(tmp_path, f"{server.url}/a.jsonl.gz", f"{server.url}/b.jsonl")
    assert len(texts(found)) == 10_000


def test_a_list_of_urls(server, tmp_path):
    server.file("/lists/all.txt", f"# ours\na.jsonl\n\n{server.url}/b.jsonl\n".encode(), '"l"')
    server.file("/lists/a.jsonl", b'{"text": "a"}\n', '"a"')
    server.file("/b.jsonl", b'{"text": "b"}\n', '"b"')
    found = find(tmp_path, f"{server.url}/lists/all.txt", manifest=True)
    assert [f.name.removeprefix(server.url) for f in found] == ["/lists/a.jsonl", "/b.jsonl"] and texts(found) == [
        "a",
        "b",
    ]
    server.file("/bad.txt", b"file:///etc/passwd\n", '"l"')
    with pytest.raises(Error, match="no URL of the web"):
        find(tmp_path, f"{server.url}/bad.txt", manifest=True)


@pytest.mark.parametrize(
    ("status", "code"),
    [(401, "unauthorized"), (403, "forbidden"), (404, "not_found"), (410, "not_found"), (418, "bad_gateway")],
)
def test_refusals_are_told(server, tmp_path, status, code):
    server.answers["/a.jsonl"] = lambda r: send(r, b"no", status=status)
    with pytest.raises(Error) as raised:
        find(tmp_path, f"{server.url}/a.jsonl", fetch=False)
    assert raised.value.code == code and raised.value.hint


def test_a_page_in_place_of_data(server, tmp_path):
    server.file("/a.jsonl", b"<html>Please log in</html>", '"v"', Content_Type="text/html; charset=utf-8")
    with pytest.raises(Error, match=r"a web page \(text/html\) in place of data"):
        find(tmp_path, f"{server.url}/a.jsonl", fetch=False)


def test_no_end_and_no_answer(server, tmp_path):
    def endless(request: Any) -> None:
        request.send_response(200)
        request.end_headers()
        request.close_connection = True
        try:
            while not server.closing.is_set():
                request.wfile.write(LINES)
        except OSError:
            pass

    server.answers["/endless.jsonl"] = endless
    server.answers["/large.jsonl"] = lambda r: send(r, b"", length=1 << 50, ETag='"v"')
    server.answers["/silent.jsonl"] = lambda r: server.closing.wait(10) and None
    for path in ("endless", "large"):
        with pytest.raises(Error) as raised:
            find(tmp_path, f"{server.url}/{path}.jsonl", max_bytes=1_000_000)
        assert raised.value.code == "too_large"
    with pytest.raises(Error) as raised:
        find(tmp_path, f"{server.url}/silent.jsonl", timeout_s=0.2)
    assert raised.value.code == "timeout"
    with pytest.raises(Error) as raised:
        find(tmp_path, "http://127.0.0.1:9/a.jsonl", retries=1)
    assert raised.value.code == "unavailable"
    for strange in ("http://[/a.jsonl", "http://"):
        with pytest.raises(Error):
            find(tmp_path, strange, retries=0)
