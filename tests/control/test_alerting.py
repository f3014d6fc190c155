"""Objectives of a running endpoint, from the ledger's traffic to alerts, on a clock of the test's own."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from longrein.control import nouns
from longrein.control.alerting import Alerting
from longrein.control.observer import Site
from longrein.core.ledger import Alert, Block, Ledger, now_ms
from longrein.core.ledger.traffic import BLOCK_MS, SETTLED_MS
from longrein.core.record import Record, Segment
from longrein.core.store import Store
from longrein.ops.monitor.objective import DAY_MS, HOUR_MS, MINUTE_MS

END = now_ms() // DAY_MS * DAY_MS  # the traffic is in the past, where it may be compacted
OBJECTIVES = {"availability": 0.999, "latency": {"below_s": 2, "share": 0.95}, "usd_per_day": 100}


@pytest.fixture
def lite(tmp_path: Path) -> Iterator[Ledger]:
    """A ledger where the database makes no difference."""
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db")
    yield ledger
    ledger.close()


def spec(objectives: dict[str, Any] | None = None, **more: Any) -> nouns.Lifecycle:
    endpoint = {"model": "m", "objectives": OBJECTIVES if objectives is None else objectives}
    return nouns.restore({"project": "shop", "endpoints": {"客服": endpoint}, **more})


def site(ledger: Ledger, folder: Path, wanted: nouns.Lifecycle | None = None) -> Site:
    return Site(ledger, Store(folder / "store"), folder, wanted or spec(), "eye")


def traffic(
    ledger: Ledger, since: int, until: int, *, step: int = BLOCK_MS, n: int = 100, errors: int = 0, ms: float = 100,
    release: str = "r1", team: str = "", arm: str = "", worker: str = "w1",
) -> None:  # fmt: skip
    blocks = []
    for start in range(since, until, step):
        block = Block("客服", release, start, arm=arm, team=team, length_ms=step, requests=n, errors=errors)
        block.timings = {}
        block.time("latency_ms", ms)
        blocks.append(block)
    ledger.traffic.put(worker, blocks)


def look(alerting: Alerting, until: int, times: int = 1) -> None:
    """As the observer does once a second, with the clock standing."""
    for _ in range(times):
        alerting.look(until + SETTLED_MS)


def firing(ledger: Ledger) -> list[tuple[str, str, str]]:
    return [(a.kind, a.name, a.severity) for a in ledger.alerts.firing()]


BACK = 24 + 6 + 60  # looks until all windows are known


def test_an_alert_fires_with_its_evidence_and_ends(ledger: Ledger, tmp_path: Path) -> None:
    traffic(ledger, END - HOUR_MS, END)
    traffic(ledger, END - HOUR_MS, END, n=10, errors=10, release="bad", team="蓝队")
    traffic(ledger, END - HOUR_MS, END, n=1000, errors=1000, arm="shadow", release="bad")  # no client saw those
    segment = Segment(tmp_path / ".longrein" / "requests", "w1")
    rows = [
        Record(id=f"chatcmpl-{END - 5 + i:012x}{i:012x}", ts_ms=END - 5, endpoint="客服", status=status)
        for i, status in enumerate((500, 503, 500, 503, 200))
    ]
    segment.append(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))
    alerting = Alerting(site(ledger, tmp_path))
    look(alerting, END, BACK)
    assert firing(ledger) == [("slo_burning", "availability", "critical")]
    (alert,) = ledger.alerts.firing()
    told = alert.evidence
    assert alert.subject == "endpoint:客服" and alert.since_ms == END - HOUR_MS
    assert told["burn_rate"] == pytest.approx(1000 * 10 / 110) and (told["events"], told["bad"]) == (39600, 3600)
    assert told["releases"] == [{"release": "bad", "events": 3600, "bad": 3600}]
    assert told["teams"] == [{"team": "蓝队", "events": 3600, "bad": 3600}]
    assert sorted(told["requests"]) == sorted(row.id for row in rows[:4]) and told["budget_left"] < 0
    assert alert.summary.startswith("9.09 % of 39,600 requests in 1 h failed: 90.9 times what is allowed (0.1 %)")

    traffic(ledger, END, END + 10 * MINUTE_MS)
    for minute in range(1, 11):
        look(alerting, END + minute * MINUTE_MS)
    assert firing(ledger) == [("slo_burning", "availability", "critical")]  # 6 times, over six hours and half an hour
    traffic(ledger, END + 10 * MINUTE_MS, END + 8 * HOUR_MS, step=300_000, n=3000)
    for step in range(3, 8 * 12 + 1):
        look(alerting, END + step * 5 * MINUTE_MS)
    assert firing(ledger) == []
    assert [e.kind for e in ledger.events.recent("endpoint:客服")] == ["alert.resolved", "alert.fired"]


def test_a_restart_changes_nothing(ledger: Ledger, tmp_path: Path) -> None:
    traffic(ledger, END - HOUR_MS, END, errors=5)
    first = Alerting(site(ledger, tmp_path))
    look(first, END, BACK)
    (alert,) = ledger.alerts.firing()
    again = Alerting(site(ledger, tmp_path))
    look(again, END)  # it knows only minutes of its windows as yet, and says nothing
    assert [a.id for a in ledger.alerts.firing()] == [alert.id]
    look(again, END, BACK)
    assert [a.id for a in ledger.alerts.firing()] == [alert.id] and len(ledger.alerts.recent()) == 1
    two = Alerting(site(ledger, tmp_path))
    look(two, END + BLOCK_MS, BACK)  # beside the other
    look(again, END + BLOCK_MS)
    assert len(ledger.events.recent(kind="alert.fired")) == 1


def test_blocks_that_come_hours_late_count(lite: Ledger, tmp_path: Path) -> None:
    """A gateway that was cut off from the ledger writes when it can."""
    traffic(lite, END - 8 * HOUR_MS, END)
    alerting = Alerting(site(lite, tmp_path))
    look(alerting, END, BACK)
    assert firing(lite) == []
    traffic(lite, END - 5 * HOUR_MS, END - 2 * MINUTE_MS, n=50, errors=50, worker="w2")
    for tick in range(1, 80):
        look(alerting, END + tick * BLOCK_MS)
    assert firing(lite) == [("slo_burning", "availability", "critical")]
    ((_, sums),) = [(o, s) for o, s in alerting._watches[0].series.items() if o.name == "availability"]
    assert sums.sum(END, 6 * HOUR_MS) == (6 * 360 * 100 + (5 * 360 - 12) * 50, (5 * 360 - 12) * 50)


def test_what_was_read_is_what_there_is(lite: Ledger, tmp_path: Path) -> None:
    """Forward, backward, again and after compaction: each block is counted once."""
    traffic(lite, END - 20 * DAY_MS, END - 2 * DAY_MS, step=HOUR_MS, n=7, errors=1)
    traffic(lite, END - 2 * DAY_MS, END - HOUR_MS, step=300_000, n=3)
    traffic(lite, END - HOUR_MS, END + HOUR_MS, n=1)
    alerting = Alerting(site(lite, tmp_path))
    for tick in range(0, 360, 2):
        look(alerting, END + tick * BLOCK_MS)
    look(alerting, END + HOUR_MS, BACK)
    (watch,) = alerting._watches
    sums = next(s for o, s in watch.series.items() if o.name == "availability")
    total = sums.sum(END + HOUR_MS, 28 * DAY_MS)
    assert total == (18 * 24 * 7 + 47 * 12 * 3 + 720, 18 * 24)
    state = lite.objectives.all()["客服"]
    assert set(state) == {"availability", "latency", "cost"} and state["availability"]["events"] == total[0]
    assert (
        state["availability"]["complete"] and state["availability"]["budget_left"] < 0 < state["latency"]["budget_left"]
    )


def test_a_clock_that_jumps(lite: Ledger, tmp_path: Path) -> None:
    traffic(lite, END - HOUR_MS, END, errors=5)
    alerting = Alerting(site(lite, tmp_path))
    look(alerting, END - 30 * MINUTE_MS, BACK)
    assert len(lite.alerts.firing()) == 1
    for until in (END - 30 * DAY_MS, END + 500 * DAY_MS, 0, END):
        look(alerting, until, BACK)
    assert len(lite.alerts.recent()) == 2  # it ended in the quiet of other years, and fires again
    assert len(lite.alerts.firing()) == 1


def test_looking_costs_what_is_new(lite: Ledger, tmp_path: Path) -> None:
    """A look reads the new blocks and some before them, however long the windows are."""
    traffic(lite, END - 6 * HOUR_MS, END)
    alerting = Alerting(site(lite, tmp_path))
    look(alerting, END, BACK)
    read, blocks = [], lite.traffic.blocks

    def counted(*args: Any, **more: Any) -> list[Block]:
        found = blocks(*args, **more)
        read.append(len(found))
        return found

    lite.traffic.blocks = counted  # type: ignore[method-assign]
    traffic(lite, END, END + HOUR_MS)
    for tick in range(1, 91):
        look(alerting, END + tick * BLOCK_MS, 3)
    assert sum(read) / 90 <= 40


def test_objectives_taken_out_of_the_file_fire_no_more(ledger: Ledger, tmp_path: Path) -> None:
    traffic(ledger, END - HOUR_MS, END, errors=5, ms=9000)
    look(Alerting(site(ledger, tmp_path)), END, BACK)
    ledger.alerts.fire("slo_burning", "endpoint:客服", "of somebody else", summary="x", actor="ann")
    assert {a.name for a in ledger.alerts.firing()} == {"availability", "latency", "of somebody else"}
    look(Alerting(site(ledger, tmp_path, spec({"latency": 2}))), END)
    assert {a.name for a in ledger.alerts.firing()} == {"latency", "of somebody else"}


def test_money_feedback_and_guards(ledger: Ledger, tmp_path: Path) -> None:
    blocks = []
    for start in range(END - HOUR_MS, END, BLOCK_MS):
        block = Block("客服", "r1", start, requests=20, guarded=19, cost_usd=0.5)
        for value in (0, 0, 0, 0.5):
            block.score("有用", value)
        blocks.append(block)
    ledger.traffic.put("w1", blocks)
    wanted = spec({"guard": 0.05, "feedback": {"有用": 0.8}, "usd_per_day": 100})
    look(Alerting(site(ledger, tmp_path, wanted)), END, BACK)
    found = {a.kind: a for a in ledger.alerts.firing()}
    assert {k: a.severity for k, a in found.items()} == {
        "guard_spike": "critical", "feedback_low": "critical", "cost_exceeded": "critical"
    }  # fmt: skip
    assert "$180.00 in 1 d: 1.8 times what is allowed ($100.00 a day)" in found["cost_exceeded"].summary
    assert "the mean of 有用 over 1,440 answers in 1 h is 0.125" in found["feedback_low"].summary


def test_a_release_that_was_taken_back_by_itself_is_told(ledger: Ledger, tmp_path: Path) -> None:
    one, two = (ledger.assets.put("release", "客服", f"{i:064x}", actor="ann") for i in range(2))
    ledger.aliases.move("release", "客服", "prod", one, actor="ann")

    def roll(outcome: str) -> None:
        seen = ledger.rollouts.start(one, two, {"strategy": "canary"}, {}, weight=100, actor="ann")
        ledger.rollouts.save(seen, status="rolled_back", state={"outcome": outcome}, actor="loop", reason="slower",
                             evidence={"metric": "latency"} if outcome else None)  # fmt: skip

    def degraded() -> list[Alert]:
        return [a for a in ledger.alerts.firing() if a.kind == "degraded"]

    alerting = Alerting(site(ledger, tmp_path))
    roll("")  # by a person
    alerting.look(now_ms())
    assert degraded() == []
    roll("rolled_back")
    alerting.look(now_ms())
    (alert,) = degraded()
    assert alert.evidence == {"rollout": 2, "release": two.ref, "reason": "slower", "decision": {"metric": "latency"}}
    Alerting(site(ledger, tmp_path)).look(now_ms())
    assert [a.id for a in degraded()] == [alert.id] == [a.id for a in ledger.alerts.recent()]
    roll("rolled_back")
    alerting.look(now_ms())
    assert [a.name for a in degraded()] == ["rollout 3"]
    ledger.alerts.fire("x", "endpoint:b", summary="so that there is something new", actor="ann")
    alerting.look(now_ms() + 2 * DAY_MS)
    assert degraded() == []
    Alerting(site(ledger, tmp_path)).look(now_ms() + 2 * DAY_MS)
    assert degraded() == []
