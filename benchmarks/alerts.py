"""Burn-rate alerts against the same rules as Google's SRE workbook writes them for Prometheus.

    python benchmarks/alerts.py [--months 40] [--seed 0]

Both look every minute at the same simulated requests of an endpoint that promises 99.9 %: failures come by chance, at
the share told. The workbook's rules fire on the ratios of their windows alone (chapter 5, table 5-8: 14.4 over 1 h
and 5 min, 6 over 6 h and 30 min, 1 over 3 d and 6 h); ours ask in addition whether the long window holds more than
chance. Counted: months of 28 days in which anything fires though the promise is kept, and how long a real outage
lasts, after three quiet days, until the first critical alert. Last, what one look costs.
"""

import argparse
import statistics
import time

import numpy as np

from longrein.core.objective import Objective
from longrein.ops.monitor import objective as machine
from longrein.ops.monitor.objective import COARSE_MS, DAY_MS, HOUR_MS, MINUTE_MS, Counts, Series, judge

PROMISE = Objective("availability", "slo_burning", "errors", 0.001)
START = 1_800_000_000_000 // DAY_MS * DAY_MS
TRAFFIC = {"86 a day": 0.001, "10 an hour": 1 / 360, "1 a minute": 1 / 60, "1 a second": 1.0, "100 a second": 100.0}
OUTAGES = {"all fail": 1.0, "10 % fail": 0.1, "2 % fail": 0.02}


def month(per_s: float, share: float, random: np.random.Generator) -> tuple[bool, bool]:
    """Whether ours and the workbook's fired. Looked at every five minutes: 8,064 times."""
    series, now, fired = Series(28 * DAY_MS), START, [False, False]
    n = random.poisson(per_s * COARSE_MS / 1000, 28 * 288)
    bad = random.binomial(n, share)
    for requests, failures in zip(n.tolist(), bad.tolist(), strict=True):
        series.put(now, now + COARSE_MS, [(now, Counts(requests, failures))])
        now += COARSE_MS
        if now % DAY_MS == 0:
            series.trim(now)
        for who in range(2):
            fired[who] = fired[who] or told(series, now, who) is not None
    return fired[0], fired[1]


def told(series: Series, now: int, who: int) -> str | None:
    """The severity that fires. who: 0 ours, 1 the workbook's, which is ours without the question of chance."""
    if who == 0:
        found = judge(PROMISE, series, now, 0)
        return found.rule.severity if found else None
    for rule in machine.RATIO:
        windows = ((series.sum(now, ms), ms) for ms in (rule.short_ms, rule.long_ms))
        if all(machine.burn_rate(PROMISE, counts, ms) >= rule.rate for counts, ms in windows):
            return rule.severity
    return None


def outage(per_s: float, share: float, random: np.random.Generator) -> list[float]:
    """Minutes until ours and the workbook's say critical; infinity after six hours."""
    series, now = Series(28 * DAY_MS), START
    for _ in range(3 * 288):
        series.put(now, now + COARSE_MS, [(now, Counts(random.poisson(per_s * 300), 0))])
        now += COARSE_MS
    took = [float("inf")] * 2
    for minute in range(1, 361):
        n = int(random.poisson(per_s * 60))
        series.put(now, now + MINUTE_MS, [(now, Counts(n, int(random.binomial(n, share))))])
        now += MINUTE_MS
        for who in range(2):
            if took[who] > minute and told(series, now, who) == "critical":
                took[who] = minute
        if max(took) < minute:
            break
    return took


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--months", type=int, default=40)
    arguments.add_argument("--seed", type=int, default=0)
    options = arguments.parse_args()
    random = np.random.default_rng(options.seed)

    print(f"months of {options.months} with a false alert: ours / the workbook's")
    for share in (0.0005, 0.001):
        for name, per_s in TRAFFIC.items():
            found = [month(per_s, share, random) for _ in range(options.months)]
            ours, theirs = (sum(fired) for fired in zip(*found, strict=True))
            print(f"  {share / 0.001:.1f} of the budget, {name:>12}: {ours} / {theirs}")
    print("minutes until critical, median of 20: ours / the workbook's")
    for outage_name, share in OUTAGES.items():
        for name, per_s in TRAFFIC.items():
            both = [outage(per_s, share, random) for _ in range(20)]
            slow, quick = (statistics.median(times) for times in zip(*both, strict=True))
            print(f"  {outage_name:>10}, {name:>12}: {slow:g} / {quick:g}")

    series = Series(28 * DAY_MS)
    for slot in range(28 * 288):
        start = START + slot * COARSE_MS
        series.put(start, start + COARSE_MS, [(start, Counts(1000, 1))])
    now = START + 28 * DAY_MS
    for start in range(now - 6 * HOUR_MS, now, 10_000):
        series.put(start, start + 10_000, [(start, Counts(33, 0))])
    began = time.perf_counter()
    for _ in range(1000):
        judge(PROMISE, series, now, 0)
    print(f"a look at one objective, all windows full: {(time.perf_counter() - began) * 1e3:.0f} µs")


if __name__ == "__main__":
    main()
