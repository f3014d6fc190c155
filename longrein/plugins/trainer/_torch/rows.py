"""Tokenised rows in flat arrays, and the plan of an epoch: rows of like length together, or packed, in seeded order."""

from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from longrein.core.training import Recipe
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
            if not ids:  # a conversation without an answer: nothing to learn
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
    positions: torch.Tensor | None  # int64 [rows, length], where sequences are packed: 0, 1, … in each row anew

    def to(self, device: torch.device) -> "Batch":
        positions = None if self.positions is None else self.positions.to(device)
        return Batch(self.tokens.to(device), self.weights.to(device), self.size, positions)


def plan(lengths: np.ndarray, recipe: Recipe, epoch: int) -> list[list[list[np.ndarray]]]:
    """An epoch's steps. A step is the batches whose gradients are summed; a batch, sequences; a sequence, rows.

    A step's rows do not depend on how it is cut: `accumulate` of k trains as `batch_tokens` k times as large.
    """
    rng = np.random.default_rng([recipe.seed, epoch])
    sequences: Sequence[np.ndarray] | np.ndarray = np.arange(len(lengths))[:, None]
    sizes, step_tokens = lengths, recipe.batch_tokens * recipe.accumulate
    if recipe.packing:
        sequences = pack(lengths, min(recipe.max_length, recipe.batch_tokens), _window(lengths, step_tokens), rng)
        sizes = np.array([lengths[rows].sum() for rows in sequences])
    steps = batches(sizes, step_tokens, rng)
    return [
        [[sequences[i] for i in step[part]] for part in batches(sizes[step], recipe.batch_tokens, None)]
        for step in steps
    ]


def pack(lengths: np.ndarray, width: int, window: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Row indices of each sequence of at most `width` tokens (a longer row alone): best fit, the longest first, within
    windows of so many shuffled rows."""
    packed: list[np.ndarray] = []
    order = rng.permutation(len(lengths))
    for start in range(0, len(order), window):
        part = order[start : start + window]
        made: list[list[int]] = []
        rooms: list[tuple[int, int]] = []  # (tokens left, which sequence), sorted
        for row in part[np.argsort(-lengths[part], kind="stable")]:
            at = bisect_left(rooms, (int(lengths[row]), 0))
            if at == len(rooms):
                made.append([])
                rooms.append((max(width, int(lengths[row])), len(made) - 1))
            room, which = rooms.pop(at)
            made[which].append(row)
            insort(rooms, (room - int(lengths[row]), which))
        packed += map(np.array, made)
    return packed


def batches(lengths: np.ndarray, batch_tokens: int, rng: np.random.Generator | None) -> list[np.ndarray]:
    """Row indices of each batch: as many rows as fit `batch_tokens` when padded to the longest, one at least.

    With `rng` shuffled: rows over the whole set, then sorted by length within windows, then the batches. Without, one
    sorted pass, for evaluation.
    """
    order = np.arange(len(lengths)) if rng is None else rng.permutation(len(lengths))
    window = max(1, len(order)) if rng is None else _window(lengths, batch_tokens)
    made: list[np.ndarray] = []
    for start in range(0, len(order), window):
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


def collate(rows: Rows, sequences: Sequence[np.ndarray] | np.ndarray, pad: int, prompt_weight: float) -> Batch:
    """One padded batch of sequences of rows; answer tokens weigh 1, the others `prompt_weight`, a row's first none."""
    spans = [[slice(*rows.starts[row : row + 2].tolist()) for row in sequence] for sequence in sequences]
    sizes = [sum(span.stop - span.start for span in sequence) for sequence in spans]
    tokens = np.full((len(spans), max(sizes)), pad, np.int64)
    weights = np.zeros(tokens.shape, np.float32)
    positions = np.zeros(tokens.shape, np.int64) if any(len(sequence) > 1 for sequence in spans) else None
    for i, sequence in enumerate(spans):
        end = 0
        for span in sequence:
            start, end = end, end + span.stop - span.start
            tokens[i, start:end] = rows.tokens[span]
            weights[i, start:end] = np.where(rows.answer[span], 1.0, prompt_weight)
            weights[i, start] = 0.0
            if positions is not None:
                positions[i, start:end] = np.arange(end - start)
    placed = None if positions is None else torch.from_numpy(positions)
    return Batch(torch.from_numpy(tokens), torch.from_numpy(weights), sum(sizes), placed)


def _window(lengths: np.ndarray, batch_tokens: int) -> int:
    """How many rows are sorted together."""
    return max(1, int(WINDOW_BATCHES * batch_tokens / max(lengths.mean(), 1)))
