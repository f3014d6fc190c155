"""Llama and Qwen3 as an OpenVINO graph over a paged KV cache: built from the weights, without a converter.

Inputs are flat: the tokens of all sequences one after the other, as PagedAttention takes them.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov
import torch
from openvino import opset13 as op
from openvino.op import _PagedAttentionExtension as PagedAttention

from longrein.core.errors import Error
from longrein.plugins.engine._torch.checkpoint import Architecture

Node = Any  # openvino's nodes and outputs, which carry no types
Weights = Any  # longrein.plugins.engine._torch.model.Weights
PER_SEQUENCE = ("past_lens", "subsequence_begins", "block_indices", "block_indices_begins")


class Graph:
    """Of one model. `build` gives logits [ends, vocabulary] of input_ids and position_ids [tokens], ends [rows whose
    logits are wanted], what PagedAttention wants to know of sequences and blocks, and key_cache.i, value_cache.i."""

    def __init__(self, a: Architecture, weights: Weights, rope: tuple[torch.Tensor, torch.Tensor], int8: bool) -> None:
        self.a, self.weights, self.int8 = a, weights, int8
        self.parameters: list[Node] = []
        self.ids, self.positions = self._input("input_ids", np.int64), self._input("position_ids", np.int64)
        self.ends = self._input("ends", np.int64)
        self.sequences = [self._input(name, np.int32) for name in PER_SEQUENCE]
        self.longest = self._input("max_context_len", np.int32, [])
        self.cos, self.sin = (op.gather(_constant(t), self.positions, op.constant(0)) for t in rope)

    def build(self) -> ov.Model:
        a = self.a
        embedding = self.weights.get("model.embed_tokens.weight", a.vocab_size, a.hidden_size)
        x = op.gather(_constant(embedding), self.ids, op.constant(0))
        for i in range(a.num_hidden_layers):
            x = self._layer(x, i)
        x = self._norm(op.gather(x, self.ends, op.constant(0)), "model.norm.weight", a.hidden_size)
        tied = a.tie_word_embeddings
        head = embedding if tied else self.weights.get("lm_head.weight", a.vocab_size, a.hidden_size)
        return ov.Model([op.result(self._product(x, head))], self.parameters, "longrein")

    def _layer(self, x: Node, i: int) -> Node:
        a, at = self.a, f"model.layers.{i}."
        hidden, inner, head = a.hidden_size, a.intermediate_size, a.head_size
        q_size, kv_size = a.num_attention_heads * head, a.kv_heads * head
        normed = self._norm(x, at + "input_layernorm.weight", hidden)
        attention = at + "self_attn."
        q, k, v = (
            self._linear(normed, f"{attention}{name}_proj", size, hidden, a.attention_bias)
            for name, size in (("q", q_size), ("k", kv_size), ("v", kv_size))
        )
        q = self._rotated(q, a.num_attention_heads, attention + "q_norm.weight")
        k = self._rotated(k, a.kv_heads, attention + "k_norm.weight")
        out = self._attention(q, k, v, i)
        x = op.add(x, self._linear(out, attention + "o_proj", hidden, q_size, a.attention_bias))
        normed = self._norm(x, at + "post_attention_layernorm.weight", hidden)
        gate = op.swish(self._linear(normed, at + "mlp.gate_proj", inner, hidden, a.mlp_bias))
        up = self._linear(normed, at + "mlp.up_proj", inner, hidden, a.mlp_bias)
        return op.add(x, self._linear(op.multiply(gate, up), at + "mlp.down_proj", hidden, inner, a.mlp_bias))

    def _attention(self, q: Node, k: Node, v: Node, i: int) -> Node:
        keys, values = (self._cache(f"{name}_cache.{i}") for name in ("key", "value"))
        scale = op.constant(np.float32(self.a.head_size**-0.5))
        inputs = [q, k, v, keys, values, *self.sequences, scale, *_unused(self.longest)]
        try:
            node = PagedAttention([node.output(0) for node in inputs])
        except RuntimeError as error:
            hint = "pip install 'longrein[openvino]' installs one that fits"
            raise Error("invalid", f"this version of OpenVINO has another PagedAttention: {error}", hint) from error
        shapes = node.get_rt_info()
        for name in ("k", "v"):
            shapes[f"num_{name}_heads"], shapes[f"{name}_head_size"] = self.a.kv_heads, self.a.head_size
        return node.output(0)

    def _rotated(self, x: Node, heads: int, norm: str) -> Node:
        """Rotary positions on [tokens, heads * head], after Qwen3's norm of each head."""
        head = self.a.head_size
        x = op.reshape(x, _sizes(-1, heads, head), False)
        if self.a.qk_norm:
            x = self._norm(x, norm, head)
        first, second = op.split(x, op.constant(2), 2).outputs()
        turned = op.concat([second, first], 2)
        x = op.add(op.multiply(x, self.cos), op.multiply(turned, self.sin))
        return op.reshape(x, _sizes(-1, heads * head), False)

    def _norm(self, x: Node, name: str, size: int) -> Node:
        """RMSNorm over the last dimension."""
        square = op.reduce_mean(op.power(x, op.constant(np.float32(2))), op.constant(-1), True)
        root = op.sqrt(op.add(square, op.constant(np.float32(self.a.rms_norm_eps))))
        normed = op.multiply(x, op.divide(op.constant(np.float32(1)), root))
        return op.multiply(normed, _constant(self.weights.get(name, size)))

    def _linear(self, x: Node, name: str, outputs: int, inputs: int, biased: bool) -> Node:
        y = self._product(x, self.weights.get(f"{name}.weight", outputs, inputs))
        return op.add(y, _constant(self.weights.get(f"{name}.bias", outputs))) if biased else y

    def _product(self, x: Node, weight: torch.Tensor) -> Node:
        """x Wᵀ; with int8 the weight is one byte with a scale for each output, which OpenVINO multiplies as such."""
        if not self.int8:
            return op.matmul(x, _constant(weight), False, True)
        scale = weight.abs().amax(1, keepdim=True).clamp_(min=1e-12) / 127
        rounded = (weight / scale).round_().to(torch.int8)
        wide = op.convert(op.constant(rounded.numpy()), "f32")
        return op.matmul(x, op.multiply(wide, _constant(scale)), False, True)

    def _input(self, name: str, dtype: Any, shape: Sequence[int] = (-1,)) -> Node:
        node = op.parameter(list(shape), dtype, name)
        node.output(0).tensor.set_names({name})
        self.parameters.append(node)
        return node

    def _cache(self, name: str) -> Node:
        """Its type and shape are the device's choice."""
        node = op.parameter(ov.PartialShape([-1, -1, -1, -1]), ov.Type.dynamic, name)
        node.output(0).tensor.set_names({name})
        self.parameters.append(node)
        return node


def _unused(longest: Node) -> list[Node]:
    """The rest of PagedAttention's inputs, in its order: what else it can do is left out."""
    none_i, none_f = op.constant(np.zeros(0, np.int32)), op.constant(np.zeros(0, np.float32))
    zero = op.constant(np.int32(0))
    sliding_window, alibi, score_window = zero, none_f, none_i
    rotation = [none_i, none_i, none_f]  # block indices, deltas, table
    xattention = [none_f, zero, zero]  # threshold, block size, stride
    sinks = op.constant(np.zeros((0, 0, 0, 0), np.float32))
    adaptive_rkv = [zero, none_i, none_i, none_i]
    rest = [none_i, op.constant(np.zeros(0, np.uint8)), none_i]  # token types; bias between queries, its begins
    return [sliding_window, alibi, longest, score_window, *rotation, *xattention, sinks, *adaptive_rkv, *rest]


def _constant(tensor: torch.Tensor) -> Node:
    return op.constant(np.ascontiguousarray(tensor.float().numpy()))


def _sizes(*sizes: int) -> Node:
    found: npt.NDArray[np.int64] = np.array(sizes, np.int64)
    return op.constant(found)
