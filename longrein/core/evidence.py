"""Evidence that may be looked at after every block: e-processes that compare two arms, by betting. Pure, no clock.

An e-process is the wealth of a gambler who bets against a null hypothesis at fair or worse odds and starts with 1. If
the null holds, the chance that the wealth ever reaches 1/alpha is at most alpha (Ville's inequality), however often
one looks and whenever one stops. Here the null says that in each block of traffic the second arm's values are not
greater than the first's. What the arms share (load, prompts, the hour) may change from block to block as it likes,
and so may their sizes.
"""

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from itertools import accumulate
from statistics import NormalDist
from typing import Any, NamedTuple, Protocol

NORMAL = NormalDist()
Histogram = Mapping[float, int]  # value -> how often; infinite values are the worst or the best of all
STEPS = 4  # fixed bets, each on an effect twice as large as the one before, hence seen in a quarter of its time
DEADLINE = 0.5  # share of the wealth that bets on being right at the deadline


class Counts(NamedTuple):
    """k events in n requests."""

    n: int
    k: int

    def __add__(self, other: "Counts") -> "Counts":  # type: ignore[override]
        return Counts(self.n + other.n, self.k + other.k)


class Block(Protocol):
    """One block of traffic of two arms."""

    effect: float  # how much greater the second arm is than the null allows, as seen in this block
    information: float  # 1 / variance of `effect` if the null holds, known before the outcomes

    def bet(self, effect: float) -> float:
        """Logarithm of an e-variable that grows fastest when the true effect is `effect` > 0."""
        ...


class Ranks:
    """Null: the second arm's values are stochastically no greater than the first's. `effect`: P(second > first) - 1/2.

    Ties count half (Mann-Whitney). If the requests of a block are exchangeable between the arms, the centred rank
    statistic is sub-Gaussian with its variance without ties, (n + m + 1) / 12nm: each factor of its generating
    function (sinh(ax/2) / a sinh(x/2)) is, and ties are an average over ways to break them. `noise` is the standard
    deviation (of a sub-Gaussian zero-mean disturbance of an arm's own, new in each block) of P(second > first) that
    is not to count. With sign -1 all is the other way round: that the second arm's values are not smaller.
    """

    def __init__(self, first: Histogram, second: Histogram, noise: float = 0.0, sign: int = 1) -> None:
        n, m = sum(first.values()), sum(second.values())
        values = sorted(first)
        below = [0, *accumulate(first[v] for v in values)]
        wins = sum([times * (below[bisect_left(values, v)] + first.get(v, 0) / 2) for v, times in second.items()])
        self.effect = sign * (wins / (n * m) - 0.5)
        self.information = 1 / ((n + m + 1) / (12 * n * m) + noise * noise)

    def bet(self, effect: float) -> float:
        return self.information * effect * (self.effect - effect / 2)


class Rates:
    """Null: the second arm's rate of events is at most the first's plus `shift`. `effect` is what it is above that.

    The bet on an effect is the likelihood ratio of a pair of rates that far apart against the nearest pair (in relative
    entropy) that the null allows, which is an e-variable: by the inequality of means the expectation is at most exp
    of a linear function of the two mean rates, which the projection makes 0 on the null's edge. Source: Turner, Ly
    and Gruenwald, "Generic E-variables for exact sequential k-sample tests that allow for optional stopping" (2021),
    for equal rates.

    `guess` is the rate expected in both arms together, from earlier blocks only. `noise` is a relative disturbance of
    an arm's rate, new in each block, that is not to count: the ratio is tempered as if the block were that much
    smaller.
    """

    def __init__(self, first: Counts, second: Counts, guess: float, shift: float = 0.0, noise: float = 0.0) -> None:
        guess = min(max(guess, 1e-9), 1 - 1e-9)
        self._first, self._second, self._guess, self._shift = first, second, guess, shift
        chance = guess * (1 - guess) * (1 / first.n + 1 / second.n)
        disturbed = 2 * (noise * min(guess, 1 - guess)) ** 2
        self.effect = second.k / second.n - first.k / first.n - shift
        self.information = 1 / (chance + disturbed)
        self._temper = chance / (chance + disturbed)

    def bet(self, effect: float) -> float:
        (n, k), (m, j), shift = self._first, self._second, self._shift
        low, high = self._rates(effect + shift)
        if high - low <= shift:
            return 0.0
        null, slack = _project(low, high, n, m, shift)
        edge = null + shift
        log = k * math.log(low / null) + (n - k) * math.log((1 - low) / (1 - null))
        log += j * math.log(high / edge) + (m - j) * math.log((1 - high) / (1 - edge))
        return self._temper * (log - slack)

    def _rates(self, apart: float) -> tuple[float, float]:
        """Rates of the arms, `apart` from each other, that together give the guess as nearly as may be."""
        n, m, guess = self._first.n, self._second.n, self._guess
        least, most = guess / 8, 1 - (1 - guess) / 8
        apart = min(max(apart, least - most), most - least)
        low = min(max(guess - apart * m / (n + m), least, least - apart), most, most - apart)
        return low, low + apart


