"""How much of each dataset a mixture takes: by weights, temperature, a budget and a cap on repetition."""

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec

from longrein.core.errors import Error

Weight = Annotated[float, msgspec.Meta(ge=0)]
Positive = Annotated[float, msgspec.Meta(gt=0)]
Count = Annotated[int, msgspec.Meta(ge=1)]


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`mix` of a dataset in longrein.yaml."""

    weights: dict[str, Weight] | list[str]  # by dataset, for example {web: 0.7, books: 0.3}; a list weighs by size
    temperature: Positive = 1.0  # shares go with weight^(1/temperature): above 1 small datasets get more
    rows: Count | None = None  # in all; with neither rows nor tokens, until the first dataset is used up
    tokens: Count | None = None  # in all, and weights are shares of tokens
    epochs: Positive | dict[str, Positive] = 1.0  # how often a dataset is repeated at most; of one not named once
    tokenizer: str = ""  # a tokenizer.json: weights are shares of tokens; else those are reckoned from bytes
    split: str = "train"  # the rows that are weighed; the others come once each
    seed: int = 0  # which rows, where not all are taken

    @property
    def names(self) -> list[str]:
        """The datasets, in order."""
        return list(self.weights)

    @property
    def unit(self) -> Literal["rows", "tokens"]:
        return "tokens" if self.tokens or self.tokenizer else "rows"


def check(config: Config) -> None:
    """Errors: `invalid` for weights and caps that give no mixture."""
    names = config.names
    if len(set(names)) < len(names):
        raise Error("invalid", "a dataset stands twice in the weights", "name each once")
    if not names or (isinstance(config.weights, dict) and not any(config.weights.values())):
        raise Error("invalid", "the weights add up to 0", "for example weights: {web: 0.7, books: 0.3}")
    if config.rows and config.tokens:
        raise Error("invalid", "rows and tokens are both given", "keep one of them")
    unknown = [name for name in config.epochs if name not in names] if isinstance(config.epochs, dict) else []
    if unknown:
        raise Error("invalid", f"epochs of {unknown[0]!r}, which has no weight", f"the weights name {', '.join(names)}")


def amounts(config: Config, sizes: Mapping[str, int]) -> dict[str, float]:
    """How much is taken of each dataset, in the unit of `sizes`; more than its size repeats it.

    Shares are p ∝ w^(1/T) (T5, Raffel et al. 2020; by size as in XLM-R, Conneau et al. 2020). What a dataset at its cap
    cannot give is given by the others by their shares (UniMax, Chung et al. 2023). Repetition up to about four epochs
    was found to be nearly as good as fresh data (Muennighoff et al. 2023).
    """
    given = config.weights if isinstance(config.weights, dict) else {name: float(sizes[name]) for name in config.names}
    most = max(given.values())
    powers = {name: (weight / most) ** (1 / config.temperature) for name, weight in given.items()}
    shares = {name: share for name, share in powers.items() if share > 1e-12}
    caps = {name: _epochs(config, name) * sizes[name] for name in shares}
    total = config.tokens or config.rows
    if total is None:
        unit = min(caps[name] / share for name, share in shares.items())
        return {name: unit * shares.get(name, 0.0) for name in given}
    taken, left = dict.fromkeys(given, 0.0), float(total)
    while shares:
        unit = left / sum(shares.values())
        full = [name for name, share in shares.items() if unit * share >= caps[name]]
        if not full:
            return taken | {name: unit * share for name, share in shares.items()}
        for name in full:
            taken[name] = float(caps[name])
            left -= caps[name]
            del shares[name]
    return taken


def whole(amounts: Mapping[str, float]) -> dict[str, int]:
    """The amounts as whole numbers with the same sum, by largest remainders."""
    floors = {name: int(amount + 1e-9) for name, amount in amounts.items()}
    left = round(sum(amounts.values())) - sum(floors.values())
    last = sorted(amounts, key=lambda name: floors[name] - amounts[name])[:left] if left > 0 else []
    return {name: floor + (name in last) for name, floor in floors.items()}


def _epochs(config: Config, name: str) -> float:
    return config.epochs.get(name, 1.0) if isinstance(config.epochs, dict) else config.epochs
