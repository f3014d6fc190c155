"""A real `longrein serve --workers 2` under load while things break: no answer is wrong, mixed up or lost but those in
flight on what was killed, and those are told; each answered request is in the log once; no budget is overspent.

What an answer must say is a function of its prompt, so that a wrong one is found out.
"""

import asyncio
import collections
import contextlib
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import tiny
from mock_upstream import Asked, Mock, begin, break_mid_stream, by_turns, chunk, hang, raw, status, whole
from mock_upstream import say as fixed
from test_full_disk import fill
from world import World

from longrein.core.limit import Limit
from longrein.data.requests import asked_ms
from longrein.gateway.engine import EngineProcess

UNFLUSHED_MS = 2000  # what a killed worker answered in its last second may be missing in the log; it is a busy machine


def until(condition: Callable[[], Any], seconds: float = 40) -> Any:
    """Poll something that happens in another process."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)
    return value


class Server:
    """`longrein serve` in processes of its own. voices: what the answers of each release begin with, by its digest."""

    def __init__(self, world: World, voices: dict[str, str], *command: str, count: int = 2, **environment: str) -> None:
        self.world, self.voices = world, voices
        (world.folder / "longrein.yaml").write_text("project: test\n")
        serve = [sys.executable, "-m", "longrein.cli.main", "serve", "--port", "0", "-C", str(world.folder)]
        self.process = subprocess.Popen(
            [*command, *serve, "--workers", str(count)], stdout=subprocess.PIPE, text=True,
            stderr=(world.folder / "said").open("ab"), env={**os.environ, **environment},
        )  # fmt: skip
        assert self.process.stdout
        self.url = self.process.stdout.readline().strip()
        assert self.url, self.said()
        self.port = int(self.url.rpartition(":")[2])
        try:
            # each asks another worker, or the same: after so many all have said it
            until(lambda: len(self.pids) == count and all(self.ready()["status"] == "ready" for _ in range(20)))
        except BaseException:
            self.process.terminate()
            raise

    def ready(self) -> dict[str, Any]:
        found: dict[str, Any] = httpx.get(f"{self.url}/readyz", timeout=20).json()
        return found

    @property
    def pids(self) -> list[int]:
        """Of its workers, the dead ones not counted."""
        found = subprocess.run(["pgrep", "-P", str(self.process.pid), "-f", "--", "--worker"], capture_output=True)
        return [int(pid) for pid in found.stdout.split()]

    def engines(self, of: str = "") -> list[int]:
        found = subprocess.run(["pgrep", "-f", f"engine_process .*{of}.*{self.world.folder}"], capture_output=True)
        return [int(pid) for pid in found.stdout.split()]

    def said(self) -> str:
        return (self.world.folder / "said").read_text()

    def stop(self) -> None:
        self.process.terminate()
        assert self.process.wait(40) == 0
        until(lambda: self.engines() == [])
        assert "Traceback" not in self.said(), self.said()


@dataclass
class Answer:
    """One answer as it came over the wire. whole: to its end. release: the digest that its head names."""

    prompt: str
    status: int = 0
    id: str = ""
    release: str = ""
    text: str = ""
    error: str = ""
    whole: bool = False
    tokens: int = 0


@dataclass
class Load:
    """Clients that ask one after another, whole and streamed by turns, on connections that stay while they can."""

    server: Server
    endpoints: tuple[str, ...] = ("support",)
    key: str = ""
    clients: int = 16
    prompts: int = 0  # so many different ones; 0: each is another
    answers: list[Answer] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.key = self.key or self.server.world.key
        self._numbers = itertools.count()
        self._end = False

    @contextlib.contextmanager
    def run(self, before: int = 30, after: int = 30) -> Iterator[None]:
        """Ask all the while: at least so many are answered well before, and after what happens inside."""
        thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        thread.start()
        try:
            until(lambda: len(self.good) >= before)
            yield
            enough = len(self.good) + after
            until(lambda: len(self.good) >= enough)
        finally:
            self._end = True
            thread.join()

    @property
    def good(self) -> list[Answer]:
        return [a for a in list(self.answers) if a.whole and a.status == 200 and not a.error]

    @property
    def bad(self) -> list[Answer]:
        good = {id(a) for a in self.good}
        return [a for a in self.answers if id(a) not in good]

    async def _run(self) -> None:
        await asyncio.gather(*(self._client() for _ in range(self.clients)))

    async def _client(self) -> None:
        reader = writer = None
        while not self._end:
            number = next(self._numbers)
            prompt = f"number {number % self.prompts if self.prompts else number} 号"
            endpoint = self.endpoints[number % len(self.endpoints)]
            answer = Answer(prompt)
            try:
                if writer is None or reader is None:
                    reader, writer = await asyncio.open_connection("127.0.0.1", self.server.port)
                async with asyncio.timeout(60):
                    await ask(reader, writer, answer, self.key, endpoint, stream=number % 2 == 0)
            except (OSError, EOFError, ValueError) as error:  # a broken connection; TimeoutError is an OSError
                answer.error = answer.error or repr(error)
            self.answers.append(answer)
            if not answer.whole and writer:
                writer.close()
                reader = writer = None
            if answer.status != 200:
                await asyncio.sleep(0.02)  # as its Retry-After bids, though shorter
        if writer:
            writer.close()

    def check(self, lost: int = 0, told: tuple[int, ...] = ()) -> None:
        """Every answer says what its prompt asks for, in the voice of the release that its head names; of the others at
        most `lost` broke off without a word, and those refused have a status in `told`, or 200 in a stream, and a
        reason."""
        for a in self.good:
            assert a.text == f"{self.server.voices[a.release]} {a.prompt}", a
        silent = [a for a in self.bad if not a.error.startswith("{")]
        assert len(silent) <= lost, silent
        refused = [a for a in self.bad if a not in silent]
        assert {a.status for a in refused} <= {200, *told}, refused
        assert all(json.loads(a.error)["message"] for a in refused)

    def logged(self, killed_ms: int = 0) -> None:
        """Each answered request is in the log exactly once; so is each refused one, but at the door."""
        world = self.server.world
        wanted = {a.id for a in self.answers if a.status not in (0, 401) and (a.whole or a.error.startswith("{"))}
        if killed_ms:
            wanted = {id for id in wanted if not killed_ms - UNFLUSHED_MS < (asked_ms(id) or 0) <= killed_ms}
        until(lambda: wanted <= set(written(world)), 10)
        assert max(collections.Counter(written(world)).values()) == 1


def written(world: World) -> list[str]:
    """The ids in the log, as often as they are there."""
    files = (world.folder / ".longrein" / "requests").glob("*.jsonl")
    lines = b"\n".join(p.read_bytes() for p in files).split(b"\n")  # a full disk leaves a torn line at a file's end
    return [json.loads(line)["id"] for line in lines if line.endswith(b"}")]


async def ask(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: Answer, key: str, model: str, stream: bool
) -> None:
    """One request on a connection. Errors: those of a connection that breaks."""
    messages = [{"role": "user", "content": answer.prompt}]
    wish = {"stream_options": {"include_usage": True}} if stream else {}
    body = json.dumps(
        {"model": model, "messages": messages, "stream": stream, "max_tokens": 50, "temperature": 0, **wish}
    ).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines[1:])}
    answer.status, answer.id = int(lines[0].split()[1]), headers.get("x-request-id", "")
    answer.release = headers.get("x-longrein-release", "")
    if "content-length" in headers:
        value = json.loads(await reader.readexactly(int(headers["content-length"])))
        take(answer, value)
        answer.whole = True
        return
    async for event in events(reader):
        if event == b"[DONE]":
            answer.whole = not answer.error
        else:
            take(answer, json.loads(event))


async def one(server: Server, answer: Answer) -> None:
    """A single stream on a connection of its own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    await ask(reader, writer, answer, server.world.key, "support", stream=True)
    writer.close()


