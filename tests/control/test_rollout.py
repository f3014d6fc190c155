"""Rollouts in the ledger and what drives them: gates, compare-and-swap, traffic, ways to end one; on both databases."""

import os
import signal
import subprocess
import sys
import threading
from typing import Any

import pytest

from longrein.control import rollout, why
from longrein.control.rollout import advance, begin, drive
from longrein.core.errors import Error
from longrein.core.ledger import Asset, Block, Ledger, Rollout
from longrein.core.ledger.traffic import BLOCK_MS
from longrein.models import registry
from longrein.models.experiment.describe import describe
from longrein.models.experiment.rollout import Gradual, declared
from longrein.models.rollback import rollback

START = 1_000_000 * BLOCK_MS
LATER_MS = 4_000  # after a block's end: it has settled
QUICK: dict[str, Any] = {"strategy": "canary", "judge": {"deadline_s": 40, "undecided": "promote"}}


def gradual(**options: Any) -> Gradual:
    found = declared(QUICK | options)
    assert isinstance(found, Gradual)
    return found


@pytest.fixture
def pair(ledger: Ledger) -> tuple[Asset, Asset]:
    """A release in production and the next one."""
    one, two = (ledger.assets.put("release", "shop", f"d{i}" * 10, actor="ann") for i in (1, 2))
    registry.promote(ledger, one, actor="ann")
    return one, two


@pytest.fixture
def live(ledger: Ledger, pair: tuple[Asset, Asset]) -> Rollout:
    return begin(ledger, *pair, gradual(), actor="ann", clock=lambda: START)


def traffic(ledger: Ledger, seen: Rollout, at: int, good: tuple[int, int], bad: tuple[int, int], arm: str = "") -> None:
    """So many answers and errors of the stable release and the candidate, in the block that starts at `at`."""
    for asset, n, k, name in zip((seen.stable, seen.candidate), good, bad, ("", arm), strict=True):
        block = Block("shop", asset.digest, at, arm=name, requests=n + k, errors=k)
        for i in range(n):
            block.time("latency_ms", 100 + i % 7)
        ledger.traffic.put(f"w{at}", [block])


def step(ledger: Ledger, seconds: float) -> list[Rollout]:
    return drive(ledger, actor="loop", clock=lambda: START + int(seconds * 1000))


def serving(ledger: Ledger) -> str:
    return ledger.assets.get("release:shop@prod").ref


def kinds(ledger: Ledger) -> list[str]:
    found = ledger.events.recent("release:shop@prod")
    return [e.kind for e in reversed(found)]


def refused(code: str, action: Any, *args: Any, **given: Any) -> Error:
    with pytest.raises(Error) as caught:
        action(*args, **given)
    assert caught.value.code == code
    return caught.value


def test_a_canary_whose_answers_cost_more_is_taken_back(ledger: Ledger, pair: tuple[Asset, Asset]) -> None:
    strategy = gradual(judge={"metrics": {"cost": {}}, "deadline_s": 600})
    begin(ledger, *pair, strategy, actor="ann", clock=lambda: START)
    for block in range(20):
        for asset, usd in zip(pair, (0.001, 0.002), strict=True):
            made = Block("shop", asset.digest, START + block * BLOCK_MS, requests=50)
            for i in range(50):
                made.time("cost_usd", usd * (1 + i % 5 / 20))
            ledger.traffic.put("w", [made])
    moved = step(ledger, 200 + LATER_MS / 1000)
    assert [r.status for r in moved] == ["rolled_back"] and "cost: a candidate's is the greater" in moved[0].reason


