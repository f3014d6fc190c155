"""How a new release moves into an endpoint's traffic: strategies, and the pure machine that takes their steps."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

ALIAS = "prod"  # whose holder answers, and whose gates a candidate must have passed

Percent = Annotated[float, Meta(gt=0, le=100)]
Seconds = Annotated[float, Meta(ge=0, le=365 * 86400)]


class Strategy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="strategy"):
    """What all strategies share."""

    keep_warm_s: Seconds = 600.0  # how long what was in production stays live afterwards; 0 saves its memory


class BlueGreen(Strategy, frozen=True, tag="blue_green"):
    """Warm the new release, switch to it whole, keep the old one warm for a while."""


Declared = BlueGreen


def declared(value: Any) -> Declared:
    """The strategy that `rollout:` in longrein.yaml means: its value as plain data, None for the default."""
    if value is None or isinstance(value, str):
        value = {"strategy": value or "blue_green"}
    return msgspec.convert(value, Declared)