async def events(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """The data of a chunked stream's events."""
    held = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        held += (await reader.readexactly(size + 2))[:-2]
        *whole, held = held.split(b"\n\n")
        for event in whole:
            yield event.removeprefix(b"data: ")
    await reader.readexactly(2)


def take(answer: Answer, value: dict[str, Any]) -> None:
    if "error" in value:
        answer.error = json.dumps(value["error"])
    for choice in value.get("choices", ()):
        answer.text += choice.get("delta", choice.get("message", {})).get("content") or ""
    if usage := value.get("usage"):
        answer.tokens = usage.get("total_tokens", 0)


async def word_by_word(mock: Mock, asked: Asked) -> None:
    """An upstream that says what it was told."""
    await fixed("far " + asked.json["messages"][-1]["content"])(mock, asked)


@pytest.fixture(scope="module")
def upstream() -> Iterator[Mock]:
    mock = Mock(word_by_word)
    yield mock
    mock.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, upstream: Mock) -> Iterator[Server]:
    """Two workers with an engine of ours and an upstream; at the end it must have said nothing of a bug."""
    world = World(tmp_path_factory.mktemp("faults"))
    near = world.promote(world.release("support", "v1"))
    far = world.ledger.assets.put(
        "release", "far", "f" * 64, actor="test",
        meta={"engine": "openai", "options": {
            "urls": [upstream.url], "model": "mock-1", "connect_s": 2, "first_byte_s": 1, "idle_s": 1, "total_s": 10,
        }},
    )  # fmt: skip
    world.promote(far, price={"input_usd_per_mtok": 1, "output_usd_per_mtok": 1})
    served = Server(world, {near.digest: "v1", far.digest: "far"})
    yield served
    served.stop()
    world.ledger.close()


