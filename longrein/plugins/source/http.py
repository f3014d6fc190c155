"""Files on web servers: asked whether they changed, resumed where they broke off, their type told by the server."""

import ipaddress
import json
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

import httpx
import msgspec

from longrein.core.errors import Error
from longrein.core.ports import Object
from longrein.core.secret import Secrets, refuse_literal, refuse_password

VERSION = 1
REDIRECTS = (301, 302, 303, 307, 308)
AGAIN = (408, 425, 429, 500, 502, 503, 504)
LONGEST_WAIT_S = 30.0
MANIFEST_BYTES = 64 << 20
SETTLED_S = 2.0  # what was written more recently is told apart by its content
TYPES = {
    "application/json": ".json", "application/jsonl": ".jsonl", "application/x-ndjson": ".jsonl",
    "application/x-jsonlines": ".jsonl", "application/ndjson": ".jsonl", "text/csv": ".csv",
    "text/tab-separated-values": ".tsv", "text/plain": ".txt", "text/markdown": ".md", "text/html": ".html",
    "application/xhtml+xml": ".html", "application/pdf": ".pdf", "application/vnd.apache.parquet": ".parquet",
    "application/vnd.apache.arrow.file": ".arrow", "application/warc": ".warc", "application/zip": ".zip",
    "application/x-tar": ".tar", "application/gzip": ".gz", "application/x-gzip": ".gz", "application/zstd": ".zst",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": ".docx",
}  # fmt: skip
SUFFIXES = {*TYPES.values(), ".ndjson", ".htm", ".tab", ".pq", ".feather", ".markdown", ".wet", ".text"}
PACKED = {".gz", ".bz2", ".xz", ".zst", ".lz4", ".tgz", ".tbz2", ".txz", ".tzst"}
PAGES = ("text/html", "application/xhtml+xml")


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    headers: dict[str, str] = {}  # sent to this host only: {Authorization: "Bearer ${TOKEN}"}
    manifest: bool = False  # the URL is a list of URLs, one a line, relative to it
    timeout_s: float = 30.0  # for an answer to begin, and between two pieces of it
    max_bytes: int = 100 << 30  # of one file
    retries: int = 4  # in a row without progress
    wait_s: float = 0.5  # before the first of them; then twice as long each time
    redirects: int = 5


