"""Firings in the ledger, on both databases: many who see the same cause open one; only who holds it may go on."""

import threading

import msgspec
import pytest

from longrein.control.rules import firing
from longrein.control.rules.due import Cause
from longrein.control.rules.rule import Config
from longrein.core.errors import Error
from longrein.core.ledger import Ledger, now_ms

RULE = msgspec.convert({"on": "drifted", "do": ["retrain", "accept"], "cooldown": "1h"}, Config)


def cause(key: str = "alert:1", endpoint: str = "客服") -> Cause:
    now = now_ms()
    return Cause(key, "drifted", endpoint, "it drifts", now, now)


def fire(ledger: Ledger, *causes: Cause) -> list[str]:
    return firing.fire(ledger, "mend", RULE, causes, actor="eye", now=now_ms())[0]


def test_many_observers_open_one(ledger_url: str) -> None:
    ledgers = [Ledger(ledger_url) for _ in range(4)]
    opened: list[str] = []
    ready = threading.Barrier(4)

    def observe(ledger: Ledger) -> None:
        ready.wait()
        for key in ("alert:1", "alert:2"):  # the second one comes while it cools down
            opened.extend(fire(ledger, cause(key)))

    threads = [threading.Thread(target=observe, args=(ledger,)) for ledger in ledgers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened) == 1 and firing.waiting(ledgers[0]) == opened
    (found,) = firing.recent(ledgers[0])
    assert (found.endpoint, found.cause.summary, found.run.status) == ("客服", "it drifts", "RUNNING")
    for ledger in ledgers:
        ledger.close()


def test_who_lost_the_claim_can_note_nothing(ledger: Ledger) -> None:
    (key,) = fire(ledger, cause())
    with firing.attempt(ledger, key) as first:
        assert first
        with firing.attempt(ledger, key) as second:
            assert second is None  # it is at work
        ledger.work.release(first.claim)
        with firing.attempt(ledger, key) as second:
            assert second and second.claim.run_id == first.claim.run_id
            with second.step(0) as said:
                said.append("retrained")
            with pytest.raises(Error, match="took this firing over"), first.step(1):
                pass
            assert firing.read(ledger, ledger.runs.get(first.claim.run_id)).done == {0: "retrained"}
            second.finish()
    (found,) = firing.recent(ledger)
    assert found.run.status == "FINISHED" and firing.under_way(ledger) == []


def test_what_fails_keeps_what_was_done_and_what_it_cost(ledger: Ledger) -> None:
    (key,) = fire(ledger, cause())
    with firing.attempt(ledger, key) as trying:
        assert trying
        with trying.step(0):
            pass
        child = ledger.runs.start(capability="models.train", name="m", actor="rule:mend")
        ledger.runs.finish(child, actor="rule:mend", cost_usd=0.25)
        trying.finish(Error("failed", "no luck"))
    told = firing.as_data(firing.recent(ledger)[0])
    assert (told["status"], told["cost_usd"], told["error"]["message"]) == ("FAILED", 0.25, "no luck")
    assert told["actions"] == [{"do": "retrain", "done": "done"}, {"do": "accept", "done": None}]
    assert ledger.runs.tags(child)[firing.PARENT] == firing.recent(ledger)[0].run.id
    assert [p.cost_usd for p in firing.past(ledger, "mend", RULE, now_ms())] == [0.25]
    ledger.events.verify()