def test_an_engine_is_killed(server: Server) -> None:
    load = Load(server)
    with load.run():
        (engine,) = server.engines()
        os.kill(engine, signal.SIGKILL)
        until(lambda: server.engines() not in ([], [engine]))
    load.check(told=(503,))
    assert len(server.engines()) == 1
    load.logged()


def test_an_engine_is_stopped_not_dead(world: World) -> None:
    """It is noticed, killed and replaced; whoever waits for it is told, and others are answered meanwhile."""
    other = world.promote(world.release("other", "v9"))
    with serving(world, silent_s=1.0) as server:
        server.voices[other.digest] = "v9"
        load, calm = Load(server), Load(server, ("other",), clients=2)
        with load.run(), calm.run():
            (engine,) = server.engines("support")
            os.kill(engine, signal.SIGSTOP)
            count = len(calm.good)
            until(lambda: server.engines("support") not in ([], [engine]))
            assert len(calm.good) > count
        load.check(told=(503,))
        calm.check()
        assert calm.bad == [] and load.bad != []
        assert "said nothing for 1 s" in server.said()
        load.logged()


def test_a_worker_is_killed(server: Server) -> None:
    """What it had reserved of a budget comes back, and what was used of it stays so."""
    load = Load(server, ("support", "far"))
    key = server.world.ledger.keys.create("poor", limits=Limit(tokens_per_month=1000), actor="test")
    poor = Load(server, ("support",), key, clients=4)
    with load.run(), poor.run(before=5, after=0):
        before = server.pids
        os.kill(before[0], signal.SIGKILL)
        killed_ms = time.time_ns() // 1_000_000
        until(lambda: len(server.pids) == 2 and before[0] not in server.pids)
        until(lambda: any(a.status == 429 for a in list(poor.answers)))
    load.check(lost=load.clients)
    load.logged(killed_ms)
    poor.check(lost=poor.clients, told=(401, 429))  # 401 until the workers have heard of the key
    assert 500 < sum(a.tokens for a in poor.answers) <= 1000


def test_a_thousand_swaps_of_releases(server: Server) -> None:
    """Back and forth while streams run: each is answered whole, by the release that its head names."""
    world = server.world
    first = world.ledger.assets.get("release:support@1")
    second = world.promote(world.release("support", "v2"))
    server.voices[second.digest] = "v2"
    aliases = world.ledger.aliases
    until(lambda: server.ready()["endpoints"]["support"].get("release") == second.ref)
    load = Load(server)
    gate = world.folder / "gate"
    held = [Answer(f"until {gate} done") for _ in range(4)]
    with ThreadPoolExecutor(4) as pool, load.run():
        streams = [pool.submit(asyncio.run, one(server, answer)) for answer in held]
        until(lambda: all(answer.text for answer in held))
        for i in range(1000):
            aliases.move("release", "support", "prod", (first, second)[i % 2], actor="test", back=True)
        gate.touch()
        for stream in streams:
            stream.result()
    load.answers += held
    load.check()
    assert {a.release for a in load.good} == {first.digest, second.digest}
    assert load.bad == []
    load.logged()
    aliases.move("release", "support", "prod", first, actor="test", back=True)


