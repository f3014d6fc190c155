"""Text to words, compiled: nearly spaCy's English rules, which datatrove counts by; a Han character is a word."""

import numpy as np

from longrein.plugins._compiled import I32, U32, compiled
from longrein.plugins.transform._near.token import PRIME, START, mix
from longrein.plugins.transform._quality import table

SPACE, ALPHA, DIGIT, UPPER, LOWER = table.SPACE, table.ALPHA, table.DIGIT, table.UPPER, table.LOWER
OPENS, CLOSES, SYMBOL, UNSPACED = table.OPENS, table.CLOSES, table.SYMBOL, table.UNSPACED
HAS_ALPHA, HAS_MORE = 1, 2  # of a word: a letter; something other than punctuation
DOT, COLON, BRACKET, PLUS, COMMA, HYPHEN, APOSTROPHE, QUOTE, ELLIPSIS = (
    0x2E,
    0x3A,
    0x29,
    0x2B,
    0x2C,
    0x2D,
    0x27,
    0x2019,
    0x2026,
)


@compiled
def split(codes: U32, start: int, end: int, bits: U32, starts: I32, ends: I32) -> int:
    """Fill `starts` and `ends` with the words of codes[start:end], as offsets from `start`; how many."""
    count, at = 0, start
    while at < end:
        if bits[at] & SPACE:
            at += 1
            continue
        stop = at
        while stop < end and not bits[stop] & SPACE:
            stop += 1
        count = _chunk(codes, at, stop, start, bits, starts, ends, count)
        at = stop
    return count


@compiled
def _chunk(codes: U32, at: int, stop: int, base: int, bits: U32, starts: I32, ends: I32, count: int) -> int:
    """What stands between two spaces: marks before, the middle, marks behind."""
    while at < stop:
        run = _dots(codes, at, stop)
        plus = codes[at] == PLUS and at + 1 < stop and not bits[at + 1] & DIGIT
        if run < 2 and not plus and not bits[at] & OPENS:
            break
        starts[count], ends[count] = at - base, at + max(run, 1) - base
        count, at = count + 1, at + max(run, 1)
    tail = stop
    while at < tail:
        cut = _suffix(codes, at, tail, bits)
        if not cut:
            break
        tail -= cut
    count = _middle(codes, at, tail, base, bits, starts, ends, count)
    while tail < stop:
        size = max(_dots(codes, tail, stop), 1)
        if tail + 1 < stop and _pair(codes[tail], codes[tail + 1]):
            size = 2
        starts[count], ends[count] = tail - base, tail + size - base
        count, tail = count + 1, tail + size
    return count


@compiled
def _pair(first: int, second: int) -> bool:
    """'s, and a bracket and a colon, which spaCy takes for a face."""
    if first in (APOSTROPHE, QUOTE):
        return second in (0x73, 0x53)
    return (first == BRACKET and second == COLON) or (first == COLON and second == BRACKET)


@compiled
def _dots(codes: U32, at: int, stop: int) -> int:
    """How many full stops follow one another."""
    end = at
    while end < stop and codes[end] == DOT:
        end += 1
    return end - at


@compiled
def _suffix(codes: U32, at: int, tail: int, bits: U32) -> int:
    """How many characters to take from the end: one mark, an ellipsis, a full stop, an 's."""
    last = codes[tail - 1]
    if tail - at >= 2 and _pair(codes[tail - 2], last):
        return 2 if tail - at > 2 else 0
    if bits[tail - 1] & CLOSES:
        return 1
    if tail - at < 2 or last != DOT:
        return 1 if last == PLUS and tail - at >= 2 and bits[tail - 2] & DIGIT else 0
    dots = 1
    while tail - dots > at and codes[tail - dots - 1] == DOT:
        dots += 1
    if dots > 1:
        return dots
    before = bits[tail - 2]
    if tail - at >= 4 and codes[tail - 3] == DOT and before & ALPHA:
        return 0  # e.g. and p.m. are words
    if tail - at == 2 and before & ALPHA:
        return 0  # a. as in a list
    return 1 if before & (ALPHA | DIGIT | CLOSES) else 0


@compiled
def _middle(codes: U32, at: int, stop: int, base: int, bits: U32, starts: I32, ends: I32, count: int) -> int:
    """Cut between letters at a hyphen, comma, slash, colon or ellipsis, before n't and 'll, around each Han character;
    an address stays whole."""
    opened = at
    if not _address(codes, at, stop):
        for i in range(at, stop):
            if bits[i] & ALPHA and codes[i] != 0x6E and not bits[i] & UNSPACED:
                continue  # what most characters are
            width = _infix(codes, at, i, stop, bits)
            if i < opened or not width:
                continue
            if i > opened:
                starts[count], ends[count] = opened - base, i - base
                count += 1
            opened = i
            if width > 0:
                starts[count], ends[count] = i - base, i + width - base
                count, opened = count + 1, i + width
    if stop > opened:
        starts[count], ends[count] = opened - base, stop - base
        count += 1
    return count


@compiled
def _infix(codes: U32, at: int, i: int, stop: int, bits: U32) -> int:
    """Length of the word to cut out at i; -1: cut before i; 0: no cut."""
    code = codes[i]
    here = bits[i]
    if here & UNSPACED or code == ELLIPSIS:
        return 1
    if i == at or i + 1 >= stop:
        return 0
    if here & ALPHA:
        contracted = code == 0x6E and i + 3 == stop and codes[i + 1] in (APOSTROPHE, QUOTE) and codes[i + 2] == 0x74
        return -1 if contracted else 0
    before, after = bits[i - 1], bits[i + 1]
    if code == DOT:
        dots = _dots(codes, i, stop)
        if dots > 1:
            return dots
        return 1 if before & LOWER and after & UPPER else 0
    if code in (APOSTROPHE, QUOTE):
        negated = codes[i - 1] == 0x6E and codes[i + 1] == 0x74
        return -1 if before & ALPHA and after & LOWER and stop - i <= 3 and not negated else 0
    if (
        code in (HYPHEN, 0x2013, 0x2014, 0x7E, 0x3A, 0x3C, 0x3E, 0x3D, 0x2F)
        and after & ALPHA
        and before & (ALPHA | DIGIT)
    ):
        return 1
    if code == COMMA and after & ALPHA and before & ALPHA:
        return 1
    return 1 if before & DIGIT and after & DIGIT and code in (0x2B, HYPHEN, 0x2A, 0x5E) else 0


@compiled
def _address(codes: U32, at: int, stop: int) -> bool:
    """A URL or an e-mail address: :// or a @ inside."""
    for i in range(at + 1, stop - 2):
        if codes[i] == 0x40 or (codes[i] == 0x3A and codes[i + 1] == 0x2F and codes[i + 2] == 0x2F):
            return True
    return False


@compiled
def hashed(codes: U32, start: int, end: int) -> np.uint64:
    """Of a stretch of text, whatever it is."""
    state = START
    for i in range(start, end):
        state = (state ^ np.uint64(codes[i])) * PRIME
    return mix(state)


@compiled
def traits(codes: U32, start: int, end: int, bits: U32) -> int:
    """HAS_ALPHA and HAS_MORE of a word."""
    found = 0
    for i in range(start, end):
        here = bits[i]
        found |= (HAS_ALPHA if here & ALPHA else 0) | (0 if here & SYMBOL else HAS_MORE)
    return found
