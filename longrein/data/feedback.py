"""Feedback and labels from a file: what a survey, a review or a back office knows of answers, later than they came."""

import math
import secrets
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from longrein.core.errors import Error
from longrein.core.ledger import Block, Ledger, now_ms
from longrein.core.ledger.feedback import CORRECT, LATE_S
from longrein.core.ledger.traffic import BLOCK_MS
from longrein.data.requests import Query, RequestLog, correct

LINES = 500  # in one transaction
SOURCE = "import"
Name = Annotated[str, Meta(min_length=1, max_length=100)]


class Line(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """One line of the file, about the answer `id` or the newest one of `session`."""

    id: Annotated[str, Meta(min_length=1, max_length=200)] | None = None
    session: Annotated[str, Meta(min_length=1, max_length=200)] | None = None
    metrics: dict[Name, bool | float] = {}
    label: Annotated[str, Meta(min_length=1, max_length=10_000)] | None = None
    comment: Annotated[str, Meta(max_length=10_000)] = ""

    def __post_init__(self) -> None:
        if (self.id is None) == (self.session is None):
            raise ValueError("Needs an id or a session, one of the two")
        if not self.metrics and self.label is None and not self.comment:
            raise ValueError("Says nothing: metrics, label or comment")
        if self.label is not None and CORRECT in self.metrics:
            raise ValueError(f"The label tells {CORRECT!r} by itself")
        if not all(map(math.isfinite, self.metrics.values())):
            raise ValueError("A metric is not a finite number")


_decode = msgspec.json.Decoder(Line).decode


def load(ledger: Ledger, log: RequestLog, file: Path, *, source: str = SOURCE) -> dict[str, Any]:
    """Keep what the lines of a JSONL file say; how many values are new, known, late, and how many lines are of no use.

    Each piece of LINES is one transaction, its scores in the ledger's traffic included: after a kill, the whole file
    again adds what is missing. {"lines", "new", "known", "late", "unknown", "erased", "invalid", "first_invalid"}.
    Errors: `not_found`.
    """
    count, wrong = Counter[str](), ""
    with _open(file) as lines:
        numbered = enumerate(lines, 1)
        while piece := list(islice(numbered, LINES)):
            said: list[Line] = []
            for number, data in piece:
                if not data.strip():
                    continue
                count["lines"] += 1
                try:
                    said.append(_decode(data))
                except (msgspec.DecodeError, UnicodeDecodeError) as error:
                    count["invalid"] += 1
                    wrong = wrong or f"line {number}: {error}"
            with ledger.transaction():
                count += _keep(ledger, log, said, source)
    names = ("lines", "new", "known", "late", "unknown", "erased", "invalid")
    return {name: count[name] for name in names} | {"first_invalid": wrong}


def _keep(ledger: Ledger, log: RequestLog, said: list[Line], source: str) -> Counter[str]:
    count, now = Counter[str](), now_ms()
    blocks: dict[tuple[str, str, str], Block] = {}
    for line, row in _about(log, said):
        if row is None or not row["endpoint"]:
            count["unknown"] += 1
            continue
        if row["erased"]:
            count["erased"] += 1
            continue
        values: dict[str, float | None] = {name: float(value) for name, value in line.metrics.items()}
        if line.label is not None:
            right = correct(row, line.label)
            values[CORRECT] = None if right is None else float(right)
        where = row["endpoint"], row["release"], row["arm"]
        new = ledger.feedback.put(
            row["id"], [(n, v, _clean(line.comment)) for n, v in (values or {"": None}).items()], source=source,
            endpoint=where[0], release=where[1], arm=where[2], label=_clean(line.label or ""),
        )  # fmt: skip
        block = blocks.setdefault(where, Block(*where[:2], now // BLOCK_MS * BLOCK_MS, arm=where[2]))
        for name in new:
            if (value := values.get(name)) is not None:
                block.score(name, value)
        count["new"] += len(new)
        count["known"] += len(values or [""]) - len(new)
        count["late"] += len(new) * (now - row["ts_ms"] > LATE_S * 1000)
    ledger.traffic.put(secrets.token_hex(8), [b for b in blocks.values() if b.scores])
    return count


def _about(log: RequestLog, said: list[Line]) -> Iterator[tuple[Line, dict[str, Any] | None]]:
    known = log.many(line.id for line in said if line.id)
    for line in said:
        if line.id:
            yield line, known.get(line.id)
        else:
            yield line, next((r for r in log.find(Query(session=line.session or "\0"), 100) if r["endpoint"]), None)


def _open(file: Path) -> Any:
    try:
        return file.open("rb")
    except OSError as error:
        raise Error("not_found", f"{file} cannot be read: {error.strerror}", "give a JSONL file") from error


def _clean(text: str) -> str:
    return text.replace("\0", "\ufffd")
