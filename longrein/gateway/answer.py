"""What an engine says, in the shapes of OpenAI's answers: whole, and in chunks for a stream."""

import itertools
import time
from typing import Any

import msgspec

from longrein.core.generation import Event, Logprob, Usage
from longrein.gateway.openai import DONE

encode = msgspec.json.encode


class Choice:
    """One answer as it grows."""

    def __init__(self, keep: bool) -> None:
        self.keep = keep  # the text and log-probabilities; a stream that is not logged needs neither
        self.texts: list[str] = []
        self.logprobs: list[Logprob] | None = None
        self.tokens = 0
        self.characters = 0  # of the tokens that came with log-probabilities
        self.prompt_tokens = self.cached_tokens = 0
        self.finish_reason: str | None = None
        self.usage: Usage | None = None  # once it has ended

    def add(self, event: Event) -> None:
        self.tokens += len(event.token_ids)
        if event.usage:
            self.usage = event.usage
            self.prompt_tokens, self.tokens = event.usage.prompt_tokens, event.usage.completion_tokens
            self.cached_tokens = event.usage.cached_tokens
        self.finish_reason = event.finish_reason or self.finish_reason
        self.characters += _length(event.logprobs)
        if self.keep:
            self.texts.append(event.text)
            if event.logprobs is not None:
                self.logprobs = [*(self.logprobs or []), *event.logprobs]

    @property
    def text(self) -> str:
        return "".join(self.texts)


class Answer:
    """The choices of one request, and OpenAI's words around them. Chat completions; see Completion for the others."""

    object, chunk_object = "chat.completion", "chat.completion.chunk"

    def __init__(
        self, id: str, model: str, release: str, n: int, count: int, keep: bool, include_usage: bool, body: Any = None
    ) -> None:
        """n: choices for each prompt; count: all choices; body: what asks for it."""
        self.id, self.model, self.n, self.include_usage = id, model, n, include_usage
        self.fingerprint = f"lr_{release[:12]}"
        self.created = int(time.time())
        self.choices = [Choice(keep) for _ in range(count)]

    def add(self, index: int, event: Event) -> None:
        self.choices[index].add(event)

    def tokens(self) -> tuple[int, int]:
        """(prompt, completion): each prompt counts once, however many answers it got."""
        return sum(c.prompt_tokens for c in self.choices[:: self.n]), sum(c.tokens for c in self.choices)

    def usage(self) -> dict[str, Any]:
        read, written = self.tokens()
        details = {"cached_tokens": sum(c.cached_tokens for c in self.choices[:: self.n])}
        used = {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
        return {**used, "prompt_tokens_details": details}

    def whole(self) -> bytes:
        choices = [
            {
                "index": i,
                **self.said(i, choice.text),
                "logprobs": self.logprobs(choice.logprobs, 0),
                "finish_reason": choice.finish_reason,
            }
            for i, choice in enumerate(self.choices)
        ]
        return encode({**self._head(self.object), "choices": choices, "usage": self.usage()})

    def opening(self) -> bytes:
        """What a stream begins with."""
        delta = {"role": "assistant", "content": ""}
        return b"".join(self._chunk(i, {"delta": delta}, None, None) for i in range(len(self.choices)))

    def chunk(self, index: int, event: Event) -> bytes:
        """An event as server-sent events; empty when it says nothing yet."""
        data = b""
        if event.text or event.logprobs:
            offset = self.choices[index].characters - _length(event.logprobs)
            data = self._chunk(index, self.piece(event.text), self.logprobs(event.logprobs, offset), None)
        if event.finish_reason:
            data += self._chunk(index, self.piece(None), None, event.finish_reason)
        return data

    def closing(self) -> bytes:
        """What a stream that reached its end ends with."""
        if not self.include_usage:
            return DONE
        return _sse({**self._head(self.chunk_object), "choices": [], "usage": self.usage()}) + DONE

    def said(self, index: int, text: str) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": text, "refusal": None}}

    def piece(self, text: str | None) -> dict[str, Any]:
        return {"delta": {} if text is None else {"content": text}}

    def logprobs(self, found: list[Logprob] | None, offset: int) -> dict[str, Any] | None:
        if found is None:
            return None
        content = [
            {**_token(p.token, p.logprob), "top_logprobs": [_token(text, value) for text, value in p.top]}
            for p in found
        ]
        return {"content": content, "refusal": None}

    def _head(self, object: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": object,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
        }

    def _chunk(self, index: int, said: dict[str, Any], logprobs: Any, finish: str | None) -> bytes:
        choice = {"index": index, **said, "logprobs": logprobs, "finish_reason": finish}
        usage = {"usage": None} if self.include_usage else {}
        return _sse({**self._head(self.chunk_object), "choices": [choice], **usage})


class Completion(Answer):
    """The older API: text without roles."""

    object = chunk_object = "text_completion"

    def opening(self) -> bytes:
        return b""

    def said(self, index: int, text: str) -> dict[str, Any]:
        return {"text": text}

    def piece(self, text: str | None) -> dict[str, Any]:
        return {"text": text or ""}

    def logprobs(self, found: list[Logprob] | None, offset: int) -> dict[str, Any] | None:
        if found is None:
            return None
        ends = itertools.accumulate((len(p.token) for p in found), initial=offset)
        return {
            "tokens": [p.token for p in found],
            "token_logprobs": [p.logprob for p in found],
            "top_logprobs": [dict(p.top) for p in found],
            "text_offset": list(ends)[:-1],
        }


def error_event(body: dict[str, Any]) -> bytes:
    """Ends a stream that failed: no [DONE] follows, so that nobody takes it for whole."""
    return _sse(body)


def _length(found: list[Logprob] | None) -> int:
    return sum(len(p.token) for p in found or ())


def _sse(value: dict[str, Any]) -> bytes:
    return b"data: " + encode(value) + b"\n\n"


def _token(text: str, logprob: float) -> dict[str, Any]:
    return {"token": text, "logprob": logprob, "bytes": list(text.encode())}