def test_an_upstream_fails_every_third_time(server: Server, upstream: Mock) -> None:
    """Another try makes it good; where that fails too, or its replica is left alone for a moment, it is told."""
    upstream.script = by_turns(word_by_word, word_by_word, status(500))
    load = Load(server, ("far",), clients=8)
    with load.run():
        pass
    load.check(told=(502, 503))
    assert len(load.bad) < len(load.good)
    load.logged()


def test_an_upstream_hangs_breaks_off_and_talks_nonsense(server: Server, upstream: Mock) -> None:
    huge = b"HTTP/1.1 200 OK\r\n" + b"X: %b\r\n" % (b"y" * 1000) * 100
    wrong = [
        hang,
        raw(b"\0nonsense\r\n\r\n"),
        raw(huge),
        break_mid_stream,
        raw(b"HTTP/1.1 200 OK\r\n\r\n<html>"),
        senseless,
    ]
    upstream.script = by_turns(*itertools.chain.from_iterable((word_by_word, word_by_word, w) for w in wrong))
    load = Load(server, ("far", "support"), clients=12)
    with load.run(before=60, after=60):
        pass
    load.check(told=(502, 503, 504))
    load.logged()
    upstream.script = word_by_word
    again = Load(server, ("far",), clients=4)
    with again.run():
        pass
    again.logged()


async def senseless(mock: Mock, asked: Asked) -> None:
    """What it says of tokens cannot be."""
    used = {"prompt_tokens": -(10**12), "completion_tokens": 10**30, "prompt_tokens_details": {"cached_tokens": 2**63}}
    message = {"role": "assistant", "content": "far " + asked.json["messages"][-1]["content"]}
    choice = {"index": 0, "message": message, "delta": message, "finish_reason": "stop" * 100_000}
    value = json.dumps({"id": "up-1", "model": "mock-1", "choices": [choice], "usage": used}).encode()
    if asked.json.get("stream"):
        await begin(asked.writer)
        await chunk(asked.writer, b"data: " + value + b"\n\ndata: [DONE]\n\n")
        asked.writer.write(b"0\r\n\r\n")
        await asked.writer.drain()
    else:
        await whole(asked.writer, value)


def test_what_an_upstream_says_of_tokens_neither_refills_a_budget_nor_stops_the_log(
    server: Server, upstream: Mock
) -> None:
    upstream.script = senseless
    key = server.world.ledger.keys.create("poor", limits=Limit(tokens_per_month=5000), actor="test")
    load = Load(server, ("far",), key, clients=4)
    with load.run(before=1, after=0):
        until(lambda: any(a.status == 429 for a in list(load.answers)))
    load.check(told=(429, 401, 503))  # 401: not heard of the key yet; 503: still wary after the test before this one
    load.logged()
    upstream.script = word_by_word


def test_what_is_too_large_or_no_http_is_refused_and_others_are_served(server: Server) -> None:
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {server.world.key}\r\n".encode()
    chunks = b"".join(b"%x\r\n%b\r\n" % (1 << 20, b" " * (1 << 20)) for _ in range(9)) + b"0\r\n\r\n"
    wrong = {
        head + b"X-Long: " + b"y" * (80 << 10): 431,
        head + b"".join(b"X-%d: y\r\n" % i for i in range(20_000)): 431,
        head + b"Content-Length: %d\r\n\r\n" % (9 << 20) + b" " * (9 << 20): 413,
        head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks: 413,
        head + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n{}\n": 400,
        head + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n": 400,
        head + b"Content-Length: -1\r\n\r\n": 400,
        head + b"Content-Length: 4\r\n\r\n\xff{}\0": 400,
        b"GET /\xff\xfe%zz HTTP/1.1\r\nHost: x\r\n\r\n": 400,
        b"GET http://[/ HTTP/1.1\r\nHost: x\r\n\r\n": 400,
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03": 400,  # TLS
        os.urandom(4096): 400,
    }
    load = Load(server)
    with load.run():
        for data, status in wrong.items():
            with socket.create_connection(("127.0.0.1", server.port), timeout=30) as wire:
                with contextlib.suppress(OSError):  # it may have closed before all of it was sent
                    wire.sendall(data)
                assert wire.recv(4096).startswith(b"HTTP/1.1 %d" % status), data[:200]
    load.check()
    assert load.bad == []
    load.logged()


