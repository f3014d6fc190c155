"""Who may ask: API keys by their hash in memory, scopes by route, and what an open door must still refuse."""

import ipaddress
import socket
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from longrein.core.errors import Error
from longrein.core.ledger import ApiKey
from longrein.core.ledger.keys import hashed


class Door:
    """Holds the live keys, swapped whole with the routing table. `auth` False lets this machine in without a key."""

    def __init__(self, auth: bool = True) -> None:
        self.auth = auth
        self.keys: Mapping[str, ApiKey] = {}

    def admit(self, scope: Scope, needed: str) -> ApiKey | None:
        """The key of a request. `needed`: infer, track, admin, or any. Errors: `unauthorized`, `forbidden`."""
        headers: dict[bytes, bytes] = dict(scope["headers"])
        if not self.auth:
            _check_local(headers)
            return None
        kind, _, secret = headers.get(b"authorization", b"").decode("latin-1").strip().partition(" ")
        if kind.lower() != "bearer" or not secret:
            raise Error("unauthorized", "this needs an API key", "send the header  Authorization: Bearer lr-…")
        key = self.keys.get(hashed(secret.strip()))
        if key is None:
            raise Error(
                "unauthorized",
                "the API key is wrong or was revoked",
                "this project's own key lies in .longrein/key; `longrein key create` makes others",
            )
        if needed != "any" and needed not in key.scopes and "admin" not in key.scopes:
            raise Error("forbidden", f"this API key lacks the scope {needed!r}", f"it has: {', '.join(key.scopes)}")
        return key

    def guard(self, routes: Iterable[BaseRoute], needed: str) -> list[BaseRoute]:
        """The same routes, each behind this door."""
        guarded = list(routes)
        for route in guarded:
            assert isinstance(route, (Route, Mount))
            route.app = _Guard(route.app, self, needed)
        return guarded


class _Guard:
    def __init__(self, app: ASGIApp, door: Door, needed: str) -> None:
        self.app, self.door, self.needed = app, door, needed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        key = scope["longrein.key"] = self.door.admit(scope, self.needed)
        scope.setdefault("state", {})["actor"] = f"{key.label or 'key'} (key {key.id})" if key else "local (no key)"
        await self.app(scope, receive, send)


def is_loopback(host: str) -> bool:
    """Whether nothing but this machine can reach an address or host name."""
    try:
        found: list[Any] = [host] if _is_address(host) else [a[4][0] for a in socket.getaddrinfo(host or "0", None)]
    except OSError:
        return False
    return bool(found) and all(ipaddress.ip_address(address).is_loopback for address in found)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _check_local(headers: dict[bytes, bytes]) -> None:
    """Without a key, a web page in this machine's browser must not get in by a name that points here."""
    named = [urlsplit("//" + headers.get(b"host", b"").decode("latin-1")).hostname]
    if origin := headers.get(b"origin"):
        named.append(urlsplit(origin.decode("latin-1")).hostname)
    if not all(name == "localhost" or (name and _is_address(name) and is_loopback(name)) for name in named):
        raise Error("forbidden", "without API keys only this machine may ask", "start the server with keys")
