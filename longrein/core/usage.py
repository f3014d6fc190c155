"""What a group of requests used, cost and brought: the words in which the request log is summed."""

import msgspec


class Sum(msgspec.Struct, kw_only=True):
    """The requests of an endpoint in one group."""

    endpoint: str
    group: str
    requests: int = 0
    answered: int = 0
    cached: int = 0  # of those answered, from the gateway's cache
    unknown: int = 0  # that used something of which nobody has said what it costs
    tokens_in: int = 0
    tokens_out: int = 0
    engine_s: float = 0.0
    prefill_usd: float = 0.0  # the cost of engines' seconds, by what they did
    decode_usd: float = 0.0
    tokens_usd: float = 0.0  # the cost of tokens that have a price
    saved_usd: float = 0.0
    value_usd: float = 0.0
    valued: int = 0  # requests whose value is above 0

    @property
    def engine_usd(self) -> float:
        return self.prefill_usd + self.decode_usd

    def add(self, other: "Sum") -> None:
        for name in SUMMED:
            setattr(self, name, getattr(self, name) + getattr(other, name))


SUMMED = Sum.__struct_fields__[2:]  # all but what the group is
