"""Alerts, on both databases."""

import threading

from longrein.core.ledger import Ledger

ABOUT = ("drifted", "endpoint:support", "语言")


def test_an_alert_fires_once_however_often_it_is_raised(ledger: Ledger) -> None:
    head = ledger.events.head()[0]
    first = ledger.alerts.fire(*ABOUT, summary="more French", evidence={"share": 0.2}, since_ms=5, actor="ann")
    again = ledger.alerts.fire(*ABOUT, summary="still more", evidence={"share": 0.3}, severity="critical", actor="bob")
    (held,) = ledger.alerts.firing()
    assert held == again and again.id == first.id and again.since_ms == 5 and again.fired_ms == first.fired_ms
    assert (held.summary, held.evidence, held.severity, held.firing) == ("still more", {"share": 0.3}, "critical", True)
    assert ledger.events.head()[0] == head + 1
    (event,) = ledger.events.recent("endpoint:support", "alert.fired")
    assert (event.actor, event.data["about"], event.data["alert"]) == ("ann", "drifted", first.id)


def test_one_that_is_over_may_fire_again(ledger: Ledger) -> None:
    first = ledger.alerts.fire(*ABOUT, summary="x", actor="ann")
    over = ledger.alerts.resolve(*ABOUT, summary="gone", actor="ann")
    assert over and over.resolved_ms and over.summary == "gone" and ledger.alerts.firing() == []
    assert ledger.alerts.resolve(*ABOUT, actor="ann") is None
    second = ledger.alerts.fire(*ABOUT, summary="y", actor="ann")
    assert [a.id for a in ledger.alerts.recent()] == [second.id, first.id]
    assert ledger.alerts.recent(after=first.id) == [second]


def test_alerts_differ_by_kind_subject_and_name(ledger: Ledger) -> None:
    for kind, subject, name in [ABOUT, ("drifted", "endpoint:b", ""), ("slo_burning", "endpoint:b", "")]:
        ledger.alerts.fire(kind, subject, name, summary="x", actor="ann")
    assert len(ledger.alerts.firing()) == 3 and len(ledger.alerts.firing("drifted")) == 2
    assert [a.kind for a in ledger.alerts.recent(subject="endpoint:b")] == ["slo_burning", "drifted"]


def test_many_who_see_the_same_raise_one(ledger: Ledger) -> None:
    threads = [
        threading.Thread(target=lambda i=i: ledger.alerts.fire(*ABOUT, summary=str(i), actor="ann")) for i in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ledger.alerts.recent()) == len(ledger.events.recent("endpoint:support", "alert.fired")) == 1
