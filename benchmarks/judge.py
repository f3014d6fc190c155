"""Judgement of a canary against Kayenta's judge, threshold rules, mSPRT, a peeking t-test and a Bayesian rule.

    python benchmarks/judge.py [--runs 400] [--seed 0] [--scenario NAME …] [--who NAME …]

One hour of traffic, 60 requests a minute in each arm, one answer in five judged as good or bad. Three metrics are
watched together: latency (log-normal, sigma .5), errors (1 %), quality (85 % good). All scenarios but the first have
noise: what the arms share wanders from block to block (of 20 s; latency 15 %, error rate by a factor of e^.5, quality
.1 in logits), and each arm has noise of its own in each block (latency 5 %, error rate 20 %, quality .1). Everybody
sees the same traffic.

Peers, written anew after their sources and papers; each rolls back at its first alarm in the bad direction:
- kayenta: its NetflixACAJudge every 10 minutes on all points so far, one a minute: outliers beyond 3 interquartile
  ranges out, 98 % confidence interval of the Hodges-Lehmann shift beyond 25 % of the estimate; one bad metric of
  three scores 67, below 75.
- loose, tight: the last 10 minutes every 10 minutes. errors +5 (+2) points, mean latency x 1.5 (x 1.2), quality -15
  (-8) points.
- msprt: Johari, Pekelis, Walsh, "Always valid inference" (2015), each minute on each metric at .05; tau is a tenth of
  sigma. msprt/3: the same at .05/3, as three metrics are watched.
- t-test: Welch's, one-sided, each minute on each metric at .05. bayes: P(worse) > .95, each minute on each metric,
  flat priors.
"""

import argparse
import math
import statistics
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from longrein.core.evidence import Counts
from longrein.models.experiment.judge import Judge, Judgement, bucket

BLOCKS, EACH, JUDGED, MINUTE = 180, 20, 4, 3
NORMAL = statistics.NormalDist()
Floats = Any


class Scenario(NamedTuple):
    latency: float = 1.0
    errors: float = 0.01
    quality: float = 0.85
    noise: float = 1.0


SCENARIOS = {
    "A/A": Scenario(noise=0.0),
    "noisy A/A": Scenario(),
    "errors 1→2 %": Scenario(errors=0.02),
    "errors 1→3 %": Scenario(errors=0.03),
    "errors 1→5 %": Scenario(errors=0.05),
    "errors 1→20 %": Scenario(errors=0.20),
    "latency ×1.05": Scenario(latency=1.05),
    "latency ×1.1": Scenario(latency=1.1),
    "latency ×1.25": Scenario(latency=1.25),
    "latency ×1.5": Scenario(latency=1.5),
    "latency ×2": Scenario(latency=2.0),
    "quality 85→80": Scenario(quality=0.80),
    "quality 85→75": Scenario(quality=0.75),
    "quality 85→60": Scenario(quality=0.60),
}


class Traffic(NamedTuple):
    """Of one arm: latency of each request, errors and good answers of each block."""

    latency: Floats  # (BLOCKS, EACH)
    errors: Floats  # (BLOCKS,)
    good: Floats  # (BLOCKS,) of JUDGED


def wander(draw: np.random.Generator, deviation: float, memory: float = 0.9) -> Floats:
    steps = draw.normal(size=BLOCKS) * deviation * math.sqrt(1 - memory**2)
    path = np.empty(BLOCKS)
    last = draw.normal() * deviation
    for i, step in enumerate(steps):
        path[i] = last = memory * last + step
    return path


def traffic(scenario: Scenario, seed: int) -> tuple[Traffic, Traffic]:
    """(baseline, candidate)."""
    draw = np.random.default_rng(seed)
    common = [scenario.noise * wander(draw, deviation) for deviation in (0.15, 0.5, 0.1)]

    def arm(s: Scenario) -> Traffic:
        own = [scenario.noise * draw.normal(size=BLOCKS) * deviation for deviation in (0.05, 0.2, 0.1)]
        slow, failing, good = (c + o for c, o in zip(common, own, strict=True))
        latency = s.latency * np.exp(0.5 * draw.normal(size=(BLOCKS, EACH)) + slow[:, None])
        errors = draw.binomial(EACH, np.minimum(s.errors * np.exp(failing), 1.0))
        logit = math.log(s.quality / (1 - s.quality)) + good
        return Traffic(latency, errors, draw.binomial(JUDGED, 1 / (1 + np.exp(-logit))))

    return arm(Scenario()), arm(scenario)


