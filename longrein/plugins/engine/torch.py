"""The embedded engine: a continuous batcher in plain torch for Llama and Qwen3 folders, on a CPU or one GPU.

The life of a request: submit (tokens, checks) → waiting, by priority → a slot, the one of an earlier request that began
alike if there is one → its prompt in pieces, then one token a step, beside all others → ended or cancelled → its slot
is given away again, but not emptied.
"""

import bisect
import itertools
import math
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch

from longrein.core.errors import Error
from longrein.core.generation import Event, Limits, Load, Logprob, Queued, Request, Usage, Work
from longrein.core.worker import as_error
from longrein.plugins.engine._torch import checkpoint, options
from longrein.plugins.engine._torch.embedding import Embeddings
from longrein.plugins.engine._torch.grammar import Grammars
from longrein.plugins.engine._torch.model import Model, Span
from longrein.plugins.engine._torch.options import Config as Config
from longrein.plugins.engine._torch.sampling import choice, choose
from longrein.plugins.engine._torch.sequence import Sequence
from longrein.plugins.engine._torch.share import Shares
from longrein.plugins.engine._torch.slots import Slots
from longrein.plugins.engine._torch.text import Stream, Text, too_long

VERSION = 2
SMOOTHING = 0.05  # of the moving average of step times

Plan = list[tuple[Sequence, Span]]  # of a step