def _project(low: float, high: float, n: int, m: int, shift: float) -> tuple[float, float]:
    """The p with the least n KL(low, p) + m KL(high, p + shift), and what its error may add to an e-variable's log."""
    if shift == 0:
        return (n * low + m * high) / (n + m), 0.0
    left, right = max(low, -shift), min(high - shift, 1.0)
    p, slope = (left + right) / 2, 0.0
    for _ in range(100):
        q = p + shift
        slope = n * (p - low) / (p * (1 - p)) + m * (q - high) / (q * (1 - q))
        left, right = (p, right) if slope < 0 else (left, p)
        curve = n * (low / p**2 + (1 - low) / (1 - p) ** 2) + m * (high / q**2 + (1 - high) / (1 - q) ** 2)
        step = p - slope / curve  # Newton's, on a convex function, kept between the bounds
        if abs(slope) < 1e-6 or right - left < 1e-15:
            break
        p = step if left < step < right else (left + right) / 2
    return p, abs(slope)


class Process:
    """Wealth over time: a mixture of bets on effects that could be found by a deadline.

    Most bets are fixed effects on a grid, the smallest just visible at the deadline, the largest in a sixty-fourth
    of the time. One bets like a gambler who needs `goal` by the deadline and no more (Browne, "Reaching goals by a
    deadline", 1999), so that at the deadline the whole is nearly as sharp as a test that looks once. All depends on
    the past alone.
    """

    def __init__(self, logs: Iterable[float] = (), information: float = 0.0) -> None:
        self._logs = list(logs) or [0.0] * (STEPS + 1)
        self._information = information

    @property
    def value(self) -> float:
        """The wealth, from 1 at the start."""
        return DEADLINE * math.exp(min(self._logs[0], 600.0)) + self._fixed

    @property
    def _fixed(self) -> float:
        """What the fixed bets have of it."""
        return (1 - DEADLINE) / STEPS * sum(math.exp(min(log, 600.0)) for log in self._logs[1:])

    def observe(self, block: Block, goal: float, left: float) -> None:
        """Bets on a block. goal: the wealth wanted; left: how many such blocks, with this one, until the deadline."""
        ahead = block.information * max(left, 1.0)
        smallest = math.sqrt(2 * math.log(goal * STEPS) / (self._information + ahead))
        bets = [self._reach(goal) / math.sqrt(ahead) if left >= 1 else 0.0, *(smallest * 2**i for i in range(STEPS))]
        self._logs = [log + block.bet(bet) if bet else log for log, bet in zip(self._logs, bets, strict=True)]
        self._information += block.information

    def _reach(self, goal: float) -> float:
        """The standardized bet with the greatest chance that with the fixed bets' wealth it makes up the goal."""
        share = DEADLINE * math.exp(min(self._logs[0], 600.0)) / max(goal - self._fixed, 1e-9)
        if share >= 1:
            return 0.0
        share = max(share, 1e-9)
        return NORMAL.pdf(NORMAL.inv_cdf(share)) / share

    def dump(self) -> dict[str, Any]:
        return {"logs": self._logs, "information": self._information}


class Interval:
    """An interval for an effect that is to hold at all times together, by a normal mixture over blocks.

    Asymptotic, unlike the rest. Source: Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas, "Time-uniform central limit
    theory and asymptotic confidence sequences" (2024).
    """

    def __init__(self, score: float = 0.0, weight: float = 0.0, scale: float = 0.0) -> None:
        self.score, self.weight, self.scale = score, weight, scale

    def observe(self, effect: float, weight: float, blocks: float) -> None:
        """A block with this effect, of variance spread / weight; blocks: how many such blocks there will be."""
        self.scale = self.scale or weight * blocks / 50  # narrowest, for its time, after some tenths of them
        self.score += weight * effect
        self.weight += weight

    def bounds(self, alpha: float, spread: float = 1.0) -> tuple[float, float, float]:
        """(estimate, low, high); nothing is known before the first block."""
        if not self.weight:
            return 0.0, -math.inf, math.inf
        whole = self.weight + self.scale
        radius = math.sqrt(spread * whole * math.log(whole / (self.scale * alpha * alpha))) / self.weight
        estimate = self.score / self.weight
        return estimate, estimate - radius, estimate + radius

    def dump(self) -> list[float]:
        return [self.score, self.weight, self.scale]
