"""ADWIN, of river: two halves of an adaptive window differ in their mean (Bifet and Gavaldà, 2007)."""

from collections.abc import Mapping
from typing import Any

import msgspec
from river.drift import ADWIN

from longrein.plugins.detector._river import River

VERSION = 1


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """river's own options, with its own defaults; values are in standard deviations."""

    seasons: int = 1
    delta: float = 0.002
    clock: int = 32
    grace_period: int = 10


class Adwin(River):
    def __init__(self, options: Mapping[str, Any]) -> None:
        c = msgspec.convert(dict(options), Config)
        super().__init__(ADWIN(delta=c.delta, clock=c.clock, grace_period=c.grace_period))


plugin = Adwin
