"""/v1/responses: OpenAI's newer API over the same answers as chat completions; nothing is kept between requests."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from longrein.core.errors import Error
from longrein.gateway.inference import Inference, read_body

PATH = "/v1/responses"
CHAT = "/v1/chat/completions"
LATER: dict[str, tuple[Any, ...]] = {  # not supported, and the values that ask for nothing
    "previous_response_id": (), "conversation": (), "background": (False,), "include": ([],), "prompt": (),
    "tools": ([],), "tool_choice": ("auto", "none"), "reasoning": ({},), "truncation": ("disabled",),
    "max_tool_calls": (), "top_logprobs": (0,),
}  # fmt: skip
IGNORED = ("parallel_tool_calls", "store", "service_tier", "prompt_cache_key", "stream_options")
HINTS = {"previous_response_id": "send the whole conversation as input: nothing is kept here"}


class Content(msgspec.Struct):
    type: Literal["input_text", "output_text", "text"]
    text: str


class Item(msgspec.Struct):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Content]
    type: Literal["message"] = "message"

    def message(self) -> dict[str, str]:
        parts = self.content
        return {"role": self.role, "content": parts if isinstance(parts, str) else "".join(p.text for p in parts)}


class Format(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    type: Literal["text", "json_object", "json_schema"]
    name: str = "answer"
    schema: dict[str, Any] = {}
    strict: bool | None = None
    description: str | None = None

    def wanted(self) -> dict[str, Any]:
        """As chat completions call it."""
        if self.type != "json_schema":
            return {"type": self.type}
        named = {"name": self.name, "schema": self.schema, "strict": self.strict, "description": self.description}
        return {"type": self.type, "json_schema": {k: v for k, v in named.items() if v is not None}}


class Text(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    format: Format | None = None


class ResponsesBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    model: Annotated[str, Meta(min_length=1)]
    input: str | Annotated[list[Item], Meta(min_length=1)]
    instructions: str | None = None
    max_output_tokens: Annotated[int, Meta(ge=1)] | None = None
    temperature: float | None = None
    top_p: float | None = None
    stream: bool = False
    text: Text | None = None
    metadata: dict[str, str] | None = None
    user: str | None = None
    safety_identifier: str | None = None

    def chat(self) -> dict[str, Any]:
        """The same as a chat completion."""
        items = [Item("user", self.input)] if isinstance(self.input, str) else self.input
        system = [{"role": "system", "content": self.instructions}] if self.instructions else []
        given = {
            "model": self.model,
            "messages": [*system, *(item.message() for item in items)],
            "max_completion_tokens": self.max_output_tokens,
            "response_format": self.text.format.wanted() if self.text and self.text.format else None,
        }
        for name in ("temperature", "top_p", "user", "safety_identifier"):
            given[name] = getattr(self, name)
        if self.stream:
            given |= {"stream": True, "stream_options": {"include_usage": True}}
        return {name: value for name, value in given.items() if value is not None}


BODIES: dict[str, type[msgspec.Struct]] = {PATH: ResponsesBody}


class Responses:
    def __init__(self, inference: Inference) -> None:
        self.inference = inference

    def routes(self) -> Iterator[Route]:
        yield Route(PATH, self.create, methods=["POST"])

    async def create(self, request: Request) -> Response:
        """Answer an input, whole or as a stream of events."""
        data = await read_body(request.scope, request.receive, self.inference.max_body_bytes)
        body = _parse(data)
        chat = _Chat(self.inference, request, msgspec.json.encode(body.chat()))
        status = await chat.status()
        headers = {name: value for name, value in chat.headers.items() if name != "content-length"}
        headers.pop("x-request-id", None)  # every response has it already
        if status != 200:
            return Response(await chat.whole(), status, headers)
        answer = _Answer(request.scope["longrein.id"], body)
        if body.stream:
            return StreamingResponse(_events(chat, answer), 200, headers)
        answer.take(msgspec.json.decode(await chat.whole()))
        return Response(msgspec.json.encode(answer.response()), 200, headers)


class _Chat:
    """A chat completion on its way, asked for as a client would."""

    def __init__(self, inference: Inference, request: Request, body: bytes) -> None:
        self._messages: asyncio.Queue[Any] = asyncio.Queue()
        self.headers: dict[str, str] = {}
        headers = [(k, v) for k, v in request.scope["headers"] if k.startswith((b"x-longrein-", b"cache-control"))]
        scope = {
            "type": "http", "path": CHAT, "headers": headers, "longrein.id": request.scope["longrein.id"],
            "longrein.key": request.scope["longrein.key"],
        }  # fmt: skip

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body}

        self._task = asyncio.ensure_future(inference(scope, receive, self._messages.put))

    async def status(self) -> int:
        try:
            start = await self._messages.get()
        except asyncio.CancelledError:
            self._task.cancel()
            raise
        self.headers = {name.decode(): value.decode("latin-1") for name, value in start["headers"]}
        return int(start["status"])

    async def pieces(self) -> AsyncIterator[bytes]:
        """What comes of the body. Whoever stops reading cancels it."""
        try:
            more = True
            while more:
                message = await self._messages.get()
                more = message.get("more_body", False)
                yield message.get("body", b"")
            await self._task
        finally:
            self._task.cancel()

    async def whole(self) -> bytes:
        return b"".join([piece async for piece in self.pieces()])


class _Answer:
    """A response as it grows."""

    def __init__(self, id: str, body: ResponsesBody) -> None:
        self.id, self.body, self.created = id, body, int(time.time())
        self.parts: list[str] = []
        self.reason: str | None = None
        self.usage: dict[str, Any] | None = None
        self.number = 0  # of the next event

    @property
    def status(self) -> str:
        return {None: "in_progress", "length": "incomplete"}.get(self.reason, "completed")

    def take(self, chunk: dict[str, Any]) -> str:
        """Take in a chat completion, or a chunk of one; returns the words that it adds."""
        self.usage = chunk.get("usage") or self.usage
        words = ""
        for choice in chunk.get("choices", ()):
            words += (choice.get("message") or choice.get("delta") or {}).get("content") or ""
            self.reason = choice.get("finish_reason") or self.reason
        self.parts += [words] if words else []
        return words

    def part(self) -> dict[str, Any]:
        return {"type": "output_text", "text": "".join(self.parts), "annotations": [], "logprobs": []}

    def item(self, content: list[Any]) -> dict[str, Any]:
        id = "msg_" + self.id.partition("_")[2]
        return {"id": id, "type": "message", "status": self.status, "role": "assistant", "content": content}

    def response(self) -> dict[str, Any]:
        body, used = self.body, self.usage
        format = body.text.format if body.text and body.text.format else Format(type="text")
        cached = ((used or {}).get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        usage = used and {
            "input_tokens": used["prompt_tokens"],
            "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
            "output_tokens": used["completion_tokens"],
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": used["total_tokens"],
        }
        shown = {"type": format.type} if format.type != "json_schema" else msgspec.to_builtins(format)
        return {
            "id": self.id, "object": "response", "created_at": self.created, "status": self.status, "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if self.reason == "length" else None,
            "instructions": body.instructions, "max_output_tokens": body.max_output_tokens, "model": body.model,
            "output": [self.item([self.part()])] if self.reason else [], "parallel_tool_calls": True,
            "previous_response_id": None, "store": False, "temperature": body.temperature, "text": {"format": shown},
            "tool_choice": "auto", "tools": [], "top_p": body.top_p, "truncation": "disabled", "usage": usage,
            "metadata": body.metadata or {}, "user": body.user,
        }  # fmt: skip

    def event(self, kind: str, **more: Any) -> bytes:
        data = msgspec.json.encode({"type": kind, "sequence_number": self.number, **more})
        self.number += 1
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), data)

    def beginning(self) -> Iterator[bytes]:
        yield self.event("response.created", response=self.response())
        yield self.event("response.in_progress", response=self.response())
        yield self.event("response.output_item.added", output_index=0, item=self.item([]))
        yield self.event("response.content_part.added", **self._place(), part=self.part())

    def delta(self, words: str) -> bytes:
        return self.event("response.output_text.delta", **self._place(), delta=words, logprobs=[])

    def end(self) -> Iterator[bytes]:
        part = self.part()
        yield self.event("response.output_text.done", **self._place(), text=part["text"], logprobs=[])
        yield self.event("response.content_part.done", **self._place(), part=part)
        yield self.event("response.output_item.done", output_index=0, item=self.item([part]))
        yield self.event(f"response.{self.status}", response=self.response())

    def _place(self) -> dict[str, Any]:
        return {"item_id": self.item([])["id"], "output_index": 0, "content_index": 0}


async def _events(chat: _Chat, answer: _Answer) -> AsyncIterator[bytes]:
    for event in answer.beginning():
        yield event
    async for piece in chat.pieces():
        for line in piece.split(b"\n\n"):
            data = line.removeprefix(b"data: ")
            if not data or data == b"[DONE]":
                continue
            chunk = msgspec.json.decode(data)
            if error := chunk.get("error"):
                yield answer.event("error", code=error["code"], message=error["message"], param=error["param"])
                return
            if words := answer.take(chunk):
                yield answer.delta(words)
    for event in answer.end():
        yield event


def _parse(data: bytes) -> ResponsesBody:
    """Errors: `invalid`, with the parameter's name."""
    try:
        given = msgspec.json.decode(data, type=dict[str, Any])
        given = {name: value for name, value in given.items() if value is not None and name not in IGNORED}
        for name, nothing in LATER.items():
            if name in given and given.pop(name) not in nothing:
                raise Error("invalid", f"{name} is not supported", HINTS.get(name, "leave it out"), param=name)
        return msgspec.convert(given, ResponsesBody)
    except msgspec.ValidationError as error:
        param = str(error).partition(" - at `$")[2].strip(".`") or None
        raise Error("invalid", f"the body cannot be used: {error}", "", param=param) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Error("invalid", f"the body is not JSON: {error}", "send one JSON object") from error
