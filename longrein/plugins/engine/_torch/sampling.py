"""Chooses the next token of every row of a batch at once.

A row's choice depends on its own logits, settings and random stream only, never on its batch mates: one uniform
number a token, from the request's own generator, goes through the inverse of the filtered distribution's cumulative
sum. The order of the steps is transformers': penalties, temperature, top-k, top-p, min-p.
"""

import random
from dataclasses import dataclass
from typing import Protocol

import torch

from longrein.core.errors import Error
from longrein.core.generation import Request

Tensor = torch.Tensor
NUCLEUS = 256  # tokens that top-p looks at first


class Constraint(Protocol):
    """Which tokens may come next: a grammar, a JSON schema."""

    def allowed(self) -> Tensor:
        """[vocab] bool, at least one of them true."""
        ...

    def accept(self, token: int) -> None:
        """That token was chosen."""
        ...

    def ended(self) -> bool:
        """Whether the answer is complete. Errors: why it cannot go on."""
        ...


@dataclass(slots=True)
class Choice:
    """How one request's tokens are chosen, and what that has to remember."""

    request: Request
    random: random.Random
    prompt: Tensor | None = None  # [vocab] bool, the tokens of the prompt; None: no penalties
    counts: Tensor | None = None  # [vocab] float, how often each was generated
    eos: Tensor | None = None  # token ids that may not come before min_tokens
    made: int = 0
    constraint: Constraint | None = None
    bias: tuple[Tensor, Tensor] | None = None  # token ids, and what is added to their logits

    @property
    def plain(self) -> bool:
        """The best logit as it is."""
        changed = any(what is not None for what in (self.prompt, self.bias, self.constraint))
        return self.request.temperature == 0 and not changed and not self.bans

    @property
    def bans(self) -> bool:
        return self.eos is not None and self.made < self.request.min_tokens


def choice(request: Request, prompt: list[int], eos: list[int], vocabulary: int, device: torch.device) -> Choice:
    """Errors: `invalid` for a bias of tokens that there are not."""
    seen = counts = None
    if (request.repetition_penalty, request.presence_penalty, request.frequency_penalty) != (1.0, 0.0, 0.0):
        seen = torch.zeros(vocabulary, dtype=torch.bool, device=device)
        seen[torch.tensor(prompt, device=device)] = True
        counts = torch.zeros(vocabulary, device=device)
    ends = torch.tensor(eos, device=device) if request.min_tokens and eos else None
    chosen = Choice(request, random.Random(request.seed), seen, counts, ends)
    if request.logit_bias:
        if max(request.logit_bias) >= vocabulary:
            raise Error("invalid", "logit_bias has token ids that are not in the vocabulary", param="logit_bias")
        ids = torch.tensor(list(request.logit_bias), device=device)
        chosen.bias = ids, torch.tensor(list(request.logit_bias.values()), dtype=torch.float, device=device)
    return chosen


def choose(logits: Tensor, choices: list[Choice]) -> list[int]:
    """The next token of each row of logits [rows, vocab] (float32), which are left as they are."""
    adjusted = logits if all(c.plain for c in choices) else _adjust(logits.clone(), choices)
    tokens: list[int] = adjusted.argmax(-1).tolist()
    rows = [i for i, c in enumerate(choices) if c.request.temperature > 0]
    if rows:
        for row, token in zip(rows, _sample(adjusted[rows], [choices[i] for i in rows]), strict=True):
            tokens[row] = token
    for token, c in zip(tokens, choices, strict=True):
        c.made += 1
        if c.counts is not None:
            c.counts[token] += 1
        if c.constraint is not None:
            c.constraint.accept(token)
    return tokens


def _adjust(logits: Tensor, choices: list[Choice]) -> Tensor:
    for row, c in zip(logits, choices, strict=True):
        if c.prompt is not None:
            _penalize(row, c)
        if c.bias is not None:
            row.index_add_(0, *c.bias)
        if c.bans and c.eos is not None:
            row[c.eos] = -torch.inf
        if c.constraint is not None:
            row.masked_fill_(~c.constraint.allowed().to(row.device), -torch.inf)
    return logits


def _penalize(row: Tensor, c: Choice) -> None:
    assert c.prompt is not None and c.counts is not None
    r, generated = c.request, c.counts > 0
    if r.repetition_penalty != 1:  # Keskar et al. 2019, CTRL: over the prompt too
        scaled = torch.where(row > 0, row / r.repetition_penalty, row * r.repetition_penalty)
        row.copy_(torch.where(c.prompt | generated, scaled, row))
    row.sub_(c.counts, alpha=r.frequency_penalty).sub_(generated.float(), alpha=r.presence_penalty)


def _sample(logits: Tensor, choices: list[Choice]) -> list[int]:
    requests = [c.request for c in choices]
    uniform = torch.tensor([[c.random.random()] for c in choices], dtype=torch.float64, device=logits.device)
    logits = logits / _column([r.temperature for r in requests], logits)
    for i, r in enumerate(requests):
        if r.top_k:
            kth = logits[i].topk(min(r.top_k, logits.shape[-1])).values[-1]
            logits[i].masked_fill_(logits[i] < kth, -torch.inf)
    nucleus = [i for i, r in enumerate(requests) if r.top_p < 1]
    if nucleus:
        logits[nucleus] = _top_p(logits[nucleus], _column([requests[i].top_p for i in nucleus], logits))
    probabilities = logits.softmax(-1)
    if any(r.min_p for r in requests):
        floor = probabilities.amax(-1, keepdim=True) * _column([r.min_p for r in requests], logits)
        probabilities = probabilities.masked_fill(probabilities < floor, 0.0)
    cumulative = probabilities.double().cumsum(-1)
    # right=True: the first token whose cumulative sum is greater than the number, so never one of probability 0
    found = torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True)
    tokens: list[int] = found.squeeze(-1).clamp_(max=logits.shape[-1] - 1).tolist()
    return tokens


def _top_p(logits: Tensor, top_p: Tensor) -> Tensor:
    """The smallest set of tokens whose probability reaches top_p (Holtzman et al. 2020); the best one always.

    It is mostly among the first few hundred: only where it is not is the whole vocabulary sorted.
    """
    total, vocabulary = logits.logsumexp(-1, keepdim=True), logits.shape[-1]
    for size in (min(NUCLEUS, vocabulary), vocabulary):
        best = logits.topk(size).values
        probabilities = (best - total).exp()
        cumulative = probabilities.cumsum(-1)
        if (cumulative[:, -1:] >= top_p).all():
            break
    kept = cumulative - probabilities < top_p
    kept[:, 0] = True
    floor = best.masked_fill(~kept, torch.inf).amin(-1, keepdim=True)
    return logits.masked_fill(logits < floor, -torch.inf)


def _column(values: list[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None]
