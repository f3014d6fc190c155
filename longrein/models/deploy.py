"""Releases: model, tokenizer, prompt, engine and its settings bundled under one digest, which an endpoint serves."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from longrein.core.digest import canonical
from longrein.core.drift import Drift
from longrein.core.judge import Judge
from longrein.core.limit import Limit, Price
from longrein.core.objective import Config as Objectives
from longrein.core.record import DAYS, TEXT_DAYS
from longrein.core.step import Context, Input
from longrein.models.experiment.rollout import Setting
from longrein.models.upstream import Config as Upstream

VERSION = 1
Worth = Annotated[float, Meta(ge=-1e9, le=1e9)]
ALIAS = "prod"  # the alias of a release that its endpoint serves
UPSTREAM = "openai"  # the engine of a release that an upstream serves, by the API it speaks


class Cache(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Answers given again to the same tenant for the same request, while the release is the same."""

    ttl_s: Annotated[float, Meta(gt=0)] = 300.0
    max_bytes: Annotated[int, Meta(ge=65536)] = 64 << 20  # of memory, in each process of the gateway


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An endpoint in longrein.yaml."""

    model: str | None = None  # may be left out when an upstream serves one of its own
    prompt: str | None = None
    upstream: Upstream | None = None  # a server elsewhere, in place of an engine
    engine: str = "torch"
    options: dict[str, Any] = {}  # the engine's
    start_s: Annotated[float, Meta(gt=0)] = 300.0  # an engine that takes longer to start has failed
    silent_s: Annotated[float, Meta(ge=1)] = 20.0  # so has one that is stopped, or stuck, for so long
    gates: list[str] = []
    rollout: Setting = "blue_green"  # how a new release that passed its gates moves in
    approval: Literal["auto", "manual"] = "auto"  # manual: a person promotes what the gates passed
    log_text: bool = False  # keep the text of requests and answers in the request log
    text_days: Annotated[float, Meta(ge=0)] = TEXT_DAYS  # for so long
    log_days: Annotated[float, Meta(ge=0)] = DAYS  # and the rest of each record
    limits: Limit | None = None  # of all who ask it together
    price: Price | None = None  # of its tokens, for budgets in USD and the cost of each request
    objectives: Objectives | None = None  # what is promised of its answers; alerts fire when it is not kept
    value: dict[str, Worth] = {}  # USD that one unit of a metric of feedback is worth: {resolved: 2.5}
    cache: Cache | None = None
    fallback: list[str] = []  # other endpoints, which answer what this one cannot
    drift: bool | Drift = False  # whether what it is asked and answers is still as it was
    judge: Judge | None = None  # another endpoint that grades a sample of its answers

    def __post_init__(self) -> None:
        if self.upstream is None and self.model is None:
            raise ValueError("Needs a model, or an upstream that serves one")
        if self.upstream and (self.engine != "torch" or self.options):
            raise ValueError("An upstream has no engine and no options: they are its own server's")
        if self.model is None and self.gates:
            raise ValueError("Gates judge a report of a model, and there is none: use approval: manual")


def run(context: Context) -> None:
    """Inputs: "model" and "prompt" where there are such. Output: a release, one JSON file that names what is in it."""
    config = msgspec.convert(context.config, Config)
    model, prompt = context.inputs.get("model"), context.inputs.get("prompt")
    settings = _settings(config)
    path = context.scratch / "release.json"
    # The digest is over what is served: digests and settings, not the version numbers this ledger gave them.
    digests = {"model": model.digest if model else None, "prompt": prompt.digest if prompt else None}
    path.write_bytes(canonical(digests | settings))
    meta = {"model": _part(model) if model else None, "prompt": _part(prompt) if prompt else None, **settings}
    tokenizer = model.meta.get("tokenizer_digest") if model else None
    context.put("release", context.name, path, meta | ({"tokenizer": tokenizer} if tokenizer else {}))


def served(config: Config) -> dict[str, Any]:
    """The part of an endpoint's config that the release holds: the rest may change without a new release."""
    named = {"model": config.model} if config.model else {}
    if config.upstream:
        return {"upstream": msgspec.to_builtins(config.upstream), **named}
    return {"engine": config.engine, "options": config.options, **named}


def _settings(config: Config) -> dict[str, Any]:
    """What answers: an engine with its options, or ("openai") an upstream."""
    if config.upstream:
        return {"engine": UPSTREAM, "options": msgspec.to_builtins(config.upstream)}
    return {"engine": config.engine, "options": config.options}


def _part(value: Input) -> dict[str, str]:
    return {"ref": value.ref, "digest": value.digest, "uri": value.uri}
