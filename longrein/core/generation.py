"""What an engine is asked for and what it answers: the words of the engine port."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

Unit = Annotated[float, Meta(ge=0, le=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Tokens = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Bias = Annotated[float, Meta(ge=-100, le=100)]


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
    logit_bias: Annotated[dict[Tokens, Bias], Meta(max_length=1024)] = {}  # added to the logits of these tokens
    json_schema: dict[str, Any] | None = None  # the answer is JSON of it, unless max_tokens cuts it
    tools: list[dict[str, Any]] | None = None  # functions, as OpenAI writes them, for the chat template
    embed: bool = False  # no answer, but the prompt as a vector
    priority: Annotated[int, Meta(ge=-1000, le=1000)] = 0  # lower first; above 0: offline, fills what is idle
    cache_salt: str = ""  # prefixes computed before are used again only under the same one


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
    cached_tokens: int = 0  # of the prompt's, those that were computed for an earlier request
    prefill_s: float = 0.0  # its share of the steps' seconds: over all requests they add up to
    decode_s: float = 0.0  # the time the engine was busy


class Event(msgspec.Struct, array_like=True, omit_defaults=True):
    """What one step added to one request.

    text may be empty while a stop string or a character is still incomplete. The last event of a request has
    finish_reason and usage, or error (longrein.core.errors.Error.as_dict) and usage if it had run.
    """

    id: str
    text: str = ""
    token_ids: list[int] = []
    logprobs: list[Logprob] | None = None
    finish_reason: Literal["stop", "length", "cancelled"] | None = None
    stop: str | None = None  # the stop string that ended it; None after EOS or length
    usage: Usage | None = None
    error: dict[str, Any] | None = None
    embedding: bytes = b""  # float32, little-endian, of length 1

    @property
    def ended(self) -> bool:
        return self.error is not None or self.finish_reason is not None


class Slo(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an endpoint promises: an answer that keeps both counts."""

    ttft_s: Annotated[float, Meta(gt=0)]  # from arrival to the first token
    tpot_s: Annotated[float, Meta(gt=0)]  # mean time from one token to the next


class Limits(msgspec.Struct, frozen=True):
    """What an engine may take on in a step."""

    batch: int  # requests that run at once
    prefill_tokens: int  # tokens of prompts
    offline: int  # of the batch, requests of priority > 0


class Work(msgspec.Struct, frozen=True):
    """What a step was, and took."""

    batch: int  # requests that got a token
    prefill_tokens: int  # tokens of prompts computed
    context: int  # cached positions read, over all requests
    seconds: float
    ended: int = 0  # requests that ended
    first: list[tuple[str, float]] = []  # those that got their first token, and seconds since they were submitted


class Queued(msgspec.Struct, frozen=True):
    """A request that waits."""

    id: str
    priority: int
    tokens: int  # of the prompt, those to compute
    waited_s: float


class Load(msgspec.Struct, frozen=True):
    """What is under way in an engine."""

    running: int  # those of which prompt tokens are still to be computed included
    offline: int  # of them, those of priority > 0
    prefilling: int  # prompt tokens of running, not offline requests still to compute
    waiting: list[Queued] = []  # without the offline ones, in the order of service
