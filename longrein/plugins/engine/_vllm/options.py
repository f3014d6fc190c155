"""The options of the engine, and the flags of `vllm serve` that they are."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from longrein.core.errors import Error

Count = Annotated[int, Meta(ge=1)]
OURS = ("api-key", "config", "host", "model", "port", "served-model-name", "tokenizer", "uds")


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    max_batch: Count = 256  # --max-num-seqs: requests that run at once
    max_queue: Count = 1024  # requests that may wait beside them
    context: Count | None = None  # --max-model-len; None: the model's own
    prefill_tokens: Count | None = None  # --max-num-batched-tokens; None: vLLM's choice
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    quantization: str | None = None  # "fp8", "bitsandbytes", …
    tensor_parallel: Count = 1  # GPUs that share one model
    memory: Annotated[float, Meta(gt=0, le=1)] = 0.9  # --gpu-memory-utilization: the share it may claim
    flags: dict[str, bool | int | float | str] = {}  # further ones by their long names: {enforce-eager: true}

    def __post_init__(self) -> None:
        for name in self.flags:
            if name.replace("_", "-") in OURS:
                raise ValueError(f"The flag {name} is set by the engine")
            if name.replace("_", "-") == "trust-remote-code":
                raise ValueError("A model's own code is never run: there is no trust-remote-code")


def parse(options: Mapping[str, Any]) -> Config:
    try:
        return msgspec.convert(dict(options), Config)
    except msgspec.ValidationError as error:
        hint = f"its options are {', '.join(Config.__struct_fields__)}"
        raise Error("invalid", f"options of the engine vllm: {error}", hint) from None


def arguments(config: Config) -> list[str]:
    """Flags of `vllm serve` (v0.31)."""
    flags: dict[str, Any] = {
        "max-num-seqs": config.max_batch,
        "max-model-len": config.context,
        "max-num-batched-tokens": config.prefill_tokens,
        "dtype": config.dtype,
        "quantization": config.quantization,
        "tensor-parallel-size": config.tensor_parallel,
        "gpu-memory-utilization": config.memory,
        "scheduling-policy": "priority",
        "enable-prompt-tokens-details": True,
        "generation-config": "vllm",  # what a request leaves out means the same with every engine
    } | {name.replace("_", "-"): value for name, value in config.flags.items()}
    found = []
    for name, value in flags.items():
        if isinstance(value, bool):
            found.append(f"--{name}" if value else f"--no-{name}")
        elif value is not None:
            found.append(f"--{name}={value}")
    return found
