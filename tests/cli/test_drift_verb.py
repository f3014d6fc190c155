"""`longrein drift`: how each stream stands, what an alert tells, what it is about, and accepting it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from eye import QUICK, Eye, texts, until
from world import World

from longrein.control.drifting import affected

from .conftest import Call


@pytest.fixture
def eye(tmp_path: Path) -> Iterator[Eye]:
    (tmp_path / "longrein.yaml").write_text("project: test\n")
    world = World(tmp_path)
    world.promote(world.release("support", "v1"), drift=QUICK, log_text=True)
    world.want("plain")
    eye = Eye(world)
    yield eye
    eye.close()
    world.ledger.close()


def test_drift(eye: Eye, call: Call) -> None:
    at = ("-C", eye.home.parent)
    assert "learns, 200 to go" in call(*at, "drift").out
    eye.weigh(texts("bank", 400))
    eye.part._told = 0.0
    eye.observer.look()
    shown = call(*at, "drift", "support").out
    assert "as it was" in shown and "the first 200, for model:support@1 was not trained here" in shown
    assert "output of r1" in shown
    eye.weigh(texts("travel", 120))
    eye.part._told = 0.0
    eye.observer.look()
    shown = call(*at, "drift").out
    assert "what endpoint:support is asked has changed" in shown and "1 in" in shown and "--accept" in shown
    data = call(*at, "--json", "drift").data
    (stream,) = [one for one in data["streams"] if one["group"] == "input"]
    assert stream["drifted"] and stream["evidence"] > stream["needed"] == 15000
    assert any(word in shown for word in data["alerts"][0]["evidence"]["kinds"][0]["words"])
    until(lambda: affected(eye.home.parent, eye.firing()[0]))
    ids = call(*at, "drift", "support", "--affected", "-n", 5).out.split()
    assert len(ids) == 5 and all(id >= "r000400" for id in ids)
    done = call(*at, "drift", "support", "--accept", "--reason", "summer")
    assert done.code == 0
    eye.observer.look()
    assert eye.firing() == []
    (event,) = eye.ledger.events.recent(kind="drift.accepted")
    assert event.data == {"reason": "summer"}
    assert "no request of this host" in call(*at, "drift", "support", "--affected").out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["suport"], "there is no endpoint 'suport'"),
        (["plain"], "is not watched for drift"),
        (["--accept"], "name the endpoint"),
    ],
)
def test_what_is_not_watched(eye: Eye, call: Call, arguments: list[str], told: str) -> None:
    done = call("-C", eye.home.parent, "drift", *arguments)
    assert done.code != 0 and told in done.err
