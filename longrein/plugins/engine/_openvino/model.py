"""The forward pass by OpenVINO, with the surface of longrein.plugins.engine._torch.model.Model.

A slot is a row of blocks of the paged cache, always the same ones.
"""

import mmap
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov
import torch

from longrein.plugins.engine._openvino.graph import Graph
from longrein.plugins.engine._torch import model
from longrein.plugins.engine._torch.checkpoint import Architecture
from longrein.plugins.engine._torch.model import Span, Weights, rope

BLOCK = 32  # positions; the CPU's kernels know no other
CORE = ov.Core()


class Model(model.Model):
    """See longrein.plugins.engine._torch.model.Model.

    caches: for each layer keys and values, [slots * blocks, kv_heads, BLOCK, head], of the products' type.
    """

    def __init__(
        self,
        architecture: Architecture,
        tensors: dict[str, torch.Tensor],
        *,
        slots: int,
        context: int,
        dtype: torch.dtype,
        device: torch.device,
        int8: bool = False,
    ) -> None:
        a = self.architecture = architecture
        self.slots, self.context, self.device = slots, context, device
        self.heads, self.head = a.num_attention_heads, a.head_size
        weights = Weights(tensors, torch.float32, device, False)
        graph = Graph(a, weights, rope(a, context, torch.float32, device), int8).build()
        self.parameters = weights.count
        kind = ov.Type.bf16 if dtype == torch.bfloat16 else ov.Type.f32
        hints = {
            "INFERENCE_PRECISION_HINT": kind,
            "KV_CACHE_PRECISION": kind,
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",
        }
        compiled = CORE.compile_model(graph, "CPU", hints)
        self.request = compiled.create_infer_request()
        self.blocks = -(-context // BLOCK)  # of a slot
        shape = slots * self.blocks, a.kv_heads, BLOCK, a.head_size
        self.caches = [_zeros(shape, kind) for _ in range(2 * a.num_hidden_layers)]
        names = (f"{name}_cache.{i}" for i in range(a.num_hidden_layers) for name in ("key", "value"))
        for name, cache in zip(names, self.caches, strict=True):
            self.request.set_tensor(name, ov.Tensor(cache, ov.Shape(shape), kind))

    def forward(self, spans: Sequence[Span]) -> torch.Tensor:
        sizes, starts = (np.array(n, np.int32) for n in ([len(s.tokens) for s in spans], [s.start for s in spans]))
        begins = np.concatenate([[0], sizes.cumsum()]).astype(np.int32)
        used = -(-(starts + sizes) // BLOCK)
        given: dict[str, npt.NDArray[Any]] = {
            "input_ids": np.fromiter((t for s in spans for t in s.tokens), np.int64),
            "position_ids": np.concatenate([np.arange(s.start, s.start + len(s.tokens)) for s in spans]),
            "ends": begins[1:][[s.ends for s in spans]].astype(np.int64) - 1,
            "past_lens": starts,
            "subsequence_begins": begins,
            "block_indices": np.concatenate(
                [np.arange(s.slot * self.blocks, s.slot * self.blocks + n) for s, n in zip(spans, used, strict=True)]
            ).astype(np.int32),
            "block_indices_begins": np.concatenate([[0], used.cumsum()]).astype(np.int32),
            "max_context_len": np.array((starts + sizes).max(), np.int32),
        }
        for name, value in given.items():
            self.request.set_tensor(name, ov.Tensor(value))
        self.request.infer()
        return torch.from_numpy(self.request.get_output_tensor(0).data.copy())

    def copy(self, source: int, target: int, length: int) -> None:
        blocks = -(-length // BLOCK)
        a, b = source * self.blocks, target * self.blocks
        for cache in self.caches:
            cache[b : b + blocks] = cache[a : a + blocks]

    def clear(self, slot: int) -> None:
        for cache in self.caches:
            cache[slot * self.blocks : (slot + 1) * self.blocks] = 0


def _zeros(shape: tuple[int, ...], kind: ov.Type) -> npt.NDArray[Any]:
    """An anonymous mapping: memory is taken only as the slots fill. numpy knows no bfloat16, and need not."""
    bytes = int(np.prod(shape)) * kind.size
    return np.frombuffer(mmap.mmap(-1, bytes), np.uint16 if kind.size == 2 else np.float32).reshape(shape)
