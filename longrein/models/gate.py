"""Gates: pure judgement of a report against thresholds and against the model now in production."""

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from longrein.core.digest import of_json
from longrein.core.errors import Error, nearest
from longrein.core.spec import sparse

Metrics = Mapping[str, Mapping[str, float]]  # {"exact_match": {"value": .93, "low": .91, "high": .95}}


class Threshold(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What one metric must hold. max_drop and max_rise compare with the version now in production."""

    min: float | None = None
    max: float | None = None
    max_drop: float | None = None
    max_rise: float | None = None

    def __post_init__(self) -> None:
        if self.min is self.max is self.max_drop is self.max_rise is None:
            raise ValueError("Needs min, max, max_drop or max_rise: without one it holds nothing")


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A gate in longrein.yaml."""

    metrics: Annotated[dict[str, Threshold], Meta(min_length=1)]
    judge: Literal["value", "confident"] = "value"  # confident: the worse end of each confidence interval must hold

    def compares(self) -> bool:
        """Whether it needs the report of the model now in production."""
        return any(t.max_drop is not None or t.max_rise is not None for t in self.metrics.values())


def digest(config: Config) -> str:
    """What a verdict is bound to: another threshold is another gate, and must judge again."""
    return of_json(sparse(config))


def judge(config: Config, report: Metrics, production: Metrics | None) -> tuple[bool, list[str]]:
    """(passed, one line a threshold). `production` is None when nothing is in production yet.

    Errors: `invalid` when the report lacks a metric that the gate names.
    """
    passed, reasons = True, []
    for name, threshold in config.metrics.items():
        if name not in report:
            raise Error("invalid", f"the report has no metric {name!r} for the gate to judge", nearest(name, report))
        for good, reason in _checks(name, threshold, report, production or {}, config.judge == "confident"):
            passed &= good
            reasons.append(("✓ " if good else "✗ ") + reason)
    return passed, reasons


def _checks(name: str, t: Threshold, report: Metrics, production: Metrics, confident: bool) -> list[tuple[bool, str]]:
    value = report[name]["value"]
    low, high = (report[name].get("low", value), report[name].get("high", value)) if confident else (value, value)
    found: list[tuple[bool, str]] = []
    if t.min is not None:
        found.append((low >= t.min, f"{name} {low:.4g} ≥ {t.min:g}"))
    if t.max is not None:
        found.append((high <= t.max, f"{name} {high:.4g} ≤ {t.max:g}"))
    if production and name not in production and (t.max_drop is not None or t.max_rise is not None):
        found.append((False, f"{name} cannot be compared: production's report lacks it"))
    elif name in production:
        now = production[name]["value"]
        if t.max_drop is not None:
            found.append((low >= now - t.max_drop, f"{name} {low:.4g} ≥ production {now:.4g} − {t.max_drop:g}"))
        if t.max_rise is not None:
            found.append((high <= now + t.max_rise, f"{name} {high:.4g} ≤ production {now:.4g} + {t.max_rise:g}"))
    # "not at least" rather than "less than" everywhere, so that NaN fails: nothing compares true with it.
    return found
