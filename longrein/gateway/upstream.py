"""Talks to a release's upstream: which of its replicas to ask, how often, and what its failures mean to a client.

It is the engine of such a release, in the gateway's own process: what it does is wait, and a process in between would
double the cost of every token for nothing.
"""

import asyncio
import contextlib
import logging
import math
import os
import random
import zlib
from collections.abc import AsyncGenerator
from typing import Any, Literal

import msgspec

from longrein.core.errors import Error
from longrein.core.generation import Event, Request, Usage
from longrein.gateway import openai
from longrein.gateway.http import Failure, Patience, Pool, Response
from longrein.gateway.relay import Relay
from longrein.models.upstream import Config

FAILURES = 5  # in a row, and a replica is left alone
OPEN_S = (1.0, 60.0)  # how long until it is looked at again: at first, and at most
BACKOFF_S = (0.1, 2.0)  # before the second try, doubled each time, and at most; halved at random
MAX_WAIT_S = 5.0  # a longer Retry-After is the client's to honour
LOAD = 1.25  # no replica gets more than this many times its fair share for affinity's sake
MAX_ERROR_BYTES = 64 << 10
AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})  # statuses that another try may change
log = logging.getLogger(__name__)


class Circuit:
    """Whether a replica may be asked. Pure: the clock is given.

    closed → (FAILURES in a row) → open → (its health check is answered) → half-open: one request may try → closed, or
    open for twice as long. Beside that it may be busy for as long as its Retry-After says.
    """

    def __init__(self) -> None:
        self.state = "closed"
        self.failures = 0
        self.open_s = OPEN_S[0]
        self.busy_until = 0.0

    def allows(self, now: float) -> bool:
        return self.state in ("closed", "half-open") and now >= self.busy_until

    def asked(self) -> None:
        if self.state == "half-open":
            self.state = "trying"

    def succeeded(self) -> None:
        self.state, self.failures, self.open_s = "closed", 0, OPEN_S[0]

    def failed(self) -> bool:
        """True when it opened just now."""
        self.failures += 1
        if self.state == "trying":
            self.open_s = min(2 * self.open_s, OPEN_S[1])
        elif self.state != "closed" or self.failures < FAILURES:
            return False
        self.state = "open"
        return True

    def healthy(self) -> None:
        if self.state == "open":
            self.state = "half-open"

    def gave_up(self) -> None:
        """The one request that tried was cancelled: another may."""
        if self.state == "trying":
            self.state = "half-open"

    def busy(self, until: float) -> None:
        self.busy_until = max(self.busy_until, until)


class Replica:
    """One URL of an upstream."""

    def __init__(self, url: str, pool: Pool) -> None:
        self.url, self.pool, self.circuit = url, pool, Circuit()
        self.salt = zlib.crc32(url.encode())
        self.inflight = 0


class Reply:
    """A good answer of an upstream, under way. Close it in any case."""

    def __init__(self, upstream: "Upstream", response: Response, replica: Replica, attempts: int) -> None:
        self.upstream, self.response, self.replica, self.attempts = upstream, response, replica, attempts
        self.ended = False  # the answer is whole, though its last bytes may still be to come
        self._open = True

    def broken(self, failure: Failure) -> Error:
        """An answer that broke off, as the client is told of it."""
        self.upstream.failed(self.replica)
        return meaning(failure, self.replica.url)

    def close(self) -> None:
        if self._open:
            self._open = False
            self.replica.inflight -= 1
            self.response.close(grace_s=1.0 if self.ended else 0.0)


