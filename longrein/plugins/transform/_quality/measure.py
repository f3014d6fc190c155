"""The numbers that the quality rules look at, worked out for many texts at once, compiled."""

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from longrein.plugins._compiled import I32, I64, U8, U32, U64, compiled
from longrein.plugins.transform._quality import repeat, table
from longrein.plugins.transform._quality.repeat import again, ngrams, room
from longrein.plugins.transform._quality.words import HAS_ALPHA, HAS_MORE, hashed, split, traits

F64 = npt.NDArray[np.float64]
# Columns of the result, in order. Shares are from 0 to 1, of characters, words or lines as the name says.
NAMES = (
    "characters", "words", "word_length", "hashes", "ellipses", "bullets", "ellipsis_lines", "alphabetic", "stop_words",
    "duplicate_paragraphs", "duplicate_paragraph_characters", "duplicate_lines", "duplicate_line_characters",
    *(f"top_{n}_gram" for n in repeat.TOP), *(f"duplicate_{n}_grams" for n in repeat.DUPLICATE),
    "ended_lines", "short_lines", "repeated_characters", "line_breaks",
    "sentences", "curly_brackets", "lorem_ipsum",
    "han", "punctuation", "line_length", "boilerplate",
)  # fmt: skip
(CHARACTERS, WORDS, WORD_LENGTH, HASHES, ELLIPSES, BULLETS, ELLIPSIS_LINES, ALPHABETIC, STOP_WORDS, DUPLICATES) = range(
    10
)
GRAMS, ENDED = NAMES.index("top_2_gram"), NAMES.index("ended_lines")
SENTENCES, HAN = NAMES.index("sentences"), NAMES.index("han")
SHORT_LINE, LONG_WORD, LEAST_WORDS, BOILERPLATE_LINE = 30, 1000, 3, 80
SPACE, TERMINAL, UNSPACED, SYMBOL, ALPHA, STARTS = (
    table.SPACE, table.TERMINAL, table.UNSPACED, table.SYMBOL, table.ALPHA, table.STARTS
)  # fmt: skip
JAVASCRIPT, POLICY, LOREM, BOILERPLATE = table.JAVASCRIPT, table.POLICY, table.LOREM, table.BOILERPLATE
BREAK, DOT, ELLIPSIS, CURLY = 0x0A, 0x2E, 0x2026, 0x7B


class Measured(NamedTuple):
    values: F64  # (texts, NAMES)
    kept: list[list[bool]]  # of each line of each text: whether C4 keeps it


