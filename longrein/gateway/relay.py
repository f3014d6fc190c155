"""An upstream's answer on its way to the client: renamed, counted, and checked to be whole; otherwise as it came.

Most events of a stream differ in nothing but their words. From one that was decoded the frame around them is learned;
what fits it is passed on as it came, and the words are kept for later. What a model says cannot fool it, for inside a
JSON string there is no bare quote.
"""

import re
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple, Protocol

import msgspec

from longrein.core.errors import Error
from longrein.core.generation import Usage
from longrein.gateway.http import Failure, Response
from longrein.gateway.openai import DONE
from longrein.gateway.said import Said

MAX_ANSWER_BYTES = 64 << 20
MAX_EVENT_BYTES = 8 << 20
BYTES_A_TOKEN = 4  # of text, where an upstream tells no usage
MOST_TOKENS = 1 << 31  # a usage beyond is nonsense
MAX_REASON_CHARS = 40
UNHEARD = 256  # events whose words may wait to be decoded
LEARN = 4  # times in a stream


Write = Callable[[bytes, Callable[[], None]], bool]  # see protocol.Connection.write_piece


class Reply(Protocol):
    """What upstream.Upstream.ask returns."""

    ended: bool
    response: Response

    def broken(self, failure: Failure) -> Error: ...


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None

    @property
    def cached_tokens(self) -> int:
        return (self.prompt_tokens_details and self.prompt_tokens_details.cached_tokens) or 0

    @property
    def makes_sense(self) -> bool:
        """Negative counts would refill budgets, and huge ones have no place in them."""
        counts = (self.prompt_tokens, self.completion_tokens or 0, self.cached_tokens)
        return all(0 <= count < MOST_TOKENS for count in counts) and self.cached_tokens <= self.prompt_tokens


class _Said(msgspec.Struct):
    content: Any = None


class _Choice(msgspec.Struct):
    index: int = 0
    delta: _Said | None = None
    message: _Said | None = None
    text: str | None = None
    finish_reason: str | None = None

    @property
    def said(self) -> str:
        """Its words, of any of the API's three shapes; tool calls are none."""
        said = self.delta or self.message
        words = said.content if said else self.text
        return words if isinstance(words, str) else ""


class Piece(msgspec.Struct):
    """What is known of an answer, or of one event of it."""

    id: str | None = None
    model: str | None = None
    choices: list[_Choice] = []
    data: list[msgspec.Raw] = []  # embeddings
    usage: _Usage | None = None
    error: Any = None


class _Frame(NamedTuple):
    """What is around the words of an event that has nothing else: as it comes, and as it is shown."""

    before: bytes
    after: bytes
    opening: bytes
    closing: bytes


NO_FRAME = _Frame(b"\0", b"", b"", b"")
PIECE = msgspec.json.Decoder(Piece)


