"""Divides the seconds in which an engine works among the requests that it works for."""

import time

from longrein.plugins.engine._torch.model import Model, Span
from longrein.plugins.engine._torch.sequence import Sequence


class Shares:
    def __init__(self, model: Model) -> None:
        self.model = model
        self.busy_s = 0.0  # all seconds that were divided
        self._since: float | None = None  # the end of the step before, if there was no pause after it

    def divide(self, plan: list[tuple[Sequence, Span]], began: float) -> None:
        """A step's seconds, by the floating-point operations for each. What was done since the step before, to tell of
        it and to get ready, is a part of them."""
        now = time.monotonic()
        seconds = now - (began if self._since is None else self._since)
        self._since = now
        self.busy_s += seconds
        flops = [self.model.flops(span) for _, span in plan]
        second = seconds / sum(flops)
        for (sequence, span), own in zip(plan, flops, strict=True):
            if sequence.reads(span):
                sequence.prefill_s += own * second
            else:
                sequence.decode_s += own * second

    def skip(self, seconds: float) -> None:
        """These went by for others, who have paid for them."""
        self.busy_s += seconds
        if self._since is not None:
            self._since += seconds

    def pause(self) -> None:
        """There is nothing to do."""
        self._since = None
