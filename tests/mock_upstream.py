"""An OpenAI-compatible server that does what a test tells it: answers, stalls, breaks off, talks nonsense."""

import asyncio
import contextlib
import json
import threading
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

Script = Callable[["Mock", "Asked"], Awaitable[None]]


class Asked(NamedTuple):
    """A request as it came."""

    number: int  # 1, 2, … without the health checks
    path: str
    headers: dict[str, str]
    body: bytes
    writer: asyncio.StreamWriter

    @property
    def json(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found


class Mock:
    """Listens in a thread. asked: what came so far; connections: how many were opened; gone: requests whose client hung
    up before they were answered; sent: bytes of bodies written so far."""

    def __init__(self, script: "Script | None" = None, port: int = 0) -> None:
        self.script: Script = script or say("hello")
        self.asked: list[Asked] = []
        self.connections = self.gone = self.sent = 0
        self._port = port
        self._tasks: set[asyncio.Task[Any]] = set()
        self._loop = asyncio.new_event_loop()
        self._up = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._up.wait()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/v1"

    def close(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()

    def go(self) -> None:
        self._loop.call_soon_threadsafe(self.gate.set)

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        self._stop, self.gate = asyncio.Event(), asyncio.Event()
        server = await asyncio.start_server(self._connected, "127.0.0.1", self._port, limit=1 << 24)
        self._port = server.sockets[0].getsockname()[1]
        self._up.set()
        await self._stop.wait()
        server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        self.connections += 1
        try:
            while await self._one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self._tasks.discard(task)
            with contextlib.suppress(ConnectionError, RuntimeError):
                writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines[1:] if line)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        path = lines[0].split()[1]
        if path.endswith("/models"):
            await whole(writer, {"object": "list", "data": []})
            return True
        asked = Asked(len(self.asked) + 1, path, headers, body, writer)
        self.asked.append(asked)
        work = asyncio.ensure_future(self.script(self, asked))
        left = asyncio.ensure_future(reader.read(1))  # the client speaks no more until it is answered
        await asyncio.wait((work, left), return_when=asyncio.FIRST_COMPLETED)
        if not work.done() or isinstance(work.exception(), ConnectionError):
            self.gone += 1
            work.cancel()
        left.cancel()
        await asyncio.gather(work, left, return_exceptions=True)
        if work.cancelled() or work.exception():
            return False
        return not writer.is_closing()


async def whole(writer: asyncio.StreamWriter, value: Any, status: int = 200, **headers: str) -> None:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    more = "".join(f"{name.replace('_', '-')}: {text}\r\n" for name, text in headers.items())
    kind = "" if "content_type" in headers else "content-type: application/json\r\n"
    head = f"HTTP/1.1 {status} X\r\n{kind}content-length: {len(data)}\r\n{more}\r\n"
    writer.write(head.encode() + data)
    await writer.drain()


async def begin(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
    await writer.drain()


async def chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(b"%x\r\n%b\r\n" % (len(data), data))
    await writer.drain()


def event(delta: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    value = {"id": "up-1", "object": "chat.completion.chunk", "model": "mock-1", "choices": [choice], **more}
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"


USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10, "prompt_tokens_details": {"cached_tokens": 5}}


def say(text: str, usage: bool = True) -> Script:
    """Answers a chat, whole or word by word."""

    async def script(mock: Mock, asked: Asked) -> None:
        body, writer = asked.json, asked.writer
        if not body.get("stream"):
            message = {"role": "assistant", "content": text}
            choice = {"index": 0, "message": message, "text": text, "finish_reason": "stop"}
            value = {"id": "up-1", "object": "chat.completion", "model": "mock-1", "choices": [choice]}
            await whole(writer, value | ({"usage": USAGE} if usage else {}))
            return
        await begin(writer)
        await chunk(writer, event({"role": "assistant", "content": ""}))
        for i, word in enumerate(text.split()):
            await chunk(writer, event({"content": word if i == 0 else " " + word}))
        await chunk(writer, event({}, "stop"))
        if usage and (body.get("stream_options") or {}).get("include_usage"):
            end = {"id": "up-1", "object": "chat.completion.chunk", "model": "mock-1", "choices": [], "usage": USAGE}
            await chunk(writer, b"data: " + json.dumps(end).encode() + b"\n\n")
        await chunk(writer, b"data: [DONE]\n\n")
        writer.write(b"0\r\n\r\n")
        await writer.drain()

    return script


def status(code: int, message: str = "no", **headers: str) -> Script:
    async def script(mock: Mock, asked: Asked) -> None:
        value = {"error": {"message": message, "type": "x", "param": "messages", "code": "some_code"}}
        await whole(asked.writer, value, code, **headers)

    return script


def raw(data: bytes, then_close: bool = True) -> Script:
    """Bytes as they are."""

    async def script(mock: Mock, asked: Asked) -> None:
        asked.writer.write(data)
        await asked.writer.drain()
        if then_close:
            asked.writer.close()
        else:
            await asyncio.Event().wait()

    return script


async def hang(mock: Mock, asked: Asked) -> None:
    await asyncio.Event().wait()


async def hang_mid_stream(mock: Mock, asked: Asked) -> None:
    await begin(asked.writer)
    await chunk(asked.writer, event({"role": "assistant", "content": "one"}))
    await asyncio.Event().wait()


async def break_mid_stream(mock: Mock, asked: Asked) -> None:
    await begin(asked.writer)
    await chunk(asked.writer, event({"role": "assistant", "content": "one"}))
    asked.writer.close()


def gated(data: bytes) -> Script:
    """A stream whose first word comes at once, and the rest, these bytes, when the test calls mock.go()."""

    async def script(mock: Mock, asked: Asked) -> None:
        await begin(asked.writer)
        await chunk(asked.writer, event({"role": "assistant", "content": "one"}))
        await mock.gate.wait()
        await chunk(asked.writer, data)
        asked.writer.write(b"0\r\n\r\n")
        await asked.writer.drain()

    return script


def by_turns(*scripts: Script) -> Script:
    async def script(mock: Mock, asked: Asked) -> None:
        await scripts[(asked.number - 1) % len(scripts)](mock, asked)

    return script
