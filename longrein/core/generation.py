"""What an engine is asked for and what it answers: the words of the engine port."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

Unit = Annotated[float, Meta(ge=0, le=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Tokens = Annotated[int, Meta(ge=0, le=2**31 - 1)]


class Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One text to generate. Exactly one of messages and prompt is given.

    The names and defaults are OpenAI's, then vLLM's. Values are checked where the engine process decodes them;
    `msgspec.convert(body, Request)` gives the same errors earlier.
    """

    id: str = ""  # unique among those in flight; empty: EngineProcess makes one
    messages: list[dict[str, Any]] | None = None  # [{"role": "user", "content": "…"}], for the chat template
    prompt: str | list[int] | None = None  # text, or token ids, with no template applied
    max_tokens: Annotated[int, Meta(ge=1)] | None = None  # None: what is left of the context
    min_tokens: Tokens = 0  # no EOS and no stop string before that many
    temperature: Annotated[float, Meta(ge=0, le=2)] = 1.0  # 0: greedy
    top_p: Annotated[float, Meta(gt=0, le=1)] = 1.0
    top_k: Tokens = 0  # 0: all
    min_p: Unit = 0.0
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None  # the same seed, the same text
    stop: Annotated[list[Annotated[str, Meta(min_length=1)]], Meta(max_length=16)] = []
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    repetition_penalty: Annotated[float, Meta(gt=0, le=10)] = 1.0
    logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None  # None: none; k: the chosen token and k best ones
    ignore_eos: bool = False


class Logprob(msgspec.Struct, array_like=True):
    """The natural-log probability of one token before temperature and filters."""

    token: str
    logprob: float
    top: list[tuple[str, float]] = []


class Usage(msgspec.Struct, frozen=True):
    prompt_tokens: int
    completion_tokens: int
    queue_s: float = 0.0  # from submission until the prefill began
    first_s: float = 0.0  # from submission until the first token


class Event(msgspec.Struct, array_like=True, omit_defaults=True):
    """What one step added to one request.

    text may be empty while a stop string or a character is still incomplete. The last event of a request has
    finish_reason and usage, or error (longrein.core.errors.Error.as_dict) alone.
    """

    id: str
    text: str = ""
    token_ids: list[int] = []
    logprobs: list[Logprob] | None = None
    finish_reason: Literal["stop", "length"] | None = None
    stop: str | None = None  # the stop string that ended it; None after EOS or length
    usage: Usage | None = None
    error: dict[str, Any] | None = None
