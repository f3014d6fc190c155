"""How much of a text says again what it said: Rae et al. 2021 (arXiv 2112.11446), table A1; compiled."""

import numpy as np

from longrein.plugins._compiled import I32, I64, U32, U64, compiled
from longrein.plugins.transform._near.token import SHIFT32, mix

BASE = np.uint64(0xD6E8FEB86659FD93)  # of the rolling hash
TOP, DUPLICATE = (2, 3, 4), (5, 6, 7, 8, 9, 10)  # words of the n-grams
LONGEST = 2 * DUPLICATE[-1]


@compiled
def place(keys: U64, marks: U32, stamp: np.uint32, mask: np.uint64, key: np.uint64) -> tuple[int, bool]:
    """Where a key stands in the set marked with `stamp`, put there if need be; whether it was there before."""
    slot = (key >> SHIFT32) & mask
    while marks[slot] == stamp:
        if keys[slot] == key:
            return int(slot), True
        slot = (slot + np.uint64(1)) & mask
    marks[slot], keys[slot] = stamp, key
    return int(slot), False


@compiled
def room(many: int) -> np.uint64:
    """The mask of a set for so many keys."""
    size = 16
    while size < 2 * many:
        size *= 2
    return np.uint64(size - 1)


@compiled
def again(hashes: U64, sizes: I32, many: int, keys: U64, marks: U32, stamps: U32) -> tuple[int, int]:
    """Of pieces of a text, those that came before: (how many, their characters)."""
    stamps[0] += np.uint32(1)
    mask, repeated, characters = room(many), 0, 0
    for i in range(many):
        if place(keys, marks, stamps[0], mask, hashes[i])[1]:
            repeated += 1
            characters += sizes[i]
    return repeated, characters


@compiled
def ngrams(
    hashes: U64, before: I64, many: int, pair: bool, keys: U64, marks: U32, stamps: U32, counts: I32, out: I64
) -> None:
    """Characters of the most frequent n-gram for each n of TOP, and in repeated ones for each of DUPLICATE, to `out`.

    hashes of words, replaced; before[i]: characters in the words before word i. pair: words are single characters of
    a script without spaces, two of which count for one word, and no space stands between them.
    """
    step, gap, at = (2, 0, 0) if pair else (1, 1, 0)
    grams = hashes[:many].copy()
    for size in range(2, LONGEST + 1 if pair else DUPLICATE[-1] + 1):
        for i in range(many - size + 1):
            grams[i] = grams[i] * BASE + hashes[i + size - 1]
        if size % step:
            continue
        width = size // step
        if width < TOP[0]:
            continue
        if many >= size:
            if width <= TOP[-1]:
                out[at] = _top(grams, before, many, size, gap, keys, marks, stamps, counts)
            else:
                out[at] = _repeated(grams, before, many, size, keys, marks, stamps)
        else:
            out[at] = 0
        at += 1


@compiled
def _top(
    grams: U64, before: I64, many: int, size: int, gap: int, keys: U64, marks: U32, stamps: U32, counts: I32
) -> int:
    """Characters that the most frequent n-gram takes, the first of equals."""
    stamps[0] += np.uint32(1)
    mask, last, most = room(many), many - size + 1, 0
    for i in range(last):
        slot, seen = place(keys, marks, stamps[0], mask, mix(grams[i]))
        counts[slot] = counts[slot] + 1 if seen else 1
        most = max(most, counts[slot])
    if most == 1:  # the first is the most frequent one
        return int(before[size]) - int(before[0]) + gap * (size - 1)
    for i in range(last):
        slot, _ = place(keys, marks, stamps[0], mask, mix(grams[i]))
        if counts[slot] == most:
            return int(most) * (int(before[i + size]) - int(before[i]) + gap * (size - 1))
    return 0


@compiled
def _repeated(grams: U64, before: I64, many: int, size: int, keys: U64, marks: U32, stamps: U32) -> int:
    """Characters in n-grams that came before; what one of them covers is not looked at again."""
    stamps[0] += np.uint32(1)
    mask, characters, i = room(many), 0, 0
    while i <= many - size:
        if place(keys, marks, stamps[0], mask, mix(grams[i]))[1]:
            characters += before[i + size] - before[i]
            i += size
        else:
            i += 1
    return characters
