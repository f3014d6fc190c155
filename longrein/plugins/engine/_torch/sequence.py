"""One request on its way through the batcher."""

from dataclasses import dataclass, field

from longrein.core.generation import Event, Request, Usage
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
    ids: list[int] = field(default_factory=list)
    queue_s: float = 0.0
    first_s: float = 0.0

    @property
    def length(self) -> int:
        """Positions in the cache; the newest token is not there yet."""
        return len(self.prompt) + len(self.ids) - 1

    def advance(self, token: int, eos: set[int]) -> Event:
        """Take the chosen token: what it adds to the text, and whether it ends it."""
        self.ids.append(token)
        event = Event(self.request.id, token_ids=[token])
        if token in eos and not self.request.ignore_eos:
            event.finish_reason = "stop"
        else:
            event.text, event.stop = self.stream.push(token, len(self.ids) >= self.request.min_tokens)
            if event.stop is not None:
                event.finish_reason = "stop"
            elif len(self.ids) >= self.limit:
                event.finish_reason = "length"
        if event.finish_reason:
            event.usage = Usage(len(self.prompt), len(self.ids), self.queue_s, self.first_s)
            if event.stop is None:
                event.text += self.stream.finish()
        return event