class Http:
    def __init__(self, url: str, options: Mapping[str, Any], project: Path) -> None:
        self.options = msgspec.convert(options, Options)
        refuse_literal(self.options.headers)
        self.secrets = Secrets()
        refuse_password(url)
        self.headers = self.secrets.fill(self.options.headers)
        if wrong := next((n for n, v in self.headers.items() if not v.isprintable()), None):
            raise Error("invalid", f"the header {wrong} holds a line feed or the like", "check the variables in it")
        self.first = self.secrets.fill(url)
        shown = urlsplit(url)
        self.urls = {shown._replace(netloc=shown.netloc.rpartition("@")[2], fragment="").geturl(): self.first}
        self.client = httpx.Client(timeout=self.options.timeout_s, follow_redirects=False)
        self.private: bool | None = None  # whether the first host is of a private network

    def scan(self, known: Mapping[str, str]) -> Iterator[Object]:
        if self.options.manifest:
            self.urls = self._manifest()
        for name, url in self.urls.items():
            yield self._patiently(lambda name=name, url=url: self._look(name, url, known.get(name, "")))

    def fetch(self, object: Object, path: Path) -> None:
        if not object.revision:
            path.unlink(missing_ok=True)
        self._patiently(lambda: self._copy(object, path), lambda: path.stat().st_size if path.exists() else 0)

    def _manifest(self) -> dict[str, str]:
        ((name, url),) = self.urls.items()
        text = b""
        with self._answer(name, url, {}) as answer:
            for piece in answer.iter_bytes():
                text += piece
                if len(text) > MANIFEST_BYTES:
                    raise Error("too_large", f"{name} is no list of URLs: more than {MANIFEST_BYTES:,} bytes")
        lines = (line.strip() for line in text.decode("utf-8", "replace").splitlines())
        urls = [urljoin(url, line) for line in lines if line and not line.startswith("#")]
        strange = next((u for u in urls if urlsplit(u).scheme not in ("http", "https")), None)
        if strange or not urls:
            what = f"names {strange!r:.200}, which is no URL of the web" if strange else "names no URL"
            raise Error("invalid", self.secrets.hide(f"the list {name} {what}"), "put one URL on a line")
        return {self.secrets.hide(u): u for u in urls}

    def _look(self, name: str, url: str, known: str) -> Object:
        """What the server says of it, without its body."""
        before: dict[str, Any] = json.loads(known) if known else {}
        ask = {"If-None-Match": before.get("etag"), "If-Modified-Since": before.get("modified")}
        with self._answer(name, url, {k: v for k, v in ask.items() if v}) as answer:
            if answer.status_code == 304:
                return Object(name, before["file"], known, before["bytes"])
            told, size = answer.headers, _length(answer)
            if size > self.options.max_bytes:
                raise self._too_large(name)
            file = self._file(name, urlsplit(url).path, told)
            validators = {"etag": told.get("etag"), "modified": told.get("last-modified")}
            if not validators["etag"] and not _settled(told):
                return Object(name, file, "", size)
            return Object(name, file, json.dumps({**validators, "bytes": size, "file": file}), size)

    def _copy(self, one: Object, path: Path) -> None:
        """The rest of the body; all of it where the server cannot say that it is the same as before."""
        want: dict[str, Any] = json.loads(one.revision) if one.revision else {}
        have = path.stat().st_size if path.exists() else 0
        if have and have == one.bytes:
            return
        tag = want.get("etag") if not str(want.get("etag") or "W/").startswith("W/") else want.get("modified")
        ask = {"Range": f"bytes={have}-", "If-Range": tag} if have and tag else {}
        with self._answer(one.name, self.urls[one.name], ask) as answer:
            now = {"etag": answer.headers.get("etag"), "modified": answer.headers.get("last-modified")}
            if any(want.get(k) not in (None, v) for k, v in now.items()):
                path.unlink(missing_ok=True)
                raise Error("conflict", f"{one.name} changed while it was fetched", "run `longrein apply` again")
            go_on = answer.status_code == 206 and answer.headers.get("content-range", "").startswith(f"bytes {have}-")
            with path.open("ab" if go_on else "wb") as out:
                for piece in answer.iter_raw():  # as it comes: of a larger piece that breaks off all would be lost
                    out.write(piece)
                    if out.tell() > self.options.max_bytes:
                        raise self._too_large(one.name)

    def _patiently(self, ask: Any, size: Any = lambda: 0) -> Any:
        """Try again after what may pass; the count begins anew with each piece that came."""
        most, tried = size(), 0
        while True:
            try:
                return ask()
            except (httpx.TransportError, _Later) as error:
                if size() > most:
                    most, tried = size(), 0
                tried += 1
                stuck = isinstance(error, httpx.TimeoutException) and tried > 1  # it has waited long enough
                if tried > self.options.retries or stuck:
                    raise self._failed(error) from error
                asked = error.after_s if isinstance(error, _Later) else 0.0
                time.sleep(min(LONGEST_WAIT_S, max(asked, self.options.wait_s * 2 ** (tried - 1))))

    @contextmanager
    def _answer(self, name: str, url: str, headers: Mapping[str, str]) -> Iterator[httpx.Response]:
        """The answer behind all redirects, not read yet. Errors: what its status says."""
        for _ in range(self.options.redirects + 1):
            own = self.headers if _origin(url) == _origin(self.first) else {}
            try:
                request = self.client.build_request(
                    "GET", url, headers={"Accept-Encoding": "identity", **own, **headers}
                )
            except (httpx.InvalidURL, UnicodeError) as error:
                raise Error("invalid", self.secrets.hide(f"{name} is no URL: {error}")) from error
            answer = self.client.send(request, stream=True)
            try:
                self._guard(name, answer)
                if answer.status_code not in REDIRECTS or "location" not in answer.headers:
                    self._check(name, answer)
                    yield answer
                    return
                url = urljoin(url, answer.headers["location"])
            finally:
                answer.close()
            if urlsplit(url).scheme not in ("http", "https"):
                raise Error("invalid", f"{name} redirects to something else than the web")
        raise Error("bad_gateway", f"{name} redirects more than {self.options.redirects} times", "give its last URL")

    def _guard(self, name: str, answer: httpx.Response) -> None:
        """What is public must not lead into a private network: a server could have its clients ask ours."""
        stream = answer.extensions.get("network_stream")
        address = stream.get_extra_info("server_addr") if stream else None
        private = address is not None and not ipaddress.ip_address(str(address[0]).partition("%")[0]).is_global
        if self.private is None:
            self.private = private
        if private and not self.private:
            raise Error("forbidden", f"{name} leads to an address of a private network", "name that URL itself")

    def _check(self, name: str, answer: httpx.Response) -> None:
        status = answer.status_code
        if status in AGAIN:
            after = answer.headers.get("retry-after", "")
            raise _Later(f"{name} answers {status}", float(after) if after.isdigit() else 0.0)
        if status in (401, 407):
            hint = 'give them: remote: {headers: {Authorization: "Bearer ${TOKEN}"}}'
            raise Error("unauthorized", f"{name} wants credentials", hint)
        if status == 403:
            raise Error("forbidden", f"{name} must not be read with these credentials", "check them")
        if status in (404, 410):
            raise Error("not_found", f"there is no {name}, or no longer: {status}", "check the URL")
        if status >= 400:
            raise Error("bad_gateway", f"{name} answers {status}", "check the URL")

    def _file(self, name: str, path: str, headers: httpx.Headers) -> str:
        """A file name whose suffix tells the format: of the URL, else as the server calls it, else by its type."""
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        file = unquote(path.rpartition("/")[2]) or "index"
        given = re.search(r'filename="?([^";]+)', headers.get("content-disposition", ""))
        if not _suffix(file) and given and _suffix(given[1]):
            file = given[1].rpartition("/")[2]
        if not _suffix(file):
            file += TYPES.get(kind, "")
        packed = "." + headers.get("content-encoding", "").lower().replace("x-", "").replace("gzip", "gz")
        if packed in PACKED and not file.lower().endswith(packed):
            file += packed
        if kind in PAGES and not re.search(r"\.html?(\.\w+)?$", file, re.I):
            raise Error(
                "invalid", f"{name} answers with a web page ({kind}) in place of data",
                "open it in a browser: it may want a login, or it has moved",
            )  # fmt: skip
        return file

    def _too_large(self, name: str) -> Error:
        message = f"{name} has more than {self.options.max_bytes:,} bytes"
        return Error("too_large", message, "if that is meant, raise remote: {max_bytes: …}")

    def _failed(self, error: Exception) -> Error:
        late = isinstance(error, httpx.TimeoutException)
        what = f"no answer within {self.options.timeout_s:g} s" if late else str(error) or type(error).__name__
        name = next(iter(self.urls)) if len(self.urls) == 1 else "a web server"
        message = self.secrets.hide(f"{name} cannot be read: {what}")
        return Error("timeout" if late else "unavailable", message, "check the network, then apply again")


class _Later(Exception):
    def __init__(self, message: str, after_s: float) -> None:
        super().__init__(message)
        self.after_s = after_s


def _suffix(file: str) -> bool:
    ending = "." + file.lower().rpartition(".")[2]
    return ending in SUFFIXES or ending in PACKED


def _settled(headers: httpx.Headers) -> bool:
    """Whether Last-Modified, which counts seconds, would show another write (RFC 9110, 8.8.2.2)."""
    try:
        now, then = (parsedate_to_datetime(headers[name]) for name in ("date", "last-modified"))
    except (KeyError, ValueError):
        return False
    return (now - then).total_seconds() > SETTLED_S


def _length(answer: httpx.Response) -> int:
    told = answer.headers.get("content-length", "")
    return int(told) if told.isdigit() else 0


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc


plugin = Http
