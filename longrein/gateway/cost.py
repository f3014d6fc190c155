"""What one request costs: its seconds of engines at their rate, tokens of upstreams by their price."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import msgspec

from longrein.core.generation import Usage
from longrein.core.record import Record
from longrein.gateway.limits import Limits
from longrein.ops.value.price import Config, Rates

MOST_TAGS, MOST_CHARS = 8, 64  # of a request; of a tag's name, and of its value


@dataclass(slots=True)
class Spent:
    """What a request has used so far, whoever tried to answer it."""

    endpoint: str = ""  # whose release answered last: a fallback's, it may be
    prefill_s: float = 0.0
    decode_s: float = 0.0
    usd: float | None = None  # of the seconds that have a price
    measured: bool = False  # those of whoever answered last have one

    def begin(self, endpoint: str) -> None:
        self.endpoint, self.measured = endpoint, False

    def add(self, usage: Usage, usd_per_s: float | None) -> None:
        seconds = usage.prefill_s + usage.decode_s
        self.prefill_s += usage.prefill_s
        self.decode_s += usage.decode_s
        if usd_per_s is not None and (seconds > 0 or not usage.completion_tokens):  # else it does not tell them
            self.usd, self.measured = (self.usd or 0.0) + seconds * usd_per_s, True


class Costs:
    """Prices requests as the lifecycle file says. All methods belong to the event loop."""

    def __init__(self, limits: Limits, engines: Callable[[], int]) -> None:
        """engines: how many are alive on this machine."""
        self.limits, self.engines = limits, engines
        self.rates = Rates()

    def configure(self, costs: Mapping[str, Any], compute: Mapping[str, Any]) -> None:
        self.rates = Rates.of(msgspec.convert(costs, Config), compute.get("usd_per_hour") or 0.0)

    def second(self, endpoint: str) -> float | None:
        """USD for a second of an endpoint's engine now."""
        return self.rates.engine(endpoint, self.engines())

    def price(self, record: Record, spent: Spent) -> None:
        """Write into a request's record what it cost. None: nobody has said what that is."""
        record.prefill_ms, record.decode_ms = round(spent.prefill_s * 1000, 4), round(spent.decode_s * 1000, 4)
        if record.cached:
            record.cost_usd = 0.0
            return
        used = (record.prompt_tokens, record.completion_tokens, record.cached_tokens)
        tokens = None if spent.measured else self.limits.cost(spent.endpoint or record.endpoint, *used)
        known = [usd for usd in (spent.usd, tokens) if usd is not None]
        record.cost_usd = sum(known) if known else None


def tags(header: str) -> list[str]:
    """ "feature=search, customer=acme" as sorted ["customer=acme", "feature=search"]. Percent signs may stand for other
    characters. What is no tag, or too much, is left out: a label is no reason to refuse a request."""
    found: dict[str, str] = {}
    for part in header.split(",")[: 4 * MOST_TAGS]:
        name, sign, value = (unquote(text.strip()) for text in part.partition("="))
        good = name.isidentifier() and sign and value.isprintable() and 0 < len(value) <= MOST_CHARS >= len(name)
        if good and len(found) < MOST_TAGS:
            found[name] = value
    return [f"{name}={found[name]}" for name in sorted(found)]