def test_no_release_gets_any_traffic_that_its_gates_have_not_passed(ledger: Ledger, pair: tuple[Asset, Asset]) -> None:
    ledger.aliases.guard("release", "shop", "prod", {"quality": "q1"}, actor="ann")
    error = refused("blocked", begin, ledger, *pair, gradual(), actor="ann")
    assert "quality" in error.message and ledger.rollouts.live("shop") is None
    ledger.aliases.judge("quality", "q1", [pair[1]], True, [], actor="gate")
    seen = begin(ledger, *pair, gradual(), actor="ann", clock=lambda: START)
    assert (seen.weight, seen.status) == (500, "running")
    ledger.aliases.guard("release", "shop", "prod", {"quality": "q2"}, actor="ann")  # now it has to pass another gate
    refused("blocked", ledger.rollouts.save, seen, weight=900, actor="ann")
    (ended,) = step(ledger, 1)
    assert (ended.status, ended.weight) == ("rolled_back", 0) and "has not judged" in ended.reason


def test_one_a_time_and_a_newer_release_comes_in_its_place(ledger: Ledger, live: Rollout) -> None:
    refused("conflict", begin, ledger, live.stable, live.candidate, gradual(), actor="ann")
    three = ledger.assets.put("release", "shop", "d3" * 10, actor="ann")
    after = begin(ledger, live.stable, three, gradual(), actor="ann")
    assert ledger.rollouts.get(live.id).status == "replaced" and ledger.rollouts.live("shop") == after
    assert kinds(ledger)[1:] == ["rollout.started", "rollout.replaced", "rollout.started"]


def test_a_step_seen_by_two_loops_is_taken_by_one(ledger: Ledger, live: Rollout) -> None:
    traffic(ledger, live, START, (300, 0), (0, 30))
    now = START + 20_000 + LATER_MS
    done = advance(ledger, live, actor="one", now=now)
    assert done.status == "rolled_back" and done.revision == 2
    refused("conflict", advance, ledger, live, actor="two", now=now)
    assert [e.actor for e in ledger.events.recent(kind="rollout.rolled_back")] == ["one"]


def test_a_canary_that_errs_is_taken_back_on_evidence(ledger: Ledger, live: Rollout) -> None:
    assert step(ledger, 12) == []  # no block of the judgement has ended and settled yet
    traffic(ledger, live, START, (200, 5), (1, 10))
    traffic(ledger, live, START + BLOCK_MS, (200, 5), (1, 10))
    assert step(ledger, 22) == []
    (after,) = step(ledger, 24)
    assert (after.status, after.weight, serving(ledger)) == ("rolled_back", 0, live.stable.ref)
    (event,) = ledger.events.recent(kind="rollout.rolled_back")
    assert event.actor == "loop" and "errors" in event.data["reason"]
    assert event.data["evidence"]["kind"] == "degraded"
    assert {m["metric"] for m in event.data["evidence"]["metrics"]} >= {"errors", "guard"}
    assert ledger.rollouts.live("shop") is None and step(ledger, 100) == []


def test_a_canary_that_does_well_is_promoted_and_the_alias_moves_with_it(ledger: Ledger, live: Rollout) -> None:
    for i in range(4):
        traffic(ledger, live, START + i * BLOCK_MS, (190, 10), (0, 0))
    assert step(ledger, 24) == []
    told = describe(ledger.rollouts.get(live.id))
    assert told["requests"] == {"stable": 380, "candidate": 20} and told["next"] == "25 % after 180 more requests"
    assert told["deadline_ms"] == START + 40_000 and any("errors" in s for s in told["evidence"])
    (after,) = step(ledger, 44)
    assert after.status == "promoted" and serving(ledger) == live.candidate.ref
    assert kinds(ledger)[-2:] == ["rollout.promoted", "alias.moved"]
    assert ledger.events.recent(kind="alias.moved")[0].data["reason"].startswith(f"rollout {live.id}: ")


def test_a_promotion_that_somebody_was_quicker_with_is_kept_whole(ledger: Ledger, live: Rollout) -> None:
    """The row and the alias change together, or neither does."""
    three = ledger.assets.put("release", "shop", "d3" * 10, actor="ann")
    ledger.aliases.move("release", "shop", "prod", three, actor="mlflow")  # around the registry
    (after,) = step(ledger, 100)
    assert after.status == "replaced" and serving(ledger) == three.ref


