"""UTF-8 text to the hashes of its tokens, compiled: words of spaced scripts, single characters of the others."""

import numpy as np

from longrein.plugins._compiled import U8, U32, U64, compiled
from longrein.plugins.transform._near.fold import CHARACTER, EXPANSION, SIZE, SKIP, WORD

CHUNK = 4096  # tokens at a time: they stay in the processor's cache
ROOM = 64  # more than one character may expand to
START, PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x9E3779B97F4A7C15)
LOW = np.uint64(1)
SHIFT24, SHIFT29, SHIFT32, SHIFT33 = np.uint64(24), np.uint64(29), np.uint64(32), np.uint64(33)
BLANK = np.int64(0x20)
VALUE, CONTINUATION = np.uint32(0xFFFFFF), np.uint8(0x3F)
MIX_1, MIX_2 = np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53)


@compiled
def mix(x: np.uint64) -> np.uint64:
    """The finaliser of MurmurHash3."""
    x = (x ^ (x >> SHIFT33)) * MIX_1
    x = (x ^ (x >> SHIFT33)) * MIX_2
    return x ^ (x >> SHIFT33)


@compiled
def tokens(  # noqa: C901 - one loop: a call with an array costs a reference count, which here is half the time
    data: U8, at: int, end: int, fold: U32, expand: U32, word: U64, out: U64
) -> tuple[int, int]:
    """Fill `out` from the text data[at:end]; (where it stopped, tokens). Call again until that is `end`.

    word: one number, START at the beginning of a text, which carries a word over from one call to the next. The
    lowest bit of a token's hash tells a single character (1) from a word (0).
    """
    code: np.int64
    count, state, full = 0, word[0], len(out) - ROOM
    while at < end and count < full:
        code, length = np.int64(data[at]), 1
        if code >= 0x80:
            length = 4 if code >= 0xF0 else 3 if code >= 0xE0 else 2
            if code < 0xC0 or at + length > end:  # no UTF-8
                code, length = BLANK, 1
            code &= 0x7F >> length if length > 1 else 0x7F
            for i in range(1, length):
                code = (code << 6) | np.int64(data[at + i] & CONTINUATION)
        at += length
        if code >= SIZE:
            continue
        entry, left, place = fold[code], np.int64(1), np.int64(0)
        if entry >> SHIFT24 == EXPANSION:
            place = np.int64(entry & VALUE) + 1
            left = np.int64(expand[place - 1])
            entry = expand[place]
        while left:
            kind = entry >> SHIFT24
            if kind == WORD:
                state = (state ^ np.uint64(entry & VALUE)) * PRIME
            elif kind != SKIP:
                if state != START:
                    out[count] = (state ^ (state >> SHIFT29)) & ~LOW
                    count, state = count + 1, START
                if kind == CHARACTER:
                    out[count] = (np.uint64(entry & VALUE) * PRIME) | LOW
                    count += 1
            left -= 1
            if left:
                place += 1
                entry = expand[place]
    if at >= end and state != START:
        out[count] = (state ^ (state >> SHIFT29)) & ~LOW
        count, state = count + 1, START
    word[0] = state
    return at, count
