"""Attention of one new token of each of many sequences, every one over its own slot and length of the cache.

On a CPU a compiled kernel: the cost is the sum of the lengths. A batch padded to its longest took two to six times as
long where lengths differ, and one call of torch's own attention a sequence 1.3 to 2.6 times (benchmarks/engine.py).
"""

import math
from typing import Any

import numba
import numpy as np
import torch
import torch.nn.functional as F

from longrein.plugins._compiled import F32, I64, compiled

Tensor = torch.Tensor


def attend(q: Tensor, keys: Tensor, values: Tensor, slots: Tensor, lengths: Tensor) -> Tensor:
    """q: [rows, kv_heads, group, head]; keys, values: [slots, kv_heads, context, head]; slots, lengths: [rows], int64.
    The output is of q's shape."""
    if q.device.type != "cpu":
        return _gathered(q, keys, values, slots, lengths)
    out = torch.empty_like(q)
    given = (t.numpy() for t in (q, keys, values, slots, lengths, out))
    threads = min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS)
    if threads > 1:
        numba.set_num_threads(threads)
    kernel = _threaded if threads > 1 else _single
    kernel(*given, np.float32(q.shape[-1] ** -0.5))
    return out


def _gathered(q: Tensor, keys: Tensor, values: Tensor, slots: Tensor, lengths: Tensor) -> Tensor:
    """The same by a copy of all slots, cut at the longest: what a GPU does faster than anything row by row."""
    longest = int(lengths.max())
    within = torch.arange(longest, device=q.device) < lengths[:, None]
    k, v = keys[slots, :, :longest], values[slots, :, :longest]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=within[:, None, None])


def _rows(q: F32, keys: F32, values: F32, slots: I64, lengths: I64, out: F32, scale: np.float32) -> None:
    rows, kv_heads, group, head = q.shape
    for job in numba.prange(rows * kv_heads):
        row, h = job // kv_heads, job % kv_heads
        length, k, v = lengths[row], keys[slots[row], h], values[slots[row], h]
        weights = np.empty(length, np.float32)
        for g in range(group):
            query, result = q[row, h, g], out[row, h, g]
            best = np.float32(-np.inf)
            for t in range(length):
                score = np.float32(0)
                for d in range(head):
                    score += query[d] * k[t, d]
                weights[t] = score * scale
                best = max(best, weights[t])
            total = np.float32(0)
            for t in range(length):
                weights[t] = math.exp(weights[t] - best)
                total += weights[t]
            result[:] = 0
            for t in range(length):
                weight = weights[t] / total
                for d in range(head):
                    result[d] += weight * v[t, d]


FAST = {"reassoc", "contract", "arcp", "nsz"}  # sums in any order; NaN stays NaN
_single: Any = compiled(_rows, error_model="numpy", fastmath=FAST)
_threaded: Any = compiled(_rows, error_model="numpy", fastmath=FAST, parallel=True)
