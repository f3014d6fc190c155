"""The same request with different answers: the majority's rows stay, all go when there is none."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from longrein.core.ports import Verdict
from longrein.core.text import key
from longrein.plugins.transform._row import answer, prompt

VERSION = 1
VOTE = np.dtype([("high", "<u8"), ("low", "<u8"), ("answer", "<u8")])


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    majority: float = 0.5  # the winner has more than this share of the votes


class Conflict:
    """Meant for labels; put it before `dedup`, so that every copy of a row votes. Counts `requests` in conflict.

    The survey takes 24 bytes a row, and a sort at its end.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = msgspec.convert(options, Options)
        self.counts: Counter[str] = Counter()
        self.votes: dict[bytes, Counter[bytes]] = {}  # request -> answer -> rows, of requests in conflict only

    def survey(self, rows: Iterable[dict[str, Any]]) -> None:
        cast = bytearray()
        for row in rows:
            cast += _note(row)[:24]
        votes = np.frombuffer(cast, VOTE)
        votes = votes[np.lexsort((votes["answer"], votes["low"], votes["high"]))]
        same = (votes["high"][1:] == votes["high"][:-1]) & (votes["low"][1:] == votes["low"][:-1])
        bounds = np.concatenate(([0], np.flatnonzero(~same) + 1, [len(votes)])) if len(votes) else np.zeros(0, int)
        mixed = np.zeros(len(votes), bool)
        mixed[1:] = same & (votes["answer"][1:] != votes["answer"][:-1])
        crowded = np.add.reduceat(mixed, bounds[:-1]) if len(bounds) else bounds
        for group in np.flatnonzero(crowded):
            cases = [v.tobytes() for v in votes[bounds[group] : bounds[group + 1]]]
            self.votes[cases[0][:16]] = Counter(case[16:] for case in cases)
        self.counts["requests"] = len(self.votes)

    def apply(self, rows: Iterable[dict[str, Any]]) -> Iterator[Verdict]:
        for row in rows:
            votes, mine, said = None, b"", b""
            if self.votes:
                note = _note(row)
                votes, mine, said = self.votes.get(note[:16]), note[16:24], note[24:]
            if votes is None or votes[mine] > self.options.majority * votes.total():
                yield Verdict(row)
            else:
                detail = f"{votes[mine]} of {votes.total()} rows with this request say {said.decode()}"
                yield Verdict(row, "conflicting_label", detail)

    def prepare(self, rows: Sequence[dict[str, Any]]) -> list[bytes]:
        return [_note(row) for row in rows]


def _note(row: dict[str, Any]) -> bytes:
    """A row's vote, and its answer for people."""
    note: bytes | None = row.get("note")
    if note is not None:
        return note
    said = answer(row)
    return key(prompt(row)) + key(said or "")[:8] + f"{said!r:.80}".encode()


plugin = Conflict
