"""The model: from scratch by one dial, or a local folder, whole or through LoRA; and its loss on weighted tokens."""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen3Config,
)

from longrein.core import folder as folders
from longrein.core.errors import Error
from longrein.core.training import Recipe
from longrein.plugins.trainer._torch.rows import Batch


class Size(NamedTuple):
    hidden: int
    layers: int
    heads: int
    vocabulary: int  # of a tokenizer trained on the data
    learning_rate: float  # Muon's, from scratch


SIZES = {
    "nano": Size(64, 2, 2, 1024, 2e-2),
    "tiny": Size(128, 2, 4, 2048, 1e-2),  # 0.7 M parameters
    "small": Size(256, 4, 4, 4096, 8e-3),  # 4 M
    "base": Size(512, 8, 8, 8192, 5e-3),  # 30 M
    "medium": Size(768, 12, 12, 16384, 3e-3),  # 100 M
}
CONFIGS = {"llama": LlamaConfig, "qwen3": Qwen3Config}
BF16_HIDDEN = 256  # below this width bf16 autocast costs more on a CPU than it saves


def from_scratch(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """A fresh model of the recipe's size and architecture; the seed decides its weights."""
    size = SIZES[recipe.size]
    config = CONFIGS[recipe.architecture](
        vocab_size=len(tokenizer),
        hidden_size=size.hidden,
        intermediate_size=3 * size.hidden,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads,
        head_dim=size.hidden // size.heads,
        max_position_embeddings=recipe.max_length,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(recipe.seed)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    config.architectures = [type(model).__name__]
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=False
    )
    return model.float()


def from_folder(folder: Path, dtype: torch.dtype | str = "auto") -> PreTrainedModel:
    """The model of a local folder. Errors: `not_found`, `invalid` (pickles, code, no such architecture), `corrupt`."""
    folders.check(folder)
    if not any(folder.glob("*.safetensors")):
        raise Error("invalid", f"{folder} holds no safetensors weights", "save it with model.save_pretrained(folder)")
    try:
        return AutoModelForCausalLM.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, use_safetensors=True, dtype=dtype
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise Error("invalid", f"{folder} holds no model that can be loaded: {error}") from error


def with_lora(model: PreTrainedModel, rank: int, alpha: int, seed: int) -> PreTrainedModel:
    """Low-rank adapters (Hu et al. 2021) on every linear layer but the head; nothing else is trained."""
    try:
        from peft import LoraConfig, get_peft_model
    except ModuleNotFoundError as error:
        hint = "pip install 'longrein[lora]'"
        raise Error("missing_package", "method: lora needs the package 'peft', which is not installed", hint) from error
    torch.manual_seed(seed)
    adapted: PreTrainedModel = get_peft_model(model, LoraConfig(r=rank, lora_alpha=alpha, target_modules="all-linear"))
    return adapted


class Scored:
    """A causal model that computes logits only where they are asked for.

    A hook in front of the output layer keeps the wanted positions, so any architecture's forward serves, and prompts
    cost nothing in the largest matrix of a small model.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self._keep: torch.Tensor | None = None
        model.get_output_embeddings().register_forward_pre_hook(self._select)

    def _select(self, _: nn.Module, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor | None:
        return None if self._keep is None else inputs[0].flatten(0, 1)[self._keep]

    def logits(self, tokens: torch.Tensor, keep: torch.Tensor, positions: torch.Tensor | None = None) -> torch.Tensor:
        """float32 [kept, vocabulary]: predictions made at the flat positions `keep` of tokens [rows, length].

        Where `positions` begin anew, transformers masks what was before (masking_utils.find_packed_sequence_indices).
        """
        self._keep = keep
        try:
            logits: torch.Tensor = self.model(input_ids=tokens, position_ids=positions, use_cache=False).logits.float()
            return logits
        finally:
            self._keep = None

    def loss(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """(sum of weighted negative log-likelihoods, sum of weights)."""
        weights = batch.weights.flatten()
        at = weights.nonzero().squeeze(1)
        logits = self.logits(batch.tokens, at - 1, batch.positions)
        losses = cross_entropy(logits, batch.tokens.flatten()[at], reduction="none")
        return losses @ weights[at], weights.sum()


def device_for(asked: str) -> torch.device:
    if asked != "auto":
        return torch.device(asked)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast_for(precision: str, device: torch.device, hidden: int) -> torch.autocast:
    """bf16 autocast where the hardware has it and it helps, or where it is asked for."""
    if precision == "auto":
        on = torch.cuda.is_bf16_supported() if device.type == "cuda" else hidden >= BF16_HIDDEN and _cpu_has_bf16()
    else:
        on = precision == "bf16"
    return torch.autocast(device.type, torch.bfloat16, enabled=on)


def _cpu_has_bf16() -> bool:
    features = torch.cpu.get_capabilities()
    return bool(features.get("avx512_bf16") or features.get("amx_bf16"))
