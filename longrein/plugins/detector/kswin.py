"""KSWIN, of river: a Kolmogorov-Smirnov test of the newest values against some of those before (Raab et al., 2020)."""

from collections.abc import Mapping
from typing import Any

import msgspec
from river.drift import KSWIN

from longrein.plugins.detector._river import River

VERSION = 1


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """river's own options, with its own defaults; values are in standard deviations."""

    seasons: int = 1
    alpha: float = 0.005
    window_size: int = 100
    stat_size: int = 30
    seed: int = 0


class Kswin(River):
    def __init__(self, options: Mapping[str, Any]) -> None:
        c = msgspec.convert(dict(options), Config)
        super().__init__(KSWIN(c.alpha, c.window_size, c.stat_size, c.seed))


plugin = Kswin