# -- who judges: (baseline, candidate) -> (what, blocks served until then)

Verdict = tuple[str, int]


def ours(baseline: Traffic, candidate: Traffic, config: Judgement) -> Verdict:
    judge = Judge(config)
    for block in range(BLOCKS):
        decision = judge.observe(_arm(baseline, block), _arm(candidate, block))
        if decision.kind == "degraded":
            return "rollback", block + 1
        if decision.kind == "noninferior":
            return "promote", block + 1
    return "undecided", BLOCKS


def _arm(arm: Traffic, block: int) -> Any:
    return {
        "errors": Counts(EACH, int(arm.errors[block])),
        "latency": Counter(map(bucket, arm.latency[block].tolist())),
        "quality": Counts(JUDGED, int(arm.good[block])),
    }


def series(arm: Traffic) -> list[Floats]:
    """One point a minute, the greater the worse: mean latency, error rate, rate of bad answers."""
    minutes = BLOCKS // MINUTE
    return [
        arm.latency.reshape(minutes, -1).mean(1),
        arm.errors.reshape(minutes, -1).sum(1) / (MINUTE * EACH),
        1 - arm.good.reshape(minutes, -1).sum(1) / (MINUTE * JUDGED),
    ]


def kayenta(baseline: Traffic, candidate: Traffic) -> Verdict:
    pairs = list(zip(series(baseline), series(candidate), strict=True))
    for minute in range(10, BLOCKS // MINUTE + 1, 10):
        if any(_shifted(_inliers(b[:minute]), _inliers(c[:minute])) for b, c in pairs):
            return "rollback", minute * MINUTE
    return "promote", BLOCKS


def _inliers(values: Floats) -> Floats:
    low, high = np.percentile(values, [25, 75])
    reach = 3 * (high - low)
    return values[(values >= low - reach) & (values <= high + reach)] if reach else values


def _shifted(control: Floats, experiment: Floats, confidence: float = 0.98, fraction: float = 0.25) -> bool:
    differences = np.sort(np.subtract.outer(experiment, control).ravel())
    n, m = len(control), len(experiment)
    place = n * m / 2 - NORMAL.inv_cdf(0.5 + confidence / 2) * math.sqrt(n * m * (n + m + 1) / 12)
    return bool(differences[max(int(place), 0)] > fraction * abs(np.median(differences)))


def rules(points: float, factor: float, drop: float) -> Callable[[Traffic, Traffic], Verdict]:
    def judged(baseline: Traffic, candidate: Traffic) -> Verdict:
        (bl, be, bq), (cl, ce, cq) = series(baseline), series(candidate)
        for minute in range(10, BLOCKS // MINUTE + 1, 10):
            last = slice(minute - 10, minute)
            slow = cl[last].mean() > factor * bl[last].mean()
            failing = ce[last].mean() > be[last].mean() + points
            if slow or failing or cq[last].mean() > bq[last].mean() + drop:
                return "rollback", minute * MINUTE
        return "promote", BLOCKS

    return judged


class Moments(NamedTuple):
    """Of one metric of both arms after each minute."""

    n: Floats
    difference: Floats  # candidate - baseline, the greater the worse
    variance: Floats  # of one value, mean of both arms


def moments(baseline: Traffic, candidate: Traffic) -> list[Moments]:
    found = []
    ends = np.arange(1, BLOCKS // MINUTE + 1) * MINUTE

    def cumulated(values: Floats) -> Floats:
        return np.cumsum(values)[ends - 1]

    n = ends * EACH
    means = [cumulated(a.latency.sum(1)) / n for a in (baseline, candidate)]
    squares = [cumulated((a.latency**2).sum(1)) / n for a in (baseline, candidate)]
    spread = sum(s - m * m for s, m in zip(squares, means, strict=True)) / 2
    found.append(Moments(n, means[1] - means[0], spread))
    pairs = ((baseline.errors, candidate.errors, EACH), (JUDGED - baseline.good, JUDGED - candidate.good, JUDGED))
    for b, c, each in pairs:
        n = ends * each
        rates = [(cumulated(v) + 0.5) / (n + 1) for v in (b, c)]
        found.append(Moments(n, rates[1] - rates[0], sum(r * (1 - r) for r in rates) / 2))
    return found


def first(alarms: Floats) -> Verdict:
    return ("rollback", (int(np.argmax(alarms)) + 1) * MINUTE) if alarms.any() else ("undecided", BLOCKS)


def msprt(alpha: float, share: float = 0.1) -> Callable[[Traffic, Traffic], Verdict]:
    def judged(baseline: Traffic, candidate: Traffic) -> Verdict:
        alarms = np.zeros(BLOCKS // MINUTE, bool)
        for n, difference, variance in moments(baseline, candidate):
            tau, whole = share**2 * variance, 2 * variance
            log = np.log(whole / (whole + n * tau)) / 2 + n**2 * tau * difference**2 / (2 * whole * (whole + n * tau))
            alarms |= (log > -math.log(alpha)) & (difference > 0)
        return first(alarms)

    return judged


def peeking(level: float) -> Callable[[Traffic, Traffic], Verdict]:
    """With so many requests Welch's t is a normal deviate."""

    def judged(baseline: Traffic, candidate: Traffic) -> Verdict:
        z = [d / np.sqrt(2 * v / n) for n, d, v in moments(baseline, candidate)]
        return first(np.max(z, axis=0) > NORMAL.inv_cdf(1 - level))

    return judged


def bayes(baseline: Traffic, candidate: Traffic) -> Verdict:
    """P(worse) > .95: beta posteriors by their moments, the mean latency's by a normal distribution."""
    latency, *_ = moments(baseline, candidate)
    alarms = latency.difference / np.sqrt(2 * latency.variance / latency.n) > NORMAL.inv_cdf(0.95)
    ends = np.arange(1, BLOCKS // MINUTE + 1) * MINUTE
    pairs = ((baseline.errors, candidate.errors, EACH), (JUDGED - baseline.good, JUDGED - candidate.good, JUDGED))
    for b, c, each in pairs:
        a = [np.cumsum(v)[ends - 1] + 1.0 for v in (b, c)]
        whole = ends * each + 2.0
        spread = sum(v * (whole - v) / (whole**2 * (whole + 1)) for v in a)
        alarms |= (a[1] - a[0]) / whole / np.sqrt(spread) > NORMAL.inv_cdf(0.95)
    return first(alarms)


WHO: dict[str, Callable[[Traffic, Traffic], Verdict]] = {
    "longrein": lambda b, c: ours(b, c, Judgement()),
    "longrein, alpha .01": lambda b, c: ours(b, c, Judgement(alpha=0.01)),
    "kayenta": kayenta,
    "rules, loose": rules(0.05, 1.5, 0.15),
    "rules, tight": rules(0.02, 1.2, 0.08),
    "msprt": msprt(0.05),
    "msprt/3": msprt(0.05 / 3),
    "t-test": peeking(0.05),
    "bayes": bayes,
}


def row(name: str, who: str, verdicts: list[Verdict], cpu_ms: float) -> str:
    back = [EACH * blocks for what, blocks in verdicts if what == "rollback"]
    early = [EACH * blocks for what, blocks in verdicts if what == "promote" and blocks < BLOCKS]
    served = statistics.mean(EACH * blocks for _, blocks in verdicts)
    cells = [
        f"{100 * len(back) / len(verdicts):.1f}",
        f"{statistics.median(back):.0f}" if back else "–",
        f"{served:.0f}",
        f"{100 * len(early) / len(verdicts):.0f}" if early else "–",
        f"{statistics.median(early):.0f}" if early else "–",
        f"{cpu_ms:.2f}",
    ]
    return f"| {name} | {who} | " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0, help="of the first run")
    parser.add_argument("--scenario", nargs="*", default=list(SCENARIOS), choices=SCENARIOS)
    parser.add_argument("--who", nargs="*", default=list(WHO), choices=WHO)
    asked = parser.parse_args()
    print("| scenario | who | rolled back, % | canary requests until then, median | canary requests served, mean "
          "| promoted early, % | canary requests until then, median | CPU a block, ms |\n|" + "---|" * 8)  # fmt: skip
    for name in asked.scenario:
        drawn = [traffic(SCENARIOS[name], seed) for seed in range(asked.seed, asked.seed + asked.runs)]
        for who in asked.who:
            began = time.process_time()
            verdicts = [WHO[who](*pair) for pair in drawn]
            cpu = 1000 * (time.process_time() - began) / sum(blocks for _, blocks in verdicts)
            print(row(name, who, verdicts, cpu), flush=True)


if __name__ == "__main__":
    main()
