"""The ports: small protocols that a plugin fulfils. One folder a port below plugins/, one file a plugin.

Each plugin module holds one public object, `plugin`, and `VERSION` (see longrein.core.plugins.version).
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

from msgspec import Meta, Struct, field

from longrein.core.generation import Event, Request
from longrein.core.step import Context, Job


class Record(NamedTuple):
    """One row as it came from a source, or the reason why it could not be read."""

    row: dict[str, Any] | None
    line: int  # 1-based line or row number in the source file
    error: str = ""


class Reader(Protocol):
    """Reads one file format. `plugin` is an instance."""

    suffixes: ClassVar[tuple[str, ...]]  # (".jsonl", ".ndjson")

    def read(self, path: Path, options: Mapping[str, Any]) -> Iterator[Record]:
        """Rows in file order, memory flat. A bad record is yielded with its error; a file that cannot be read at
        all raises Error("invalid")."""
        ...


class Transform(Protocol):
    """Cleans rows. `plugin` is a class made once a run with its options, fed batches in order."""

    def __init__(self, options: Mapping[str, Any]) -> None: ...

    def apply(self, rows: Iterable[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], str]]:
        """Yields every row it was given, in order, with the reason for dropping it, or "" to keep it."""
        ...


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
    batch_tokens: Annotated[int, Meta(ge=1)] = 1024  # a step's tokens, padding included; a batch has a row at least
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


class Trainer(Protocol):
    """Trains a model and asks it. `plugin` is an instance."""

    def train(self, context: Context, recipe: Recipe) -> None:
        """Reads inputs["dataset"], a Lance table with the columns input, output (or messages) and split, and
        inputs["prompt"] where given; puts one output of kind "model": a Hugging Face folder. Started again in the
        same scratch folder after a kill, it goes on to the same result."""
        ...

    def predict(
        self, model: Path, rows: Iterable[Mapping[str, Any]], options: Mapping[str, Any]
    ) -> Iterator[Prediction]:
        """One greedy answer for each row {"input" | "messages", "output"}, in order. Options: system, max_tokens,
        threads."""
        ...


@runtime_checkable
class Handle(Protocol):
    """A job that was handed to an executor."""

    def poll(self) -> int | None:
        """None while it runs, else its exit status."""
        ...

    def cancel(self) -> None: ...

    def usage(self) -> dict[str, float]:
        """After its end: cpu_s, wall_s, max_rss_bytes."""
        ...


class Executor(Protocol):
    """Runs jobs somewhere. `plugin` is a class made with the options of `compute`."""

    def __init__(self, options: Mapping[str, Any]) -> None: ...

    def submit(self, job: Job, scratch: Path) -> Handle:
        """Start `python -m longrein.core.worker SCRATCH`. It must end when the process that submitted it dies."""
        ...


class Engine(Protocol):
    """Generates text from a model folder. `plugin` is a class, made and used by one thread of a process of its own
    (longrein.gateway.engine_process); the rest of Longrein talks to it through longrein.gateway.engine."""

    info: dict[str, Any]  # facts for clients: context (tokens), max_batch, parameters, chat (has a chat template)

    def __init__(self, model: Path, options: Mapping[str, Any]) -> None:
        """Load and warm up: when it returns, the first request can be served."""
        ...

    def submit(self, request: Request) -> None:
        """Queue a request. Errors: `invalid` (with the OpenAI `code` and `param` in details), `overloaded` (with
        retry_after_s)."""
        ...

    def cancel(self, id: str) -> None:
        """Forget a request at once and free what it held; unknown or finished ids are no error."""
        ...

    def step(self) -> list[Event]:
        """Advance every running request by up to one step and admit waiting ones; empty only when nothing is left
        to do or nothing new can be told yet."""
        ...

    def pending(self) -> int:
        """Requests that run or wait."""
        ...

    def stats(self) -> dict[str, Any]:
        """Counters and gauges: running, waiting, slots_used, slots_total, steps_total, tokens_in_total,
        tokens_out_total, step_s (moving average), batch_sizes ({upper bound: steps})."""
        ...


class Tracker(Protocol):
    """Mirrors runs outward to another tracking system. `plugin` is a class."""

    def __init__(self, options: Mapping[str, Any]) -> None: ...

    def mirror(self, run: Mapping[str, Any]) -> None:
        """Write one whole run (id, name, experiment, params, metrics with steps, tags, status); twice is harmless."""
        ...