class Upstream:
    """The servers that one release is answered by. Beside `ask` it has the surface of an EngineProcess."""

    def __init__(self, name: str, config: Config) -> None:
        self.name, self.config, self.alive = name, config, True
        self.info: dict[str, Any] = {"upstream": config.model}
        patience = Patience(config.connect_s, config.first_byte_s, config.idle_s, config.total_s)
        self.replicas = [Replica(url, Pool(url, patience, config.max_connections)) for url in config.urls]
        self.head = b"content-type: application/json\r\naccept-encoding: identity\r\nuser-agent: longrein\r\n"
        self.head += _authorization(config.key_env)
        self._probes: set[asyncio.Task[None]] = set()
        self._counts = dict.fromkeys(("requests_total", "retries_total", "failures_total", "opened_total"), 0)

    @classmethod
    async def start(cls, name: str, options: dict[str, Any]) -> "Upstream":
        """Returns once a replica was seen to live. Errors: `unavailable`, `invalid`."""
        try:
            config = msgspec.convert(options, Config)
        except msgspec.ValidationError as error:
            raise Error("corrupt", f"the upstream {name} makes no sense: {error}", "longrein apply") from error
        self = cls(name, config)
        found = await asyncio.gather(*map(self._problem, self.replicas))
        if all(found):
            await self.stop()
            raise Error("unavailable", f"no upstream {name} can be reached: {found[0]}", "is its server running?")
        for replica, problem in zip(self.replicas, found, strict=True):
            if problem:
                log.warning("upstream %s: %s", replica.url, problem)
                replica.circuit.failures, replica.circuit.state = FAILURES, "open"
                self._watch(replica)
        return self

    async def ask(self, path: str, body: bytes, affinity: int = 0, head: bytes = b"") -> Reply:
        """POST `body` to a replica, again where that may help, until the head of a good answer is there.

        affinity: requests with the same number go to the same replica, unless that has too much to do; 0: to any.
        Errors: those of `meaning` and `refusal`.
        """
        deadline = asyncio.get_running_loop().time() + self.config.total_s
        self._counts["requests_total"] += 1
        failed: set[Replica] = set()
        for attempt in range(1, self.config.retries + 2):
            replica = self._pick(affinity, failed)
            try:
                return await self._try(replica, path, body, head, deadline, attempt)
            except Error as error:
                failed.add(replica)
                wait = self._wait_s(error, attempt, failed, deadline)
                if wait is None or attempt > self.config.retries:
                    self._counts["failures_total"] += 1
                    raise
            self._counts["retries_total"] += 1
            await asyncio.sleep(wait)
        raise AssertionError("the last attempt returns or raises")

    async def generate(self, request: Request) -> AsyncGenerator[Event, None]:
        """The events of one typed request; see EngineProcess.generate. Log-probabilities are not among them."""
        path, body = openai.unparse(request, self.config.model)
        with contextlib.closing(await self.ask(path, body)) as reply:
            relay = Relay(reply, "", "", len(body), keep=True, drop_usage=True)
            async for _ in relay.pieces():
                relay.hear()
                if words := "".join(relay.texts.pop(0, [])):
                    yield Event(request.id, words)
            reason: Literal["stop", "length"] = "length" if relay.finish_reason == "length" else "stop"
            yield Event(request.id, finish_reason=reason, usage=Usage(*relay.tokens()))

    async def stats(self) -> dict[str, Any]:
        """Counters and gauges."""
        gauges = {
            "running": sum(r.inflight for r in self.replicas),
            "connections": sum(r.pool.open for r in self.replicas),
            "replicas_up": sum(r.circuit.state == "closed" for r in self.replicas),
        }
        return {**gauges, **self._counts}

    async def stop(self, drain_s: float = 0.0) -> None:
        """Close every connection. Twice is harmless."""
        self.alive = False
        for task in list(self._probes):
            task.cancel()
        for replica in self.replicas:
            replica.pool.close()

    async def _try(self, replica: Replica, path: str, body: bytes, head: bytes, deadline: float, attempt: int) -> Reply:
        circuit = replica.circuit
        circuit.asked()
        replica.inflight += 1
        response: Response | None = None
        try:
            response = await replica.pool.ask("POST", path, self.head + head, body, deadline)
            if response.status == 200:
                circuit.succeeded()
                return Reply(self, response, replica, attempt)
            raise refusal(response, await response.whole(MAX_ERROR_BYTES), replica.url)
        except Failure as failure:
            self.failed(replica)
            error = meaning(failure, replica.url)
        except Error as refused:
            error = refused
            self._refused(replica, response.status if response else 0, error)
        except asyncio.CancelledError:
            circuit.gave_up()
            self._drop(replica, response)
            raise
        self._drop(replica, response)
        raise error

    def _drop(self, replica: Replica, response: Response | None) -> None:
        replica.inflight -= 1
        if response:
            response.close()

    def _refused(self, replica: Replica, status: int, error: Error) -> None:
        if status >= 500:
            self.failed(replica)
            return
        replica.circuit.succeeded()  # it lives, whatever it says
        if error.code == "overloaded":
            now = asyncio.get_running_loop().time()
            replica.circuit.busy(now + min(error.details.get("retry_after_s", 0.0), OPEN_S[1]))

    def failed(self, replica: Replica) -> None:
        """A replica did not answer, or broke off."""
        if replica.circuit.failed():
            self._counts["opened_total"] += 1
            log.warning("upstream %s failed %d times: it is left alone", replica.url, replica.circuit.failures)
            self._watch(replica)

    def _pick(self, affinity: int, failed: set[Replica]) -> Replica:
        """The replica to ask: of those that may be, one that has not failed this request; among them by rendezvous
        hashing with bounded loads (Mirrokni, Thorup and Zadimoghaddam 2018), or the least loaded."""
        if len(self.replicas) == 1 and self.replicas[0].circuit.state == "closed":
            return self.replicas[0]  # even when it is busy: the wait was its own word
        now = asyncio.get_running_loop().time()
        live = [r for r in self.replicas if r.circuit.allows(now)]
        if not live:
            raise self._away(now)
        fresh = [r for r in live if r not in failed] or live
        if not affinity:
            return min(fresh, key=lambda r: r.inflight)
        most = math.ceil(LOAD * (sum(r.inflight for r in fresh) + 1) / len(fresh))
        free = [r for r in fresh if r.inflight < most]
        return max(free, key=lambda r: _mix(affinity, r.salt))

    def _away(self, now: float) -> Error:
        waits = [r.circuit.busy_until - now for r in self.replicas if r.circuit.state == "closed"]
        if waits:
            message = f"the upstream {self.name} has too much to do"
            return Error("overloaded", message, "try again later", retry_after_s=max(1.0, min(waits)))
        message = f"the upstream {self.name} failed too often and is left alone for a moment"
        return Error("unavailable", message, "try again", retry_after_s=max(1.0, self.replicas[0].circuit.open_s))

    def _wait_s(self, error: Error, attempt: int, failed: set[Replica], deadline: float) -> float | None:
        """How long to wait before another try; None: there is no use in one."""
        if not error.details.get("again"):
            return None
        now = asyncio.get_running_loop().time()
        if any(r not in failed and r.circuit.allows(now) for r in self.replicas):
            return 0.0
        first, most = BACKOFF_S
        wait = min(first * 2 ** (attempt - 1), most) * random.uniform(0.5, 1.0)
        wait = max(wait, error.details.get("retry_after_s", 0.0)) if error.code == "overloaded" else wait
        return wait if wait <= MAX_WAIT_S and now + wait < deadline else None

    def _watch(self, replica: Replica) -> None:
        task = asyncio.get_running_loop().create_task(self._probe(replica))
        self._probes.add(task)
        task.add_done_callback(self._probes.discard)

    async def _probe(self, replica: Replica) -> None:
        """Ask a replica that is left alone how it does, until it answers."""
        wait = replica.circuit.open_s
        while True:
            await asyncio.sleep(wait * random.uniform(0.75, 1.0))
            problem = await self._problem(replica)
            if not problem:
                log.warning("upstream %s answers again", replica.url)
                replica.circuit.healthy()
                return
            wait = min(2 * wait, OPEN_S[1])

    async def _problem(self, replica: Replica) -> str:
        """What is wrong with a replica; "" when it answers at all."""
        deadline = asyncio.get_running_loop().time() + self.config.connect_s * 2
        try:
            response = await replica.pool.ask("GET", "/models", self.head, b"", deadline)
        except Failure as failure:
            return f"{replica.url}: {failure.message}"
        response.close(grace_s=1.0)
        if response.status in (401, 403):
            return f"{replica.url} refuses the API key: {_key_hint(self.config.key_env)}"
        return f"{replica.url} answers with status {response.status}" if response.status >= 500 else ""


