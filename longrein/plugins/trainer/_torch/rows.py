"""Tokenised rows in flat arrays, and the batches of an epoch: rows of like length together, in seeded order."""

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from longrein.plugins.trainer._torch.text import conversation, encode_talks

CHUNK_ROWS = 1000
WINDOW_BATCHES = 100  # rows are sorted by length within so many batches' worth of shuffled rows


class Rows(NamedTuple):
    """Tokenised conversations, one after another in flat arrays: row i is tokens[starts[i]:starts[i + 1]]."""

    tokens: np.ndarray  # int32 [all tokens]
    answer: np.ndarray  # bool [all tokens]: the token belongs to an answer
    starts: np.ndarray  # int64 [rows + 1]
    skipped: int  # rows longer than max_length

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.starts)


def encode(rows: Iterable[Mapping[str, Any]], tokenizer: PreTrainedTokenizerBase, system: str, max_length: int) -> Rows:
    """Tokenise rows for training. An answer ends with the tokenizer's end token; nothing after the last one is kept."""
    tokens: list[np.ndarray] = []
    answer: list[np.ndarray] = []
    lengths: list[int] = [0]
    skipped = 0
    talks = (conversation(row, system) for row in rows)
    while chunk := list(islice(talks, CHUNK_ROWS)):
        for ids, mask in encode_talks(chunk, tokenizer):
            if len(ids) > max_length:
                skipped += 1
                continue
            tokens.append(np.asarray(ids, np.int32))
            answer.append(np.asarray(mask, bool))
            lengths.append(len(ids))
    empty = [np.zeros(0, np.int32)], [np.zeros(0, bool)]
    return Rows(np.concatenate(tokens or empty[0]), np.concatenate(answer or empty[1]), np.cumsum(lengths), skipped)


class Batch(NamedTuple):
    tokens: torch.Tensor  # int64 [rows, length], padded on the right: causal attention never sees the padding
    weights: torch.Tensor  # float32 [rows, length]: of the loss on each token; 0 for the first and for padding
    size: int  # tokens without padding

    def to(self, device: torch.device) -> "Batch":
        return Batch(self.tokens.to(device), self.weights.to(device), self.size)


def batches(lengths: np.ndarray, batch_tokens: int, rng: np.random.Generator | None) -> list[np.ndarray]:
    """Row indices of each batch: as many rows as fit `batch_tokens` when padded to the longest, one at least.

    With `rng` shuffled: rows over the whole set, then sorted by length within windows, then the batches. Without, one
    sorted pass, for evaluation.
    """
    order = np.arange(len(lengths)) if rng is None else rng.permutation(len(lengths))
    window = len(order) if rng is None else max(1, int(WINDOW_BATCHES * batch_tokens / max(lengths.mean(), 1)))
    made: list[np.ndarray] = []
    for start in range(0, len(order), max(window, 1)):
        part = order[start : start + window]
        part = part[np.argsort(lengths[part], kind="stable")]
        first = 0
        for i, length in enumerate(lengths[part]):
            if i > first and (i - first + 1) * length > batch_tokens:
                made.append(part[first:i])
                first = i
        made.append(part[first:])
    if rng is not None:
        made = [made[i] for i in rng.permutation(len(made))]
    return made


def collate(rows: Rows, index: np.ndarray, pad: int, prompt_weight: float) -> Batch:
    """The rows as one padded batch; answer tokens weigh 1, the others `prompt_weight`."""
    lengths = rows.lengths[index]
    tokens = np.full((len(index), lengths.max()), pad, np.int64)
    weights = np.zeros(tokens.shape, np.float32)
    for i, (row, length) in enumerate(zip(index, lengths, strict=True)):
        span = slice(rows.starts[row], rows.starts[row] + length)
        tokens[i, :length] = rows.tokens[span]
        weights[i, :length] = np.where(rows.answer[span], 1.0, prompt_weight)
    weights[:, 0] = 0.0
    return Batch(torch.from_numpy(tokens), torch.from_numpy(weights), int(lengths.sum()))
