"""What a second of hardware costs: rented by the hour, or bought, powered and used for years."""

from collections.abc import Mapping
from typing import Annotated

import msgspec
from msgspec import Meta

from longrein.core.limit import Usd

HOUR_S = 3600.0
YEAR_H = 8766.0  # 365.25 days
Positive = Annotated[float, Meta(gt=0, le=1e9)]


class Hardware(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Rented, by usd_per_hour; or one's own, by what it cost, how long it will be used, and what it draws."""

    usd_per_hour: Usd | None = None
    purchase_usd: Usd | None = None
    years: Positive = 4.0  # until it is written off
    utilization: Annotated[float, Meta(gt=0, le=1)] = 1.0  # of these years, the share in which it serves at all
    power_w: Usd = 0.0  # while it serves, cooling included
    usd_per_kwh: Usd = 0.0

    def __post_init__(self) -> None:
        if (self.usd_per_hour is None) == (self.purchase_usd is None):
            raise ValueError("Needs usd_per_hour for what is rented, or purchase_usd for what is your own")
        if self.usd_per_hour is not None and (self.power_w or self.usd_per_kwh):
            raise ValueError("What is rented comes with its power: give usd_per_hour alone")

    @property
    def usd_per_s(self) -> float:
        """Of a second in which it serves, busy or not."""
        if self.purchase_usd is None:
            return (self.usd_per_hour or 0.0) / HOUR_S
        hours = self.years * YEAR_H * self.utilization
        return (self.purchase_usd / hours + self.power_w / 1000 * self.usd_per_kwh) / HOUR_S


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`costs` in longrein.yaml. What it does not name costs an unknown amount, not nothing."""

    machine: Hardware | None = (
        None  # each machine that serves; the engines alive on one share it. None: compute's price
    )
    endpoints: dict[str, Hardware] = {}  # of endpoints whose engines have hardware of their own
    storage_usd_per_gb_month: Usd | None = None


class Rates(msgspec.Struct, frozen=True):
    """USD a second. None: not known."""

    machine: float | None = None
    endpoints: Mapping[str, float] = {}

    @classmethod
    def of(cls, costs: Config, compute_usd_per_hour: float = 0.0) -> "Rates":
        """The machine is by default what steps pay for it (`compute.usd_per_hour`)."""
        machine = costs.machine.usd_per_s if costs.machine else None
        if machine is None and compute_usd_per_hour > 0:
            machine = compute_usd_per_hour / HOUR_S
        return cls(machine, {name: own.usd_per_s for name, own in costs.endpoints.items()})

    def engine(self, endpoint: str, engines: int) -> float | None:
        """A second of one engine of an endpoint, where so many are alive on the machine."""
        own = self.endpoints.get(endpoint)
        if own is not None or self.machine is None:
            return own
        return self.machine / max(engines, 1)
