"""Claims: one holder at a time, and a dead one's work is taken over, on both databases."""

import json
import os
import signal

import pytest
import sqlalchemy as sa
from race import race, script

from longrein.core.errors import Error
from longrein.core.ledger import Claim, Ledger
from longrein.core.ledger.schema import work
from longrein.core.ledger.work import this_owner


def claim(ledger: Ledger, key: str = "k", run: str = "r", *, retry: bool = False) -> Claim | None:
    return ledger.work.claim(key, "models.train model:m", {"config": {"epochs": 1}}, run, retry=retry)


def held(ledger: Ledger, run: str = "r") -> Claim:
    found = claim(ledger, run=run)
    assert found
    return found


def change(ledger: Ledger, **values: object) -> None:
    with ledger.db.write() as connection:
        connection.execute(sa.update(work).values(**values))


def test_a_step_has_one_holder(ledger: Ledger) -> None:
    first = held(ledger)
    assert claim(ledger) is None and claim(ledger, retry=True) is None and claim(ledger, "other") is not None
    assert ledger.work.renew(first)
    item = ledger.work.get("k")
    assert item and (item.status, item.live, item.attempts, item.owner) == ("running", True, 1, this_owner())


def test_a_done_step_is_not_claimed_again(ledger: Ledger) -> None:
    ledger.work.finish(held(ledger))
    assert claim(ledger) is None and claim(ledger, retry=True) is None
    ledger.work.forget("k")
    assert held(ledger).attempts == 1


def test_a_failed_step_is_tried_again_only_when_asked_and_as_a_new_run(ledger: Ledger) -> None:
    ledger.work.finish(held(ledger, "r1"), Error("no_space", "the disk is full", "free some"))
    item = ledger.work.get("k")
    assert item and item.status == "failed" and item.error and item.error["code"] == "no_space"
    assert claim(ledger, run="r2") is None
    again = claim(ledger, run="r2", retry=True)
    assert again and (again.run_id, again.attempts) == ("r2", 2)
    ledger.work.finish(again)
    item = ledger.work.get("k")
    assert item and item.error is None


def test_an_expired_lease_is_taken_over_with_its_run(ledger: Ledger) -> None:
    first = held(ledger, "r1")
    change(ledger, lease_ms=0)
    second = held(ledger, "r2")
    assert (second.run_id, second.attempts) == ("r1", 2)
    assert not ledger.work.renew(first)
    for error in (None, Error("failed", "x")):
        with pytest.raises(Error) as caught:
            ledger.work.finish(first, error)
        assert caught.value.code == "conflict"
    ledger.work.finish(second)
    item = ledger.work.get("k")
    assert item and item.status == "done"


@pytest.mark.parametrize(
    ("owner", "alive"),
    [
        ("HOST:999999999:1.00", False),  # no such process
        ("HOST:PID:1.00", False),  # another process has its number now
        ("elsewhere:1:1.00", True),  # not ours to judge: its lease decides
        ("else:where:1:1.00", True),
    ],
)
def test_a_dead_owner_on_this_host_is_noticed_at_once(ledger: Ledger, owner: str, alive: bool) -> None:
    held(ledger)
    change(ledger, owner=owner.replace("HOST", this_owner().rsplit(":", 2)[0]).replace("PID", str(os.getpid())))
    item = ledger.work.get("k")
    assert item and item.live is alive
    assert (claim(ledger) is None) is alive


def test_a_clock_that_was_set_meanwhile_makes_nobody_dead(ledger: Ledger) -> None:
    """A process's start time is told from the wall clock, which moves a little."""
    held(ledger)
    host, pid, start = this_owner().rsplit(":", 2)
    change(ledger, owner=f"{host}:{pid}:{float(start) + 1:.2f}")
    assert claim(ledger) is None


def test_a_lost_claim_records_nothing_of_its_transaction(ledger: Ledger) -> None:
    first = held(ledger)
    change(ledger, lease_ms=0)
    held(ledger)
    with pytest.raises(Error), ledger.transaction():
        ledger.assets.put("model", "m", "aa")
        ledger.work.finish(first)
    assert ledger.assets.recent() == []


def test_a_released_claim_is_free_at_once_and_keeps_its_run(ledger: Ledger) -> None:
    ledger.work.release(held(ledger, "r1"))
    item = ledger.work.get("k")
    assert item and not item.live and held(ledger, "r2").run_id == "r1"


def test_running_work_is_not_forgotten(ledger: Ledger) -> None:
    held(ledger)
    ledger.work.forget("k")
    assert [i.key for i in ledger.work.running()] == ["k"]


def test_last_and_many(ledger: Ledger) -> None:
    for key in ("a", "b"):
        found = claim(ledger, key)
        assert found
        ledger.work.finish(found)
        change(ledger, updated_ms=work.c.updated_ms - 1000)
    claim(ledger, "c")
    last = ledger.work.last("models.train model:m")
    assert last and last.key == "b" and last.basis == {"config": {"epochs": 1}}
    assert ledger.work.last("models.train model:x") is None
    assert {k: i.status for k, i in ledger.work.many(["a", "c", "z"]).items()} == {"a": "done", "c": "running"}
    assert ledger.work.many([]) == {}


def test_the_same_wanted_state_is_the_same_revision(ledger: Ledger) -> None:
    assert ledger.work.wanted() is None
    one, two = {"project": "客服", "models": {}}, {"project": "p"}
    assert [ledger.work.want(spec, actor="ann") for spec in (one, one, two, one)] == [1, 1, 2, 3]
    assert ledger.work.wanted() == one
    assert [e.kind for e in ledger.events.recent()] == ["wanted"] * 3


CLAIMERS = """
import sys
from longrein.core.ledger import Ledger
ledger = Ledger(sys.argv[1])
GO
got = []
for i in range(40):
    if claim := ledger.work.claim(f"k{i}", "step", {}, sys.argv[2]):
        ledger.work.finish(claim)
        got.append(i)
print(json.dumps(got))
"""


def test_processes_that_claim_the_same_steps_share_them_out(ledger: Ledger, ledger_url: str) -> None:
    got = [i for each in race(CLAIMERS, ledger_url) for i in each]
    assert sorted(got) == list(range(40))


HOLDER = """
import sys, json
from longrein.core.ledger import Ledger
claim = Ledger(sys.argv[1]).work.claim("k", "step", {}, "r1")
print(json.dumps(claim.token), flush=True)
sys.stdin.read()
"""


def test_a_killed_claimer_is_noticed_at_once(ledger: Ledger, ledger_url: str) -> None:
    holder = script(HOLDER, ledger_url)
    assert holder.stdout
    token = json.loads(holder.stdout.readline())
    assert claim(ledger, run="r2") is None
    os.kill(holder.pid, signal.SIGKILL)  # not yet waited for: even a zombie counts as dead
    os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)
    taken = held(ledger, "r2")
    assert taken.run_id == "r1" and taken.token != token
    with pytest.raises(Error, match="took this step over"):
        ledger.work.finish(Claim("k", token, "r1", 1))
    holder.communicate()