def test_the_torch_engine_is_killed(world: World, tmp_path: Path) -> None:
    """What a model says is the same before, under load, and after."""
    model = tiny.make(tmp_path / "tiny")
    world.promote(world.release("tiny", model, engine="torch", threads=1), engine="torch")
    with serving(world) as server:
        calm, load = Load(server, ("tiny",), clients=1, prompts=4), Load(server, ("tiny",), clients=8, prompts=4)
        with calm.run(before=8, after=0):
            pass
        said = {a.prompt: a.text for a in calm.good}
        with load.run(before=20, after=20):
            (engine,) = server.engines("tiny")
            os.kill(engine, signal.SIGKILL)
            until(lambda: server.engines("tiny") not in ([], [engine]))
        assert len(said) == 4 and {(a.prompt, a.text) for a in load.good} == set(said.items())
        assert {a.status for a in load.bad} <= {200, 503} and all(a.error.startswith("{") for a in load.bad)
        load.logged()


def test_half_open_connections_and_clients_that_never_read(world: World) -> None:
    """More of them than the processes may have open files: the others are answered."""
    body = json.dumps({"model": "support", "stream": True, "messages": [{"role": "user", "content": "word " * 900}]})
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {world.key}\r\n"
    asked = f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()
    begun = (b"", b"GET /healthz HT", head.encode(), asked[:-10], asked)
    with serving(world, "prlimit", "--nofile=128:256") as server, contextlib.ExitStack() as stack:
        load = Load(server, clients=8)
        with load.run(before=20, after=200):
            for i in range(900):
                wire = stack.enter_context(socket.socket())
                wire.connect(("127.0.0.1", server.port))
                wire.sendall(begun[i % 5])
            late = Load(server, clients=8)  # on connections of their own, behind all those
            with late.run(before=100, after=0):
                pass
        late.check()
        assert late.bad == []
        load.check(lost=load.clients)
        load.logged()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path / "project")
    yield world
    world.ledger.close()


@contextlib.contextmanager
def serving(world: World, *command: str, silent_s: float = 20.0, **environment: str) -> Iterator[Server]:
    release = world.promote(world.release("support", "v1"), silent_s=silent_s)
    server = Server(world, {release.digest: "v1"}, *command, **environment)
    try:
        yield server
    finally:
        server.stop()


def test_the_disk_of_the_request_log_is_full(world: World, disk: Path) -> None:
    (world.folder / ".longrein" / "requests").symlink_to(disk)
    with serving(world) as server:
        load = Load(server)
        with load.run(after=0):
            filler = fill(disk)
            until(lambda: "the request log cannot be written" in server.said())
            count = len(load.good)
            until(lambda: len(load.good) > count + 100)
            filler.unlink()
        load.check()
        assert load.bad == []
        load.logged()


SET_CLOCK = """
import pathlib, time
hand, now_s, now_ns = pathlib.Path(__file__).with_name("hand"), time.time, time.time_ns
time.time = lambda: now_s() + int(hand.read_text())
time.time_ns = lambda: now_ns() + int(hand.read_text()) * 10**9
"""