class Relay:
    """One answer. id, model: what the client is to read in place of the upstream's own. keep: the words as well.
    drop_usage: the client did not ask for the event that tells the usage."""

    def __init__(self, reply: Reply, id: str, model: str, prompt_bytes: int, keep: bool, drop_usage: bool) -> None:
        self.reply, self.id, self.model, self.keep, self.drop_usage = reply, id, model, keep, drop_usage
        self.prompt_bytes = prompt_bytes
        self.finish_reason = ""
        self._said = Said()
        self.usages: tuple[Usage, ...] = ()
        self.first: float | None = None  # when a stream's first event came
        self.usage: _Usage | None = None
        self.texts: dict[int, list[str]] = {}
        self._events = self._said_bytes = self._learned = 0
        self._frame = NO_FRAME
        self._unheard: list[bytes] = []  # the insides of JSON strings
        self._names: list[tuple[bytes, bytes]] | None = None
        self._held = b""  # of an event that is not whole yet
        self._done = False
        self.write: Write | None = None  # from when on it is set, pieces go there

    @property
    def estimated(self) -> bool:
        """Whether the tokens are a guess, because the upstream told none."""
        return self.usage is None or self.usage.completion_tokens is None

    def tokens(self) -> tuple[int, int]:
        """(prompt, completion). Where the upstream told none: bytes / 4, and one an event."""
        if self.usage and self.usage.completion_tokens is not None:
            return self.usage.prompt_tokens, self.usage.completion_tokens
        written = max(self._events + len(self._unheard), -(-self._said_bytes // BYTES_A_TOKEN))
        return -(-self.prompt_bytes // BYTES_A_TOKEN), written

    @property
    def cached_tokens(self) -> int:
        """Of the prompt, those that the upstream had computed before."""
        return self.usage.cached_tokens if self.usage else 0

    @property
    def said(self) -> Said:
        """The words of the first choice."""
        self.hear()
        return self._said

    def text(self) -> list[str]:
        """The words of each choice, where they were kept."""
        self.hear()
        return ["".join(parts) for _, parts in sorted(self.texts.items())] or [""]

    async def whole(self) -> bytes:
        """The whole answer as the client is to see it. Errors: `bad_gateway`, `timeout`."""
        data = await self._rest()
        piece = _decode(data)
        if piece.data and piece.usage:
            piece.usage.completion_tokens = 0
        if piece.error is not None or not (piece.choices or piece.data):
            raise _failed(piece.error, "has no choices")
        self._note(piece)
        self._said_bytes = sum(len(choice.said.encode("utf-8", "replace")) for choice in piece.choices)
        return self._renamed(data, piece)

    async def pieces(self) -> AsyncIterator[bytes]:
        """The events of a stream, whole ones only, without the end's. Errors: `bad_gateway` also for one that breaks
        off, `timeout`."""
        if not self.reply.response.headers.get(b"content-type", b"").lower().startswith(b"text/event-stream"):
            raise _failed(_decode(await self._rest()).error, "is not a stream, as was asked")
        response = self.reply.response
        try:
            while not self._done and (data := await response.read()):
                if shown := self._take(data):
                    yield shown
                if self.write and not self._done:
                    await response.pour(self._pour)
        except Failure as failure:
            raise self.reply.broken(failure) from failure
        if not self._done and self._held.strip() and (shown := self._read(self._held.rstrip() + b"\n\n")):
            yield shown
        if not self._done and not self.finish_reason:
            raise Error("bad_gateway", "the upstream ended its answer in the middle", "try again")

    async def _rest(self) -> bytes:
        try:
            return await self.reply.response.whole(MAX_ANSWER_BYTES)
        except Failure as failure:
            raise self.reply.broken(failure) from failure

    def closing(self) -> bytes:
        """What a stream that reached its end ends with."""
        return DONE

    def _pour(self, data: bytes) -> bool:
        """Pass on what came; False when nothing more is wanted."""
        assert self.write
        response = self.reply.response
        if (shown := self._take(data)) and not self.write(shown, response.resume):
            response.pause()
        return not self._done

    def _take(self, data: bytes) -> bytes:
        """What the client may see of the events that are whole now."""
        if not self._held and (shown := self._framed(data)):
            return shown
        held = self._held + data if self._held else data
        cut = len(held) if held.endswith(b"\n\n") else _cut(held)
        if not cut:
            if len(held) > MAX_EVENT_BYTES:
                raise Error("bad_gateway", f"an event of the upstream's is larger than {MAX_EVENT_BYTES} bytes")
            self._held = held
            return b""
        self.first = self.first or time.perf_counter()
        events, self._held = held[:cut], held[cut:]
        return self._read(events)

    def _read(self, events: bytes) -> bytes:
        """Take note of whole events; returns them as the client is to see them."""
        return b"".join(map(self._read_one, _split(events)))

    def _framed(self, event: bytes) -> bytes:
        """An event that has nothing but words, as the client is to see it; empty where it may be another."""
        before, after, opening, closing = self._frame
        if not (event.startswith(before) and event.endswith(after)):
            return b""
        words = event[len(before) : -len(after)]
        if b'"' in words or b"\n" in words:
            return b""
        self._unheard.append(words)
        if len(self._unheard) >= UNHEARD:
            self.hear()
        return b"".join((opening, words, closing))

    def hear(self) -> None:
        """Take in the words that were passed on as they came."""
        if not self._unheard:
            return
        words, self._unheard, count = b"".join(self._unheard), [], len(self._unheard)
        text = _unquoted(words) or words.decode("utf-8", "replace")
        self._events += count
        self._said.add(text)
        if self.keep:
            self.texts.setdefault(0, []).append(text)

    def _learn(self, event: bytes, piece: Piece) -> None:
        """Keep the frame of an event, if it has nothing but words of the first choice."""
        choice = piece.choices[0]
        if len(piece.choices) > 1 or choice.index or choice.finish_reason or piece.usage or not choice.said:
            return
        self._learned += 1
        found = re.findall(rb'"content": ?"|"text": ?"', event)
        if len(found) != 1:
            return
        before, key, rest = event.partition(found[0])
        words, quote, after = rest.partition(b'"')
        if _unquoted(words) == choice.said:
            before, after = before + key, quote + after
            self._frame = _Frame(before, after, self._renamed(before, piece), self._renamed(after, piece))

    def _read_one(self, event: bytes) -> bytes:
        if self._done:
            return b""
        if shown := self._framed(event):
            return shown
        data = _data(event)
        if data is None:
            return event
        if data == b"[DONE]":
            self._done = self.reply.ended = True
            return b""
        piece = _decode(data)
        if piece.error is not None:
            raise _failed(piece.error, "")
        self._note(piece)
        if not piece.choices and piece.usage and self.drop_usage:
            return b""
        self._events += bool(piece.choices)
        shown = self._renamed(event, piece)
        if piece.choices and self._learned < LEARN:
            self._learn(event, piece)
        return shown

    def _note(self, piece: Piece) -> None:
        self.hear()
        if piece.usage and piece.usage.makes_sense:
            self.usage = piece.usage
        for choice in piece.choices:
            self.finish_reason = (choice.finish_reason or self.finish_reason)[:MAX_REASON_CHARS]
            if choice.index == 0:
                self._said.add(choice.said)
            if self.keep:
                self.texts.setdefault(choice.index, []).append(choice.said)

    def _renamed(self, data: bytes, piece: Piece) -> bytes:
        if self._names is None:
            known = [(b"id", piece.id, self.id), (b"model", piece.model, self.model)]
            self._names = [pair for key, old, new in known if old for pair in _pairs(key, old, new) if pair[0] in data]
        for old, new in self._names:
            data = data.replace(old, new)
        return data


def _unquoted(data: bytes) -> str | None:
    """What the inside of a JSON string says; None where it is none."""
    try:
        return str(msgspec.json.decode(b'"%b"' % data, type=str))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _pairs(key: bytes, old: str, new: str) -> list[tuple[bytes, bytes]]:
    """A member of an object as it may be written, and what stands for it."""
    before, after = msgspec.json.encode(old), msgspec.json.encode(new)
    return [(b'"%b"%b%b' % (key, gap, before), b'"%b"%b%b' % (key, gap, after)) for gap in (b":", b": ")]


def _cut(data: bytes) -> int:
    """Where the last whole event ends; 0: none does."""
    return max(data.rfind(end) + len(end) if end in data else 0 for end in (b"\n\n", b"\r\n\r\n"))


def _split(events: bytes) -> list[bytes]:
    if b"\r" in events:
        events = events.replace(b"\r\n", b"\n")
    return [event + b"\n\n" for event in events.split(b"\n\n") if event]


def _data(event: bytes) -> bytes | None:
    """The data of an event; None for a comment and the like."""
    lines = [line[5:].lstrip(b" ") for line in event.split(b"\n") if line.startswith(b"data:")]
    return b"\n".join(lines).strip() if lines else None


def _decode(data: bytes) -> Piece:
    try:
        return PIECE.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Error("bad_gateway", f"the upstream answers what no client understands: {error}", "try again") from error


def _failed(said: Any, otherwise: str) -> Error:
    """What an upstream tells in place of an answer though its status was 200."""
    words = said.get("message") if isinstance(said, dict) else said
    if said is None:
        return Error("bad_gateway", f"the upstream's answer {otherwise}", "try again")
    return Error("bad_gateway", f"the upstream failed: {str(words)[:2000]}", "try again")
