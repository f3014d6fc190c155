"""The Page-Hinkley test, of river: a CUSUM of how far values are from their mean so far (Page, 1954)."""

from collections.abc import Mapping
from typing import Any, Literal

import msgspec
from river.drift import PageHinkley

from longrein.plugins.detector._river import River

VERSION = 1


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """river's own options, with its own defaults; values are in standard deviations."""

    seasons: int = 1
    min_instances: int = 30
    delta: float = 0.005
    threshold: float = 50.0
    alpha: float = 0.9999
    mode: Literal["up", "down", "both"] = "both"


class Hinkley(River):
    def __init__(self, options: Mapping[str, Any]) -> None:
        c = msgspec.convert(dict(options), Config)
        super().__init__(PageHinkley(c.min_instances, c.delta, c.threshold, c.alpha, c.mode))


plugin = Hinkley
