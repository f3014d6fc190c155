"""Traffic in blocks of time: what each release of an endpoint was asked, how it did, and what people said of it.

The local time series behind roll-outs and monitors. Each gateway process holds its open blocks in memory and writes
them whole, again and again, under its own name: a write repeated after an unknown outcome changes nothing.
"""

from collections.abc import Iterable
from typing import Any

import msgspec
import sqlalchemy as sa

from longrein.core.histogram import Histogram
from longrein.core.ledger.database import Database, now_ms
from longrein.core.ledger.schema import traffic

BLOCK_MS = 10_000
DAY_MS = 86_400_000
SETTLED_MS = 3_000  # after a block's end: by then every gateway that can has written it
# A block's length, how long such blocks are kept, and the length of those it becomes part of then (0: none).
KEPT = ((BLOCK_MS, DAY_MS, 300_000), (300_000, 14 * DAY_MS, 3_600_000), (3_600_000, 400 * DAY_MS, 0))
COUNTS = (
    "requests", "errors", "refused", "cancelled", "guarded", "refusals", "cached", "tokens_in", "tokens_out",
    "tokens_cached", "cost_usd",
)  # fmt: skip
TALLIES = ("statuses", "finishes")
HISTOGRAMS = ("timings", "scores", "gauges")
MISSED = "missed"  # the arm of answers that failed and that another release gave: no client saw the failure
MOST_TEAMS = MOST_NAMES = 100  # of an endpoint's release in a block, and of scores: whoever names them, rows stay few
OTHER = "other"


class Block:
    """One release's share of an endpoint's traffic in [start_ms, start_ms + length_ms), by the team that asked.

    requests: all that ended in it. Among them errors: 5xx, the engine's included, not a client's mistakes; refused:
    429; cancelled: the client hung up; guarded: a guard acted; refusals: the model declined; cached: answered from the
    gateway's cache. cost_usd: of those whose price is known. statuses, finishes: how many by HTTP status, and by finish
    reason. timings: {"latency_ms" | "ttft_ms" | "token_ms" | "queue_ms" | "cost_usd"} of those answered. scores: what
    feedback said, by metric, in the block it arrived in; true is 1 and false is 0. gauges: what was sampled once a
    second of the release's engine, see longrein.gateway.sampler; endpoint "" holds the machine's, its host's name being
    the release.
    """

    __slots__ = ("arm", "endpoint", "length_ms", "release", "start_ms", "team", *COUNTS, *TALLIES, *HISTOGRAMS)

    endpoint: str
    release: str
    arm: str
    team: str
    requests: int
    errors: int
    refused: int
    cancelled: int
    guarded: int
    refusals: int
    cached: int
    tokens_in: int
    tokens_out: int
    tokens_cached: int
    cost_usd: float
    statuses: dict[str, int]
    finishes: dict[str, int]
    timings: dict[str, Histogram]
    scores: dict[str, Histogram]
    gauges: dict[str, Histogram]

    def __init__(
        self, endpoint: str, release: str, start_ms: int, *, arm: str = "", team: str = "", length_ms: int = BLOCK_MS,
        **counts: Any,
    ) -> None:  # fmt: skip
        """release: its digest, or "" for requests that reached none. arm: "" for answers that clients saw, MISSED for
        failures that they did not, else what the roll-out calls it ("shadow")."""
        self.endpoint, self.release, self.arm, self.team = endpoint, release, arm, team
        self.start_ms, self.length_ms = start_ms, length_ms
        self.requests = self.errors = self.refused = self.cancelled = self.guarded = self.refusals = self.cached = 0
        self.tokens_in = self.tokens_out = self.tokens_cached = 0
        self.cost_usd = 0.0
        self.statuses, self.finishes = {}, {}
        self.timings, self.scores, self.gauges = {}, {}, {}
        for name, value in counts.items():
            setattr(self, name, value)

    @property
    def key(self) -> tuple[int, int, str, str, str, str]:
        return self.start_ms, self.length_ms, self.endpoint, self.release, self.arm, self.team

    def time(self, name: str, value: float) -> None:
        (self.timings.get(name) or self.timings.setdefault(name, Histogram())).record(value)

    def score(self, name: str, value: float) -> None:
        if name not in self.scores and len(self.scores) >= MOST_NAMES:
            name = OTHER
        (self.scores.get(name) or self.scores.setdefault(name, Histogram())).record(value)

    def merge(self, other: "Block") -> None:
        for name in COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in TALLIES:
            mine = getattr(self, name)
            for key, count in getattr(other, name).items():
                mine[key] = mine.get(key, 0) + count
        for name in HISTOGRAMS:
            mine = getattr(self, name)
            for key, histogram in getattr(other, name).items():
                if key not in mine and name == "scores" and len(mine) >= MOST_NAMES:
                    key = OTHER
                mine.setdefault(key, Histogram()).merge(histogram)

    def __repr__(self) -> str:
        return f"Block({self.endpoint} {self.release[:12]} {self.arm} at {self.start_ms}: {self.requests} requests)"


