"""Holds on an endpoint: the newest word counts, each part by itself, and the trail tells who said it."""

from longrein.core.ledger import Hold, Ledger


def test_each_part_is_changed_by_itself(ledger: Ledger) -> None:
    assert ledger.holds.get("客服") == Hold()
    ledger.holds.set("客服", frozen=True, actor="rule:mend", reason="drift")
    ledger.holds.set("客服", approval=True, actor="ann")
    assert ledger.holds.get("客服") == Hold(frozen=True, approval=True, actor="ann")
    ledger.holds.set("客服", frozen=False, actor="bob", reason="fine")
    assert ledger.holds.get("客服") == Hold(approval=True, reason="fine", actor="bob")
    assert ledger.holds.get("other") == Hold()


def test_what_changes_nothing_is_no_event(ledger: Ledger) -> None:
    before = ledger.events.head()
    ledger.holds.set("desk", frozen=False, approval=False, actor="ann")
    assert ledger.events.head() == before
    ledger.holds.set("desk", frozen=True, actor="ann")
    ledger.holds.set("desk", frozen=True, actor="bob", reason="again")
    assert ledger.events.head()[0] == before[0] + 1 and ledger.holds.get("desk").actor == "ann"


def test_since_when_a_part_of_the_wanted_state_is_as_it_is(ledger: Ledger) -> None:
    def rule(spec: dict) -> object:  # type: ignore[type-arg]
        return spec.get("rule")

    assert ledger.work.declared_ms(rule) == 0
    for spec in ({"rule": 1}, {"rule": 2}, {"rule": 2, "more": 1}, {"rule": 2, "more": 2}):
        ledger.work.want(spec, actor="ann")
    rows = [e.ts_ms for e in ledger.events.recent(kind="wanted")]  # the newest first
    assert rows[3] <= ledger.work.declared_ms(rule) <= rows[2]
