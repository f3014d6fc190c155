"""What a rule is: the noun `rules` of the lifecycle file."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

import msgspec
from cronsim import CronSim, CronSimError
from msgspec import Meta

from longrein.core.errors import Error, nearest

ALERTS = ("drifted", "degraded", "slo_burning", "cost_exceeded", "feedback_low", "guard_spike")  # kinds of alerts
DATA = "data_changed"  # the sources of a dataset are no longer those of its newest version
KINDS = (*ALERTS, DATA)
# Actions without options.
BARE = ("rollback", "freeze", "unfreeze", "retrain", "evaluate", "rollout", "approve", "accept")
OF_ENDPOINT = ("rollback", "freeze", "unfreeze", "shift", "collect", "evaluate", "rollout", "approve", "accept")

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604_800}
Duration = Annotated[str, Meta(pattern=r"^[0-9]{1,6}(s|m|h|d|w)$")]  # 30s, 10m, 6h, 7d, 2w


def seconds(duration: str) -> float:
    return float(int(duration[:-1]) * _UNITS[duration[-1]])


class When(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which alerts of its kind."""

    severity: Literal["info", "warning", "critical"] = "warning"  # at least
    for_s: Annotated[float, Meta(ge=0)] = 0.0  # it has fired for so long


class Budget(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a rule may use of its own accord. It is not fired while one of them is used up."""

    runs: Annotated[int, Meta(ge=1)] = 10  # firings
    usd: Annotated[float, Meta(ge=0)] | None = None  # by the cost of the runs it started
    per: Duration = "1d"


class Collect(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Requests and what they should have been answered, as rows of a dataset."""

    into: Annotated[str, Meta(min_length=1)]  # a folder of the project that a dataset reads *.jsonl of
    limit: Annotated[int, Meta(ge=1)] = 1000  # rows, the newest
    label: Literal["feedback", "none"] = "feedback"  # none: rows for people to label
    at_least: Annotated[int, Meta(ge=1)] = 1  # rows; it waits until there are so many
    wait: Duration = "1d"  # but no longer


class Shift(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Users to the candidate of the rollout under way, or, without one, to a release that was in production before."""

    weight: Annotated[float, Meta(gt=0, le=100)]  # percent of the users


class Do(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """An action with options."""

    notify: str | None = None  # a channel
    collect: Collect | None = None
    shift: Shift | None = None

    def __post_init__(self) -> None:
        if sum(value is not None for value in (self.notify, self.collect, self.shift)) != 1:
            raise ValueError("An action is one of notify, collect and shift, each with its options")


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A rule in longrein.yaml. One of on, schedule and every says when."""

    on: str = ""  # the kind of an alert, or data_changed
    schedule: str = ""  # as in cron, in UTC: "0 3 * * *"
    every: Duration | None = None  # counted from 1970
    endpoint: str = ""  # "": the one that the alert is of, whichever that is
    when: When = When()
    do: Annotated[list[str | Do], Meta(min_length=1, max_length=20)]
    cooldown: Duration = "1h"  # between two firings for one endpoint
    budget: Budget = Budget()

    @property
    def trigger(self) -> str:
        return self.on or self.schedule or f"every {self.every}"

    @property
    def actions(self) -> "list[tuple[str, Any]]":
        """(name, options), in order."""
        return [(one, None) if isinstance(one, str) else next(iter(_set(one))) for one in self.do]


def _set(do: Do) -> list[tuple[str, Any]]:
    return [(name, value) for name in Do.__struct_fields__ if (value := getattr(do, name)) is not None]


Known = Callable[[str, str], str | None]


def check(rule: Config, known: Known) -> None:
    """What no type can say. known(noun, name): None where such a noun is declared, else a hint; of "collect" the name
    is the folder. Errors: `invalid`, with the key as `place`."""
    if sum(map(bool, (rule.on, rule.schedule, rule.every))) != 1:
        raise _wrong("on", "a rule needs one of on, schedule and every", "for example `on: drifted`")
    if rule.on and rule.on not in KINDS:
        raise _wrong("on", f"nothing of the kind {rule.on!r} is ever raised", nearest(rule.on, KINDS))
    if rule.schedule:
        moments(rule.schedule, 0)
    if rule.endpoint and (hint := known("endpoints", rule.endpoint)) is not None:
        raise _wrong("endpoint", f"there is no {rule.endpoint!r} in endpoints", hint)
    for i, (name, options) in enumerate(rule.actions):
        _check_action(rule, ("do", i), name, options, known)


def _check_action(rule: Config, place: tuple[str, int], name: str, options: Any, known: Known) -> None:
    if options is None and name not in BARE:
        if name in Do.__struct_fields__:
            raise _wrong(place, f"{name} needs its options", f"write `{name}: …`")
        raise _wrong(place, f"there is no action {name!r}", nearest(name, (*BARE, *Do.__struct_fields__)))
    if name in OF_ENDPOINT and not rule.endpoint and rule.on not in ALERTS:
        raise _wrong(place, f"{name} needs to know at which endpoint", "add `endpoint: NAME` to the rule")
    if name == "notify" and (hint := known("channels", options)) is not None:
        raise _wrong(place, f"there is no {options!r} in channels", hint)
    if name == "collect" and (hint := known("collect", options.into)) is not None:
        raise _wrong(place, f"no dataset reads {options.into}/*.jsonl", hint)


def reads(pattern: str, folder: str) -> bool:
    """Whether a source takes in a JSONL file of a folder."""
    return fnmatchcase(str(PurePosixPath(folder) / "x.jsonl"), str(PurePosixPath(pattern)))


def moments(schedule: str, from_ms: int, *, reverse: bool = False) -> Iterator[int]:
    """The times of a schedule in ms, from one on, or back from it. Errors: `invalid`."""
    try:
        found = CronSim(schedule, datetime.fromtimestamp(from_ms / 1000, UTC), reverse=reverse)
        return (int(moment.timestamp() * 1000) for moment in found)
    except CronSimError as error:
        hint = 'minute, hour, day, month, weekday: "0 3 * * *"'
        raise _wrong("schedule", f"{schedule!r} is no schedule: {error}", hint) from error


def _wrong(place: str | tuple[str | int, ...], message: str, hint: str) -> Error:
    return Error("invalid", message, hint, place=place if isinstance(place, tuple) else (place,))
