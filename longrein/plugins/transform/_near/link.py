"""Rows that share a band to clusters of near-duplicates: verified, then connected by union-find; compiled."""

import numpy as np

from longrein.plugins._compiled import F32, I32, I64, U8, U32, U64, compiled
from longrein.plugins.transform._near.sign import insert

LEADERS = 64  # rows of one bucket that the others are compared with: work stays linear in hostile data


@compiled
def find(parent: I32, row: int) -> int:
    """The least row of a cluster."""
    while parent[row] != row:
        parent[row] = parent[parent[row]]
        row = parent[row]
    return row


@compiled
def union(parent: I32, a: int, b: int) -> None:
    first, second = find(parent, a), find(parent, b)
    parent[max(first, second)] = min(first, second)


@compiled
def similarity(a: int, b: int, size: U32, shift: U8, ends: I64, sketch: U32, seen: U64, stamps: U64) -> float:
    """The Jaccard similarity of two rows' shingles: exact when both sketches are whole, else estimated from SKETCH."""
    common = max(shift[a], shift[b])
    above = np.uint32(32 - common)
    mask = np.uint64(len(seen) - 1)
    stamps[0] += np.uint64(1)
    of_a = of_b = both = 0
    for i in range(ends[a], ends[a + 1]):
        if common == 0 or not sketch[i] >> above:
            of_a += 1
            insert(seen, mask, stamps[0], np.uint64(sketch[i]))
    for i in range(ends[b], ends[b + 1]):
        if common == 0 or not sketch[i] >> above:
            of_b += 1
            both += not insert(seen, mask, stamps[0], np.uint64(sketch[i]))
    return both / max(1, of_a + of_b - both)


@compiled
def link(
    hashes: U64, rows: I64, threshold: float, parent: I32, size: U32, shift: U8, ends: I64, sketch: U32, seen: U64
) -> int:
    """Connect rows of equal hash (sorted) whose similarity is at least `threshold`; how many links were made."""
    stamps, leaders = np.zeros(1, np.uint64), np.zeros(LEADERS, np.int64)
    seen[:] = 0
    links = start = 0
    while start < len(hashes):
        stop, found = start + 1, 0
        while stop < len(hashes) and hashes[stop] == hashes[start]:
            stop += 1
        for k in range(start, stop if stop > start + 1 else start):
            row, known = rows[k], False
            for i in range(found):
                leader = leaders[i]
                if find(parent, leader) == find(parent, row):
                    known = True
                elif min(size[leader], size[row]) >= threshold * max(size[leader], size[row]) and (
                    similarity(leader, row, size, shift, ends, sketch, seen, stamps) >= threshold
                ):
                    union(parent, leader, row)
                    links, known = links + 1, True
            if not known and found < LEADERS:
                leaders[found] = row
                found += 1
        start = stop
    return links


@compiled
def flatten(parent: I32) -> None:
    """Every row points at the least of its cluster."""
    for row in range(len(parent)):
        parent[row] = find(parent, row)


@compiled
def compare(rows: I64, others: I64, size: U32, shift: U8, ends: I64, sketch: U32, seen: U64) -> F32:
    """The similarity of each row with its other."""
    stamps, found = np.zeros(1, np.uint64), np.zeros(len(rows), np.float32)
    seen[:] = 0
    for i in range(len(rows)):
        found[i] = similarity(rows[i], others[i], size, shift, ends, sketch, seen, stamps)
    return found
