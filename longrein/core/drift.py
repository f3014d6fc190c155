"""What an endpoint of a lifecycle file says of drift: what is watched, and how often a false alarm is allowed."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

Group = Literal["input", "output", "feedback"]
GROUPS: tuple[Group, ...] = ("input", "output", "feedback")


class Drift(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`drift: true` is all of these defaults."""

    watch: tuple[Group, ...] = GROUPS
    false_alarm_requests: Annotated[int, Meta(ge=100, le=10**9)] = 20_000  # that come between two, on average, or more
    reference: Literal["training", "traffic"] = "training"  # what inputs are compared with; of the rest it is traffic
    warm_up: Annotated[int, Meta(ge=100, le=5000)] = 1000  # the first requests, which traffic is then compared with
    season: Literal["none", "day", "week"] = "none"  # like hours are compared with each other, of the day or the week
    detector: str | dict[str, dict[str, Any]] = "conformal"

    def __post_init__(self) -> None:
        if not self.watch or len(set(self.watch)) < len(self.watch):
            raise ValueError(f"watch names one or more of {', '.join(GROUPS)}, each once")
        if isinstance(self.detector, dict) and len(self.detector) != 1:
            raise ValueError("One detector: name, or {name: options}")

    @property
    def plugin(self) -> tuple[str, dict[str, Any]]:
        """The detector's name and options."""
        return (self.detector, {}) if isinstance(self.detector, str) else next(iter(self.detector.items()))


def declared(value: bool | Drift) -> Drift | None:
    """None: not watched."""
    return (Drift() if value else None) if isinstance(value, bool) else value
