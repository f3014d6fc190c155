"""The options of the engine, and what they come to on this machine: device, type, context, slots."""

import os
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
import torch
from msgspec import Meta

from longrein.core.errors import Error
from longrein.core.generation import Slo
from longrein.plugins.engine._torch.checkpoint import Architecture
from longrein.plugins.engine._torch.model import cache_dtype

MEMORY_SHARE = 0.5  # of this machine's memory that the cache may claim

Count = Annotated[int, Meta(ge=1)]


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    max_batch: Count = 16  # requests that run at once
    max_queue: Count = 512  # requests that may wait; those of the offline lane are counted apart
    context: Count | None = None  # tokens of prompt and answer; None: the model's own, at most 4,096
    prefill_tokens: Count = 512  # tokens of prompts that one step may compute; longer prompts take several steps
    kept: Annotated[int, Meta(ge=0)] | None = None  # ended requests kept for prompts that begin alike; None: max_batch
    slo: Slo | None = None  # {ttft_s, tpot_s}: steps are sized for them, and what would be late is refused
    device: str = "auto"  # "cpu", "cuda", "cuda:1", …
    dtype: Literal["auto", "float32", "bfloat16", "int8"] = "auto"  # float32 on a CPU, bfloat16 elsewhere
    threads: Count | None = None  # None: torch's own choice


def parse(options: Mapping[str, Any]) -> Config:
    try:
        return msgspec.convert(dict(options), Config)
    except msgspec.ValidationError as error:
        hint = f"its options are {', '.join(Config.__struct_fields__)}"
        raise Error("invalid", f"options of the engine torch: {error}", hint) from None


def context(config: Config, limit: int) -> int:
    if config.context and config.context > limit:
        raise Error(
            "invalid", f"the model has {limit} positions, fewer than context: {config.context}", "lower context"
        )
    return config.context or min(limit, 4096)


def device(config: Config) -> tuple[torch.device, torch.dtype, bool]:
    """Where, of what type, and whether weights are of one byte."""
    name = config.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if config.dtype == "int8" and name != "cpu":
        raise Error("invalid", f"dtype: int8 runs on a CPU only, not on {name}", "use bfloat16 there")
    narrow = config.dtype == "bfloat16" or (config.dtype == "auto" and name != "cpu")
    return torch.device(name), torch.bfloat16 if narrow else torch.float32, config.dtype == "int8"


def slots(a: Architecture, config: Config, context: int, dtype: torch.dtype, device: torch.device) -> int:
    """Slots of the cache: those that run, and those kept as far as they have room in memory."""
    wanted = config.max_batch + (config.max_batch if config.kept is None else config.kept)
    if device.type != "cpu":
        return wanted
    slot = 2 * a.num_hidden_layers * a.kv_heads * context * a.head_size * cache_dtype(dtype, device).itemsize
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    room = int(total * MEMORY_SHARE) // slot
    needed = config.max_batch + (config.kept or 0)
    if needed > room:
        size = f"{needed * slot / 2**30:.1f} GiB of this machine's {total / 2**30:.1f}"
        hint = "lower max_batch, kept or context in the engine's options"
        raise Error("invalid", f"{needed} slots of {context} tokens need {size}", hint)
    return min(wanted, room)
