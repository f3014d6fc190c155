"""n-grams of one set of texts found in others, compiled: rolling hashes and one table."""

import numpy as np

from longrein.plugins._compiled import I32, I64, U8, U32, U64, compiled
from longrein.plugins.transform._near.sign import BASE, ONE, RING
from longrein.plugins.transform._near.token import CHUNK, LOW, START, mix, tokens

WHOLE = np.uint64(0xA24BAED4963EE407)  # sets the hash of a whole text apart from that of an n-gram
WORD, TOTAL, COUNT, TOKENS = RING, RING + 1, RING + 2, RING + 3  # where they are in `work`
ZERO = np.uint64(0)


@compiled
def fresh() -> tuple[U64, U64]:
    """Room for `grams`: (work, out)."""
    return np.zeros(TOKENS + CHUNK, np.uint64), np.empty(CHUNK + 1, np.uint64)


@compiled
def grams(
    data: U8, at: int, end: int, first: bool, sizes: I64, powers: U64, fold: U32, expand: U32, work: U64, out: U64
) -> tuple[int, int, bool]:
    """Hashes of n-grams to `out`; (where it stopped, how many, whether it is that of the whole text). `first` at the
    beginning of a text, again until `end`.

    An n-gram ends in a word, and has sizes[0] tokens, or in a single character, and has sizes[1]. A text too short to
    have one gives a hash of the whole.
    """
    if first:
        work[WORD], work[TOTAL], work[COUNT] = START, ZERO, ZERO
    at, made = tokens(data, at, end, fold, expand, work[WORD : WORD + 1], work[TOKENS:])
    total, taken, count = work[TOTAL], np.int64(work[COUNT]), 0
    for i in range(made):
        token = work[TOKENS + i]
        work[taken & (RING - 1)] = total  # of the tokens before this one
        total = total * BASE + token
        taken += 1
        kind = 1 if token & LOW else 0
        size = sizes[kind]
        if taken >= size:
            out[count] = mix(total - work[(taken - size) & (RING - 1)] * powers[kind]) | ONE
            count += 1
    work[TOTAL], work[COUNT] = total, np.uint64(taken)
    whole = bool(first and at >= end and count == 0 and taken > 0)
    if whole:
        out[0], count = mix(total ^ WHOLE) | ONE, 1
    return at, count, whole


@compiled
def powers_of(sizes: I64) -> U64:
    """BASE to each of the powers."""
    made = np.ones(len(sizes), np.uint64)
    for i in range(len(sizes)):
        for _ in range(sizes[i]):
            made[i] *= BASE
    return made


@compiled
def collect(data: U8, offsets: I64, sizes: I64, fold: U32, expand: U32, out: U64, owner: I32) -> int:
    """The n-grams of each text and whose they are; how many. `out` and `owner` must be long enough."""
    (work, chunk), powers, total = fresh(), powers_of(sizes), 0
    for i in range(len(offsets) - 1):
        at, first = offsets[i], True
        while at < offsets[i + 1]:
            at, count, _ = grams(data, at, offsets[i + 1], first, sizes, powers, fold, expand, work, chunk)
            first = False
            out[total : total + count] = chunk[:count]
            owner[total : total + count] = i
            total += count
    return total


@compiled
def fill(keys: U64, values: I32, hashes: U64, owner: I32) -> int:
    """Add hashes to the table (a power of two, half empty, 0 is free); the first owner of each stays. How many."""
    mask, added = np.uint64(len(keys) - 1), 0
    for i in range(len(hashes)):
        slot = hashes[i] >> ONE & mask
        while keys[slot] and keys[slot] != hashes[i]:
            slot = (slot + ONE) & mask
        if not keys[slot]:
            keys[slot], values[slot] = hashes[i], owner[i]
            added += 1
    return added


@compiled
def match(data: U8, offsets: I64, whole: U8, sizes: I64, fold: U32, expand: U32, keys: U64, values: I32) -> I32:
    """For each text the owner of its first n-gram that the table has, else -1. whole: may match as a whole text."""
    (work, chunk), powers, mask = fresh(), powers_of(sizes), np.uint64(len(keys) - 1)
    found = np.full(len(offsets) - 1, -1, np.int32)
    for i in range(len(found)):
        at, first = offsets[i], True
        while at < offsets[i + 1] and found[i] < 0:
            at, count, all = grams(data, at, offsets[i + 1], first, sizes, powers, fold, expand, work, chunk)
            first = False
            if all and not whole[i]:
                break
            for j in range(count):
                slot = chunk[j] >> ONE & mask
                while keys[slot] and keys[slot] != chunk[j]:
                    slot = (slot + ONE) & mask
                if keys[slot]:
                    found[i] = values[slot]
                    break
    return found
