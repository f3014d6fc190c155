"""A rollout in the ledger as people and programs read it."""

from typing import Any

import msgspec

from longrein.core.ledger import Ledger, Rollout, now_ms
from longrein.models.experiment.assign import BUCKETS
from longrein.models.experiment.rollout import Gradual, State, current, declared, outlook


def describe(seen: Rollout) -> dict[str, Any]:
    """A rollout for people and programs: who gets what, what the evidence is, what comes next and when."""
    strategy, state = strategy_of(seen), state_of(seen)
    stage = current(strategy, state)
    data = {
        "endpoint": seen.endpoint, "id": seen.id, "status": seen.status, "strategy": strategy.tag, "stage": stage.tag,
        "stable": seen.stable.ref, "candidate": seen.candidate.ref, "weight": seen.weight / BUCKETS,
        "shadow": seen.shadow / BUCKETS, "requests": {"stable": state.requests[0], "candidate": state.requests[1]},
        "evidence": [m["sentence"] for m in (state.decision or {}).get("metrics", [])],
        "decision": state.decision, "reason": seen.reason, "actor": seen.actor, "started_ms": seen.started_ms,
        "updated_ms": seen.updated_ms, "ended_ms": seen.ended_ms,
    }  # fmt: skip
    if seen.live:
        following, deadline_ms, undecided = outlook(strategy, state)
        data |= {"next": following, "deadline_ms": deadline_ms, "undecided": undecided}
    return data


def as_of_now(ledger: Ledger, seen: Rollout) -> dict[str, Any]:
    """The same, with the requests that are counted but not judged yet: their block of traffic has not ended."""
    data = describe(seen)
    if seen.live:
        digests = {seen.stable.digest: "stable", seen.candidate.digest: "candidate"}
        for block in ledger.traffic.blocks(seen.endpoint, state_of(seen).read_ms, now_ms() + 1):
            arm = digests.get(block.release)
            copied = block.arm == "shadow"
            if arm and copied == (arm == "candidate" and bool(seen.shadow)):
                data["requests"][arm] += block.requests
    return data


def strategy_of(seen: Rollout) -> Gradual:
    found = declared(seen.config)
    assert isinstance(found, Gradual)
    return found


def state_of(seen: Rollout) -> State:
    return msgspec.convert(seen.state, State)
