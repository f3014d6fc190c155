"""The outbox of alerts and silences, on both databases."""

import threading

import pytest

from longrein.core.errors import Error
from longrein.core.ledger import Alert, Ledger, now_ms
from longrein.core.ledger.notices import DAY_MS, FIRST_MS, LEASE_MS, LONGEST_MS, MOST_MS

NOW = 1_800_000_000_000
WAIT = 30_000


def fire(ledger: Ledger, name: str = "", severity: str = "warning") -> Alert:
    return ledger.alerts.fire("slo_burning", "endpoint:客服", name, summary="x", severity=severity, actor="ann")


def test_what_waits_goes_out_together_once_the_first_is_due(ledger: Ledger) -> None:
    first, second = fire(ledger, "a"), fire(ledger, "b")
    assert ledger.notices.add("ops", first, 0, NOW) and ledger.notices.add("ops", second, 0, NOW + 9)
    assert not ledger.notices.add("ops", first, 0, NOW)  # another observer was quicker
    ledger.notices.add("else", first, 0, NOW)
    assert ledger.notices.claim("ops", NOW - 1, WAIT) is None
    claim = ledger.notices.claim("ops", NOW, WAIT)
    assert claim and [(n.alert_id, n.turn, n.what) for n in claim.notices] == [
        (first.id, 0, "firing"), (second.id, 0, "firing")
    ]  # fmt: skip
    assert ledger.alerts.many([n.alert_id for n in claim.notices]) == [second, first] and ledger.alerts.many([]) == []
    assert ledger.notices.sent(claim, NOW + 1)
    assert ledger.notices.claim("ops", NOW + 2, WAIT) is None
    assert ledger.notices.claim("else", NOW + 2, WAIT)


