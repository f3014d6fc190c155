"""Drives rollouts: reads the traffic of both releases from the ledger, asks the machine, writes its step.

Any number of these may run at once, and any may be killed anywhere: a step is one write, guarded by the revision of the
rollout that was read, and what was not written is simply seen again.
"""

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from typing import Any

import msgspec

from longrein.core.errors import Error
from longrein.core.evidence import Counts, Histogram
from longrein.core.histogram import middle
from longrein.core.ledger import Asset, Block, Ledger, Rollout, now_ms
from longrein.core.ledger.rollouts import ALIAS
from longrein.core.ledger.traffic import BLOCK_MS, SETTLED_MS
from longrein.models import registry
from longrein.models.experiment import rollout as machine
from longrein.models.experiment.describe import state_of, strategy_of
from longrein.models.experiment.judge import Arm
from longrein.models.experiment.rollout import Gradual, Seen, State

TIMINGS = {"latency_ms": "latency", "ttft_ms": "ttft", "cost_usd": "cost"}
EVERY_S = 1.0  # a look at nothing under way is one small query
SHADOW = "shadow"  # the arm of copies in the ledger's traffic
log = logging.getLogger(__name__)


def begin(
    ledger: Ledger, stable: Asset, candidate: Asset, strategy: Gradual, *, actor: str, reason: str = "",
    clock: Callable[[], int] = now_ms,
) -> Rollout:  # fmt: skip
    """Give a release its first traffic. Errors: `blocked` by a gate, `conflict` when it has some already."""
    state = machine.start(strategy, -(-clock() // BLOCK_MS) * BLOCK_MS)
    config = msgspec.to_builtins(strategy)
    return ledger.rollouts.start(
        stable, candidate, config, msgspec.to_builtins(state), weight=state.weight, shadow=state.shadow, actor=actor,
        reason=reason,
    )  # fmt: skip


def approve(ledger: Ledger, release: Asset, *, actor: str, reason: str = "") -> bool:
    """Say a person's yes to a release and begin its rollout, in one transaction.

    False, and nothing said, where it is not to move in steps. Errors: `blocked` by another gate.
    """
    config = ((ledger.work.wanted() or {}).get("endpoints") or {}).get(release.name) or {}
    strategy = machine.declared(config.get("rollout"))
    held, _ = ledger.aliases.get("release", release.name).get(ALIAS, (None, 0))
    if release.kind != "release" or not isinstance(strategy, Gradual) or held is None or held == release:
        return False
    if (moving := ledger.rollouts.live(release.name)) and moving.candidate == release:
        return False
    with ledger.transaction():
        registry.say_yes(ledger, release, actor=actor, reason=reason)
        begin(ledger, held, release, strategy, actor=actor, reason=reason or "approved")
    return True


def drive(ledger: Ledger, *, actor: str, clock: Callable[[], int] = now_ms) -> list[Rollout]:
    """Take the next step of every rollout that has one; those that moved or ended."""
    moved = []
    for seen in ledger.rollouts.all_live().values():
        try:
            after = advance(ledger, seen, actor=actor, now=clock())
        except Error as error:
            if error.code not in ("conflict", "blocked"):  # another loop was quicker; or a gate: the next look tells it
                raise
            continue
        if (after.weight, after.shadow, after.status) != (seen.weight, seen.shadow, seen.status):
            moved.append(after)
    return moved


def advance(ledger: Ledger, seen: Rollout, *, actor: str, now: int) -> Rollout:
    """One step of one rollout, if there is one to take. Errors: `conflict` when somebody else took it."""
    held, revision = ledger.aliases.get("release", seen.endpoint).get(ALIAS, (None, 0))
    if held != seen.stable:
        status = "promoted" if held == seen.candidate else "replaced"
        return ledger.rollouts.save(seen, status=status, actor=actor, reason="production moved on without it")
    before = state_of(seen)
    strategy = strategy_of(seen)
    missing = ledger.aliases.missing("release", seen.endpoint, ALIAS, seen.candidate)
    blocks = observed(ledger, seen, strategy, before, now)
    state = machine.observe(
        strategy, before, now, blocks, failures(ledger, seen), "; ".join(f"gate {g}: {w}" for g, w in missing.items())
    )
    if state == before or (seen.status == "paused" and state.outcome != "rolled_back"):
        return seen  # paused: what is seen now is seen again once it goes on
    status = state.outcome if state.outcome in machine.FINAL else seen.status
    with ledger.transaction() if status != seen.status else nullcontext():
        after = ledger.rollouts.save(
            seen, state=msgspec.to_builtins(state), weight=state.weight, shadow=state.shadow, status=status,
            actor=actor, reason=state.reason, evidence=state.decision,
        )  # fmt: skip
        if status == "promoted":
            ledger.aliases.move(
                "release", seen.endpoint, ALIAS, seen.candidate, actor=actor, expect=revision,
                reason=f"rollout {seen.id}: {state.reason}",
            )  # fmt: skip
    return after


class Driver:
    """Takes the steps of all rollouts as they come due, in a thread of its own, until closed.

    moved: told of each that moved or ended. While the ledger is away, so are its rollouts.
    """

    def __init__(self, ledger: Ledger, *, actor: str, moved: Callable[[Rollout], None] = lambda _: None) -> None:
        self.ledger, self.actor, self.moved = ledger, actor, moved
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rollouts", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        failing = False
        while not self._closing.wait(EVERY_S):
            try:
                for rollout in drive(self.ledger, actor=self.actor):
                    self.moved(rollout)
                failing = False
            except Exception as error:  # noqa: BLE001 - this thread must not end: what it stumbles over may pass
                if not failing:
                    log.warning("rollouts stand still: %s", error)
                failing = True


def pause(ledger: Ledger, endpoint: str, on: bool, *, actor: str, reason: str = "") -> Rollout:
    """Hold a rollout where it is, or let it go on. Paused, it is still taken back when it proves worse.

    Errors: `not_found` when none is live.
    """
    seen = ledger.rollouts.live(endpoint)
    if seen is None:
        raise Error("not_found", f"no rollout is under way at endpoint {endpoint!r}", "longrein status")
    return ledger.rollouts.save(seen, status="paused" if on else "running", actor=actor, reason=reason)


def thaw(ledger: Ledger, endpoint: str, *, actor: str, reason: str = "") -> None:
    """Let releases move again that a rule held back, the one under way too."""
    ledger.holds.set(endpoint, frozen=False, actor=actor, reason=reason)
    moving = ledger.rollouts.live(endpoint)
    if moving and moving.status == "paused":
        pause(ledger, endpoint, False, actor=actor, reason=reason)


def failures(ledger: Ledger, seen: Rollout) -> list[str]:
    """Why the candidate's engine failed, each time since the rollout began, in the gateway where it did most often."""
    found: dict[str, list[str]] = {}
    for event in reversed(ledger.events.recent(seen.candidate.ref, "release.failed")):
        if event.ts_ms >= seen.started_ms:
            found.setdefault(event.data["gateway"], []).append(event.data["error"]["message"])
    return max(found.values(), key=len, default=[])


def observed(ledger: Ledger, seen: Rollout, strategy: Gradual, state: State, now: int) -> Iterator[Seen]:
    """The judgement's blocks that have ended since it looked last, without gaps."""
    judge = machine.current(strategy, state).judge
    length = int(judge.block_s * 1000)
    count = max(0, (now - SETTLED_MS - state.read_ms) // length)
    if not count:
        return
    until = state.read_ms + count * length
    arms: dict[int, tuple[list[Block], list[Block]]] = {}
    for block in ledger.traffic.blocks(seen.endpoint, state.read_ms, until):
        pair = arms.setdefault((block.start_ms - state.read_ms) // length, ([], []))
        if block.release == seen.candidate.digest and (block.arm == SHADOW) == bool(state.shadow):
            pair[1].append(block)
        elif block.release == seen.stable.digest and block.arm != SHADOW:
            pair[0].append(block)
    kinds = {name: metric.kind for name, metric in judge.resolved().items()}
    for i in range(count):  # as they are asked for: after a long rest they may be many, and a few of them decide
        stable, candidate = arms.get(i, ([], []))
        requests = sum(b.requests for b in stable), sum(b.requests for b in candidate)
        end = state.read_ms + (i + 1) * length
        yield Seen(end, as_arm(stable, kinds), as_arm(candidate, kinds), requests)


def as_arm(blocks: Iterable[Block], kinds: dict[str, Any]) -> Arm:
    """Blocks as the judgement reads them. A refused request is an error too: whoever asked has no answer."""
    total = Block("", "", 0)
    for block in blocks:
        total.merge(block)
    if not total.requests and not total.scores:
        return {}
    seen: dict[str, Counts | Histogram] = {
        "errors": Counts(total.requests, total.errors + total.refused),
        "guard": Counts(total.requests, total.guarded),
    }
    for name, histogram in total.timings.items():
        seen[TIMINGS.get(name, name)] = _values(histogram.counts)
    for name, histogram in total.scores.items():
        rate = kinds.get(name) == "rate"
        good = min(max(round(histogram.sum), 0), histogram.count)
        seen[name] = Counts(histogram.count, good) if rate else _values(histogram.counts)
    return seen


def _values(counts: dict[int, int]) -> dict[float, int]:
    return {middle(key): times for key, times in counts.items()}