class Traffic:
    def __init__(self, db: Database) -> None:
        self.db = db

    def put(self, worker: str, blocks: Iterable[Block]) -> None:
        """Write blocks as they are now, each in place of what this worker wrote of it before. worker: a name that no
        other process ever has, and none after it."""
        rows = [_row(worker, block) for block in blocks]
        if not rows:
            return
        statement = self.db.insert(traffic)
        changed = {c.name: statement.excluded[c.name] for c in traffic.c if not c.primary_key}
        with self.db.write() as connection:
            connection.execute(statement.on_conflict_do_update(index_elements=KEY, set_=changed), rows)

    def blocks(
        self, endpoint: str | None, since_ms: int = 0, until_ms: int | None = None, *, teams: bool = False
    ) -> list[Block]:
        """Blocks that start in [since_ms, until_ms), by time, release and arm, merged over the gateways, and over the
        teams unless those are asked for. endpoint: None is all of them, and the machines.

        until_ms is by default such that every block returned has ended, and was written by every gateway that reaches
        the ledger. Old blocks are longer than new ones: see KEPT.
        """
        if until_ms is None:
            until_ms = (now_ms() - SETTLED_MS) // BLOCK_MS * BLOCK_MS
        here = [traffic.c.start_ms >= since_ms, traffic.c.start_ms < until_ms]
        here += [traffic.c.endpoint == endpoint] if endpoint is not None else []
        query = sa.select(traffic).where(*here).order_by(*(traffic.c[name] for name in KEY))
        with self.db.read() as connection:
            return list(_merged(_block(row, teams) for row in connection.execute(query)).values())

    def endpoints(self) -> list[str]:
        """Those that were asked anything, as far back as is known."""
        with self.db.read() as connection:
            found: list[str] = list(connection.execute(sa.select(traffic.c.endpoint).distinct()).scalars())
            return sorted(name for name in found if name)

    def compact(self, now: int, windows: int = 6) -> int:
        """Join blocks past their time into longer ones, and forget the oldest: at most `windows` of the longer blocks,
        so that it is soon done; the number of rows that went, 0 when nothing was left to do."""
        return sum(self._join(length, now - kept, longer, windows) for length, kept, longer in KEPT)

    def _join(self, length: int, before: int, longer: int, windows: int) -> int:
        """Several may try at once: DELETE gives each row to one of them, and one that lost a race changes nothing."""
        short = traffic.c.length_ms == length
        with self.db.read() as connection:
            oldest = connection.execute(sa.select(sa.func.min(traffic.c.start_ms)).where(short)).scalar()
        if oldest is None:
            return 0
        step = longer or DAY_MS
        start = oldest // step * step
        end = min(start + windows * step, before // step * step)
        if end <= start:
            return 0
        within = (traffic.c.start_ms >= start, traffic.c.start_ms < end, traffic.c.length_ms.in_((length, longer)))
        with self.db.write() as connection:
            gone = connection.execute(traffic.delete().where(*within).returning(traffic)).all()
            if longer and gone:
                joined = _few(_merged(_moved(_block(row), longer) for row in gone))
                connection.execute(traffic.insert(), [_row("", block) for block in joined])
        return len(gone)


KEY = [c.name for c in traffic.primary_key]
_encode = msgspec.json.encode


class _Told(msgspec.Struct):
    """A histogram as JSON, as Histogram.as_json has it; read this way in an eighth of the time."""

    sum: float
    counts: dict[int, int]


_decode = msgspec.json.Decoder(dict[str, _Told]).decode


def _merged(blocks: Iterable[Block]) -> dict[Any, Block]:
    found: dict[Any, Block] = {}
    for block in blocks:
        if same := found.get(block.key):
            same.merge(block)
        else:
            found[block.key] = block
    return found


def _few(blocks: dict[Any, Block]) -> Iterable[Block]:
    """With the teams that asked most, and the others as one: teams that come and go would make rows without end."""
    teams: dict[Any, list[Block]] = {}
    for block in blocks.values():
        teams.setdefault(block.key[:-1], []).append(block)
    for found in teams.values():
        found.sort(key=lambda block: (block.team not in ("", OTHER), -block.requests))
        for block in found[MOST_TEAMS:]:
            block.team = OTHER
        yield from _merged(found).values()


def _moved(block: Block, length_ms: int) -> Block:
    block.start_ms, block.length_ms = block.start_ms // length_ms * length_ms, length_ms
    return block


def _row(worker: str, block: Block) -> dict[str, Any]:
    key = {name: getattr(block, name) for name in KEY if name != "worker"}
    told = {name: _encode(getattr(block, name)).decode() for name in TALLIES}
    told |= {
        name: _encode({key: _Told(h.sum, h.counts) for key, h in getattr(block, name).items()}).decode()
        for name in HISTOGRAMS
    }
    return {"worker": worker, **key, **told, **{name: getattr(block, name) for name in COUNTS}}


def _block(row: Any, teams: bool = True) -> Block:
    block = Block(
        row.endpoint, row.release, row.start_ms, arm=row.arm, team=row.team if teams else "", length_ms=row.length_ms,
        **{name: getattr(row, name) for name in COUNTS},
    )  # fmt: skip
    for name in TALLIES:
        setattr(block, name, msgspec.json.decode(getattr(row, name)))
    for name in HISTOGRAMS:
        setattr(block, name, {key: _histogram(told) for key, told in _decode(getattr(row, name)).items()})
    return block


def _histogram(told: _Told) -> Histogram:
    histogram = Histogram()
    histogram.counts, histogram.sum = told.counts, told.sum
    return histogram