def meaning(failure: Failure, url: str) -> Error:
    """A broken exchange as a client is told of it. again: another try may help."""
    message = f"the upstream {url}: {failure.message}"
    if failure.problem in ("connect", "full") or (failure.problem == "closed" and not failure.begun):
        return Error("unavailable", message, "try again", retry_after_s=1, again=True)
    if failure.problem == "timeout":
        return Error("timeout", message, "try again, or ask for less")
    return Error("bad_gateway", message, "try again")


def refusal(response: Response, body: bytes, url: str) -> Error:
    """An answer that is none as a client is told of it: its own mistakes in the upstream's words, others as ours."""
    status, said = response.status, _said(body)
    details: dict[str, Any] = {"again": True} if status in AGAIN else {}
    if status in (400, 409, 413, 415, 422):
        code = {413: "too_large", 409: "conflict"}.get(status, "invalid")
        details |= {"param": said.param} | ({"openai_code": said.code} if said.code else {})
        return Error(code, said.message or f"the upstream refused the request with status {status}", **details)
    if status == 429:
        wait = retry_after_s(response.headers.get(b"retry-after", b""))
        message = f"the upstream has too much to do: {said.message}" if said.message else "it has too much to do"
        return Error("overloaded", message, "try again later", retry_after_s=wait, **details)
    what = f"the upstream {url} answered with status {status}" + (f": {said.message}" if said.message else "")
    if status in (401, 403):
        return Error("bad_gateway", what, "its API key is wrong: see key_env of the endpoint's upstream")
    if status == 503:
        wait = retry_after_s(response.headers.get(b"retry-after", b""))
        return Error("unavailable", what, "try again", retry_after_s=wait, **details)
    return Error("timeout" if status == 504 else "bad_gateway", what, "try again" if status >= 500 else "", **details)


