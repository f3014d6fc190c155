"""One request on its way through the batcher."""

from dataclasses import dataclass, field

from longrein.core.errors import Error
from longrein.core.generation import Event, Request, Usage
from longrein.plugins.engine._torch.model import Span
from longrein.plugins.engine._torch.sampling import Choice
from longrein.plugins.engine._torch.text import Stream


@dataclass(slots=True, eq=False)
class Sequence:
    request: Request
    prompt: list[int]
    limit: int  # tokens it may generate
    choice: Choice
    stream: Stream
    submitted: float  # time.monotonic()
    number: int  # in the order of arrival
    ids: list[int] = field(default_factory=list)
    slot: int = -1  # of the cache, while it runs
    done: int = 0  # tokens whose keys and values are in the slot
    queue_s: float | None = None
    first_s: float = 0.0
    cached: int = 0  # tokens of the prompt that were there already when it first ran
    prefill_s: float = 0.0
    decode_s: float = 0.0

    @property
    def rank(self) -> tuple[int, int]:
        """Its place in the order of service."""
        return self.request.priority, self.number

    @property
    def offline(self) -> bool:
        return self.request.priority > 0

    @property
    def todo(self) -> int:
        """Tokens to compute before the next one can be chosen."""
        return len(self.prompt) + len(self.ids) - self.done

    def next(self, count: int) -> list[int]:
        """The first `count` of them."""
        if self.todo == 1 and self.ids:
            return self.ids[-1:]
        return (self.prompt + self.ids)[self.done : self.done + count]

    def reads(self, span: Span) -> bool:
        """Whether a step's span is of what was given, or given before: no answer comes of it alone."""
        return len(span.tokens) > 1 or span.start < len(self.prompt)

    def advance(self, token: int, eos: set[int]) -> Event:
        """Take the chosen token: what it adds to the text, and whether it ends it."""
        self.ids.append(token)
        complete = self.choice.constraint is not None and self.choice.constraint.ended()
        event = Event(self.request.id, token_ids=[token])
        if token in eos and not self.request.ignore_eos:
            event.finish_reason = "stop"
        else:
            event.text, event.stop = self.stream.push(token, len(self.ids) >= self.request.min_tokens)
            if event.stop is not None or complete:
                event.finish_reason = "stop"
            elif len(self.ids) >= self.limit:
                event.finish_reason = "length"
        if event.finish_reason:
            event.usage = self.usage()
            if event.stop is None:
                event.text += self.stream.finish()
        return event

    def broken(self) -> Event:
        """Its logits are not numbers."""
        message = "the model's output for this request is not a number"
        hint = "try dtype: float32, or look whether the model's training diverged"
        return Event(self.request.id, error=Error("failed", message, hint).as_dict(), usage=self.usage())

    def usage(self) -> Usage:
        return Usage(
            prompt_tokens=len(self.prompt),
            completion_tokens=len(self.ids),
            queue_s=self.queue_s or 0.0,
            first_s=self.first_s,
            cached_tokens=self.cached,
            prefill_s=self.prefill_s,
            decode_s=self.decode_s,
        )
