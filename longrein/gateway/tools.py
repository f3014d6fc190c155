"""Tool calls in what a model of ours says: as Qwen and Hermes write them, or as a schema has made it write one."""

import re
import secrets
from typing import Any

import msgspec

from longrein.core.generation import Event
from longrein.gateway.answer import Answer
from longrein.gateway.openai import ChatBody

OPEN = "<tool_call>"
CALL = re.compile(r"<tool_call>\s*(\{.*?\})\s*</tool_call>", re.DOTALL)


class Parser:
    """One answer as it comes: words that may be shown, and tool calls at its end."""

    def __init__(self, names: set[str], forced: bool, several: bool = True) -> None:
        """forced: all of it is one call. several: else the first call is the only one."""
        self.names, self.forced, self.several = names, forced, several
        self.text, self.shown = "", 0
        self.calls: list[dict[str, Any]] = []

    def push(self, text: str, ended: bool) -> None:
        self.text += text
        if ended:
            found = [self.text] if self.forced else CALL.findall(self.text)
            calls = [self._call(said) for said in found]
            self.calls = [call for call in calls if call][: None if self.several else 1] if all(calls) else []

    def words(self, ended: bool) -> str:
        """What may be shown since this was last asked. A call that makes no sense is words."""
        if ended:
            end = 0 if self.calls and self.forced else self.text.find(OPEN) if self.calls else len(self.text)
        else:
            end = 0 if self.forced else _before(self.text)
        words, self.shown = self.text[self.shown : end], max(self.shown, end)
        return words

    def _call(self, said: str) -> dict[str, Any] | None:
        try:
            call = msgspec.json.decode(said, type=dict[str, Any])
        except (msgspec.DecodeError, RecursionError):
            return None
        arguments = call.get("arguments", call.get("parameters", {}))
        if call.get("name") not in self.names or not isinstance(arguments, dict):
            return None
        function = {"name": call["name"], "arguments": msgspec.json.encode(arguments).decode()}
        return {"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": function}


class ToolAnswer(Answer):
    """A chat completion that may call tools."""

    def __init__(self, *given: Any, body: ChatBody, **more: Any) -> None:
        super().__init__(*given, **more)
        names, forced = {tool.function.name for tool in body.tools}, body.forced is not None
        self.parsers = [Parser(names, forced, body.parallel_tool_calls) for _ in self.choices]

    def add(self, index: int, event: Event) -> None:
        super().add(index, event)
        parser = self.parsers[index]
        parser.push(event.text, event.finish_reason is not None)
        if parser.calls:
            self.choices[index].finish_reason = "tool_calls"

    def chunk(self, index: int, event: Event) -> bytes:
        parser, ended = self.parsers[index], event.finish_reason is not None
        words = parser.words(ended)
        data = self._chunk(index, self.piece(words), None, None) if words else b""
        if ended:
            for i, call in enumerate(parser.calls):
                data += self._chunk(index, {"delta": {"tool_calls": [{"index": i, **call}]}}, None, None)
            data += self._chunk(index, self.piece(None), None, self.choices[index].finish_reason)
        return data

    def said(self, index: int, text: str) -> dict[str, Any]:
        parser = self.parsers[index]
        message = {"role": "assistant", "content": parser.words(True).strip() or None, "refusal": None}
        if not parser.calls:
            return {"message": message | {"content": text}}
        return {"message": message | {"tool_calls": parser.calls}}


def _before(text: str) -> int:
    """Where a call begins in it, or may be about to begin."""
    if (at := text.find(OPEN)) >= 0:
        return at
    return next(
        (len(text) - n for n in range(min(len(OPEN) - 1, len(text)), 0, -1) if OPEN.startswith(text[-n:])), len(text)
    )
