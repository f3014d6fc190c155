"""Whole answers kept for a while: given again to the same tenant, for the same request, by the same release.

Exact and in memory, of one worker process. A cache that goes by likeness would sometimes answer another question.
"""

import hashlib
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping
from typing import Any

import msgspec

from longrein.core.generation import Usage
from longrein.core.ledger import ApiKey
from longrein.gateway import openai
from longrein.gateway.said import Said
from longrein.models.deploy import Cache as Config

OVERHEAD_BYTES = 512  # of an entry, beside its data


class Entry(msgspec.Struct, frozen=True):
    """An answer as its client got it."""

    id: str  # stands in the data, and gives way to that of the request which gets it
    data: bytes  # one JSON, or all events of a stream
    prompt_tokens: int
    completion_tokens: int
    finish_reason: str
    texts: list[str]
    said: Said
    until: float  # on time.monotonic's clock
    cost_usd: float | None = None

    @property
    def bytes(self) -> int:
        return OVERHEAD_BYTES + len(self.data) + sum(map(len, self.texts))


class Cache:
    """The answers of one endpoint: those used longest ago go first."""

    def __init__(self, config: Config) -> None:
        self.config, self.bytes = config, 0
        self._entries: OrderedDict[bytes, Entry] = OrderedDict()

    def get(self, key: bytes) -> Entry | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry.until <= time.monotonic():
            self._drop(key)
            return None
        self._entries.move_to_end(key)
        return entry

    def put(self, key: bytes, entry: Entry) -> None:
        """Keep an answer, unless it alone would take an eighth of the room."""
        if entry.bytes > self.config.max_bytes // 8:
            return
        self._drop(key)
        self._entries[key] = entry
        self.bytes += entry.bytes
        while self.bytes > self.config.max_bytes:
            self._drop(next(iter(self._entries)))

    def _drop(self, key: bytes) -> None:
        if entry := self._entries.pop(key, None):
            self.bytes -= entry.bytes


class Caches:
    """Those of all endpoints that declare one."""

    def __init__(self) -> None:
        self._of: dict[str, Cache] = {}

    def configure(self, endpoints: Mapping[str, Mapping[str, Any]]) -> None:
        """Follow the lifecycle file: an endpoint whose `cache` changed begins with an empty one."""
        wanted = {name: msgspec.convert(e["cache"], Config) for name, e in endpoints.items() if e.get("cache")}
        kept = {name: cache for name, cache in self._of.items() if wanted.get(name) == cache.config}
        self._of = {name: kept.get(name) or Cache(config) for name, config in wanted.items()}

    def of(self, endpoint: str, head: openai.Head) -> Cache | None:
        """The cache that may answer a request: only one that asks for the same answer each time, by temperature 0 or a
        seed, for whoever samples wants another."""
        cache = self._of.get(endpoint)
        return cache if cache and (head.temperature == 0 or head.seed is not None) else None


def key_of(key: ApiKey | None, release: str, path: str, data: bytes) -> bytes:
    """What a request is known by: tenant, release, and all of the body that may change its answer. The tenant is the
    API key's team, else the key."""
    tenant = "" if key is None else f"team {key.team}" if key.team else f"key {key.id}"
    given = {k: v for k, v in msgspec.json.decode(data).items() if k not in openai.IGNORED}
    return hashlib.sha256(msgspec.json.encode((tenant, release, path, given), order="sorted")).digest()


class Replay:
    """A kept answer on its way to another client; see inference.Source."""

    def __init__(self, entry: Entry, id: str) -> None:
        self.entry, self.id = entry, id
        self.finish_reason = entry.finish_reason
        self.first: float | None = None
        self.said = entry.said
        self.usages: tuple[Usage, ...] = ()
        self.cached_tokens, self.estimated = 0, False

    async def whole(self) -> bytes:
        return self.entry.data.replace(self.entry.id.encode(), self.id.encode())

    async def pieces(self) -> AsyncIterator[bytes]:
        self.first = time.perf_counter()
        yield (await self.whole())[: -len(openai.DONE)]

    def closing(self) -> bytes:
        return openai.DONE

    def tokens(self) -> tuple[int, int]:
        return self.entry.prompt_tokens, self.entry.completion_tokens

    def text(self) -> list[str]:
        return self.entry.texts