def retry_after_s(value: bytes) -> float:
    """Seconds of a Retry-After header; 1 where it is missing, a date, or nonsense."""
    try:
        found = float(value)
    except ValueError:
        return 1.0
    return min(found, 86400.0) if found >= 0 else 1.0


class _Said(msgspec.Struct):
    """What servers put under "error"; vLLM's older ones have it at the top."""

    message: str = ""
    param: str | None = None
    code: str | None = None


def _said(body: bytes) -> _Said:
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _Said()
    value = value.get("error", value) if isinstance(value, dict) else {}
    value = {"message": value} if isinstance(value, str) else value if isinstance(value, dict) else {}
    return _Said(**{k: v[:2000] for k in _Said.__struct_fields__ if isinstance(v := value.get(k), str)})


def _authorization(key_env: str | None) -> bytes:
    if key_env is None:
        return b""
    key = os.environ.get(key_env, "")
    if not key or not key.isascii() or not key.isprintable():
        raise Error("invalid", f"the environment variable {key_env} holds no API key", f"export {key_env}=…")
    return f"authorization: Bearer {key}\r\n".encode()


def _key_hint(key_env: str | None) -> str:
    return f"see {key_env}" if key_env else "set key_env"


def _mix(a: int, b: int) -> int:
    """A hash of two 32-bit numbers, good enough to rank by."""
    value = (a ^ b) * 0x9E3779B1 & 0xFFFFFFFF
    value = (value ^ value >> 15) * 0x85EBCA77 & 0xFFFFFFFF
    return value ^ value >> 13
