"""Reads a Hugging Face folder: its configuration and safetensors, and nothing that could run code."""

from pathlib import Path
from typing import Any, TypeVar

import msgspec
import torch
from safetensors import SafetensorError, safe_open

from longrein.core import folder as folders
from longrein.core.errors import Error

NATIVE = ("LlamaForCausalLM", "Qwen3ForCausalLM")
T = TypeVar("T")
LLAMA3 = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
ROPE_KEYS: dict[str, tuple[str, ...]] = {"default": (), "linear": ("factor",), "llama3": LLAMA3}


class Architecture(msgspec.Struct, kw_only=True):
    """The keys of config.json that the forward pass needs (transformers' names)."""

    architectures: list[str] = []
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    max_position_embeddings: int = 2048
    hidden_act: str = "silu"
    rms_norm_eps: float = 1e-6
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    use_sliding_window: bool = False
    rope_parameters: dict[str, Any] | None = None  # transformers 5
    rope_scaling: dict[str, Any] | None = None  # transformers 4
    rope_theta: float | None = None  # transformers 4
    eos_token_id: int | list[int] | None = None
    quantization_config: dict[str, Any] | None = None

    @property
    def kv_heads(self) -> int:
        return self.num_key_value_heads or self.num_attention_heads

    @property
    def head_size(self) -> int:
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def qk_norm(self) -> bool:
        return self.architectures[0] == "Qwen3ForCausalLM"

    @property
    def rope(self) -> dict[str, Any]:
        """rope_type, rope_theta and what the type needs, from either generation of names."""
        rope = {"rope_theta": self.rope_theta or 10_000.0, **(self.rope_scaling or {}), **(self.rope_parameters or {})}
        return rope | {"rope_type": rope.get("rope_type") or rope.get("type") or "default"}


class _Name(msgspec.Struct):
    architectures: list[str] = []


def read(folder: Path) -> tuple[Architecture, dict[str, torch.Tensor]]:
    """The architecture and all tensors by name. Errors: `not_found`, `invalid` (what this engine refuses or does not
    know), `corrupt` (what cannot be read)."""
    folders.check(folder)
    _refuse_unknown(read_json(folder / "config.json", _Name))
    architecture = read_json(folder / "config.json", Architecture)
    _refuse_unsupported(architecture)
    return architecture, _tensors(folder)


def read_json(path: Path, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        raise Error("not_found", f"the model folder has no {path.name}", f"looked for {path}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Error("corrupt", f"{path.name} of the model cannot be read: {error}", "export the model again") from None


def eos_ids(folder: Path, architecture: Architecture) -> set[int]:
    """The token ids that end a text: generation_config.json's, else config.json's."""
    found = architecture.eos_token_id
    path = folder / "generation_config.json"
    if path.exists():
        found = read_json(path, dict[str, Any]).get("eos_token_id", found)
    return set() if found is None else {found} if isinstance(found, int) else set(found)


def _refuse_unknown(a: _Name) -> None:
    if not set(a.architectures[:1]) & set(NATIVE):
        name = repr(a.architectures[0]) if a.architectures else "a model whose config.json names no architecture"
        known = " and ".join(NATIVE)
        raise Error("invalid", f"the torch engine does not know {name}", f"it runs {known}; choose another engine")


def _refuse_unsupported(a: Architecture) -> None:
    rope, needed = a.rope, ROPE_KEYS.get(a.rope["rope_type"], ())
    wrong = {
        f"hidden_act {a.hidden_act!r}": a.hidden_act != "silu",
        f"rope_type {rope['rope_type']!r}": rope["rope_type"] not in ROPE_KEYS,
        f"a rope without {' and '.join(needed)}": not set(needed) <= set(rope),
        "sliding-window attention": a.use_sliding_window,
        "quantized weights": a.quantization_config is not None,
    }
    for what in (name for name, present in wrong.items() if present):
        raise Error("invalid", f"the torch engine does not know {what}", "choose another engine for this model")


def _tensors(folder: Path) -> dict[str, torch.Tensor]:
    files = sorted(folder.glob("*.safetensors"))
    index = folder / "model.safetensors.index.json"
    if index.exists():
        files = [folder / Path(n).name for n in sorted(set(read_json(index, dict[str, Any])["weight_map"].values()))]
    if not files:
        raise Error("not_found", "the model folder has no *.safetensors", f"looked in {folder}")
    tensors: dict[str, torch.Tensor] = {}
    for path in files:
        try:
            with safe_open(path, framework="pt") as file:
                tensors |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise Error("corrupt", f"{path.name} cannot be read: {error}", "copy or export the model again") from None
    return tensors