def test_the_clock_is_set(world: World, tmp_path: Path) -> None:
    """By a day and back, in every process: nothing times out, no budget is refilled, all are counted."""
    clock = tmp_path / "clock"
    clock.mkdir()
    (clock / "sitecustomize.py").write_text(SET_CLOCK)

    def turn(hours: int) -> None:
        (clock / "new").write_text(str(hours * 3600))
        os.replace(clock / "new", clock / "hand")

    turn(0)
    key = world.ledger.keys.create("poor", limits=Limit(tokens_per_day=300), actor="test")
    path = os.pathsep.join([str(clock), os.environ.get("PYTHONPATH", "")])
    with serving(world, PYTHONPATH=path) as server:
        load, poor = Load(server), Load(server, key=key, clients=2)
        with load.run(), poor.run(before=5, after=0):
            until(lambda: any(a.status == 429 for a in list(poor.answers)))
            for hours in (25, -25, 1, 0):
                turn(hours)
                count, refused = len(load.good), len(poor.bad)
                until(lambda count=count: len(load.good) > count + 50)
                until(lambda refused=refused: len(poor.bad) > refused)
        load.check()
        assert load.bad == []
        load.logged()
        poor.check(told=(429,))
        assert sum(a.tokens for a in poor.answers) <= 300
    counted = sum(block.requests for block in world.ledger.traffic.blocks("support", until_ms=1 << 62))
    assert counted == len(load.answers) + len(poor.answers)
    asked = [asked_ms(a.id) or 0 for a in load.answers]
    assert max(asked) - min(asked) > 48 * 3600 * 1000


class Line:
    """Between the gateway and PostgreSQL: a socket of the same name in a folder of its own, which can be cut."""

    def __init__(self, folder: Path, there: Path) -> None:
        self.here, self.there = folder / there.name, there
        self._ends: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.mend()

    def mend(self) -> None:
        self._do(self._open())

    def cut(self) -> None:
        self._do(self._shut())

    def close(self) -> None:
        self.cut()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    async def _open(self) -> None:
        self._server = await asyncio.start_unix_server(self._connected, self.here)

    async def _shut(self) -> None:
        self._server.close()
        self.here.unlink(missing_ok=True)
        for end in list(self._ends):
            end.transport.abort()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind, into = await asyncio.open_unix_connection(self.there)
        self._ends |= {writer, into}
        await asyncio.gather(_pump(reader, into), _pump(behind, writer))
        self._ends -= {writer, into}


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


@pytest.mark.parametrize("ledger_url", ["postgresql"], indirect=True)
def test_the_ledger_is_away(tmp_path: Path, postgresql: str, ledger_url: str) -> None:
    """PostgreSQL is gone for a while, with all connections: nobody notices but /readyz, and all is counted after."""
    there = Path(postgresql.partition("host=")[2]) / ".s.PGSQL.5432"
    folder = Path(tempfile.mkdtemp(prefix="lr-"))  # a socket's path may not be long
    line = Line(folder, there)
    url = f"postgresql+psycopg://lr@/postgres?host={folder}"
    world = World(tmp_path / "project", url)
    try:
        with serving(world, LONGREIN_LEDGER=url) as server:
            load = Load(server)
            with load.run():
                line.cut()
                until(lambda: server.ready()["ledger"] != "ok")
                count = len(load.good)
                until(lambda: len(load.good) > count + 100)
                line.mend()
                until(lambda: all(server.ready()["ledger"] == "ok" for _ in range(8)))
            load.check()
            assert load.bad == []
            load.logged()
        blocks = world.ledger.traffic.blocks("support", until_ms=1 << 62)
        assert sum(block.requests for block in blocks) == len(load.answers)
    finally:
        world.ledger.close()
        line.close()
        shutil.rmtree(folder)


@pytest.mark.parametrize("shared", [False, True])
def test_an_engine_that_is_given_up_as_it_becomes_ready_leaves_no_process(tmp_path: Path, shared: bool) -> None:
    world, pids = World(tmp_path), []

    class Hasty(EngineProcess):
        def _receive(self, verb: str, body: Any) -> None:
            super()._receive(verb, body)
            if verb == "ready":
                pids.append(self._ready.result()["pid"])
                task.cancel()

    async def main() -> None:
        nonlocal task
        folder = {"shared": tmp_path / "run"} if shared else {}
        task = asyncio.ensure_future(Hasty.start("echo", world.voice("v1"), project=world.folder, **folder))
        with pytest.raises(asyncio.CancelledError):
            await task
        while psutil.pid_exists(pids[0]) and psutil.Process(pids[0]).status() != psutil.STATUS_ZOMBIE:
            await asyncio.sleep(0.02)

    task: asyncio.Future[Any]
    asyncio.run(asyncio.wait_for(main(), 40))
    world.ledger.close()
