"""Aliases: compare-and-swap, gates that block, and the way back, on both databases."""

import threading

import pytest
from race import race

from longrein.core.digest import of_json
from longrein.core.errors import Error
from longrein.core.ledger import Asset, Ledger
from longrein.core.ledger.aliases import APPROVAL
from longrein.models.registry import promote
from longrein.models.rollback import rollback


def releases(ledger: Ledger, count: int, name: str = "shop") -> list[Asset]:
    return [ledger.assets.put("release", name, f"d{i}", actor="ann") for i in range(1, count + 1)]


def serve(ledger: Ledger, *order: Asset) -> None:
    for release in order:
        promote(ledger, release, actor="ann")


def serving(ledger: Ledger) -> str:
    return ledger.assets.get("release:shop@prod").ref


def back(ledger: Ledger, to: str = "") -> str:
    return rollback(ledger, "shop", to, actor="ann").ref.rpartition("@")[2]


def refused(code: str, action: "object", *args: object, **given: object) -> Error:
    with pytest.raises(Error) as caught:
        action(*args, **given)  # type: ignore[operator]
    assert caught.value.code == code
    return caught.value


def test_an_alias_moves_by_compare_and_swap(ledger: Ledger) -> None:
    one, two = releases(ledger, 2)

    def move(to: Asset, expect: int) -> int:
        return ledger.aliases.move("release", "shop", "prod", to, actor="ann", expect=expect)

    assert move(one, 0) == 1 and move(two, 1) == 2
    for seen in (0, 1, 3):
        refused("conflict", move, one, seen)
    assert serving(ledger) == two.ref
    assert ledger.aliases.get("release", "shop") == {"prod": (two, 2)}


def test_moving_to_where_it_points_changes_nothing(ledger: Ledger) -> None:
    one, _ = releases(ledger, 2)
    serve(ledger, one, one, one)
    assert ledger.aliases.get("release", "shop")["prod"][1] == 1
    assert [e.kind for e in ledger.events.recent("release:shop@prod")] == ["alias.moved"]


@pytest.mark.parametrize("alias", ["latest", "3", "²", "a@b", "", "a b\n"])
def test_an_alias_cannot_look_like_a_version(ledger: Ledger, alias: str) -> None:
    (one,) = releases(ledger, 1)
    refused("invalid", promote, ledger, one, alias, actor="ann")


def test_an_alias_holds_only_versions_of_its_own_name(ledger: Ledger) -> None:
    (one,), (other,) = releases(ledger, 1), releases(ledger, 1, "other")
    refused("invalid", ledger.aliases.move, "release", "shop", "prod", other, actor="ann")
    promote(ledger, one, "生产", actor="ann")
    assert ledger.assets.get("release:shop@生产") == one


def test_of_many_threads_that_saw_the_same_revision_one_wins(ledger: Ledger) -> None:
    made = releases(ledger, 9)
    serve(ledger, made[0])
    start, outcomes = threading.Barrier(8), list[str]()

    def run(release: Asset) -> None:
        start.wait()
        try:
            ledger.aliases.move("release", "shop", "prod", release, actor="ann", expect=1)
            outcomes.append(release.ref)
        except Error as error:
            outcomes.append(error.code)

    threads = [threading.Thread(target=run, args=(release,)) for release in made[1:]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes)[:7] == ["conflict"] * 7 and sorted(outcomes)[7] == serving(ledger)


MOVERS = """
import sys
from longrein.core.errors import Error
from longrein.core.ledger import Ledger
ledger = Ledger(sys.argv[1])
mine = ledger.assets.put("release", "shop", "by" + sys.argv[2])
GO
won = []
for alias in range(15):
    try:
        ledger.aliases.move("release", "shop", f"a{alias}", mine, actor=sys.argv[2], expect=0)
        won.append(alias)
    except Error as error:
        assert error.code == "conflict", error
print(json.dumps(won))
"""


def test_of_many_processes_that_saw_the_same_revision_one_wins(ledger: Ledger, ledger_url: str) -> None:
    won = [alias for each in race(MOVERS, ledger_url) for alias in each]
    assert sorted(won) == list(range(15))
    assert ledger.events.verify() == 3 + 15


# -- gates


def guard(ledger: Ledger, **gates: str) -> None:
    ledger.aliases.guard("release", "shop", "prod", gates, actor="ann")


def judge(ledger: Ledger, asset: Asset, gate: str, definition: str, passed: bool) -> None:
    ledger.aliases.judge(gate, definition, [asset], passed, ["em .9 ≥ .8"], actor="loop")


def test_a_gate_blocks_until_it_passed_this_very_digest(ledger: Ledger) -> None:
    one, two = releases(ledger, 2)
    guard(ledger, quality="q1")
    error = refused("blocked", promote, ledger, one, actor="ann")
    assert "quality" in error.message and error.details["gates"] == {"quality": "has not judged this digest"}
    judge(ledger, two, "quality", "q1", True)  # another digest
    judge(ledger, one, "quality", "q0", True)  # another definition of the gate
    judge(ledger, one, "speed", "q1", True)  # another gate
    judge(ledger, one, "quality", "q1", False)
    assert "em .9" in refused("blocked", promote, ledger, one, actor="ann").message
    judge(ledger, one, "quality", "q1", True)
    serve(ledger, one)
    judge(ledger, one, "quality", "q1", False)  # the newest verdict counts
    promote(ledger, one, "staging", actor="ann")  # an alias that nothing guards
    serve(ledger, two)
    refused("blocked", promote, ledger, one, actor="ann")


