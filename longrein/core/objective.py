"""Service level objectives: what an endpoint promises of its answers, as longrein.yaml says it."""

from collections.abc import Iterator
from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta

Share = Annotated[float, Meta(gt=0, lt=1)]
Seconds = Annotated[float, Meta(gt=0, le=86400)]
SHARE = 0.95  # of answers, where a time says nothing else


class Below(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A time that a share of the answers takes at most."""

    below_s: Seconds
    share: Share = SHARE


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Objectives of an endpoint. Each one allows a share of bad answers, or an amount, over some days: the error
    budget. An alert fires when it is used up too fast."""

    availability: Share | None = None  # of requests, those that end without an error of the server (5xx)
    throttled: Share | None = None  # of requests, at most those turned away (429), by limits or for load
    latency: Seconds | Below | None = None  # until an answer is whole; a number is the time of 95 % of them
    ttft: Seconds | Below | None = None  # until its first token
    tpot: Seconds | Below | None = None  # per token after the first
    refusals: Share | None = None  # of answers, at most those in which the model declines
    guard: Share | None = None  # of requests, at most those in which a guard acted
    feedback: dict[str, Share] = {}  # of each metric between 0 and 1, its mean at least
    usd_per_day: Annotated[float, Meta(gt=0, le=1e9)] | None = None  # what requests cost, at most
    days: Annotated[float, Meta(ge=1, le=366)] = 28.0  # over which the budget counts


class Objective(NamedTuple):
    """One of them, in the shape they all have: of n events, a share `budget` may be bad; or so much may be spent."""

    name: str  # "latency", "feedback.helpful"
    kind: str  # of its alert
    metric: str  # of the traffic: a count, a timing, a score
    budget: float  # the share of bad events that is allowed; 0.0 of what is spent
    limit_ms: float = 0.0  # of a timing: more is bad
    usd_per_day: float = 0.0  # of what is spent


TIMINGS = {"latency": "latency_ms", "ttft": "ttft_ms", "tpot": "token_ms"}
AT_MOST = {
    "throttled": ("slo_burning", "refused"),
    "refusals": ("slo_burning", "refusals"),
    "guard": ("guard_spike", "guarded"),
}


def objectives(config: Config) -> Iterator[Objective]:
    """What is declared, in the order of the fields."""
    if config.availability is not None:
        yield Objective("availability", "slo_burning", "errors", _rest(config.availability))
    for name, (kind, metric) in AT_MOST.items():
        if (share := getattr(config, name)) is not None:
            yield Objective(name, kind, metric, share)
    for name, metric in TIMINGS.items():
        if (declared := getattr(config, name)) is not None:
            of = declared if isinstance(declared, Below) else Below(below_s=declared)
            yield Objective(name, "slo_burning", metric, _rest(of.share), limit_ms=of.below_s * 1000)
    for metric, share in config.feedback.items():
        yield Objective(f"feedback.{metric}", "feedback_low", metric, _rest(share))
    if config.usd_per_day is not None:
        yield Objective("cost", "cost_exceeded", "cost_usd", 0.0, usd_per_day=config.usd_per_day)


def _rest(share: float) -> float:
    return round(1 - share, 12)  # 1 - 0.999 is not 0.001
