"""The compiled loop of the conformal detector: rank, bet, sum, one value after another."""

import numpy as np

from longrein.plugins._compiled import F64, I64, U64, compiled

LARGEST = 1e300  # no evidence is written as infinity by rounding


@compiled
def uniform(random: U64) -> float:
    """The next number in (0, 1) of splitmix64 (Steele, Lea, Flood 2014), whose state is one integer."""
    random[0] += np.uint64(0x9E3779B97F4A7C15)
    z = random[0]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return (float(z >> np.uint64(11)) + 0.5) / 9007199254740992.0


@compiled
def rank(bin: int, counts: I64, random: U64) -> float:
    """The conformal p-value of a value in this bin: the share of values, itself included, that are greater, with ties
    broken by chance. Then it is one of the counted. NaN while all values before it are one: there is nothing to say."""
    above, total, largest = 0, 0, 0
    for k in range(counts.shape[0]):
        total += counts[k]
        largest = max(largest, counts[k])
        if k > bin:
            above += counts[k]
    counts[bin] += 1
    if largest == total:
        return np.nan
    return float((above + uniform(random) * counts[bin]) / (total + 1))


@compiled
def bet(p: float, lines: F64, powers: F64, learned: F64, decays: F64, factors: F64) -> None:
    """By how much each bet multiplies its wealth; then the learned ones learn."""
    k = 0
    for line in lines:
        factors[k] = 1.0 + line * (1.0 - 2.0 * p)
        k += 1
    for power in powers:
        factors[k] = power * p ** (power - 1.0)
        factors[k + 1] = power * (1.0 - p) ** (power - 1.0)
        k += 2
    cells = learned.shape[1]
    cell = min(int(p * cells), cells - 1)
    for j in range(decays.shape[0]):
        factors[k] = learned[j, cell] * cells / learned[j].sum()
        learned[j] += (1.0 - learned[j]) * (1.0 - decays[j])  # forgotten: back to one a cell
        learned[j, cell] += 1.0
        k += 1


@compiled
def observe(
    bins: I64, seasons: I64, counts: I64, lines: F64, powers: F64, learned: F64, decays: F64,
    sums: F64, peaks: F64, starts: I64, random: U64, seen: int, evidence: F64,
) -> int:  # fmt: skip
    """Bet on each value; `evidence` gets the statistic after each. bins: -1 where the value is none. Returns `seen`.

    sums: a Shiryaev-Roberts sum a bet, (1 + sum) · factor; peaks, starts: a CUSUM a bet, and where it began.
    """
    factors = np.empty(sums.shape[0])
    for i in range(bins.shape[0]):
        if bins[i] >= 0:
            p = rank(bins[i], counts[seasons[i]], random)
            if not np.isnan(p):
                bet(p, lines, powers, learned, decays, factors)
                for k in range(sums.shape[0]):
                    sums[k] = min((1.0 + sums[k]) * factors[k], LARGEST)
                    if peaks[k] <= 1.0:
                        peaks[k], starts[k] = 1.0, seen
                    peaks[k] = min(peaks[k] * factors[k], LARGEST)
            seen += 1
        evidence[i] = sums.mean()
    return seen
