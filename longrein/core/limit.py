"""Limits of requests, tokens and money, and prices of tokens: what keys, teams and endpoints declare."""

from typing import Annotated

import msgspec
from msgspec import Meta

from longrein.core.errors import Error, nearest

Count = Annotated[int, Meta(ge=0, le=2**53)]
Usd = Annotated[float, Meta(ge=0, le=1e9)]


class Limit(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """How much one key, team or endpoint may use: in each minute, day or month of UTC. None: as much as it likes."""

    requests_per_minute: Count | None = None
    tokens_per_minute: Count | None = None
    tokens_per_day: Count | None = None
    tokens_per_month: Count | None = None
    usd_per_day: Usd | None = None
    usd_per_month: Usd | None = None


class Price(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a million tokens cost."""

    input_usd_per_mtok: Usd = 0.0
    output_usd_per_mtok: Usd = 0.0
    cached_usd_per_mtok: Usd | None = None  # of input tokens that a cache held; None: as the others

    def usd(self, prompt: int, completion: int, cached: int = 0) -> float:
        held = self.input_usd_per_mtok if self.cached_usd_per_mtok is None else self.cached_usd_per_mtok
        read = (prompt - cached) * self.input_usd_per_mtok + cached * held
        return (read + completion * self.output_usd_per_mtok) / 1e6


def parse(texts: tuple[str, ...]) -> Limit | None:
    """From "tokens_per_day=100000"; None for none. Errors: `invalid`."""
    found: dict[str, str] = {}
    for text in texts:
        name, _, value = text.partition("=")
        if name not in Limit.__struct_fields__:
            raise Error("invalid", f"there is no limit {name[:50]!r}", nearest(name[:50], Limit.__struct_fields__))
        found[name] = value
    try:
        return msgspec.convert(found, Limit, strict=False) if found else None
    except msgspec.ValidationError as error:
        raise Error("invalid", f"a limit is not right: {error}", "write tokens_per_day=100000") from error
