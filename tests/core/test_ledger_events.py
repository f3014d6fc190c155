"""The audit trail: whatever is done to it behind Longrein's back is found, on both databases."""

from collections.abc import Callable

import pytest
import sqlalchemy as sa
from race import race

from longrein.core.errors import Error
from longrein.core.ledger import Ledger
from longrein.core.ledger.events import GENESIS, link
from longrein.core.ledger.schema import events


@pytest.fixture
def trail(ledger: Ledger) -> Ledger:
    for i in range(1, 11):
        ledger.events.append("安", "tested", f"thing:{i}", number=i, text="引号 \" ' \\ \n 👩‍👧")
    return ledger


def checkpoint(ledger: Ledger) -> dict[str, object]:
    seq, head = ledger.events.head()
    return {"seq": seq, "hash": head}


def rows(ledger: Ledger) -> list[dict[str, object]]:
    with ledger.db.read() as connection:
        return [dict(r._mapping) for r in connection.execute(sa.select(events).order_by(events.c.seq))]


def rewrite(ledger: Ledger, changed: list[dict[str, object]], *, rehash: bool = False) -> None:
    """Put other rows in place of the whole trail, with fresh hashes where the intruder knows how they are made."""
    prev = GENESIS
    for row in changed if rehash else []:
        fields = [row[c] for c in ("seq", "ts_ms", "actor", "kind", "subject", "data")]
        row["prev"], row["hash"] = prev, link(*fields, prev)  # type: ignore[arg-type]
        prev = str(row["hash"])
    with ledger.db.write() as connection:
        connection.execute(sa.text("DELETE FROM events"))
        connection.execute(events.insert(), changed)


def test_a_whole_trail_verifies(trail: Ledger) -> None:
    assert trail.events.verify() == 10
    point = checkpoint(trail)
    trail.events.append("ann", "tested", "later")
    assert trail.events.verify(point) == 11
    assert trail.events.verify({"seq": 0, "hash": GENESIS}) == 11
    rewrite(trail, rows(trail))
    assert trail.events.verify(point) == 11  # what is as it was is whole


def test_an_empty_trail_verifies(ledger: Ledger) -> None:
    assert ledger.events.head() == (0, GENESIS) and ledger.events.verify() == 0
    with pytest.raises(Error, match="shorter"):
        ledger.events.verify({"seq": 1, "hash": "ff"})


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE events SET actor = 'eve' WHERE seq = 5",
        "UPDATE events SET ts_ms = ts_ms + 1 WHERE seq = 5",
        "UPDATE events SET kind = 'gate.passed' WHERE seq = 5",
        "UPDATE events SET subject = 'thing:6' WHERE seq = 5",
        "UPDATE events SET data = '{\"number\":6}' WHERE seq = 5",
        "UPDATE events SET data = data || ' ' WHERE seq = 5",
        "UPDATE events SET prev = hash WHERE seq = 5",
        "UPDATE events SET hash = prev WHERE seq = 5",
        "UPDATE events SET actor = '' WHERE seq = 10",
        "UPDATE events SET actor = '' WHERE seq = 1",
        "DELETE FROM events WHERE seq = 5",
        "DELETE FROM events WHERE seq = 1",
        "UPDATE events SET seq = seq + 100 WHERE seq >= 5",
        "UPDATE events SET seq = 0 WHERE seq = 1",
        "INSERT INTO events SELECT seq + 1, ts_ms, actor, kind, subject, data, prev, hash FROM events WHERE seq = 10",
        "INSERT INTO events SELECT 0, ts_ms, actor, kind, subject, data, prev, hash FROM events WHERE seq = 10",
        "INSERT INTO events SELECT -5, ts_ms, actor, kind, subject, data, prev, hash FROM events WHERE seq = 10",
    ],
)
def test_an_edited_removed_or_inserted_row_is_found(trail: Ledger, statement: str) -> None:
    with trail.db.write() as connection:
        connection.exec_driver_sql(statement)
    with pytest.raises(Error) as caught:
        trail.events.verify()
    assert caught.value.code == "corrupt"


def swapped(found: list[dict[str, object]]) -> list[dict[str, object]]:
    found[3]["seq"], found[4]["seq"] = found[4]["seq"], found[3]["seq"]
    return found


def test_rows_in_another_order_are_found(trail: Ledger) -> None:
    rewrite(trail, swapped(rows(trail)))
    with pytest.raises(Error, match="event 4"):
        trail.events.verify()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda found: found[:7], "shorter"),
        (lambda found: [*found[:9], found[9] | {"actor": "eve"}], "different"),
        (lambda found: [found[0] | {"kind": "gate.passed"}, *found[1:]], "different"),
        (lambda found: [*found[:9], found[9] | {"actor": "eve"}, found[9] | {"seq": 11}], "different"),
    ],
)
def test_a_checkpoint_finds_a_cut_or_rewritten_tail(
    trail: Ledger, change: Callable[[list[dict[str, object]]], list[dict[str, object]]], message: str
) -> None:
    point = checkpoint(trail)
    rewrite(trail, change(rows(trail)), rehash=True)
    trail.events.verify()  # the chain alone cannot tell
    with pytest.raises(Error, match=message):
        trail.events.verify(point)


def test_recent(trail: Ledger) -> None:
    trail.events.append("ann", "other", "thing:3")
    assert [e.seq for e in trail.events.recent(limit=3)] == [11, 10, 9]
    assert [e.seq for e in trail.events.recent("thing:3")] == [11, 3]
    assert [e.seq for e in trail.events.recent("thing:3", kind="tested")] == [3]
    assert [e.seq for e in trail.events.recent(after=9)] == [11, 10]
    event = trail.events.recent("thing:3", kind="tested")[0]
    assert (event.actor, event.data) == ("安", {"number": 3, "text": "引号 \" ' \\ \n 👩‍👧"})


APPENDERS = """
import sys
from longrein.core.ledger import Ledger
ledger = Ledger(sys.argv[1])
GO
for i in range(40):
    with ledger.transaction():
        ledger.events.append(sys.argv[2], "tested", str(i))
        ledger.events.append(sys.argv[2], "tested", str(i))
print(0)
"""


def test_processes_that_append_at_once_keep_the_chain_whole(ledger: Ledger, ledger_url: str) -> None:
    race(APPENDERS, ledger_url)
    assert ledger.events.verify() == 240
    order = [e.actor for e in reversed(ledger.events.recent(limit=240))]
    assert all(one == other for one, other in zip(order[::2], order[1::2], strict=True))


CROSSED = """
import sys
from longrein.core.ledger import Ledger
ledger = Ledger(sys.argv[1])
one = ledger.assets.put("model", "m", "one")
GO
for i in range(15):
    if sys.argv[2] == "0":
        with ledger.transaction():
            ledger.events.append("a", "tested", "x")
            ledger.aliases.move("model", "m", "prod", ledger.assets.put("model", "m", f"d{i}"), actor="a")
    else:
        ledger.aliases.move("model", "m", "prod", one, actor="b")
print(0)
"""


def test_writers_never_wait_for_each_other_in_a_circle(ledger: Ledger, ledger_url: str) -> None:
    race(CROSSED, ledger_url)
    ledger.events.verify()
