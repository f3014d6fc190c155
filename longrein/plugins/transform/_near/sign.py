"""Texts to MinHash bands and shingle sketches, compiled.

Fast Similarity Sketching (Dahlgaard, Knudsen, Thorup 2017, arXiv 1704.04370) in place of one hash function a value:
each round throws every shingle into one of the bins, where the least stays, until no bin is empty. One round does for
long texts, as in one-permutation hashing (Li, Owen, Zhang 2012), yet short ones are estimated as well as by classic
MinHash (Broder 1997).
"""

import numpy as np

from longrein.plugins._compiled import I64, U8, U32, U64, compiled
from longrein.plugins.transform._near.token import CHUNK, MIX_1, SHIFT32, START, mix, tokens

SKETCH = 512  # shingles kept of a text, to verify candidates: all, or those with the least hashes
DISTINCT = 1 << 16  # shingles told apart in one text; of longer ones those with the least hashes
RING = 64  # tokens remembered; an n-gram is at most as long
BASE = np.uint64(0xD6E8FEB86659FD93)  # of the rolling hash
LOW_32 = np.uint64(0xFFFFFFFF)
ONE, TWO = np.uint64(1), np.uint64(2)
EMPTY = np.uint64(0xFFFFFFFFFFFFFFFF)


@compiled
def insert(seen: U64, mask: np.uint64, stamp: np.uint64, id: np.uint64) -> bool:
    """Add to the set that is marked with `stamp`; whether it is new."""
    entry = (stamp << SHIFT32) | id
    slot = (id * MIX_1 >> SHIFT32) & mask
    while seen[slot] >> SHIFT32 == stamp:
        if seen[slot] == entry:
            return False
        slot = (slot + ONE) & mask
    seen[slot] = entry
    return True


@compiled
def shingles(  # noqa: C901 - one loop, see `tokens`
    data: U8, start: int, end: int, ngram: int, fold: U32, expand: U32, work: U64, seen: U64, stamps: U64, ids: U64
) -> tuple[int, int]:
    """The distinct shingles of a text, 32 bits each, to `ids`; (how many, s). Only those below 2^(32 - s) are there,
    s > 0 when there are very many. A text of fewer tokens than `ngram` is one shingle."""
    ring, out, word = work[:RING], work[RING + 1 :], work[RING : RING + 1]
    power = ONE
    for _ in range(ngram):
        power *= BASE
    mask = np.uint64(255)  # the set is small at first, so that it stays in the processor's cache
    stamp = stamps[0] + ONE
    rolled, taken, count, shift, at = np.uint64(0), 0, 0, 0, start
    word[0] = START
    while at < end:
        at, made = tokens(data, at, end, fold, expand, word, out)
        for i in range(made):
            rolled = rolled * BASE + out[i]
            if taken >= ngram:
                rolled -= ring[(taken - ngram) & (RING - 1)] * power
            ring[taken & (RING - 1)] = out[i]
            taken += 1
            if taken < ngram:
                continue
            id = mix(rolled) >> SHIFT32
            slot, entry = (id * MIX_1 >> SHIFT32) & mask, (stamp << SHIFT32) | id  # as in `insert`
            while seen[slot] >> SHIFT32 == stamp and seen[slot] != entry:
                slot = (slot + ONE) & mask
            if seen[slot] == entry or id >> np.uint64(32 - shift):
                continue
            seen[slot], ids[count] = entry, id
            count += 1
            if np.uint64(2 * count) > mask:
                while count == DISTINCT:  # half of them go
                    shift += 1
                    count = _below(ids, count, shift)
                mask = min(mask * TWO + ONE, np.uint64(len(seen) - 1))
                stamp += ONE
                for j in range(count):
                    insert(seen, mask, stamp, ids[j])
    if 0 < taken < ngram:
        ids[0], count = mix(rolled + np.uint64(taken)) >> SHIFT32, 1
    stamps[0] = stamp
    return count, shift


@compiled
def _below(ids: U64, count: int, shift: int) -> int:
    """Keep the ids below 2^(32 - shift), in place; how many."""
    kept = 0
    for j in range(count):
        if not ids[j] >> np.uint64(32 - shift):
            ids[kept] = ids[j]
            kept += 1
    return kept


@compiled
def signature(ids: U64, count: int, bins: U64) -> None:
    """Fill `bins` from a text's shingles (one at least)."""
    width, left = np.uint64(len(bins)), len(bins)
    bins[:] = EMPTY
    for turn in range(2 * len(bins)):
        number = np.uint64(turn)
        seed = mix((number + ONE) * BASE)
        for j in range(count):
            drawn = mix(ids[j] ^ seed)
            place = (drawn >> SHIFT32) * width >> SHIFT32
            if turn >= len(bins):  # at last each bin in turn takes the least, so that none stays empty
                place = number - width
            # By round, then by value; in the first round by the shingle itself, the order of what `shingles` keeps.
            value = (number << SHIFT32) | (ids[j] if turn == 0 else drawn & LOW_32)
            if value < bins[place]:
                left -= bins[place] == EMPTY
                bins[place] = value
        if left == 0:
            return


@compiled
def sign(
    data: U8, offsets: I64, ngram: int, bands: int, rows: int, fold: U32, expand: U32
) -> tuple[U64, U32, U8, I64, U32]:
    """Sign each text data[offsets[i]:offsets[i + 1]].

    Returns hashes[bands, texts], 0 where a text has no token; size[texts], its distinct shingles; shift[texts] and
    ends[texts + 1], so that sketch[ends[i]:ends[i + 1]] are its shingles below 2^(32 - shift), at most SKETCH.
    """
    many = len(offsets) - 1
    hashes, size = np.zeros((bands, many), np.uint64), np.zeros(many, np.uint32)
    shifts, ends = np.zeros(many, np.uint8), np.zeros(many + 1, np.int64)
    sketch = np.empty(many * SKETCH, np.uint32)
    work, bins = np.zeros(RING + 1 + CHUNK, np.uint64), np.zeros(bands * rows, np.uint64)
    seen, stamps, ids = np.zeros(2 * DISTINCT, np.uint64), np.zeros(1, np.uint64), np.zeros(DISTINCT, np.uint64)
    for i in range(many):
        count, shift = shingles(data, offsets[i], offsets[i + 1], ngram, fold, expand, work, seen, stamps, ids)
        ends[i + 1] = ends[i]
        if not count:
            continue
        size[i] = min(count << shift, 0xFFFFFFFF)
        signature(ids, count, bins)
        for band in range(bands):
            hash = np.uint64(band)
            for row in range(rows):
                hash = mix(hash * BASE + bins[band * rows + row])
            hashes[band, i] = hash | ONE
        while count > SKETCH:
            shift += 1
            count = _below(ids, count, shift)
        shifts[i] = shift
        for j in range(count):
            sketch[ends[i] + j] = ids[j]
        ends[i + 1] += count
    return hashes, size, shifts, ends, sketch[: ends[many]]