def test_one_of_many_sends(ledger: Ledger) -> None:
    for i in range(3):
        ledger.notices.add("ops", fire(ledger, str(i)), 0, NOW)
    claims: list[object] = []
    threads = [threading.Thread(target=lambda: claims.append(ledger.notices.claim("ops", NOW, WAIT))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([c for c in claims if c]) == 1 and len(claims) == 8


def test_who_was_killed_while_sending_is_followed_by_another(ledger: Ledger) -> None:
    ledger.notices.add("ops", fire(ledger), 0, NOW)
    lost = ledger.notices.claim("ops", NOW, WAIT)
    assert lost and ledger.notices.claim("ops", NOW + LEASE_MS - 1, WAIT) is None
    again = ledger.notices.claim("ops", NOW + LEASE_MS, WAIT)
    assert again and (again.id, again.notices) == (lost.id, lost.notices)
    assert not ledger.notices.sent(lost, NOW + LEASE_MS + 1)  # it lives after all, and is told that it may have doubled
    assert ledger.notices.claim("ops", NOW + 2 * LEASE_MS, WAIT) is None
    assert not ledger.notices.failed(lost, "late", NOW + LEASE_MS)


def test_a_receiver_that_is_down_is_tried_ever_more_rarely_and_given_up_after_a_day(ledger: Ledger) -> None:
    ledger.notices.add("ops", fire(ledger), 0, NOW)
    now, waits = NOW, []
    while claim := ledger.notices.claim("ops", now, WAIT):
        if lost := ledger.notices.failed(claim, "no answer", now):
            break
        state = ledger.notices.channels(now)["ops"]
        assert (state.waiting, state.given_up, state.failing_ms, state.error) == (1, 0, NOW, "no answer")
        waits.append(state.retry_ms - now)
        assert ledger.notices.claim("ops", state.retry_ms - 1, WAIT) is None
        now = state.retry_ms
    assert waits[:3] == [FIRST_MS, 2 * FIRST_MS, 4 * FIRST_MS] and waits[-1] == MOST_MS and len(lost) == 1
    assert now > NOW + DAY_MS > now - MOST_MS
    state = ledger.notices.channels(now)["ops"]
    assert (state.waiting, state.given_up) == (0, 1)
    assert ledger.notices.channels(now + 2 * DAY_MS)["ops"].given_up == 0


def test_a_receiver_says_when_to_come_back_within_reason(ledger: Ledger) -> None:
    ledger.notices.add("ops", fire(ledger), 0, NOW)
    now = NOW
    for asked_s, waited_ms in ((100, 100_000), (1e12, LONGEST_MS), (-5, 4 * FIRST_MS)):
        claim = ledger.notices.claim("ops", now, WAIT)
        assert claim
        ledger.notices.failed(claim, "429", now, asked_s)
        assert ledger.notices.channels(now)["ops"].retry_ms == now + waited_ms
        now += waited_ms


def test_a_clock_set_back_by_years_holds_nothing_up(ledger: Ledger) -> None:
    ledger.notices.add("ops", fire(ledger), 0, NOW)
    claim = ledger.notices.claim("ops", NOW, WAIT)
    assert claim
    ledger.notices.failed(claim, "down", NOW)
    before = NOW - 1000 * DAY_MS
    claim = ledger.notices.claim("ops", before, WAIT)
    assert claim and ledger.notices.sent(claim, before)


def test_what_was_noticed_last(ledger: Ledger) -> None:
    one, other = fire(ledger, "a"), fire(ledger, "b", "critical")
    for turn in range(2):
        ledger.notices.add("ops", one, turn, NOW + turn)
    ledger.notices.add("ops", other, 0, NOW)
    milder = fire(ledger, "b", "info")
    ledger.notices.add("ops", milder, 1, NOW + 5)
    found = {key: (n.turn, n.severity) for key, n in ledger.notices.open().items()}
    assert found == {("ops", one.id): (1, "warning"), ("ops", other.id): (1, "critical")}
    over = ledger.alerts.resolve("slo_burning", "endpoint:客服", "a", actor="ann")
    assert over
    ledger.notices.add("ops", over, 2, NOW)
    assert list(ledger.notices.open()) == [("ops", other.id)]


def test_what_waits_for_a_channel_that_is_gone_is_given_up(ledger: Ledger) -> None:
    alert = fire(ledger)
    ledger.notices.add("old", alert, 0, NOW)
    ledger.notices.add("ops", alert, 0, NOW)
    ledger.notices.abandon(["ops"], NOW)
    assert ledger.notices.claim("old", NOW, WAIT) is None and ledger.notices.claim("ops", NOW, WAIT)
    assert ledger.notices.channels(NOW)["old"].given_up == 1


def test_a_silence_covers_what_it_names_until_it_ends(ledger: Ledger) -> None:
    alert = fire(ledger, "latency")
    everything = ledger.silences.add(for_s=60, reason="维护", actor="ann")
    narrow = ledger.silences.add("slo_burning", alert.subject, "latency", for_s=3600, reason="known", actor="ann")
    other = ledger.silences.add("drifted", for_s=3600, reason="", actor="ann")
    assert [s.covers(alert) for s in (everything, narrow, other)] == [True, True, False]
    now = now_ms()
    assert [s.id for s in ledger.silences.active(now)] == [everything.id, narrow.id, other.id]
    assert [s.id for s in ledger.silences.active(now + 61_000)] == [narrow.id, other.id]
    ended = ledger.silences.end(narrow.id, actor="bob")
    assert ended.about == "slo_burning endpoint:客服 latency"
    assert narrow not in ledger.silences.active(now_ms() + 1)
    with pytest.raises(Error, match="no silence"):
        ledger.silences.end(narrow.id, actor="bob")
    (event,) = ledger.events.recent(kind="silence.ended")
    assert (event.actor, event.subject) == ("bob", f"silence:{narrow.id}")
    for wrong in (0, -1, float("nan"), 1e12):
        with pytest.raises(Error, match="cannot last"):
            ledger.silences.add(for_s=wrong, reason="", actor="ann")


def test_objectives_are_kept_as_they_stood_last(ledger: Ledger) -> None:
    ledger.objectives.put("客服", {"latency": {"left": 0.5}, "cost": {"left": 1}}, NOW)
    ledger.objectives.put("客服", {"latency": {"left": 0.4}}, NOW + 1)
    ledger.objectives.put("b", {"latency": {}}, NOW)
    assert ledger.objectives.all() == {
        "b": {"latency": {"updated_ms": NOW}}, "客服": {"latency": {"left": 0.4, "updated_ms": NOW + 1}}
    }  # fmt: skip
    ledger.objectives.keep(["客服"])
    assert list(ledger.objectives.all()) == ["客服"]
    ledger.objectives.keep([])
    assert ledger.objectives.all() == {}
