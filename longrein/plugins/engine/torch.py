"""The embedded engine: a continuous batcher in plain torch for Llama and Qwen3 folders, on a CPU or one GPU.

The life of a request: submit (tokens, checks) → waiting → prefill into the next free slot → one token a step, beside
all others → finished or cancelled → the last slot moves into its place.
"""

import math
import os
import time
from collections import Counter, deque
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import torch
from msgspec import Meta

from longrein.core.errors import Error
from longrein.core.generation import Event, Logprob, Request
from longrein.plugins.engine._torch import checkpoint
from longrein.plugins.engine._torch.model import Model
from longrein.plugins.engine._torch.sampling import choice, choose
from longrein.plugins.engine._torch.sequence import Sequence
from longrein.plugins.engine._torch.text import Stream, Text, too_long

VERSION = 2
MEMORY_SHARE = 0.5  # of this machine's memory that the cache may claim
SMOOTHING = 0.05  # of the moving average of step times

Count = Annotated[int, Meta(ge=1)]


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    max_batch: Count = 16  # slots: sequences that run at once
    max_queue: Count = 512  # requests that may wait for a slot
    context: Count | None = None  # tokens of prompt and answer; None: the model's own, at most 4,096
    prefill_tokens: Count = 4096  # tokens, padding included, that one step may prefill
    device: str = "auto"  # "cpu", "cuda", "cuda:1", …
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # float32 on a CPU, bfloat16 elsewhere
    threads: Count | None = None  # None: torch's own choice