class Torch:
    """See longrein.core.ports.Engine and Steered."""

    forward_pass: ClassVar[type[Model]] = Model  # what computes the logits; the batching is the same for all

    @torch.inference_mode()
    def __init__(self, model: Path, given: Mapping[str, Any]) -> None:
        config = self.config = options.parse(given)
        if config.threads:
            torch.set_num_threads(config.threads)
        architecture, tensors = checkpoint.read(model)
        self.text = Text(model)
        self.eos = checkpoint.eos_ids(model, architecture)
        self.grammars = Grammars(model, architecture.vocab_size, self.eos)
        self.context = options.context(config, architecture.max_position_embeddings)
        device, dtype, int8 = options.device(config)
        slots = options.slots(architecture, config, self.context, dtype, device)
        self.model = self.forward_pass(
            architecture, tensors, slots=slots, context=self.context, dtype=dtype, device=device, int8=int8
        )
        self.slots = Slots(slots)
        self.embeddings = Embeddings(self.model)
        self.slo = config.slo
        self.limits = Limits(config.max_batch, config.prefill_tokens, config.max_batch)
        self.work: Work | None = None
        self.waiting: list[Sequence] = []  # by rank
        self.running: list[Sequence] = []
        self.numbers = itertools.count()
        self.counts: Counter[str] = Counter()
        self.batch_sizes: Counter[int] = Counter()
        self.step_s = 0.0
        self.shares = Shares(self.model)
        for tokens in ([0], [0, 0]):  # warm-up: libraries initialise on first use
            self.model.forward([Span(0, 0, tokens, True)])
        self.info = {
            "architecture": architecture.architectures[0],
            "parameters": self.model.parameters,
            "vocabulary": architecture.vocab_size,
            "context": self.context,
            "max_batch": config.max_batch,
            "slots": slots,
            "dtype": "int8" if int8 else str(dtype).removeprefix("torch."),
            "device": str(device),
            "chat": self.text.template is not None,
            "json_schema": True,
            "tools": self.text.knows_tools,
            "embed": type(self.model) is Model,
        }

    def submit(self, request: Request) -> None:
        now = time.monotonic()
        waiting = sum(s.offline == (request.priority > 0) for s in self.waiting)  # each lane has a queue of its own
        if waiting >= self.config.max_queue:
            message = f"{waiting} requests are waiting already"
            raise Error("overloaded", message, "try again later", retry_after_s=self._retry_after_s())
        prompt = self._prompt(request)
        if request.embed:
            self.embeddings.submit(request, prompt)
            return
        limit = min(request.max_tokens or self.context, self.context - len(prompt))
        chosen = choice(request, prompt, sorted(self.eos), self.model.architecture.vocab_size, self.model.device)
        chosen.constraint = self.grammars.constraint(request.json_schema)
        stream = Stream(self.text.tokenizer, request.stop)
        self._wait(Sequence(request, prompt, limit, chosen, stream, now, next(self.numbers)))
        self.counts["tokens_in_total"] += len(prompt)

    def cancel(self, id: str) -> Usage | None:
        self.embeddings.cancel(id)
        found = next((s for s in (*self.waiting, *self.running) if s.request.id == id), None)
        if found is None:
            return None
        if found.slot < 0:
            self.waiting.remove(found)  # preempted, it has used something all the same
        else:
            self._free(found)
        return found.usage()

    @torch.inference_mode()
    def step(self) -> list[Event]:
        embedded, embedding_s = self.embeddings.step(self.limits.prefill_tokens)
        self.shares.skip(embedding_s)
        began = time.monotonic()
        self._admit(began)
        plan = self._plan()
        if not plan:
            self.work = None
            return embedded
        logits = self.model.forward([span for _, span in plan])
        for sequence, span in plan:
            self.slots.extend(span.slot, span.tokens)
            sequence.done += len(span.tokens)
        ending = [sequence for sequence, span in plan if span.ends]
        tokens = choose(logits, [s.choice for s in ending])
        self.shares.divide(plan, began)
        events = self._accept(ending, tokens, logits)
        if not self.running:
            self.shares.pause()
        self._note(plan, events, time.monotonic() - began)
        return embedded + events

    @property
    def busy_s(self) -> float:
        return self.shares.busy_s

    def pending(self) -> int:
        return len(self.waiting) + len(self.running) + len(self.embeddings.waiting)

    def load(self) -> Load:
        now = time.monotonic()
        offline = sum(s.offline for s in self.running)
        prefilling = sum(s.todo for s in self.running if s.todo > 1 and not s.offline)
        waiting = [
            Queued(s.request.id, s.request.priority, s.todo, now - s.submitted) for s in self.waiting if not s.offline
        ]
        return Load(len(self.running), offline, prefilling, waiting)

    def stats(self) -> dict[str, Any]:
        names = ("steps_total", "tokens_in_total", "tokens_out_total", "cached_tokens_total", "preemptions_total")
        waiting = Counter(str(s.request.priority) for s in self.waiting)
        return {name: self.counts[name] for name in names} | {
            "running": len(self.running),
            "waiting": len(self.waiting),
            "waiting_by_priority": dict(waiting),
            "slots_used": len(self.running),
            "slots_total": self.config.max_batch,
            "kv_tokens": sum(s.done for s in self.running),
            "kv_tokens_kept": sum(map(self.slots.length, self.slots.free)),
            "kv_tokens_room": self.model.slots * self.context,
            "busy_s_total": self.busy_s,
            "step_s": self.step_s,
            "limit_batch": self.limits.batch,
            "limit_prefill_tokens": self.limits.prefill_tokens,
            "limit_offline": self.limits.offline,
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

    def _wait(self, sequence: Sequence) -> None:
        bisect.insort(self.waiting, sequence, key=lambda s: s.rank)

    def _admit(self, now: float) -> None:
        """Give slots to the first in the queue, as far as the limits go."""
        offline = [s for s in self.running if s.offline]
        for sequence in sorted(offline, key=lambda s: s.rank)[self.limits.offline :]:
            self._preempt(sequence)
        while self.waiting and self._room(self.waiting[0]):
            sequence = self.waiting.pop(0)
            slot, shared, source = self.slots.take(sequence.prompt + sequence.ids, sequence.request.cache_salt)
            if source != slot:
                self.model.copy(source, slot, shared)
            sequence.slot, sequence.done = slot, shared
            if sequence.queue_s is None:
                sequence.queue_s, sequence.cached = now - sequence.submitted, shared
                self.counts["cached_tokens_total"] += shared
            self.running.append(sequence)

    def _room(self, sequence: Sequence) -> bool:
        """Whether it may run now. An online request takes the place of the last offline one."""
        before = sum(s.todo for s in self.running if s.todo > 1 and s.rank < sequence.rank)
        if before >= self.limits.prefill_tokens:
            return False  # better judged again later than started and stuck
        offline = [s for s in self.running if s.offline]
        if sequence.offline and len(offline) >= self.limits.offline:
            return False
        if len(self.running) >= self.limits.batch and offline and not sequence.offline:
            self._preempt(max(offline, key=lambda s: s.rank))
        return len(self.running) < self.limits.batch

    def _preempt(self, sequence: Sequence) -> None:
        """Back to the queue. What its slot holds is used again if nobody needed the slot meanwhile."""
        self._free(sequence)
        self._wait(sequence)
        self.counts["preemptions_total"] += 1

    def _plan(self) -> Plan:
        """The next step: a token of every sequence that has none to compute but its last, and pieces of prompts as
        far as the limit goes, in the order of service. Single tokens first."""
        left, plan = self.limits.prefill_tokens, []
        for sequence in sorted(self.running, key=lambda s: s.rank):
            todo = sequence.todo
            size = min(todo, left) if todo > 1 else 1
            if size:
                left -= size if todo > 1 else 0
                tokens = sequence.next(size)
                plan.append((sequence, Span(sequence.slot, sequence.done, tokens, size == todo)))
        return sorted(plan, key=lambda pair: len(pair[1].tokens) > 1)

    def _accept(self, sequences: list[Sequence], tokens: list[int], logits: torch.Tensor) -> list[Event]:
        """Take each sequence's next token, tell it, and free the slots of those that ended."""
        now = time.monotonic()
        self.counts["tokens_out_total"] += len(tokens)
        sound = logits.sum(-1).isfinite().tolist()
        events = []
        for sequence, token, row, ok in zip(sequences, tokens, logits, sound, strict=True):
            if not sequence.ids:
                sequence.first_s = now - sequence.submitted
            event = self._advance(sequence, token, row) if ok else sequence.broken()
            if event.error is not None or event.finish_reason:
                self._free(sequence, keep=ok)
            events.append(event)
        return events

    def _advance(self, sequence: Sequence, token: int, logits: torch.Tensor) -> Event:
        try:
            event = sequence.advance(token, self.eos)
            if sequence.request.logprobs is not None:
                event.logprobs = [self._logprob(logits, token, sequence.request.logprobs)]
        except Exception as error:  # noqa: BLE001 - whatever one request's text does, the others go on
            return Event(sequence.request.id, error=as_error(error).as_dict(), usage=sequence.usage())
        return event

    def _logprob(self, logits: torch.Tensor, token: int, count: int) -> Logprob:
        logprobs = logits.log_softmax(-1)
        best = logprobs.topk(min(count, len(logprobs)))
        top = [(self.text.token(i), p) for i, p in zip(best.indices.tolist(), best.values.tolist(), strict=True)]
        return Logprob(self.text.token(token), float(logprobs[token]), top)

    def _free(self, sequence: Sequence, keep: bool = True) -> None:
        if not keep:  # keys and values that are no numbers would spoil those who come after
            self.model.clear(sequence.slot)
        self.slots.release(sequence.slot, keep)
        self.running.remove(sequence)
        sequence.slot, sequence.done = -1, 0

    def _note(self, plan: Plan, events: list[Event], seconds: float) -> None:
        """What the step was, for the controller and the statistics."""
        self.work = work = Work(
            batch=sum(span.ends for _, span in plan),
            prefill_tokens=sum(len(span.tokens) for sequence, span in plan if sequence.reads(span)),
            context=sum(span.start + len(span.tokens) for _, span in plan),
            seconds=seconds,
            ended=sum(e.finish_reason is not None for e in events),
            first=[(s.request.id, s.first_s) for s, span in plan if span.ends and len(s.ids) == 1],
        )
        self.step_s += (seconds - self.step_s) * (SMOOTHING if self.step_s else 1.0)
        self.counts["steps_total"] += 1
        self.counts["requests_total"] += work.ended
        self.batch_sizes[1 << max(work.batch - 1, 0).bit_length()] += 1

    def _retry_after_s(self) -> int:
        """When the queue should be gone, from the mean tokens of a request and the step time; at least a second."""
        tokens = self.counts["tokens_out_total"] / max(self.counts["requests_total"], 1)
        rounds = self.pending() / self.config.max_batch
        return max(1, math.ceil(tokens * rounds * self.step_s))


plugin = Torch
