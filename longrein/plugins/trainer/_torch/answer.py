"""Greedy answers and their probabilities. The target is the draft: only where the model departs from it, it decodes."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from longrein.core.training import Prediction
from longrein.plugins.trainer._torch.model import Scored
from longrein.plugins.trainer._torch.rows import batches
from longrein.plugins.trainer._torch.text import conversation, encode_talks

CHUNK_ROWS = 1000
SCORE_TOKENS = 1024  # of a batch that is only scored
DECODE_ROWS = 64


@dataclass
class Draft:
    """One row: what the model is asked, the target, and how far the model's own greedy choice agrees with it."""

    prompt: list[int]
    target: list[int]
    target_logprob: float = 0.0
    answer: list[int] | None = None  # None: not decided yet
    logprob: float = 0.0  # of the answer so far


class Answerer:
    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_tokens: int | None) -> None:
        self.model, self.tokenizer, self.max_tokens = model.eval(), tokenizer, max_tokens
        self.scored, self.device = Scored(model), model.device
        ends = model.generation_config.eos_token_id
        self.ends = {tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])}
        self.context = int(getattr(model.config, "max_position_embeddings", 1 << 30))

    @torch.inference_mode()
    def answers(self, rows: Iterable[Mapping[str, Any]], system: str) -> Iterator[Prediction]:
        talks = (conversation(row, system) for row in rows)
        while chunk := list(islice(talks, CHUNK_ROWS)):
            drafts = [_draft(ids, mask) for ids, mask in encode_talks(chunk, self.tokenizer)]
            lengths = np.array([len(d.prompt) + len(d.target) for d in drafts])
            for index in batches(lengths, SCORE_TOKENS, None):
                self._score([drafts[i] for i in index])
            left = sorted((d for d in drafts if d.answer is None or d.answer[-1] not in self.ends), key=_length)
            limit = self.max_tokens or 2 * max(len(d.target) for d in drafts) + 16
            for start in range(0, len(left), DECODE_ROWS):
                self._decode(left[start : start + DECODE_ROWS], limit)
            for draft in drafts:
                yield self._prediction(draft)

    def _score(self, drafts: list[Draft]) -> None:
        """Score the targets in one pass, and take over from each as much as is the model's own greedy choice."""
        tokens = torch.full((len(drafts), max(map(_length, drafts))), self.tokenizer.pad_token_id)
        keep = torch.zeros(tokens.shape, dtype=torch.bool)
        for i, draft in enumerate(drafts):
            tokens[i, : _length(draft)] = torch.tensor(draft.prompt + draft.target)
            keep[i, len(draft.prompt) : _length(draft)] = True
        tokens, at = tokens.to(self.device), keep.flatten().nonzero().squeeze(1).to(self.device)
        logprobs = self.scored.logits(tokens, at - 1).log_softmax(-1)
        wanted = tokens.flatten()[at]
        chosen = logprobs.gather(1, wanted[:, None]).squeeze(1).tolist()
        agreed = (logprobs.argmax(-1) == wanted).tolist()
        first = 0
        for draft in drafts:
            own, same = chosen[first : first + len(draft.target)], agreed[first : first + len(draft.target)]
            first += len(draft.target)
            length = same.index(False) if False in same else len(same)
            draft.target_logprob, draft.logprob = math.fsum(own), math.fsum(own[:length])
            draft.answer = draft.target[:length] or None

    def _decode(self, drafts: list[Draft], limit: int) -> None:
        """Finish the answers greedily, one token a row and step, padded on the left, with a KV cache."""
        starts = [d.prompt + (d.answer or []) for d in drafts]
        width = max(map(len, starts))
        tokens = torch.tensor(
            [[self.tokenizer.pad_token_id] * (width - len(s)) + s for s in starts], device=self.device
        )
        mask = torch.tensor([[0] * (width - len(s)) + [1] * len(s) for s in starts], device=self.device)
        positions, cache = (mask.cumsum(-1) - 1).clamp(min=0), None
        answers, open_rows = [list(d.answer or []) for d in drafts], set(range(len(drafts)))
        for _ in range(max(1, min(limit, self.context - width))):
            out = self.model(
                input_ids=tokens,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            best = out.logits[:, -1].float().log_softmax(-1).max(-1)
            for i in list(open_rows):
                token = int(best.indices[i])
                answers[i].append(token)
                drafts[i].logprob += float(best.values[i])
                if token in self.ends or len(answers[i]) >= limit:
                    open_rows.remove(i)
            if not open_rows:
                break
            cache, tokens, positions = out.past_key_values, best.indices[:, None], positions[:, -1:] + 1
            mask = torch.cat([mask, mask.new_ones(len(drafts), 1)], dim=1)
        for draft, answer in zip(drafts, answers, strict=True):
            draft.answer = answer

    def _prediction(self, draft: Draft) -> Prediction:
        answer = draft.answer or []
        text = self.tokenizer.decode([t for t in answer if t not in self.ends], skip_special_tokens=True)
        return Prediction(text, len(answer), math.exp(draft.logprob), draft.target_logprob, len(draft.target))


def _draft(ids: list[int], mask: list[bool]) -> Draft:
    """Only the last answer of a conversation is a target; the earlier ones are part of what is asked."""
    start = len(mask) - mask[::-1].index(False)
    return Draft(ids[:start], ids[start:])


def _length(draft: Draft) -> int:
    return len(draft.prompt) + len(draft.target)
