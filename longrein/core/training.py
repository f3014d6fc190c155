"""What a trainer is told and what its model answers: the words of the trainer port."""

from typing import Annotated, Any, Literal, NamedTuple

from msgspec import Meta, Struct, field


class Recipe(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to train: what every trainer understands. `None` means: the trainer's own choice for this size and base."""

    size: Literal["nano", "tiny", "small", "base", "medium"] = "tiny"  # of a model from scratch
    architecture: Literal["llama", "qwen3"] = "llama"  # of a model from scratch
    base: str | None = None  # a local Hugging Face folder to start from, in place of size and architecture
    method: Literal["full", "lora"] = "full"  # lora needs a base
    tokenizer: str | None = None  # a local folder; None: the base's own, or one trained on the data
    vocabulary: Annotated[int, Meta(ge=300)] | None = None  # of a tokenizer trained on the data
    epochs: Annotated[int, Meta(ge=1)] = 4  # the one with the lowest validation loss is kept
    patience: Annotated[int, Meta(ge=1)] | None = None  # stop after so many epochs without a lower validation loss
    max_steps: Annotated[int, Meta(ge=1)] | None = None
    batch_tokens: Annotated[int, Meta(ge=1)] = 1024  # a batch's tokens, padding included; it has a row at least
    accumulate: Annotated[int, Meta(ge=1)] = 1  # batches a step: trains as batch_tokens so many times as large would
    packing: bool = False  # rows share sequences of max_length; on a CPU slower: 1.5x at size tiny, 1.3x at small
    max_length: Annotated[int, Meta(ge=8)] = 512  # tokens; longer rows are left out, and counted
    learning_rate: Annotated[float, Meta(gt=0)] | None = None
    warmup: Annotated[float, Meta(ge=0, le=1)] = 0.05  # share of all steps; a cosine to zero follows
    optimizer: Literal["adamw", "muon"] | None = None
    prompt_loss_weight: Annotated[float, Meta(ge=0, le=1)] = 0.0  # 0: loss on the answer only; 1: on all tokens alike
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    seed: Annotated[int, Meta(ge=0)] = 0
    checkpoint_s: Annotated[float, Meta(ge=0)] = 30.0
    options: dict[str, Any] = field(default_factory=dict)  # the trainer's own


class Prediction(NamedTuple):
    """What a model answers to one row, and how likely it held the row's own output (the target)."""

    answer: str
    tokens: int  # of the answer, its end included
    confidence: float  # the probability of the whole answer, 0 … 1
    target_logprob: float  # natural logarithm, summed over the target's tokens, its end included
    target_tokens: int