def test_a_changed_gate_must_judge_again(ledger: Ledger) -> None:
    one, two = releases(ledger, 2)
    guard(ledger, quality="q1")
    judge(ledger, one, "quality", "q1", True)
    guard(ledger, quality="q2")
    refused("blocked", promote, ledger, one, actor="ann")
    judge(ledger, one, "quality", "q2", True)
    guard(ledger, quality="q2", speed="s1")
    assert list(ledger.aliases.missing("release", "shop", "prod", one)) == ["speed"]
    guard(ledger)
    serve(ledger, one, two)
    assert [e.kind for e in ledger.events.recent("release:shop@prod")].count("alias.guarded") == 4


def test_nothing_passes_by_while_a_gate_blocks(ledger: Ledger) -> None:
    one, two = releases(ledger, 2)
    serve(ledger, one)
    guard(ledger, quality="q1")
    refused("blocked", ledger.aliases.drop, "release", "shop", "prod", actor="ann")
    refused("blocked", ledger.aliases.move, "release", "shop", "prod", two, actor="ann", back=True)
    refused("blocked", rollback, ledger, "shop", "2", actor="ann")
    refused("blocked", ledger.aliases.move, "release", "shop", "prod", two, actor="ann", expect=1)
    assert serving(ledger) == one.ref
    assert not [
        e for e in ledger.events.recent("release:shop@prod") if e.kind in ("alias.dropped", "alias.rolled_back")
    ]


def test_a_person_approves_one_digest(ledger: Ledger) -> None:
    one, two = releases(ledger, 2)
    guard(ledger, **{APPROVAL: of_json(APPROVAL)})
    assert "--approve" in refused("blocked", promote, ledger, one, actor="ann").hint
    promote(ledger, one, actor="ann", approve=True, reason="looks good")
    assert serving(ledger) == one.ref
    refused("blocked", promote, ledger, two, actor="ann")
    (verdict,) = ledger.aliases.verdicts(one.digest)
    assert (verdict.gate, verdict.actor, verdict.reasons) == (APPROVAL, "ann", ["looks good"])


def test_an_approval_opens_no_other_gate(ledger: Ledger) -> None:
    (one,) = releases(ledger, 1)
    guard(ledger, quality="q1", **{APPROVAL: of_json(APPROVAL)})
    refused("blocked", promote, ledger, one, actor="ann", approve=True)
    assert ledger.aliases.verdicts(one.digest) == []  # all or nothing


def test_an_unguarded_alias_can_be_dropped_once(ledger: Ledger) -> None:
    (one,) = releases(ledger, 1)
    serve(ledger, one)
    assert ledger.aliases.drop("release", "shop", "prod", actor="ann")
    assert not ledger.aliases.drop("release", "shop", "prod", actor="ann")
    serve(ledger, one)
    assert ledger.aliases.get("release", "shop")["prod"][1] == 1


# -- the way back


def test_rolling_back_twice_goes_back_twice(ledger: Ledger) -> None:
    one, two, three = releases(ledger, 3)
    serve(ledger, one, two, three)
    assert [back(ledger), back(ledger)] == ["2", "1"]
    assert "no release before" in refused("not_found", rollback, ledger, "shop", actor="ann").message
    serve(ledger, three)  # the undo of the rollbacks
    assert back(ledger) == "1"


def test_a_release_that_came_back_has_two_places_on_the_way(ledger: Ledger) -> None:
    one, two, three = releases(ledger, 3)
    serve(ledger, one, two, one, three)
    assert [back(ledger) for _ in range(3)] == ["1", "2", "1"]


def test_rolling_back_to_a_version_passes_those_between_over(ledger: Ledger) -> None:
    made = releases(ledger, 4)
    serve(ledger, *made)
    assert back(ledger, "1") == "1"
    assert ledger.aliases.previous("release", "shop", "prod") is None
    assert back(ledger, "release:shop@3") == "3"  # forward again: it was in production before
    assert back(ledger) == "1"


def test_rollback_needs_no_verdict_but_only_goes_where_production_was(ledger: Ledger) -> None:
    one, two, three = releases(ledger, 3)
    serve(ledger, one, two)
    guard(ledger, quality="q1")
    assert back(ledger) == "1"
    refused("blocked", rollback, ledger, "shop", "3", actor="ann")
    refused("not_found", rollback, ledger, "shop", "9", actor="ann")
    refused("not_found", rollback, ledger, "nowhere", actor="ann")
    assert serving(ledger) == one.ref and three.ref not in [e.data.get("to") for e in ledger.events.recent()]


def test_a_long_life_still_knows_its_way_back(ledger: Ledger) -> None:
    one, two, three = releases(ledger, 3)
    with ledger.transaction():
        serve(ledger, one)
        for _ in range(60):
            serve(ledger, two)
            rollback(ledger, "shop", actor="ann")
        serve(ledger, three)
    assert back(ledger) == "1"