def measure(texts: list[str], stop_words: tuple[str, ...]) -> Measured:
    """All of NAMES for each text. Lines end at a line feed."""
    data = [t.encode("utf-32-le", "surrogatepass") for t in texts]
    offsets = np.cumsum([0, *(len(d) // 4 for d in data)], dtype=np.int64)
    codes = np.frombuffer(b"".join(data), np.uint32)
    lines = np.cumsum([0, *(t.count("\n") + 1 for t in texts)], dtype=np.int64)
    out, kept = np.zeros((len(texts), len(NAMES))), np.zeros(lines[-1], np.uint8)
    stops = np.array(sorted({_key(w) for w in stop_words}), np.uint64)
    if texts:
        run(codes, offsets, lines, table.bits(codes), *table.phrases(), stops, out, kept)
    return Measured(out, [kept[a:b].astype(bool).tolist() for a, b in pairwise(lines)])


def _key(word: str) -> int:
    return int(hashed(np.frombuffer(word.encode("utf-32-le", "surrogatepass"), np.uint32), 0, len(word)))


@compiled
def run(
    codes: U32, offsets: I64, lines: I64, bits: U32, phrases: U32, bounds: I64, firsts: U32, kinds: U8, stops: U64,
    out: F64, kept: U8,
) -> None:  # fmt: skip
    """Every text in turn, in room made once."""
    longest = 1
    for i in range(len(out)):
        longest = max(longest, offsets[i + 1] - offsets[i])
    size = np.int64(room(longest + 2)) + 1
    keys, marks, counts = np.zeros(size, np.uint64), np.zeros(size, np.uint32), np.zeros(size, np.int32)
    stamps, hashes = np.zeros(1, np.uint32), np.empty(longest + 2, np.uint64)
    starts, ends, before = (
        np.empty(longest + 2, np.int32),
        np.empty(longest + 2, np.int32),
        np.zeros(longest + 3, np.int64),
    )
    for i in range(len(out)):
        start, end, row = offsets[i], offsets[i + 1], out[i]
        if start == end:
            continue
        row[CHARACTERS] = end - start
        _characters(codes, start, end, bits, row)
        many = _lines(codes, start, end, starts, ends)
        _line_shapes(codes, start, many, starts, ends, bits, phrases, bounds, firsts, kinds, row, kept[lines[i] :])
        for n in range(many):
            hashes[n] = hashed(codes, start + starts[n], start + ends[n])
        _line_repeats(codes, start, end, many, starts, ends, hashes, keys, marks, stamps, row)
        _paragraphs(codes, start, end, bits, starts, ends, hashes, keys, marks, stamps, row)
        many = split(codes, start, end, bits, starts, ends)
        if many:
            pair = _words(codes, start, many, starts, ends, bits, stops, hashes, before, row)
            grams = np.zeros(len(NAMES), np.int64)
            ngrams(hashes, before, many, pair, keys, marks, stamps, counts, grams)
            for n in range(ENDED - GRAMS):
                row[GRAMS + n] = grams[n] / (end - start)


@compiled
def _characters(codes: U32, start: int, end: int, bits: U32, row: F64) -> None:
    """Shares of Han among letters and of punctuation among what is no space."""
    letters, han, marks, solid = 0, 0, 0, 0
    for i in range(start, end):
        here = bits[i]
        solid += 0 if here & SPACE else 1
        letters += 1 if here & ALPHA else 0
        han += 1 if here & table.HAN else 0
        marks += 1 if here & SYMBOL and not here & SPACE else 0
    row[HAN], row[HAN + 1] = han / max(letters, 1), marks / max(solid, 1)


@compiled
def _lines(codes: U32, start: int, end: int, starts: I32, ends: I32) -> int:
    count, at = 0, start
    for i in range(start, end):
        if codes[i] == BREAK:
            starts[count], ends[count] = at - start, i - start
            count, at = count + 1, i + 1
    starts[count], ends[count] = at - start, end - start
    return count + 1


@compiled
def _line_shapes(
    codes: U32, base: int, many: int, starts: I32, ends: I32, bits: U32, phrases: U32, bounds: I64, firsts: U32,
    kinds: U8, row: F64, kept: U8,
) -> None:  # fmt: skip
    """How lines begin and end, and whether C4 (Raffel et al. 2020, 2.2) keeps them."""
    solid, ended, short, bullets, trailing, characters, boilerplate = 0, 0, 0, 0, 0, 0, 0
    for n in range(many):
        first, last = _stripped(codes, base + starts[n], base + ends[n], bits)
        if first == last:
            continue
        length = last - first
        solid, characters = solid + 1, characters + length
        closed = bits[last - 1] & TERMINAL
        ended += 1 if closed else 0
        short += 1 if ends[n] - starts[n] <= SHORT_LINE else 0
        bullets += 1 if codes[first] in (0x2022, 0x2D) else 0
        open_end = codes[last - 1] == ELLIPSIS or _dots_end(codes, first, last)
        trailing += 1 if open_end else 0
        said = _said(codes, first, last, bits, phrases, bounds, firsts, kinds)
        boilerplate += length if said & BOILERPLATE and length <= BOILERPLATE_LINE and not closed else 0
        if not _sentence_line(codes, first, last, bits):
            continue
        row[SENTENCES + 2] += 1 if said & LOREM else 0
        if said & JAVASCRIPT:
            continue
        for i in range(first, last):
            if codes[i] == CURLY:
                row[SENTENCES + 1] += 1
        if not said & POLICY:
            kept[n] = 1
            row[SENTENCES] += _sentences(codes, first, last, bits)
    lines = many - (1 if starts[many - 1] == ends[many - 1] else 0)
    row[BULLETS], row[ELLIPSIS_LINES] = bullets / max(lines, 1), trailing / max(lines, 1)
    row[ENDED], row[ENDED + 1] = ended / max(solid, 1), short / max(solid, 1)
    row[HAN + 2], row[HAN + 3] = characters / max(solid, 1), boilerplate / max(characters, 1)


@compiled
def _stripped(codes: U32, first: int, last: int, bits: U32) -> tuple[int, int]:
    while first < last and bits[first] & SPACE:
        first += 1
    while last > first and bits[last - 1] & SPACE:
        last -= 1
    return first, last


@compiled
def _dots_end(codes: U32, first: int, last: int) -> bool:
    return last - first >= 3 and codes[last - 1] == DOT and codes[last - 2] == DOT and codes[last - 3] == DOT


@compiled
def _said(codes: U32, first: int, last: int, bits: U32, phrases: U32, bounds: I64, firsts: U32, kinds: U8) -> int:
    """The kinds of phrases in a line, in whatever case."""
    found = 0
    for i in range(first, last):
        if not bits[i] & STARTS:
            continue
        lower = codes[i] | np.uint32(0x20) if codes[i] < 0x80 else codes[i]
        n = np.searchsorted(firsts, lower)
        while n < len(firsts) and firsts[n] == lower:
            size = bounds[n + 1] - bounds[n]
            same = i + size <= last
            for j in range(1, size if same else 1):
                code = codes[i + j]
                code = code + np.uint32(0x20) if 0x41 <= code <= 0x5A else code
                if code != phrases[bounds[n] + j]:
                    same = False
                    break
            found |= kinds[n] if same else 0
            n += 1
    return found


@compiled
def _sentence_line(codes: U32, first: int, last: int, bits: U32) -> bool:
    """It ends as sentences do, has three words, none of a thousand characters."""
    final = codes[last - 1]
    if final not in (DOT, 0x3F, 0x21, 0x22, 0x27) or _dots_end(codes, first, last):
        return False
    count, opened = 0, first
    for i in range(first, last + 1):
        if i == last or bits[i] & SPACE:
            count += 1 if i > opened else 0
            if i - opened > LONG_WORD:
                return False
            opened = i + 1
    return count >= LEAST_WORDS


@compiled
def _sentences(codes: U32, first: int, last: int, bits: U32) -> int:
    """Runs of . ! ? before a space or the end; not after an initial or inside e.g."""
    count, i = 0, first
    while i < last:
        if codes[i] not in (DOT, 0x3F, 0x21):
            i += 1
            continue
        opened = i
        while i < last and not bits[i] & SPACE:
            i += 1
        closed = True
        for j in range(opened, i):
            closed = closed and not bits[j] & (ALPHA | table.DIGIT)
        short = opened - first >= 2 and codes[opened - 2] == DOT and codes[opened] == DOT
        count += 1 if closed and (not short or i >= last) else 0
        if not closed:
            i = opened + 1
    return max(count, 1)


@compiled
def _line_repeats(
    codes: U32, start: int, end: int, many: int, starts: I32, ends: I32, hashes: U64, keys: U64, marks: U32,
    stamps: U32, row: F64,
) -> None:  # fmt: skip
    """Lines between runs of line feeds; an empty one at both ends counts too, as datatrove splits."""
    count, breaks = 0, many - 1
    for n in range(many):
        if ends[n] > starts[n]:
            hashes[count], starts[count], ends[count] = hashes[n], starts[n], ends[n]
            count += 1
    sizes = ends[:count] - starts[:count]
    repeated, characters = again(hashes, sizes, count, keys, marks, stamps)
    edges = (1 if codes[start] == BREAK else 0) + (1 if codes[end - 1] == BREAK else 0)
    row[DUPLICATES + 2] = (repeated + (1 if edges == 2 else 0)) / max(count + edges, 1)
    row[DUPLICATES + 3] = characters / (end - start)
    row[ENDED + 2] = characters / max(end - start - breaks, 1)
    row[ENDED + 3] = breaks


@compiled
def _paragraphs(
    codes: U32, start: int, end: int, bits: U32, starts: I32, ends: I32, hashes: U64, keys: U64, marks: U32,
    stamps: U32, row: F64,
) -> None:  # fmt: skip
    """Paragraphs between two line feeds or more."""
    first, last = _stripped(codes, start, end, bits)
    count, opened, i = 0, first, first
    while i <= last:
        if i == last or (codes[i] == BREAK and i + 1 < last and codes[i + 1] == BREAK):
            starts[count], ends[count] = opened - start, i - start
            hashes[count] = hashed(codes, opened, i)
            count += 1
            while i < last and codes[i] == BREAK:
                i += 1
            opened = i
            if i == last:
                break
        i += 1
    repeated, characters = again(hashes, ends[:count] - starts[:count], count, keys, marks, stamps)
    row[DUPLICATES], row[DUPLICATES + 1] = repeated / max(count, 1), characters / (end - start)


@compiled
def _words(
    codes: U32,
    base: int,
    many: int,
    starts: I32,
    ends: I32,
    bits: U32,
    stops: U64,
    hashes: U64,
    before: I64,
    row: F64,
) -> bool:
    """What the words are like; whether most are characters of a script without spaces."""
    real, length, alphabetic, pairs, sharp, dots, met = 0, 0, 0, 0, 0, 0, np.uint64(0)
    for n in range(many):
        first, last = base + starts[n], base + ends[n]
        hashes[n], before[n + 1] = hashed(codes, first, last), before[n] + last - first
        has = traits(codes, first, last, bits)
        alphabetic += 1 if has & HAS_ALPHA else 0
        if has & HAS_MORE:
            real, length = real + 1, length + last - first
        pairs += 1 if bits[first] & UNSPACED else 0
        at = np.searchsorted(stops, hashes[n])
        if at < len(stops) and stops[at] == hashes[n]:
            met |= np.uint64(1) << np.uint64(at & 63)
    run = 0
    for i in range(base, base + ends[many - 1]):
        sharp += 1 if codes[i] == 0x23 else 0
        run = run + 1 if codes[i] == DOT else 0
        if run == 3 or codes[i] == ELLIPSIS:
            dots, run = dots + 1, 0
    row[WORDS], row[WORD_LENGTH] = real, length / max(real, 1)
    row[HASHES], row[ELLIPSES], row[ALPHABETIC] = sharp / many, dots / many, alphabetic / many
    while met:
        row[STOP_WORDS] += 1
        met &= met - np.uint64(1)
    row[ENDED + 3] /= many
    return 2 * pairs > many