class Torch:
    """See longrein.core.ports.Engine. running[i] is the sequence in slot i."""

    @torch.inference_mode()
    def __init__(self, model: Path, options: Mapping[str, Any]) -> None:
        self.config = _config(options)
        if self.config.threads:
            torch.set_num_threads(self.config.threads)
        architecture, tensors = checkpoint.read(model)
        self.text = Text(model)
        self.eos = checkpoint.eos_ids(model, architecture)
        self.context = _context(self.config, architecture.max_position_embeddings)
        device, dtype = _device(self.config)
        _check_memory(architecture, self.config.max_batch, self.context, dtype, device)
        slots = self.config.max_batch
        self.model = Model(architecture, tensors, slots=slots, context=self.context, dtype=dtype, device=device)
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.counts: Counter[str] = Counter()
        self.batch_sizes: Counter[int] = Counter()
        self.step_s = 0.0
        self.model.prefill([[0]], 0)  # warm-up: libraries initialise on first use
        self.model.decode([0], [0])
        self.info = {
            "architecture": architecture.architectures[0],
            "parameters": self.model.parameters,
            "vocabulary": architecture.vocab_size,
            "context": self.context,
            "max_batch": slots,
            "dtype": str(dtype).removeprefix("torch."),
            "device": str(device),
            "chat": self.text.template is not None,
        }

    def submit(self, request: Request) -> None:
        now = time.monotonic()
        if len(self.waiting) >= self.config.max_queue:
            message = f"{len(self.waiting)} requests are waiting already"
            raise Error("overloaded", message, "try again later", retry_after_s=self._retry_after_s())
        prompt = self._prompt(request)
        limit = min(request.max_tokens or self.context, self.context - len(prompt))
        vocabulary = self.model.architecture.vocab_size
        chosen = choice(request, prompt, sorted(self.eos), vocabulary, self.model.device)
        stream = Stream(self.text.tokenizer, request.stop)
        self.waiting.append(Sequence(request, prompt, limit, chosen, stream, now))
        self.counts["tokens_in_total"] += len(prompt)

    @torch.inference_mode()
    def cancel(self, id: str) -> None:
        for sequence in [s for s in self.waiting if s.request.id == id]:
            self.waiting.remove(sequence)
        for sequence in [s for s in self.running if s.request.id == id]:
            self._free(sequence)

    @torch.inference_mode()
    def step(self) -> list[Event]:
        began = time.monotonic()
        events = self._prefill(self._admit(), began)
        if self.running:
            sequences = list(self.running)
            logits = self.model.decode([s.ids[-1] for s in sequences], [s.length for s in sequences])
            events += self._accept(sequences, logits)
            self.batch_sizes[1 << (len(sequences) - 1).bit_length()] += 1
        if events:
            took = time.monotonic() - began
            self.step_s += (took - self.step_s) * (SMOOTHING if self.step_s else 1.0)
            self.counts["steps_total"] += 1
        return events

    def pending(self) -> int:
        return len(self.waiting) + len(self.running)

    def stats(self) -> dict[str, Any]:
        totals = {name: self.counts[name] for name in ("steps_total", "tokens_in_total", "tokens_out_total")}
        return totals | {
            "running": len(self.running),
            "waiting": len(self.waiting),
            "slots_used": len(self.running),
            "slots_total": self.config.max_batch,
            "step_s": self.step_s,
            "batch_sizes": {str(size): count for size, count in sorted(self.batch_sizes.items())},
        }

    def _prompt(self, request: Request) -> list[int]:
        """The checked token ids."""
        param = "prompt" if request.messages is None else "messages"
        prompt = self.text.encode(request, self.context)
        if not prompt:
            raise Error("invalid", "the prompt is empty", "send at least one token", param=param)
        if not 0 <= min(prompt) <= max(prompt) < self.model.architecture.vocab_size:
            raise Error("invalid", "the prompt has token ids that are not in the vocabulary", param=param)
        if len(prompt) >= self.context:
            raise too_long(self.context, f"{len(prompt)} tokens", param)
        return prompt

    def _admit(self) -> list[Sequence]:
        """The next waiting sequences: as many as there are slots, and as the padded prefill may be large."""
        admitted: list[Sequence] = []
        longest = 0
        while self.waiting and len(self.running) + len(admitted) < self.config.max_batch:
            longest = max(longest, len(self.waiting[0].prompt))
            if admitted and longest * (len(admitted) + 1) > self.config.prefill_tokens:
                break
            admitted.append(self.waiting.popleft())
        return admitted

    def _prefill(self, admitted: list[Sequence], now: float) -> list[Event]:
        if not admitted:
            return []
        for sequence in admitted:
            sequence.queue_s = now - sequence.submitted
        logits = self.model.prefill([s.prompt for s in admitted], len(self.running))
        self.running += admitted
        return self._accept(admitted, logits)

    def _accept(self, sequences: list[Sequence], logits: torch.Tensor) -> list[Event]:
        """Choose each sequence's next token, tell it, and free the slots of those that ended."""
        tokens = choose(logits, [s.choice for s in sequences])
        now = time.monotonic()
        self.counts["tokens_out_total"] += len(tokens)
        events, ended = [], []
        for sequence, token, row in zip(sequences, tokens, logits, strict=True):
            if not sequence.ids:
                sequence.first_s = now - sequence.submitted
            event = sequence.advance(token, self.eos)
            if sequence.request.logprobs is not None:
                event.logprobs = [self._logprob(row, token, sequence.request.logprobs)]
            if event.finish_reason:
                ended.append(sequence)
            events.append(event)
        for sequence in ended:
            self._free(sequence)
        self.counts["requests_total"] += len(ended)
        return events

    def _logprob(self, logits: torch.Tensor, token: int, count: int) -> Logprob:
        logprobs = logits.log_softmax(-1)
        best = logprobs.topk(min(count, len(logprobs)))
        top = [(self.text.token(i), p) for i, p in zip(best.indices.tolist(), best.values.tolist(), strict=True)]
        return Logprob(self.text.token(token), float(logprobs[token]), top)

    def _free(self, sequence: Sequence) -> None:
        """Take it out; the last slot moves into the gap."""
        slot, last = self.running.index(sequence), self.running.pop()
        if last is not sequence:
            self.running[slot] = last
            self.model.move(len(self.running), slot, last.length)

    def _retry_after_s(self) -> int:
        """When the queue should be gone, from the mean tokens of a request and the step time; at least a second."""
        tokens = self.counts["tokens_out_total"] / max(self.counts["requests_total"], 1)
        rounds = self.pending() / self.config.max_batch
        return max(1, math.ceil(tokens * rounds * self.step_s))


def _config(options: Mapping[str, Any]) -> Config:
    try:
        return msgspec.convert(dict(options), Config)
    except msgspec.ValidationError as error:
        hint = f"its options are {', '.join(Config.__struct_fields__)}"
        raise Error("invalid", f"options of the engine torch: {error}", hint) from None


def _context(config: Config, limit: int) -> int:
    if config.context and config.context > limit:
        raise Error(
            "invalid", f"the model has {limit} positions, fewer than context: {config.context}", "lower context"
        )
    return config.context or min(limit, 4096)


def _device(config: Config) -> tuple[torch.device, torch.dtype]:
    name = config.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}.get(config.dtype)
    return torch.device(name), dtype or (torch.float32 if name == "cpu" else torch.bfloat16)


def _check_memory(
    a: checkpoint.Architecture, slots: int, context: int, dtype: torch.dtype, device: torch.device
) -> None:
    if device.type != "cpu":
        return
    needed = 2 * a.num_hidden_layers * slots * a.kv_heads * context * a.head_size * dtype.itemsize
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > total * MEMORY_SHARE:
        message = (
            f"{slots} slots of {context} tokens need {needed / 2**30:.1f} GiB of this machine's {total / 2**30:.1f}"
        )
        raise Error("invalid", message, "lower max_batch or context in the engine's options")


plugin = Torch
