"""One POST of JSON to where a channel leads, as all channels over HTTP make it: no redirects, bounded, patient for ten
seconds. Proxies of the environment are used."""

import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit

import msgspec

from longrein.core.errors import Error

TIMEOUT_S = 10.0
ANSWER_BYTES = 65_536
SHOWN = 200  # characters of an answer


class _Stay(urllib.request.HTTPRedirectHandler):
    """A redirect leads where nobody configured: into our own network, perhaps."""

    def redirect_request(self, *_: Any) -> None:
        return None


_opener = urllib.request.build_opener(_Stay)


def check(url: str) -> str:
    """Errors: `invalid` for what is no address of a web server."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and url.isprintable() and " " not in url
    except ValueError:
        good = False
    if not good:
        raise Error(
            "invalid", "the url of the channel is no http:// or https:// address", "check url, and its variable"
        )
    return url


def post(url: str, body: Mapping[str, Any] | bytes, headers: Mapping[str, str] | None = None) -> bytes:
    """The answer. Errors: `overloaded` for 429 (with retry_after_s), `unavailable` for 5xx and no answer, `bad_gateway`
    for all that is no answer of HTTP or a refusal."""
    data = body if isinstance(body, bytes) else msgspec.json.encode(body)
    own = {"Content-Type": "application/json; charset=utf-8", "User-Agent": "longrein", **(headers or {})}
    try:
        with _opener.open(urllib.request.Request(url, data, own), timeout=TIMEOUT_S) as answer:
            return bytes(answer.read(ANSWER_BYTES))
    except urllib.error.HTTPError as error:
        with error:
            text = _shown(error)
        code = "overloaded" if error.code == 429 else "unavailable" if error.code >= 500 else "bad_gateway"
        raise Error(code, f"the receiver answered {error.code}{text}", retry_after_s=_retry_after(error)) from error
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise Error("unavailable", f"the receiver does not answer: {_one_line(str(reason))}") from error


def answered(answer: bytes, code: str, text: str, busy: tuple[int, ...] = ()) -> None:
    """Check the JSON with which chat services answer, always with 200. code, text: its fields. busy: codes that mean
    too many at once. Errors: `overloaded`, `bad_gateway`."""
    try:
        found = msgspec.json.decode(answer, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Error(
            "bad_gateway", f"the receiver answered no JSON: {_one_line(answer.decode(errors='replace'))}"
        ) from error
    if found.get(code) != 0:
        told = _one_line(f"{found.get(code)} {found.get(text, '')}")
        if found.get(code) in busy:
            raise Error("overloaded", f"the receiver takes no more for now: {told}", retry_after_s=60)
        raise Error("bad_gateway", f"the receiver refused: {told}")


def clip(text: str, most_bytes: int) -> str:
    """At most so many bytes of UTF-8, ending with a whole character."""
    data = text.encode()
    return text if len(data) <= most_bytes else data[: most_bytes - 3].decode(errors="ignore") + "…"


def plain(text: str) -> str:
    """Text in which Markdown's links and mentions are dead."""
    return text.replace("<", "＜").replace("](", "] (")


def _shown(error: urllib.error.HTTPError) -> str:
    try:
        text = error.read(ANSWER_BYTES).decode(errors="replace")
    except (OSError, HTTPException):
        text = ""
    return f": {_one_line(text)}" if text.strip() else ""


def _retry_after(error: urllib.error.HTTPError) -> float:
    """Seconds, from either form of the header; 0 for none."""
    value = error.headers.get("Retry-After", "").strip()
    if value.isdecimal():
        return float(value[:9])
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return 0.0


def _one_line(text: str) -> str:
    return " ".join(text.split())[:SHOWN]
