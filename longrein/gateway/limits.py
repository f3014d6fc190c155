"""Who may use how much: limits of keys, teams and endpoints, reserved as a request is let in, settled as it ends."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from longrein.core.errors import Error
from longrein.core.ledger import ApiKey
from longrein.core.limit import Limit, Price
from longrein.gateway.budget import Budget, Counter, State

NANO = 1_000_000_000  # money is counted in whole billionths of a dollar
UNKNOWN_TOKENS = 1024  # reserved for an answer whose length nobody bounded


class Rule(NamedTuple):
    """One limit."""

    subject: str  # "key 1a2b", "team blue", "endpoint support"
    name: str  # of a field of core.limit.Limit
    most: int
    counter: Counter


class Rules:
    """All limits that one request stands under, in columns."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self.all = rules
        self.counters = [rule.counter for rule in rules]
        self.most = [rule.most for rule in rules]
        self._kinds = [rule.name[0] for rule in rules]

    def amounts(self, tokens: int, usd: float) -> list[int]:
        """Of each rule: a request, tokens, or money."""
        nano = round(usd * NANO)
        return [1 if kind == "r" else tokens if kind == "t" else nano for kind in self._kinds]


class Reservation(NamedTuple):
    rules: Rules
    amounts: list[int]
    windows: list[float]


class Limits:
    """All methods belong to the event loop. A request under no limit costs one look into a dictionary.

    path: the file that the gateway processes of this host share.
    """

    def __init__(self, path: Path) -> None:
        self.prices: dict[str, Price] = {}
        self._path = path
        self._budget: Budget | None = None
        self._limits: dict[str, Limit] = {}
        self._rules: dict[tuple[str, str, str], Rules | None] = {}

    def configure(
        self, keys: Mapping[str, ApiKey], endpoints: Mapping[str, Mapping[str, Any]], teams: Mapping[str, Any]
    ) -> None:
        """Follow a new routing table: the keys, and what the lifecycle file says of endpoints and teams."""
        of_endpoints = {name: config.get("limits") for name, config in endpoints.items()}
        declared = {
            **{f"key {key.id}": key.limits for key in keys.values()},
            **{f"team {name}": limits for name, limits in teams.items()},
            **{f"endpoint {name}": limits for name, limits in of_endpoints.items()},
        }
        self._limits = {who: msgspec.convert(limits, Limit) for who, limits in declared.items() if limits}
        priced = {name: config.get("price") for name, config in endpoints.items()}
        self.prices = {name: msgspec.convert(price, Price) for name, price in priced.items() if price}
        self._rules = {}

    def reserve(
        self, key: ApiKey | None, endpoint: str, prompt_tokens: int, max_tokens: int | None
    ) -> Reservation | None:
        """Let a request in that will use so much at most; None when nothing limits it. `settle` must follow.

        prompt_tokens: an estimate, or better an upper bound. max_tokens: of all its answers together.
        Errors: `overloaded` (429) with retry_after_s and limit.
        """
        who = ("", "", endpoint) if key is None else (key.id, key.team, endpoint)
        try:
            rules = self._rules[who]
        except KeyError:
            rules = self._rules[who] = self._find(who)
        if rules is None:
            return None
        assert self._budget
        completion = UNKNOWN_TOKENS if max_tokens is None else max_tokens
        usd = self.prices[endpoint].usd(prompt_tokens, completion) if endpoint in self.prices else 0.0
        amounts = rules.amounts(prompt_tokens + completion, usd)
        windows = self._budget.take(rules.counters, amounts, rules.most)
        if isinstance(windows, int) and self._budget.reclaim():
            windows = self._budget.take(rules.counters, amounts, rules.most)
        if isinstance(windows, int):
            rule = rules.all[windows]
            raise _refusal(rule, amounts[windows], self._budget.state(rule.counter))
        return Reservation(rules, amounts, windows)

    def settle(self, reservation: Reservation | None, tokens: int, usd: float | None, *, counts: bool = True) -> None:
        """The request ended, having used so much. counts: whether it counts as a request at all."""
        if reservation is None or self._budget is None:
            return
        rules, amounts, windows = reservation
        used = rules.amounts(tokens, usd or 0.0) if counts else [0] * len(amounts)
        self._budget.settle(rules.counters, amounts, windows, used)

    def cost(self, endpoint: str, prompt: int, completion: int, cached: int = 0) -> float | None:
        """In USD; None where no price is declared."""
        price = self.prices.get(endpoint)
        return price.usd(prompt, completion, cached) if price else None

    def used(self) -> dict[tuple[str, str], tuple[float, float]]:
        """{(subject, limit): (used and reserved, at most)} of what was asked for since the last change, for metrics."""
        found: dict[tuple[str, str], tuple[float, float]] = {}
        for rule in (rule for rules in self._rules.values() if rules for rule in rules.all):
            assert self._budget
            state, unit = self._budget.state(rule.counter), NANO if rule.name[0] == "u" else 1
            found[rule.subject, rule.name] = ((state.used + state.reserved) / unit, rule.most / unit)
        return found

    def close(self) -> None:
        if self._budget:
            self._budget.close()
            self._budget = None

    def _find(self, who: tuple[str, str, str]) -> Rules | None:
        found = []
        for kind, name in zip(("key", "team", "endpoint"), who, strict=True):
            limit = self._limits.get(f"{kind} {name}")
            for field in Limit.__struct_fields__ if limit else ():
                most = getattr(limit, field)
                if most is not None:
                    if self._budget is None:
                        self._budget = _open(self._path)
                    counter = self._budget.counter(f"{kind} {name} {field}", field.rpartition("_")[2])
                    unit = NANO if field[0] == "u" else 1
                    found.append(Rule(f"{kind} {name}", field, round(most * unit), counter))
        return Rules(found) if found else None


def _open(path: Path) -> Budget:
    try:
        return Budget(path)
    except OSError as error:
        message = f"what limits were used cannot be counted in {path}: {error.strerror}"
        raise Error("unavailable", message, "free some space", retry_after_s=30) from error


def _refusal(rule: Rule, amount: int, state: State) -> Error:
    used, reserved, left_s = state
    unit, word = (NANO, "USD") if rule.name[0] == "u" else (1, rule.name.partition("_")[0])
    per = rule.name.rpartition("_")[2]
    limit = f"{rule.name} of {rule.subject}"
    whole = f"{rule.most / unit:g} {word} a {per} for {rule.subject}"
    if amount > rule.most:
        message = f"the request may use {amount / unit:g} {word}, and the limit is {whole}"
        hint = "ask for fewer max_tokens, or have the limit raised"
    else:
        message = f"the limit of {whole} is reached: {used / unit:g} used, {reserved / unit:g} under way"
        hint = "try again later, or have the limit raised"
    code = None if per == "minute" else {"openai_code": "insufficient_quota"}
    return Error("overloaded", message, hint, retry_after_s=left_s, limit=limit, **(code or {}))
