"""How alike a text and many others are: cosine of their character n-gram counts, in numpy, without an index."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from longrein.core.text import fold

SIZES = (2, 3)  # characters: pairs serve Chinese, triples spaced scripts
GRAM_BITS = 40  # of an n-gram's hash; the bits above number the text
MIX = np.uint64(0x9E3779B97F4A7C15)


class Query:
    """One text, compared with batches of up to 2^24 others."""

    def __init__(self, text: str) -> None:
        self.grams, counts, _ = _count([text])
        self.weights = counts / max(1.0, float(np.sqrt((counts**2).sum())))

    def scores(self, texts: Sequence[str]) -> npt.NDArray[np.float64]:
        """The cosine with each text, 0 to 1; 0 for texts too short to have n-grams."""
        grams, counts, owner = _count(texts)
        norm = np.sqrt(np.bincount(owner, counts**2, len(texts)))
        if not len(self.grams):
            return np.zeros(len(texts))
        at = np.searchsorted(self.grams, grams).clip(max=len(self.grams) - 1)
        shared = np.where(self.grams[at] == grams, self.weights[at], 0.0)
        dot = np.bincount(owner, counts * shared, len(texts))
        scores: npt.NDArray[np.float64] = dot / np.maximum(norm, 1.0)
        return scores


def _count(texts: Sequence[str]) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """The distinct n-grams of each text (hashed), how often it has them, and whose they are; sorted by both."""
    folded = [f" {fold(t)} " for t in texts]
    codes = np.frombuffer("".join(folded).encode("utf-32-le", "replace"), np.uint32).astype(np.uint64)
    owner = np.repeat(np.arange(len(texts), dtype=np.uint64), [len(t) for t in folded])
    found = []
    for n in SIZES:
        if len(codes) < n:
            continue
        mixed = np.full(len(codes) - n + 1, n, np.uint64)
        for i in range(n):
            mixed = (mixed ^ codes[i : len(codes) - n + 1 + i]) * MIX
            mixed ^= mixed >> np.uint64(29)
        whole = owner[: len(mixed)] == owner[n - 1 :]
        found.append((owner[: len(mixed)][whole] << np.uint64(GRAM_BITS)) | (mixed[whole] >> np.uint64(64 - GRAM_BITS)))
    both, counts = np.unique(np.concatenate(found) if found else np.zeros(0, np.uint64), return_counts=True)
    grams = both & np.uint64((1 << GRAM_BITS) - 1)
    return grams, counts.astype(np.float64), (both >> np.uint64(GRAM_BITS)).astype(np.int64)
