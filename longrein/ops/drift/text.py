"""Texts as vectors, offline, in any language: hashed character n-grams and words, weighted by rarity, signed sums.

A random projection of the bag of all 1- to 4-grams, words and pairs of words (Weinberger et al., "Feature hashing for
large scale multitask learning", 2009): cosines are kept but for noise of 1/√SIZE. No model is needed, and Chinese,
which has no spaces, is served by the n-grams.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple
from zlib import crc32

import numpy as np
import numpy.typing as npt

from longrein.core.text import fold

SIZE = 256  # of a vector
TERMS = 1 << 16  # rarity is known by this many hashes
LONGEST = 4  # n of the n-grams
HAN = 0x3400, 0x9FFF
MOST = 4096  # characters of a text that are looked at

F32 = npt.NDArray[np.float32]
U64 = npt.NDArray[np.uint64]
_MIX, _STEP = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x9E3779B97F4A7C15)
_words = re.compile(r"[a-z0-9']{2,}|[\u3400-\u9fff]{1,}|[^\W\d_\u3400-\u9fff]{2,}", re.ASCII | re.IGNORECASE)
_han = re.compile("[\u3400-\u9fff]")


class Vectors(NamedTuple):
    """Texts as numbers."""

    directions: F32  # (n, SIZE), each of length 1, or 0 for a text without terms
    rarity: F32  # (n,): the mean of its terms', higher in what is unlike all before


def terms(text: str) -> U64:
    """A hash of each n-gram, word and pair of words, as often as it occurs. Two characters of Chinese are about a word:
    longer n-grams of it hardly ever come again, and are none."""
    text = " " + fold(text[: 2 * MOST])[:MOST] + " "
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    han = None if text.isascii() else np.cumsum(np.append(0, (codes >= HAN[0]) & (codes <= HAN[1])))
    gram, found = np.zeros(len(codes), np.uint64), []
    for n in range(1, LONGEST + 1):
        size = len(codes) - n + 1
        gram = gram[:size] * _STEP + codes[n - 1 :] + np.uint64(1)
        grams = gram + np.uint64(n << 60)
        found.append(grams if han is None or n <= 2 else grams[han[n:] == han[:size]])
        gram = gram[:-1]
    words = [crc32(w.encode("utf-8", "surrogatepass")) for w in text.split() if not _han.search(w)]
    pairs = [(a << 32) | b for a, b in pairwise(words)]
    hashes = np.concatenate([*found, np.array(words + pairs, np.uint64)])
    hashes = (hashes ^ (hashes >> np.uint64(29))) * _MIX
    return np.asarray(hashes ^ (hashes >> np.uint64(32)))


def rarity(texts: Sequence[str]) -> F32:
    """The logarithm of how rare a term is among texts, by hash."""
    times = np.full(TERMS, 0.5, np.float32)
    for text in texts:
        times[np.unique(_slot(terms(text)))] += 1
    return np.asarray(np.log((len(texts) + 1) / times), np.float32)


def embed(texts: Iterable[str], weights: F32) -> Vectors:
    found = [_embed(text, weights) for text in texts]
    directions = np.stack([direction for direction, _ in found]) if found else np.zeros((0, SIZE), np.float32)
    return Vectors(directions, np.array([rare for _, rare in found], np.float32))


def _embed(text: str, weights: F32) -> tuple[F32, float]:
    hashes = terms(text)
    signs = 1.0 - 2.0 * ((hashes >> np.uint64(8)) & np.uint64(1)).astype(np.float32)
    cells = ((hashes >> np.uint64(10)) & np.uint64(SIZE - 1)).astype(np.int64)
    rare = weights[_slot(hashes)]
    sums = np.bincount(cells, rare * signs, SIZE)
    direction = np.asarray(sums / max(float(np.sqrt(sums @ sums)), 1e-9), np.float32)
    return direction, float(rare.mean()) if len(rare) else 0.0


def _slot(hashes: U64) -> npt.NDArray[np.int64]:
    return ((hashes >> np.uint64(40)) & np.uint64(TERMS - 1)).astype(np.int64)


def words(text: str) -> set[str]:
    """What a person would recognise the text by: words, and of Chinese, pairs of characters."""
    found: set[str] = set()
    for word in _words.findall(fold(text[: 2 * MOST])[:MOST]):
        pairs = [word[i : i + 2] for i in range(len(word) - 1)] if _han.match(word) else [word]
        found.update(pairs)
    return found


def telling(before: Sequence[str], after: Sequence[str], most: int = 8) -> list[str]:
    """The words that are more frequent in the texts after, the most telling first: by the z-score of log-odds with a
    prior (Monroe, Colaresi, Quinn, "Fightin' words", 2008)."""
    then, now = (Counter(w for text in texts for w in words(text)) for texts in (before, after))
    n, m = len(before) + 1.0, len(after) + 1.0

    def score(word: str) -> float:
        a, b = then[word] + 0.5, now[word] + 0.5
        odds = np.log(b / max(m - b, 0.5)) - np.log(a / max(n - a, 0.5))
        return float(odds / np.sqrt(1 / a + 1 / b))

    scored = sorted(((score(w), w) for w, times in now.items() if times > 1), key=lambda s: (-s[0], s[1]))
    return [word for z, word in scored[:most] if z > 2.0]
