"""The forward pass of Llama and Qwen3 in plain torch, over a KV cache of fixed slots.

A step is one pass over spans: a sequence that is being answered brings one token, one that is being read a piece of its
prompt. All products with weights are over all of them at once; only attention looks at each span by itself.
"""

import itertools
import math
import mmap
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F

from longrein.core.errors import Error
from longrein.plugins.engine._torch import attention
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


class Span(NamedTuple):
    """The next tokens of one sequence."""

    slot: int
    start: int  # positions that the slot holds already
    tokens: list[int]
    ends: bool  # the logits after its last token are wanted


class _Chunk(NamedTuple):
    """Attention of a span of several tokens, over what its slot holds and over itself."""

    slot: int
    size: int
    end: int
    mask: Tensor | None  # [size, end]; None: it begins the sequence
    grouped: bool

    @classmethod
    def of(cls, span: Span, model: "Model") -> "_Chunk":
        size, end, mask = len(span.tokens), span.start + len(span.tokens), None
        if span.start:
            mask = torch.full((size, end), -torch.inf, dtype=model.keys[0].dtype, device=model.device)
            mask = mask.triu_(span.start + 1)
        return cls(span.slot, size, end, mask, model.heads != model.kv_heads)

    def attend(self, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """q: [size, heads, head]; the output: [size, heads * head]."""
        k, v = (t[self.slot, None, :, : self.end] for t in (keys, values))
        q = q.transpose(0, 1)[None]
        causal = self.mask is None
        out = F.scaled_dot_product_attention(q, k, v, self.mask, is_causal=causal, enable_gqa=self.grouped)
        return out[0].transpose(0, 1).flatten(1)


class Model:
    """Weights, cache and the pass over them.

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
        int8: bool = False,
    ) -> None:
        a = self.architecture = architecture
        self.slots, self.context, self.device = slots, context, device
        self.heads, self.kv_heads, self.head = a.num_attention_heads, a.kv_heads, a.head_size
        weights = Weights(tensors, dtype, device, int8)
        self.embedding = weights.get("model.embed_tokens.weight", a.vocab_size, a.hidden_size)
        self.layers = [_layer(a, weights, f"model.layers.{i}.") for i in range(a.num_hidden_layers)]
        self.norm = weights.get("model.norm.weight", a.hidden_size)
        tied = a.tie_word_embeddings
        head = self.embedding if tied else weights.get("lm_head.weight", a.vocab_size, a.hidden_size)
        self.output = linear(head, int8=int8)
        self.parameters = weights.count
        self.cos, self.sin = rope(a, context, dtype, device)
        shape = (slots, self.kv_heads, context, self.head)
        kept = cache_dtype(dtype, device)
        self.keys = [_zeros(shape, kept, device) for _ in self.layers]
        self.values = [_zeros(shape, kept, device) for _ in self.layers]
        self._heads = torch.arange(self.kv_heads, device=device)

    def forward(self, spans: Sequence[Span]) -> Tensor:
        """One pass over new tokens of many sequences, which are also put into the cache: the logits after the last
        token of each span that `ends`, [such spans, vocab]. Spans of a single token come first."""
        singles = sum(len(span.tokens) == 1 for span in spans)
        chunks = [_Chunk.of(span, self) for span in spans[singles:]]
        sizes = torch.tensor([len(span.tokens) for span in spans])
        ids = torch.tensor([token for span in spans for token in span.tokens], device=self.device)
        positions = torch.tensor([p for s in spans for p in range(s.start, s.start + len(s.tokens))])
        slots = torch.tensor([span.slot for span in spans]).repeat_interleave(sizes)
        positions, slots = positions.to(self.device), slots.to(self.device)
        where = ((slots[:, None] * self.kv_heads + self._heads) * self.context + positions[:, None]).flatten()
        own, lengths = slots[:singles], positions[:singles] + 1

        def attend(q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            q, k, v = (t.to(keys.dtype) for t in (q, k, v))
            keys.view(-1, self.head).index_copy_(0, where, k.reshape(-1, self.head))
            values.view(-1, self.head).index_copy_(0, where, v.reshape(-1, self.head))
            parts = []
            if singles:  # the heads of a group are rows of one query
                one = q[:singles].reshape(singles, self.kv_heads, -1, self.head).contiguous()
                parts = [attention.attend(one, keys, values, own, lengths).view(singles, -1)]
            at = singles
            for chunk in chunks:
                parts.append(chunk.attend(q[at : at + chunk.size], keys, values))
                at += chunk.size
            return parts[0] if len(parts) == 1 else torch.cat(parts)

        x = self._layers(ids, self.cos[positions], self.sin[positions], attend)
        ends = sizes.cumsum(0)[[i for i, span in enumerate(spans) if span.ends]] - 1
        return self._logits(x[ends.to(self.device)])

    def embed(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """The means of the last hidden states of each prompt, of length 1, [prompts, hidden] in float32. In one pass;
        nothing is cached."""
        ids = torch.tensor([token for prompt in prompts for token in prompt], device=self.device)
        positions = torch.cat([torch.arange(len(prompt), device=self.device) for prompt in prompts])
        ends = list(itertools.accumulate(map(len, prompts)))
        spans = [slice(end - len(prompt), end) for prompt, end in zip(prompts, ends, strict=True)]

        def attend(q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            parts, grouped = [], self.heads != self.kv_heads
            for span in spans:
                own, key, value = (t[span].transpose(0, 1)[None] for t in (q, k, v))
                out = F.scaled_dot_product_attention(own, key, value, is_causal=True, enable_gqa=grouped)
                parts.append(out[0].transpose(0, 1).flatten(1))
            return torch.cat(parts)

        x = self._layers(ids, self.cos[positions], self.sin[positions], attend)
        x = _norm(x, self.norm, self.architecture.rms_norm_eps).float()
        return F.normalize(torch.stack([x[span].mean(0) for span in spans]), dim=-1)

    def copy(self, source: int, target: int, length: int) -> None:
        """The first `length` positions of one slot into another."""
        for cache in (*self.keys, *self.values):
            cache[target, :, :length] = cache[source, :, :length]

    def clear(self, slot: int) -> None:
        for cache in (*self.keys, *self.values):
            cache[slot].zero_()

    def flops(self, span: Span) -> float:
        """Floating-point operations for a span, about: the products with the weights, and attention."""
        a, tokens = self.architecture, len(span.tokens)
        pairs = tokens * (span.start + (tokens + 1) / 2)
        return 2 * self.parameters * tokens + 4 * a.num_hidden_layers * self.heads * self.head * pairs

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
            out = attend(qk[:, :queries], qk[:, queries:], qkv[:, rotated:], keys, values).to(x.dtype)
            x = layer.out.plus(out, x)
            normed = _norm(x, layer.mlp_norm, a.rms_norm_eps)
            x = layer.down.plus(layer.up.times(normed, layer.gate.silu(normed)), x)
        return x

    def _logits(self, x: Tensor) -> Tensor:
        return self.output(_norm(x, self.norm, self.architecture.rms_norm_eps)).float()


class Weights:
    def __init__(self, tensors: dict[str, Tensor], dtype: torch.dtype, device: torch.device, int8: bool) -> None:
        self.tensors, self.dtype, self.device, self.int8, self.count = tensors, dtype, device, int8, 0

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
        return linear(weight, bias, self.int8)


def _layer(a: Architecture, weights: Weights, at: str) -> Layer:
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


def cache_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """On a CPU attention is bound by its arithmetic, which is float32's."""
    return torch.float32 if device.type == "cpu" else dtype


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


def rope(a: Architecture, context: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
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
