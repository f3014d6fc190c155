"""The forward pass of Llama and Qwen3 in plain torch, over a KV cache of fixed slots.

Running sequences sit in slots 0 … n-1 with no gap, so every step reads views of the cache and gathers nothing.
"""

import math
import mmap
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F

from longrein.core.errors import Error
from longrein.plugins.engine._torch.checkpoint import LLAMA3, Architecture
from longrein.plugins.engine._torch.linear import Linear, linear

Tensor = torch.Tensor
Attend = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


class Layer(NamedTuple):
    attention_norm: Tensor  # [hidden]
    qkv: Linear  # the three projections as one
    qk_norm: Tensor | None  # [heads + kv_heads, head]
    out: Linear
    mlp_norm: Tensor
    gate: Linear
    up: Linear
    down: Linear


class Model:
    """Weights, cache and the two passes over them.

    keys, values: one tensor a layer, [slots, kv_heads, context, head].
    """

    def __init__(
        self,
        architecture: Architecture,
        tensors: dict[str, Tensor],
        *,
        slots: int,
        context: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        a = self.architecture = architecture
        self.slots, self.context, self.device = slots, context, device
        self.heads, self.kv_heads, self.head = a.num_attention_heads, a.kv_heads, a.head_size
        weights = _Weights(tensors, dtype, device)
        self.embedding = weights.get("model.embed_tokens.weight", a.vocab_size, a.hidden_size)
        self.layers = [_layer(a, weights, f"model.layers.{i}.") for i in range(a.num_hidden_layers)]
        self.norm = weights.get("model.norm.weight", a.hidden_size)
        tied = a.tie_word_embeddings
        head = self.embedding if tied else weights.get("lm_head.weight", a.vocab_size, a.hidden_size)
        self.output = linear(head)
        self.parameters = weights.count
        self.cos, self.sin = _rope(a, context, dtype, device)
        shape = (slots, self.kv_heads, context, self.head)
        self.keys = [_zeros(shape, dtype, device) for _ in self.layers]
        self.values = [_zeros(shape, dtype, device) for _ in self.layers]
        self._heads = torch.arange(self.kv_heads, device=device)

    def prefill(self, prompts: list[list[int]], first: int) -> Tensor:
        """Fill slots first … first + len(prompts) - 1; logits after each prompt's last token, [prompts, vocab].

        Prompts are padded on the right: under the causal mask no true token sees the padding, and what it leaves in
        the cache lies beyond the sequence's length until a true token overwrites it.
        """
        rows, longest = len(prompts), max(map(len, prompts))
        padded = torch.tensor([p + [0] * (longest - len(p)) for p in prompts], device=self.device)
        last = torch.tensor([i * longest + len(p) - 1 for i, p in enumerate(prompts)], device=self.device)

        def attend(q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            q, k, v = (t.view(rows, longest, -1, self.head).transpose(1, 2) for t in (q, k, v))
            keys[first : first + rows, :, :longest] = k
            values[first : first + rows, :, :longest] = v
            grouped = self.heads != self.kv_heads
            out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
            return out.transpose(1, 2).flatten(2).flatten(0, 1)

        cos, sin = (t[:longest].repeat(rows, 1, 1) for t in (self.cos, self.sin))
        return self._logits(self._layers(padded.flatten(), cos, sin, attend)[last])

    def decode(self, tokens: list[int], lengths: list[int]) -> Tensor:
        """One token for each of the slots 0 … n-1, written at its length; logits [n, vocab]."""
        rows, longest = len(tokens), max(lengths) + 1
        positions = torch.tensor(lengths, device=self.device)
        slots = torch.arange(rows, device=self.device)
        where = ((slots[:, None] * self.kv_heads + self._heads) * self.context + positions[:, None]).flatten()
        mask = None
        if min(lengths) + 1 != longest:
            beyond = torch.arange(longest, device=self.device) > positions[:, None]
            mask = torch.zeros(beyond.shape, dtype=self.embedding.dtype, device=self.device)
            mask = mask.masked_fill_(beyond, -torch.inf)[:, None, None]

        def attend(q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            keys.view(-1, self.head).index_copy_(0, where, k.reshape(-1, self.head))
            values.view(-1, self.head).index_copy_(0, where, v.reshape(-1, self.head))
            q = q.reshape(rows, self.kv_heads, -1, self.head)  # the heads of a group are rows of one query
            k, v = keys[:rows, :, :longest], values[:rows, :, :longest]
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).view(rows, -1)

        ids = torch.tensor(tokens, device=self.device)
        return self._logits(self._layers(ids, self.cos[positions], self.sin[positions], attend))

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` positions of one slot over another."""
        for cache in (*self.keys, *self.values):
            cache[target, :, :length] = cache[source, :, :length]

    def _layers(self, ids: Tensor, cos: Tensor, sin: Tensor, attend: Attend) -> Tensor:
        """The hidden states after the last layer, [rows, hidden], of ids [rows] with cos, sin [rows, 1, head]."""
        a, half = self.architecture, self.head // 2
        queries, rotated = self.heads, self.heads + self.kv_heads
        x = self.embedding[ids]
        for layer, keys, values in zip(self.layers, self.keys, self.values, strict=True):
            qkv = layer.qkv(_norm(x, layer.attention_norm, a.rms_norm_eps))
            qkv = qkv.view(len(x), -1, self.head)
            qk = qkv[:, :rotated]
            if layer.qk_norm is not None:
                qk = _norm(qk, layer.qk_norm, a.rms_norm_eps)
            qk = torch.addcmul(qk * cos, qk.roll(half, -1), sin)
            out = attend(qk[:, :queries], qk[:, queries:], qkv[:, rotated:], keys, values)
            x = layer.out.plus(out, x)
            normed = _norm(x, layer.mlp_norm, a.rms_norm_eps)
            x = layer.down.plus(layer.up.times(normed, layer.gate.silu(normed)), x)
        return x

    def _logits(self, x: Tensor) -> Tensor:
        return self.output(_norm(x, self.norm, self.architecture.rms_norm_eps)).float()


class _Weights:
    def __init__(self, tensors: dict[str, Tensor], dtype: torch.dtype, device: torch.device) -> None:
        self.tensors, self.dtype, self.device, self.count = tensors, dtype, device, 0

    def get(self, name: str, *shape: int) -> Tensor:
        tensor = self.tensors.get(name)
        if tensor is None or tuple(tensor.shape) != shape:
            found = "missing" if tensor is None else f"of shape {list(tensor.shape)}, not {list(shape)}"
            raise Error("corrupt", f"the weights do not fit config.json: {name} is {found}", "export the model again")
        self.count += tensor.numel()
        return tensor.to(self.device, self.dtype)

    def linear(self, names: list[str], outputs: list[int], inputs: int, biased: bool) -> Linear:
        """One or more projections of the same input as one."""
        pairs = list(zip(names, outputs, strict=True))
        weight = torch.cat([self.get(f"{name}.weight", size, inputs) for name, size in pairs])
        bias = torch.cat([self.get(f"{name}.bias", size) for name, size in pairs]) if biased else None
        return linear(weight, bias)


def _layer(a: Architecture, weights: _Weights, at: str) -> Layer:
    hidden, inner, head = a.hidden_size, a.intermediate_size, a.head_size
    q, kv = a.num_attention_heads * head, a.kv_heads * head
    attention, mlp = at + "self_attn.", at + "mlp."
    qk_norm = None
    if a.qk_norm:
        q_norm, k_norm = (weights.get(f"{attention}{name}_norm.weight", head) for name in ("q", "k"))
        qk_norm = torch.cat([q_norm.expand(a.num_attention_heads, -1), k_norm.expand(a.kv_heads, -1)])
    qkv = [f"{attention}{name}_proj" for name in ("q", "k", "v")]
    return Layer(
        attention_norm=weights.get(at + "input_layernorm.weight", hidden),
        qkv=weights.linear(qkv, [q, kv, kv], hidden, a.attention_bias),
        qk_norm=qk_norm,
        out=weights.linear([attention + "o_proj"], [hidden], q, a.attention_bias),
        mlp_norm=weights.get(at + "post_attention_layernorm.weight", hidden),
        gate=weights.linear([mlp + "gate_proj"], [inner], hidden, a.mlp_bias),
        up=weights.linear([mlp + "up_proj"], [inner], hidden, a.mlp_bias),
        down=weights.linear([mlp + "down_proj"], [hidden], inner, a.mlp_bias),
    )


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros, not empty: a masked position has weight 0, but 0 * NaN is NaN. On a CPU an anonymous mapping gives
    them without touching the memory, which so grows only as the slots fill."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    return torch.frombuffer(mmap.mmap(-1, math.prod(shape) * dtype.itemsize), dtype=dtype).view(shape)


def _norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMSNorm over the last dimension, in float32 as transformers does it."""
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype) * weight


def _rope(a: Architecture, context: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """cos and sin, [context, 1, head]; the first half of sin is negated, so that roll replaces rotate_half."""
    rope, head = a.rope, a.head_size
    frequency = 1.0 / (rope["rope_theta"] ** (torch.arange(0, head, 2, dtype=torch.float) / head))
    if rope["rope_type"] == "linear":
        frequency = frequency / rope["factor"]
    elif rope["rope_type"] == "llama3":
        frequency = _llama3(frequency, **{k: rope[k] for k in LLAMA3})
    angles = torch.outer(torch.arange(context, dtype=torch.float), frequency)
    cos = torch.cat([angles, angles], -1).cos()
    sin = torch.cat([-angles, angles], -1).sin()
    return cos[:, None].to(device, dtype), sin[:, None].to(device, dtype)


def _llama3(
    frequency: Tensor,
    factor: float,
    low_freq_factor: float,
    high_freq_factor: float,
    original_max_position_embeddings: int,
) -> Tensor:
    """Llama 3.1's scaling: long waves are stretched, short ones kept, those between interpolated."""
    wavelength = 2 * math.pi / frequency
    smooth = (original_max_position_embeddings / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor)
    between = (1 - smooth) * frequency / factor + smooth * frequency
    scaled = torch.where(wavelength > original_max_position_embeddings / low_freq_factor, frequency / factor, frequency)
    is_between = (wavelength <= original_max_position_embeddings / low_freq_factor) & (
        wavelength >= original_max_position_embeddings / high_freq_factor
    )
    return torch.where(is_between, between, scaled)
