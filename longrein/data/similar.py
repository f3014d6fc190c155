"""How alike a text and many others are: cosine of their character n-gram counts, in numpy, without an index."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from longrein.core.text import fold

SIZES = (2, 3)  # characters: pairs serve Chinese, triples spaced scripts
GRAM_BITS = 40  # of an n-gram's hash; the bits above number the text
SIEVE_BITS = 16
EXACT = 64  # texts whose cosine is worked out at a time
MIX = np.uint64(0x9E3779B97F4A7C15)

Grams = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.float64]
Owners = npt.NDArray[np.int64]


class Query:
    """One text, compared with batches of up to 2^24 others."""

    def __init__(self, text: str) -> None:
        self.grams, counts, _ = _count([text])
        self.weights = counts / max(1.0, float(np.sqrt((counts**2).sum())))
        self.sieve = np.zeros(1 << SIEVE_BITS, bool)  # lets nearly all foreign n-grams go at the price of one look
        self.sieve[_sieved(self.grams)] = True

    def best(self, texts: Sequence[str], k: int, floor: float = 0.0) -> list[tuple[float, int]]:
        """The cosine and place of the k most alike texts above `floor`, the best first.

        Exact, though few cosines are worked out: the norm of a text of n n-grams is at least √n, which bounds the rest.
        """
        found: list[tuple[float, int]] = []
        bounds = self._bounds(texts)
        order = np.argsort(-bounds, kind="stable")
        for start in range(0, len(order), EXACT):
            part = order[start : start + EXACT]
            least = found[k - 1][0] if len(found) >= k else floor
            if bounds[part[0]] <= least:
                break
            scores = self.scores([texts[i] for i in part])
            found += [(float(s), int(i)) for s, i in zip(scores, part, strict=True) if s > floor]
            found = sorted(found, key=lambda pair: (-pair[0], pair[1]))[:k]
        return found

    def scores(self, texts: Sequence[str]) -> Floats:
        """The cosine with each text, 0 to 1; 0 for texts too short to have n-grams."""
        grams, counts, owner = _count(texts)
        norm = np.sqrt(np.bincount(owner, counts**2, len(texts)))
        scores: Floats = self._dot(grams, owner, counts, len(texts)) / np.maximum(norm, 1.0)
        return scores

    def _bounds(self, texts: Sequence[str]) -> Floats:
        grams, owner = _grams(texts)
        size = np.bincount(owner, minlength=len(texts))
        kept = self.sieve[_sieved(grams)]
        dot = self._dot(grams[kept], owner[kept], np.ones(int(kept.sum())), len(texts))
        bounds: Floats = dot / np.sqrt(np.maximum(size, 1))
        return bounds

    def _dot(self, grams: Grams, owner: Owners, counts: Floats, texts: int) -> Floats:
        if not len(self.grams):
            return np.zeros(texts)
        at = np.searchsorted(self.grams, grams).clip(max=len(self.grams) - 1)
        weight = np.where(self.grams[at] == grams, self.weights[at], 0.0)
        dot: Floats = np.bincount(owner, counts * weight, texts).astype(np.float64)
        return dot


def _sieved(grams: Grams) -> Grams:
    return grams >> np.uint64(GRAM_BITS - SIEVE_BITS)


def _count(texts: Sequence[str]) -> tuple[Grams, Floats, Owners]:
    """The distinct n-grams of each text, how often it has them, and whose they are; sorted by owner, then n-gram."""
    grams, owner = _grams(texts)
    both, counts = np.unique((owner.astype(np.uint64) << np.uint64(GRAM_BITS)) | grams, return_counts=True)
    mask = np.uint64((1 << GRAM_BITS) - 1)
    return both & mask, counts.astype(np.float64), (both >> np.uint64(GRAM_BITS)).astype(np.int64)


def _grams(texts: Sequence[str]) -> tuple[Grams, Owners]:
    """The hashes of all n-grams of all texts, and whose they are."""
    folded = [f" {fold(t)} " for t in texts]
    codes = np.frombuffer("".join(folded).encode("utf-32-le", "replace"), np.uint32).astype(np.uint64)
    owner = np.repeat(np.arange(len(texts)), [len(t) for t in folded])
    hashes, owners = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
    for n in SIZES:
        if len(codes) < n:
            continue
        mixed = np.full(len(codes) - n + 1, n, np.uint64)
        for i in range(n):
            mixed = (mixed ^ codes[i : len(codes) - n + 1 + i]) * MIX
            mixed ^= mixed >> np.uint64(29)
        whole = owner[: len(mixed)] == owner[n - 1 :]
        hashes.append(mixed[whole] >> np.uint64(64 - GRAM_BITS))
        owners.append(owner[: len(mixed)][whole])
    return np.concatenate(hashes), np.concatenate(owners)