def test_copies_are_held_against_what_clients_saw(ledger: Ledger, pair: tuple[Asset, Asset]) -> None:
    seen = begin(ledger, *pair, gradual(strategy="shadow", share=50), actor="ann", clock=lambda: START)
    assert (seen.weight, seen.shadow) == (0, 5000)
    traffic(ledger, seen, START, (200, 100), (0, 0), arm="shadow")
    traffic(ledger, seen, START + BLOCK_MS, (0, 0), (0, 500))  # a person tried it by header: those are no copies
    assert step(ledger, 24) == [] and describe(ledger.rollouts.get(seen.id))["requests"]["candidate"] == 100
    (after,) = step(ledger, 44)
    assert (after.weight, after.shadow, after.status) == (500, 0, "running")
    assert describe(after)["stage"] == "canary"


def test_feedback_decides_an_ab(ledger: Ledger, pair: tuple[Asset, Asset]) -> None:
    seen = begin(ledger, *pair, gradual(strategy="ab", judge={"goal": "feedback"}), actor="ann", clock=lambda: START)
    for asset, liked in zip(pair, (30, 90), strict=True):
        block = Block("shop", asset.digest, START, requests=100)
        for i in range(100):
            block.score("feedback", float(i < liked))
        ledger.traffic.put("w", [block])
    (after,) = step(ledger, 24)
    assert after.status == "promoted" and "better in feedback" in after.reason and seen.weight == 5000


def test_an_engine_that_fails_three_times_anywhere_ends_it(ledger: Ledger, live: Rollout) -> None:
    for i in range(3):
        assert step(ledger, i) == []
        for gateway in ("one", "two") if i else ("one",):  # several see the same; it is no more often for that
            told = {"gateway": gateway, "error": Error("failed", f"no {i}").as_dict()}
            ledger.events.append("gateway", "release.failed", live.candidate.ref, **told)
    (after,) = step(ledger, 3)
    assert after.status == "rolled_back" and after.reason.endswith("no 2")
    again = begin(ledger, live.stable, live.candidate, gradual(), actor="ann", clock=lambda: START)
    assert again.weight == 500


def test_paused_it_stays_where_it_is_but_is_taken_back_if_worse(ledger: Ledger, live: Rollout) -> None:
    rollout.pause(ledger, "shop", True, actor="bob", reason="the weekend")
    assert step(ledger, 500) == []  # the deadline has passed: it would have been promoted
    assert rollout.pause(ledger, "shop", False, actor="bob").status == "running"
    assert [r.status for r in step(ledger, 500)] == ["promoted"]
    three = ledger.assets.put("release", "shop", "d3" * 10, actor="ann")
    seen = begin(ledger, live.candidate, three, gradual(), actor="ann", clock=lambda: START)
    rollout.pause(ledger, "shop", True, actor="bob")
    traffic(ledger, seen, START, (300, 0), (0, 40))
    assert [r.status for r in step(ledger, 24)] == ["rolled_back"]
    refused("not_found", rollout.pause, ledger, "shop", True, actor="bob")


def test_rolling_back_during_a_rollout_ends_it_and_moves_nothing_else(ledger: Ledger, live: Rollout) -> None:
    assert rollback(ledger, "shop", actor="bob", reason="odd answers") == live.stable
    ended = ledger.rollouts.get(live.id)
    assert (ended.status, ended.actor, ended.reason) == ("rolled_back", "bob", "odd answers")
    assert serving(ledger) == live.stable.ref and step(ledger, 500) == []


def test_rolling_back_further_ends_it_too(ledger: Ledger, live: Rollout) -> None:
    registry.promote(ledger, live.candidate, actor="ann")
    assert ledger.rollouts.get(live.id).status == "promoted"
    three = ledger.assets.put("release", "shop", "d3" * 10, actor="ann")
    second = begin(ledger, live.candidate, three, gradual(), actor="ann")
    assert rollback(ledger, "shop", "1", actor="bob") == live.stable
    assert ledger.rollouts.get(second.id).status == "rolled_back" and serving(ledger) == live.stable.ref
    assert rollback(ledger, "shop", "2", actor="bob") == live.candidate  # and the undo undone


