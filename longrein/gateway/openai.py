"""The bodies of OpenAI's API as clients send them, checked and turned into requests for an engine; and its errors.

Honoured: model, messages or prompt, n, stop, seed, temperature, top_p, max_tokens, max_completion_tokens,
presence_penalty, frequency_penalty, logit_bias, logprobs, top_logprobs, response_format, stream, stream_options; beside
them vLLM's top_k, min_p, repetition_penalty, min_tokens, ignore_eos, priority and cache_salt. IGNORED ones change
nothing in the answer's text. Those in LATER are refused unless they ask for nothing; all else is refused by name.
As with OpenAI, null means "not given".
"""

import contextlib
import zlib
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Protocol

import msgspec
from msgspec import Meta

from longrein.core.errors import Error, nearest
from longrein.core.generation import Request

SAMPLING = (
    "temperature", "top_p", "top_k", "min_p", "seed", "presence_penalty", "frequency_penalty", "repetition_penalty",
    "min_tokens", "ignore_eos", "logit_bias", "priority", "cache_salt",
)  # fmt: skip
IGNORED = (
    "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention",
)  # fmt: skip
LATER: dict[str, tuple[Any, ...]] = {  # not supported yet, and the values that ask for nothing
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],), "audio": (), "prediction": (), "reasoning_effort": (), "verbosity": (),
    "web_search_options": (), "best_of": (1,),
    "echo": (False,), "suffix": ("",),
}  # fmt: skip
DONE = b"data: [DONE]\n\n"  # the last event of a stream
MAX_CHOICES = 128
MAX_OPENING_BYTES = 4096  # of a conversation, to tell it by
SEED_RANGE = 2**63
Count = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Token = Annotated[int, Meta(ge=0, le=2**31 - 1)]


class Part(msgspec.Struct, forbid_unknown_fields=True):
    type: Literal["text"]
    text: str


class Function(msgspec.Struct, kw_only=True):
    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
    description: str = ""
    parameters: dict[str, Any] = msgspec.field(default_factory=lambda: {"type": "object", "properties": {}})


class Tool(msgspec.Struct):
    type: Literal["function"]
    function: Function


class Called(msgspec.Struct):
    name: str
    arguments: str = "{}"


class ToolCall(msgspec.Struct):
    function: Called
    id: str = ""
    type: Literal["function"] = "function"

    def plain(self) -> dict[str, Any]:
        """Templates write arguments by themselves."""
        try:
            arguments = msgspec.json.decode(self.function.arguments)
        except (msgspec.DecodeError, RecursionError):
            arguments = self.function.arguments
        return {"id": self.id, "type": self.type, "function": {"name": self.function.name, "arguments": arguments}}


class ForcedName(msgspec.Struct):
    name: str


class Forced(msgspec.Struct):
    """A tool that must be called."""

    type: Literal["function"]
    function: ForcedName


class Message(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[Part] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] = []
    tool_call_id: str | None = None

    def plain(self, index: int) -> dict[str, Any]:
        """As chat templates know it."""
        if self.content is None and not self.tool_calls:
            raise _invalid(f"messages[{index}]", f"messages[{index}] has no content", "send a text")
        role = "system" if self.role == "developer" else self.role
        parts = self.content or ""
        message: dict[str, Any] = {"role": role}
        message["content"] = parts if isinstance(parts, str) else "".join(part.text for part in parts)
        if self.tool_calls:
            message["tool_calls"] = [call.plain() for call in self.tool_calls]
        return message | ({"name": self.name} if self.role == "tool" and self.name else {})


class StreamOptions(msgspec.Struct, forbid_unknown_fields=True):
    include_usage: bool = False
    include_obfuscation: bool = False


