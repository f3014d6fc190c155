"""Texts as vectors: the mean of a causal model's last hidden states, in steps between those of the generation."""

import time

from longrein.core.errors import Error
from longrein.core.generation import Event, Request, Usage
from longrein.plugins.engine._torch.model import Model

MOST = 4096  # texts that may wait


class Embeddings:
    """The texts that wait. A step takes the next ones, up to so many tokens, but at least one."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.waiting: list[tuple[Request, list[int]]] = []

    def submit(self, request: Request, prompt: list[int]) -> None:
        if len(self.waiting) >= MOST:
            raise Error("overloaded", f"{MOST} texts are waiting already", "try again later", retry_after_s=1)
        self.waiting.append((request, prompt))
        self.waiting.sort(key=lambda pair: pair[0].priority)

    def cancel(self, id: str) -> None:
        self.waiting = [pair for pair in self.waiting if pair[0].id != id]

    def step(self, tokens: int) -> tuple[list[Event], float]:
        """What the step made, and the seconds it took."""
        taken: list[tuple[Request, list[int]]] = []
        while self.waiting and (not taken or len(self.waiting[0][1]) <= tokens):
            taken.append(self.waiting.pop(0))
            tokens -= len(taken[-1][1])
        if not taken:
            return [], 0.0
        began = time.monotonic()
        vectors = self.model.embed([prompt for _, prompt in taken]).cpu().numpy().astype("<f4")
        seconds = time.monotonic() - began
        second = seconds / sum(len(prompt) for _, prompt in taken)
        events = [
            Event(
                request.id, finish_reason="stop", usage=Usage(len(prompt), 0, prefill_s=len(prompt) * second),
                embedding=vector.tobytes(),
            )
            for (request, prompt), vector in zip(taken, vectors, strict=True)
        ]  # fmt: skip
        return events, seconds
