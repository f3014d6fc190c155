"""Counts what each release answers and what people say of it, in blocks of time, and writes them to the ledger."""

import logging
import secrets
import threading
import time
from collections.abc import Iterable, Mapping

from sqlalchemy.exc import SQLAlchemyError

from longrein.core.errors import Error
from longrein.core.histogram import Histogram
from longrein.core.ledger import Block, Ledger, now_ms
from longrein.core.ledger.traffic import BLOCK_MS, MOST_TEAMS, OTHER
from longrein.core.record import Record
from longrein.gateway.metrics import Served

EVERY_S = 1.0
AWAY_S = 10.0  # at most, between two tries while the ledger is away: each writes all that is held
COMPACT_S = 600.0
FINISHES = frozenset({"stop", "length", "tool_calls", "content_filter", "cancelled", "error"})  # and OTHER
MOST = 10_000  # blocks held while the ledger is away; then the oldest go, for the request log has them too
Key = tuple[int, str, str, str, str]  # start_ms, endpoint, release, arm, team
log = logging.getLogger(__name__)


class Tally:
    """`add` and `score` touch memory alone; a thread writes what changed once a second, whole, so that a write whose
    outcome is unknown is simply made again."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.dropped = 0
        self._worker = secrets.token_hex(8)
        self._start_ms = 0
        self._blocks: dict[Key, Block] = {}
        self._changed: set[Key] = set()
        self._teams = 0  # blocks of teams in the open block of time
        self._served = Served()  # what the blocks that are closed add up to
        self._lost = Block("", "", 0)  # requests for no endpoint: for /metrics alone
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._failing = False
        self._compacted = time.monotonic()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="traffic", daemon=True)
        self._thread.start()

    def add(self, records: Iterable[Record]) -> None:
        """Requests that have ended."""
        with self._lock:
            start_ms = self._now()
            for record in records:
                key = start_ms, record.endpoint, record.release, record.arm, record.team
                _count(self._block(key) if record.endpoint else self._lost, record)

    def score(self, endpoint: str, release: str, arm: str, name: str, value: float, team: str = "") -> None:
        """One piece of feedback."""
        with self._lock:
            self._block((self._now(), endpoint, release, arm, team)).score(name, value)

    def gauge(self, endpoint: str, release: str, samples: Mapping[str, Histogram]) -> None:
        """What was sampled of an engine; endpoint "": of the machine, `release` being its name."""
        with self._lock:
            mine = self._block((self._now(), endpoint, release, "", "")).gauges
            for name, histogram in samples.items():
                mine.setdefault(name, Histogram()).merge(histogram)

    def served(self) -> Served:
        """All that was counted by this process, for /metrics."""
        whole = Served()
        with self._lock:
            for mine, part in zip(whole.parts, self._served.parts, strict=True):
                mine.add_rows(part.rows())
            for key, block in self._blocks.items():
                if key[0] == self._start_ms:
                    whole.count(block)
            whole.count(self._lost)
        return whole

    def flush(self) -> None:
        """Write what changed. Errors: the ledger's; then nothing is lost."""
        with self._writing:
            with self._lock:
                keys, self._changed = self._changed, set()
                blocks = [_copy(self._blocks[key]) for key in keys]
                worker = self._worker
            try:
                self.ledger.traffic.put(worker, blocks)
            except BaseException:
                with self._lock:
                    self._changed |= keys
                    self._bound()
                raise
            with self._lock:
                for key in self._blocks.keys() - self._changed:
                    if key[0] != self._start_ms:
                        del self._blocks[key]

    def close(self) -> None:
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        wait_s = EVERY_S
        while not self._closing.wait(wait_s):
            self._write()
            wait_s = min(2 * wait_s, AWAY_S) if self._failing else EVERY_S
        self._write()

    def _write(self) -> None:
        try:
            self.flush()
            if time.monotonic() - self._compacted > COMPACT_S:
                self._compacted = time.monotonic()
                self.ledger.traffic.compact(now_ms())
            self._failing = False
        except (Error, SQLAlchemyError) as error:
            if not self._failing:
                log.warning("traffic is counted in memory, for the ledger refuses it: %s", error)
            self._failing = True

    def _now(self) -> int:
        """The open block's start. When the clock is set back, blocks of a time that was written already begin anew
        under another name."""
        start_ms = now_ms() // BLOCK_MS * BLOCK_MS
        if start_ms == self._start_ms or (start_ms < self._start_ms and self._changed):
            return self._start_ms  # until all that changed is written
        for key, block in self._blocks.items():
            if key[0] == self._start_ms:
                self._served.count(block)
        if start_ms < self._start_ms:
            self._worker, self._blocks = secrets.token_hex(8), {}
        self._start_ms, self._teams = start_ms, 0
        return start_ms

    def _block(self, key: Key) -> Block:
        block = self._blocks.get(key)
        if block is None:
            start_ms, endpoint, release, arm, team = key
            if team and team != OTHER:
                if self._teams >= MOST_TEAMS:
                    return self._block((*key[:-1], OTHER))
                self._teams += 1
            block = self._blocks[key] = Block(endpoint, release, start_ms, arm=arm, team=team)
        self._changed.add(key)
        return block

    def _bound(self) -> None:
        for key in sorted(self._blocks)[: max(0, len(self._blocks) - MOST)]:
            self.dropped += self._blocks.pop(key).requests
            self._changed.discard(key)


def _copy(block: Block) -> Block:
    copy = Block(block.endpoint, block.release, block.start_ms, arm=block.arm, team=block.team)
    copy.merge(block)
    return copy


def _count(block: Block, r: Record) -> None:
    status, reason = r.status, r.finish_reason if r.finish_reason in FINISHES else OTHER
    block.requests += 1
    block.errors += status >= 500
    block.refused += status == 429
    block.cancelled += status == 499
    block.guarded += bool(r.guards)
    block.refusals += r.refusal
    block.cached += r.cached
    block.tokens_in += r.prompt_tokens
    block.tokens_out += r.completion_tokens
    block.tokens_cached += r.cached_tokens
    block.cost_usd += r.cost_usd or 0.0
    code = str(status)
    block.statuses[code] = block.statuses.get(code, 0) + 1
    block.finishes[reason] = block.finishes.get(reason, 0) + 1
    if status != 200:
        return
    block.time("latency_ms", r.total_ms)
    if r.cost_usd is not None:
        block.time("cost_usd", r.cost_usd)
    if r.queue_ms is not None:
        block.time("queue_ms", r.queue_ms)
    if r.ttft_ms is not None:
        block.time("ttft_ms", r.ttft_ms)
        if r.completion_tokens > 1:
            block.time("token_ms", (r.total_ms - r.ttft_ms) / (r.completion_tokens - 1))