def test_another_release_promoted_by_hand_ends_it(ledger: Ledger, live: Rollout) -> None:
    three = ledger.assets.put("release", "shop", "d3" * 10, actor="ann")
    registry.promote(ledger, three, actor="ann")
    assert ledger.rollouts.get(live.id).status == "replaced" and serving(ledger) == three.ref


def test_a_yes_begins_the_rollout_it_was_asked_for(ledger: Ledger, pair: tuple[Asset, Asset]) -> None:
    one, two = pair
    ledger.work.want({"endpoints": {"shop": {"rollout": QUICK}}}, actor="ann")
    ledger.aliases.guard("release", "shop", "prod", {"approval": registry.of_json("approval")}, actor="ann")
    assert rollout.approve(ledger, two, actor="bob", reason="read it")
    seen = ledger.rollouts.live("shop")
    assert seen and seen.candidate == two and serving(ledger) == one.ref
    assert not rollout.approve(ledger, two, actor="bob")  # it has begun: a promotion now is for all


def test_why_tells_the_side(ledger: Ledger, live: Rollout) -> None:
    sides = ((live.stable, "", "stable"), (live.candidate, "", "candidate"), (live.candidate, "shadow", "shadow"))
    for release, arm, side in sides:
        asked = {"endpoint": "shop", "release": release.digest, "arm": arm, "ts_ms": live.started_ms + 1}
        told = why._rollout(ledger, asked)
        assert told and (told["arm"], told["id"], told["candidate"]) == (side, live.id, live.candidate.ref)
    assert why._rollout(ledger, asked | {"ts_ms": live.started_ms - 1}) is None
    ended = ledger.rollouts.save(live, status="rolled_back", actor="ann")
    assert ended.ended_ms and why._rollout(ledger, asked | {"ts_ms": ended.ended_ms + 1}) is None


DRIVE = """
import sys
from longrein.control import rollout, why
from longrein.core.ledger import Ledger
ledger = Ledger(sys.argv[1])
save = ledger.rollouts.save
def dying(*args, **given):
    if sys.argv[3] == "before":
        import os; os.kill(os.getpid(), 9)
    after = save(*args, **given)
    if sys.argv[3] == "inside":
        import os; os.kill(os.getpid(), 9)
    return after
ledger.rollouts.save = dying
rollout.drive(ledger, actor="loop", clock=lambda: int(sys.argv[2]))
import os; os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("moment", ["before", "inside", "after"])
def test_a_loop_killed_at_any_moment_of_a_promotion_leaves_it_whole(ledger: Ledger, live: Rollout, moment: str) -> None:
    url = ledger.db.url.render_as_string(hide_password=False)
    now = START + 50_000
    died = subprocess.run([sys.executable, "-c", DRIVE, url, str(now), moment], check=False, env=dict(os.environ))
    assert died.returncode == -signal.SIGKILL
    done = moment == "after"
    assert ledger.rollouts.get(live.id).status == ("promoted" if done else "running")
    assert serving(ledger) == (live.candidate if done else live.stable).ref
    assert [r.status for r in step(ledger, 50)] == ([] if done else ["promoted"])
    assert kinds(ledger).count("rollout.promoted") == 1 and serving(ledger) == live.candidate.ref
    ledger.events.verify()


def test_a_driver_takes_the_steps_by_itself(ledger: Ledger, live: Rollout) -> None:
    """`live` began long ago: its deadline has passed on the wall's clock."""
    moved, done = [], threading.Event()

    def told(after: Rollout) -> None:
        moved.append(after.status)
        done.set()

    driver = rollout.Driver(ledger, actor="serve", moved=told)
    assert done.wait(60)
    driver.close()
    assert moved == ["promoted"] and serving(ledger) == live.candidate.ref