class JsonSchema(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    name: Annotated[str, Meta(min_length=1, max_length=64)]
    schema: dict[str, Any] = {}
    strict: bool | None = None  # it is kept to in any case
    description: str | None = None


class ResponseFormat(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    def wanted(self) -> dict[str, Any] | None:
        """The JSON schema that the answer must fulfil."""
        if (self.type == "json_schema") != (self.json_schema is not None):
            hint = 'send {"type": "json_schema", "json_schema": {"name": …, "schema": …}}'
            raise _invalid("response_format", f"type {self.type!r} does not fit what else response_format says", hint)
        if self.json_schema is None:
            return {"type": "object"} if self.type == "json_object" else None
        return self.json_schema.schema


class _Body(msgspec.Struct, kw_only=True):
    """What the gateway itself reads of a body; SAMPLING goes to the engine's Request as it is."""

    SAMPLING: ClassVar[tuple[str, ...]] = SAMPLING
    MOST: ClassVar[int] = MAX_CHOICES

    model: Annotated[str, Meta(min_length=1)]
    n: Annotated[int, Meta(ge=1, le=MAX_CHOICES)] = 1
    stop: str | list[str] = []
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: Count | None = None
    response_format: ResponseFormat | None = None

    def constraint(self) -> dict[str, Any]:
        schema = self.response_format.wanted() if self.response_format else None
        return {} if schema is None else {"json_schema": schema}


class ChatBody(_Body, kw_only=True):
    messages: Annotated[list[Message], Meta(min_length=1)]
    max_completion_tokens: Count | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    tools: Annotated[list[Tool], Meta(max_length=128)] = []
    tool_choice: Literal["none", "auto", "required"] | Forced = "auto"
    parallel_tool_calls: bool = True

    def prompts(self) -> list[dict[str, Any]]:
        return [{"messages": [message.plain(i) for i, message in enumerate(self.messages)]}]

    @property
    def forced(self) -> list[Tool] | None:
        """The tools of which one must be called."""
        if self.tool_choice in ("none", "auto"):
            return None
        wanted = self.tool_choice.function.name if isinstance(self.tool_choice, Forced) else None
        found = [tool for tool in self.tools if wanted in (None, tool.function.name)]
        if not found:
            raise _invalid("tool_choice", "tool_choice names no tool of this request", "send it in tools")
        return found

    def calling(self) -> dict[str, Any]:
        """What makes the engine know the tools, and call one where it must."""
        forced = self.forced
        if not self.tools or self.tool_choice == "none":
            return {}
        given: dict[str, Any] = {"tools": msgspec.to_builtins(self.tools)}
        if forced:
            if self.constraint():
                raise _invalid(
                    "response_format", "response_format and a tool that must be called exclude each other", ""
                )
            given["json_schema"] = _one_of([tool.function for tool in forced])
        return given

    def shared(self) -> dict[str, Any]:
        limits = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(limits) > 1:
            raise _invalid("max_tokens", "max_tokens and max_completion_tokens differ", "give one of them")
        if self.top_logprobs is not None and not self.logprobs:
            raise _invalid("top_logprobs", "top_logprobs needs logprobs", "add  logprobs: true")
        logprobs = (self.top_logprobs or 0) if self.logprobs else None
        return {"max_tokens": next(iter(limits), None), "logprobs": logprobs, **self.constraint(), **self.calling()}


class CompletionBody(_Body, kw_only=True):
    prompt: str | list[str | Token | list[Token]]  # one text, or token ids; or several of either
    max_tokens: Count | None = 16  # OpenAI's default
    logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None

    def prompts(self) -> list[dict[str, Any]]:
        return texts_or_tokens("prompt", self.prompt)

    def shared(self) -> dict[str, Any]:
        return {"max_tokens": self.max_tokens, "logprobs": self.logprobs, **self.constraint()}


def _one_of(functions: list[Function]) -> dict[str, Any]:
    """The JSON schema of a call of one of them. Definitions that parameters refer to move to its root."""
    schema: dict[str, Any] = {"anyOf": []}
    for function in functions:
        parameters = dict(function.parameters)
        for name in ("$defs", "definitions"):
            moved = parameters.pop(name, {})
            known = schema.setdefault(name, {})
            if any(known.get(key, value) != value for key, value in moved.items()):
                raise _invalid("tools", f"tools define different things by one name in {name}", "name them differently")
            known |= moved
        properties = {"name": {"const": function.name}, "arguments": parameters}
        call = {"type": "object", "properties": properties, "required": ["name", "arguments"]}
        schema["anyOf"].append(call | {"additionalProperties": False})
    return schema


def texts_or_tokens(name: str, given: str | list[Any]) -> list[dict[str, Any]]:
    """One prompt for each text, or list of tokens, of a parameter."""
    kinds = {type(item) for item in given} if isinstance(given, list) else {int}
    if len(kinds) != 1:
        raise _invalid(name, f"{name} is empty or mixes texts and tokens", "send a text, or a list of one kind")
    return [{"prompt": prompt} for prompt in ([given] if kinds == {int} else given)]


class Body(Protocol):
    """What a body tells, whatever it is of."""

    __struct_fields__: ClassVar[tuple[str, ...]]
    SAMPLING: ClassVar[tuple[str, ...]]  # parameters that go to the engine as they are
    MOST: ClassVar[int]  # answers to one request

    @property
    def model(self) -> str: ...
    @property
    def n(self) -> int: ...
    @property
    def stop(self) -> str | list[str]: ...
    @property
    def stream(self) -> bool: ...
    @property
    def stream_options(self) -> StreamOptions | None: ...

    def prompts(self) -> list[dict[str, Any]]: ...
    def shared(self) -> dict[str, Any]: ...


class Ask(msgspec.Struct, frozen=True):
    """A checked body. requests: one for each choice, `n` in a row for each prompt."""

    model: str
    stream: bool
    include_usage: bool
    n: int
    requests: list[Request]
    body: Any


def parse(data: bytes, type_: type[Body]) -> Ask:
    """Errors: `invalid`, with the parameter's name."""
    given = _decode(data)
    valid = {*type_.SAMPLING, *IGNORED, *LATER, *type_.__struct_fields__}
    for key, value in given.items():
        if key not in valid:
            raise _invalid(key[:100], f"there is no parameter {key[:100]!r}", nearest(key[:100], valid - LATER.keys()))
        if key in LATER and value not in LATER[key]:
            raise _invalid(key, f"{key} is not supported yet", "leave it out")
    body: Body = _convert({k: given[k] for k in type_.__struct_fields__ if k in given}, type_)
    stop = [body.stop] if isinstance(body.stop, str) else body.stop
    shared = {"stop": stop, **body.shared(), **{k: given[k] for k in type_.SAMPLING if k in given}}
    prompts = [_convert({**prompt, **shared}, Request) for prompt in body.prompts()]
    if len(prompts) * body.n > body.MOST:
        raise _invalid("n", f"{len(prompts) * body.n} answers are too many for one request", f"at most {body.MOST}")
    requests = [_nth(request, i) for request in prompts for i in range(body.n)]
    usage = bool(body.stream_options and body.stream_options.include_usage)
    return Ask(body.model, body.stream, usage, body.n, requests, body)


def unparse(request: Request, model: str) -> tuple[str, bytes]:
    """(path, body) that ask another server of this API for the same, as a stream."""
    fields = msgspec.to_builtins(request)
    fields.pop("id", None)
    if request.messages is not None and request.logprobs is not None:
        fields |= {"logprobs": True, "top_logprobs": request.logprobs}
    if (schema := fields.pop("json_schema", None)) is not None:
        fields["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    body = {"model": model, "stream": True, "stream_options": {"include_usage": True}, **fields}
    return "/chat/completions" if request.messages is not None else "/completions", msgspec.json.encode(body)


class _Wishes(msgspec.Struct):
    include_usage: bool | None = None


class Head(msgspec.Struct):
    """What is read of a body whoever will answer it; the rest is for an upstream to judge, or for `parse`."""

    model: str
    stream: bool | None = None
    stream_options: _Wishes | None = None
    messages: msgspec.Raw = msgspec.Raw()
    prompt: msgspec.Raw = msgspec.Raw()
    input: msgspec.Raw = msgspec.Raw()  # of /v1/embeddings
    user: str | None = None
    safety_identifier: str | None = None  # OpenAI's newer name for the same
    temperature: float | None = None
    seed: int | None = None
    n: int | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    priority: int | None = None

    @property
    def tokens(self) -> tuple[int, int | None]:
        """What it may use, before anybody has counted: its prompt by its bytes, and its answers if it bounds them."""
        most = self.max_completion_tokens or self.max_tokens
        return len(self.asked) // 3 + 16, 0 if self.input else most and most * (self.n or 1)

    @property
    def asked(self) -> msgspec.Raw:
        """What is to be answered."""
        return self.messages or self.prompt or self.input

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)


HEAD = msgspec.json.Decoder(Head)
BODY = msgspec.json.Decoder(dict[str, msgspec.Raw])
PARTS = msgspec.json.Decoder(list[msgspec.Raw])


class _Role(msgspec.Struct):
    role: str


ROLES = msgspec.json.Decoder(list[_Role])


def head(data: bytes, type_: type[Body]) -> Head:
    """Errors: `invalid`, with the parameter's name."""
    try:
        found = HEAD.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        parse(data, type_)  # knows better what is wrong
        raise _invalid(None, "the body cannot be read", "see docs: the OpenAI API") from None
    name = next(name for name in ("messages", "prompt", "input") if name in type_.__struct_fields__)
    if bytes(getattr(found, name)) in (b"", b"null"):
        raise _invalid(name, f"the parameter {name!r} is missing", "see docs: the OpenAI API")
    return found


def canonical_input(found: Head) -> tuple[Any, bytes]:
    """(the text of the one message or prompt, else None; messages or prompt as canonical JSON). Errors: `invalid`."""
    value = _read(bytes(found.asked))
    if found.messages and isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict):
        only = value[0].get("content")
    else:
        only = value
    return only if isinstance(only, str) else None, msgspec.json.encode(value, order="sorted")


def forwarded(data: bytes, found: Head, model: str, system: str | None) -> bytes:
    """A body for an upstream: with its name of the model, the release's system prompt, and a wish for the usage at the
    end of a stream; all else byte for byte as the client sent it. Errors: `invalid`."""
    fields = BODY.decode(data)
    fields["model"] = msgspec.Raw(msgspec.json.encode(model))
    if found.stream:
        options = BODY.decode(fields["stream_options"]) if found.stream_options else {}
        fields["stream_options"] = msgspec.Raw(msgspec.json.encode(options | {"include_usage": msgspec.Raw(b"true")}))
    if system is not None and found.messages:
        fields["messages"] = msgspec.Raw(_with_system(found.messages, system))
    return msgspec.json.encode(fields)


def affinity(found: Head) -> int:
    """A number that the requests of one conversation share: a checksum of its messages up to the user's first, or of
    the beginning of its prompt. Never 0."""
    opening = bytes(found.prompt)[:MAX_OPENING_BYTES]
    if found.messages:
        with contextlib.suppress(msgspec.DecodeError):
            messages = PARTS.decode(found.messages)
            roles = [m.role for m in ROLES.decode(found.messages)]
            first = roles.index("user") + 1 if "user" in roles else 1
            opening = b"".join(messages[:first])[:MAX_OPENING_BYTES]
    return zlib.crc32(opening) | 1


def _with_system(messages: msgspec.Raw, system: str) -> bytes:
    try:
        roles = {m.role for m in ROLES.decode(messages)}
    except msgspec.ValidationError as error:
        raise _invalid("messages", f"messages: {error}", "") from error
    if not roles or roles & {"system", "developer"}:
        return bytes(messages)
    ours = msgspec.json.encode({"role": "system", "content": system})
    return b"[" + ours + b"," + bytes(messages).lstrip()[1:]


def with_system(request: Request, system: str | None) -> Request:
    """The request with the release's system prompt in front, unless the client brought one of its own."""
    if system is None or request.messages is None or any(m["role"] == "system" for m in request.messages):
        return request
    return msgspec.structs.replace(request, messages=[{"role": "system", "content": system}, *request.messages])


def error_body(error: Error) -> dict[str, Any]:
    """An error in OpenAI's shape. The hint stands in the message too: most clients show nothing else."""
    kind, code = _KINDS.get(error.code, ("server_error", error.code))
    message = f"{error.message}; {error.hint}" if error.hint else error.message
    return {
        "error": {
            "message": message,
            "type": kind,
            "param": error.details.get("param"),
            "code": error.details.get("openai_code", code),
        }
    }


_KINDS = {  # code -> OpenAI's type and code
    "invalid": ("invalid_request_error", "invalid_value"),
    "not_found": ("invalid_request_error", "model_not_found"),
    "too_large": ("invalid_request_error", "request_too_large"),
    "unauthorized": ("authentication_error", "invalid_api_key"),
    "forbidden": ("permission_error", "insufficient_permissions"),
    "overloaded": ("rate_limit_error", "rate_limit_exceeded"),
}


def _read(data: bytes) -> Any:
    try:
        return msgspec.json.decode(data)
    except UnicodeDecodeError as error:
        raise _invalid(None, "the body is not UTF-8", "encode it as UTF-8") from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise _invalid(None, f"the body is not JSON: {error}", "send one JSON object") from error


def _decode(data: bytes) -> dict[str, Any]:
    value = _read(data)
    if not isinstance(value, dict):
        raise _invalid(None, "the body is not a JSON object", 'send {"model": …}')
    given = {k: v for k, v in value.items() if v is not None}
    if isinstance(messages := given.get("messages"), list):  # a client's own copy of an answer is full of nulls
        given["messages"] = [_without_null(m) if isinstance(m, dict) else m for m in messages]
    return given


def _without_null(message: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in message.items() if v is not None}


def _convert(value: dict[str, Any], type_: type[Any]) -> Any:
    try:
        return msgspec.convert(value, type_, str_keys=True)
    except msgspec.ValidationError as error:
        what, _, path = str(error).partition(" - at `$")
        param = path.strip(".`") or None
        if param is None and "required field" in what:
            param = what.split("`")[1]
            raise _invalid(param, f"the parameter {param!r} is missing", "see docs: the OpenAI API") from error
        shown = f"{param}: {what}" if param else what
        raise _invalid(param, shown, "") from error


def _nth(request: Request, i: int) -> Request:
    """The i-th answer to a prompt: with a seed of its own, or all would be alike."""
    if request.seed is None or i == 0:
        return request
    return msgspec.structs.replace(request, seed=(request.seed + i + SEED_RANGE) % (2 * SEED_RANGE) - SEED_RANGE)


def _invalid(param: str | None, message: str, hint: str) -> Error:
    return Error("invalid", message, hint, param=param)
