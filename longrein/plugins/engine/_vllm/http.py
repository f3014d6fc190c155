"""One HTTP/1.1 exchange over a Unix socket, its body read as it comes."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import httptools

from longrein.core.errors import Error

READ_BYTES = 64 << 10


class Answer:
    """status: 0 until the head has come."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self.status = 0
        self._reader, self._parser = reader, httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self._ended = False

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body. Errors: `unavailable` when it breaks off."""
        while True:
            for piece in (body := self._body):
                yield piece
            if self._ended and self._body is body:
                return
            self._body = []
            await self.read()

    async def events(self) -> AsyncIterator[bytes]:
        """The data of its server-sent events, one line each."""
        rest = b""
        async for piece in self.pieces():
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                if line.startswith(b"data:"):
                    yield line[5:].strip()

    async def read(self) -> None:
        """Take in what comes next, if there is more to come."""
        if self._ended:
            return
        try:
            data = await self._reader.read(READ_BYTES)
            if not data:
                raise Error("unavailable", "vllm broke off its answer", "try again", retry_after_s=1)
            self._parser.feed_data(data)
        except (OSError, httptools.HttpParserError) as error:
            raise Error("unavailable", f"vllm broke off its answer: {error}", "try again", retry_after_s=1) from error

    # httptools

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()

    def on_body(self, data: bytes) -> None:
        self._body.append(data)

    def on_message_complete(self) -> None:
        self._ended = True


@contextlib.asynccontextmanager
async def ask(socket: str, method: str, path: str, body: bytes) -> AsyncIterator[Answer]:
    """Errors: `unavailable`."""
    try:
        reader, writer = await asyncio.open_unix_connection(socket)
    except OSError as error:
        raise Error("unavailable", f"vllm does not listen: {error}", "try again", retry_after_s=1) from error
    head = f"{method} {path} HTTP/1.1\r\nhost: vllm\r\nconnection: close\r\ncontent-type: application/json\r\n"
    try:
        writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        answer = Answer(reader)
        while not answer.status:
            await answer.read()
        yield answer
    finally:
        writer.transport.abort()
