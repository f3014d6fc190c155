"""Between text and token ids: the chat template, the tokenizer, and turning tokens back into text as they come."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import jinja2
from jinja2 import meta
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from longrein.core.chat import Chat
from longrein.core.errors import Error
from longrein.core.generation import Request
from longrein.plugins.engine._torch.checkpoint import read_json

BROKEN = "\ufffd"  # what a decoder gives for bytes that are no character, or not yet one
WINDOW = 8  # whole tokens kept before the newest ones, for decoders that look back
HELD = 64  # tokens held back at most when no character comes out


class Text:
    """The tokenizer and chat template of a model folder."""

    def __init__(self, folder: Path) -> None:
        path = folder / "tokenizer.json"
        if not path.exists():
            raise Error("not_found", "the model folder has no tokenizer.json", "save the tokenizer in its fast format")
        try:
            self.tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # noqa: BLE001 - tokenizers raises nothing narrower
            raise Error("corrupt", f"tokenizer.json cannot be read: {error}", "export the tokenizer again") from None
        self.chat = Chat(self.tokenizer)
        self.longest_token = max(map(len, self.tokenizer.get_vocab()), default=1)
        settings = folder / "tokenizer_config.json"
        config = read_json(settings, dict[str, Any]) if settings.exists() else {}
        self.special = _special_tokens(config)
        source = _chat_template(folder, config)
        self.template = _compile(source) if source else None
        self.knows_tools = source is not None and "tools" in meta.find_undeclared_variables(_sandbox().parse(source))

    def encode(self, request: Request, context: int) -> list[int]:
        """The prompt's token ids. Errors: `invalid`, also for a text so long that it is not worth splitting."""
        if (request.messages is None) == (request.prompt is None):
            raise Error("invalid", "a request has either messages or a prompt", param="messages")
        if isinstance(request.prompt, list):
            return request.prompt
        text = self.render(request.messages or [], request.tools) if request.prompt is None else request.prompt
        if len(text) > context * self.longest_token:
            raise too_long(context, f"{len(text)} characters", "messages" if request.prompt is None else "prompt")
        return self.chat.encode([text])[0] if request.prompt is None else self.tokenizer.encode(text).ids

    def render(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None = None) -> str:
        """The quoted messages through the template: a text for `chat.encode`."""
        if self.template is None:
            hint = "send a prompt to /v1/completions, or train with chat-formatted data"
            raise Error("invalid", "this model has no chat template", hint, param="messages")
        if not messages:
            raise Error("invalid", "messages is empty", "send at least one message", param="messages")
        flat = self.chat.quote([_flatten(message) for message in messages])
        try:
            return self.template.render(
                messages=flat, tools=self.chat.quoted(tools), add_generation_prompt=True, **self.special
            )
        except (
            jinja2.TemplateError,
            TypeError,
            ValueError,
            AttributeError,
            LookupError,
            ArithmeticError,
            RecursionError,
        ) as error:
            hint = "see which roles and fields the model's template accepts"
            raise Error("invalid", f"the chat template refused the messages: {error}", hint, param="messages") from None

    def token(self, id: int) -> str:
        return self.tokenizer.decode([id], skip_special_tokens=False)


class Stream:
    """One request's tokens as text, bit by bit: whole characters only, and nothing of a stop string."""

    def __init__(self, tokenizer: Tokenizer, stop: list[str]) -> None:
        self.tokenizer, self.stop = tokenizer, stop
        self.ids: list[int] = []
        self.mark = 0  # where in ids a later window may begin: the text before it was whole
        self.sent = 0  # characters of the decoded ids already passed on
        self.held = ""  # text that may be the beginning of a stop string

    def push(self, id: int, may_stop: bool = True) -> tuple[str, str | None]:
        """The text that can be shown now, and the stop string that ended it, if one did."""
        text = self.held + self._characters(id)
        if not self.stop or not may_stop:
            self.held = ""
            return text, None
        found = [(at, s) for s in self.stop if (at := text.find(s)) >= 0]
        if found:
            at, stop = min(found)
            return text[:at], stop
        keep = max(_overlap(text, s) for s in self.stop)
        self.held = text[len(text) - keep :]
        return text[: len(text) - keep], None

    def finish(self) -> str:
        """What was held back in case it became a stop string. Half a character is left out."""
        text, self.held = self.held, ""
        return text

    def _characters(self, id: int) -> str:
        """What `id` completes. A decoder looks at the tokens before (spaces, bytes), so a short window of them is
        decoded again; its beginning only moves where the text so far was whole."""
        self.ids.append(id)
        text = self._decode(self.ids)
        whole = text.rstrip(BROKEN) if len(self.ids) < HELD else text
        new = whole[self.sent :]
        self.sent = max(self.sent, len(whole))
        if whole == text and len(self.ids) - self.mark >= WINDOW:
            self.ids = self.ids[self.mark :]
            self.mark, self.sent = len(self.ids), len(self._decode(self.ids))
        return new

    def _decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True)


def too_long(context: int, size: str, param: str) -> Error:
    message = f"this model's context is {context} tokens; the prompt has {size}"
    hint = "shorten the prompt, or raise `context` in the engine's options"
    return Error("invalid", message, hint, param=param, openai_code="context_length_exceeded")


def _overlap(text: str, stop: str) -> int:
    """The length of the longest proper prefix of `stop` that `text` ends with."""
    for size in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:size]):
            return size
    return 0


def _flatten(message: dict[str, Any]) -> dict[str, Any]:
    """OpenAI's list of text parts becomes one string, which is what templates expect."""
    content = message.get("content")
    if not isinstance(message.get("role"), str):
        raise Error("invalid", "each message has a role, a string", param="messages")
    if not isinstance(content, list):
        return message
    parts = [p.get("text") if isinstance(p, dict) and p.get("type") == "text" else None for p in content]
    if not all(isinstance(p, str) for p in parts):
        raise Error("invalid", "this model takes text parts only", 'use {"type": "text", "text": …}', param="messages")
    return message | {"content": "".join(str(p) for p in parts)}


def _special_tokens(config: dict[str, Any]) -> dict[str, str]:
    names = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
    found = {name: config.get(name) for name in names}
    found = {name: value.get("content") if isinstance(value, dict) else value for name, value in found.items()}
    return {name: value for name, value in found.items() if isinstance(value, str)}


def _chat_template(folder: Path, config: dict[str, Any]) -> str | None:
    path = folder / "chat_template.jinja"
    if path.exists():
        return path.read_text("utf-8")
    found = config.get("chat_template")
    if isinstance(found, list):  # several, by name
        found = {t["name"]: t["template"] for t in found}.get("default")
    return found


class _Generation(Extension):
    """{% generation %} … {% endgeneration %}: marks, for training only, what the model is to learn."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _compile(source: str) -> jinja2.Template:
    try:
        return _sandbox().from_string(source)
    except jinja2.TemplateError as error:
        raise Error("corrupt", f"the model's chat template does not parse: {error}") from None


def _sandbox() -> ImmutableSandboxedEnvironment:
    """With the names that transformers gives to templates."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals |= {"raise_exception": _raise, "strftime_now": lambda form: datetime.now().strftime(form)}
    return environment


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _to_json(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)
