"""Answers graded by another endpoint: a real gateway, a judge behind it, scores like any feedback."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from eye import Eye, until
from mock_upstream import Asked, Mock, say
from world import World

from longrein.control import judging, nouns
from longrein.control.scaffold import own_key
from longrein.core.errors import Error
from longrein.core.observation import Observation

GRADES = {"good": '{"score": 0.9}', "bad": '{"score": 0}', "odd": '{"score": 7}', "words": "it is fine!"}


async def grade(mock: Mock, asked: Asked) -> None:
    """As the answer says that it deserves: of the echo, its second word."""
    assert asked.json["response_format"]["json_schema"]["schema"]["required"] == ["score"]
    material = json.loads(asked.json["messages"][-1]["content"])
    await say(GRADES[material["answer"].split()[1]])(mock, asked)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.ledger.close()


def test_answers_are_graded_and_grades_are_feedback(world: World) -> None:
    mock = Mock(grade)
    world.promote(world.release("support", "v1"), judge={"endpoint": "judge", "share": 1, "per_minute": 5})
    meta = {"model": None, "prompt": None, "engine": "openai", "options": {"urls": [mock.url], "model": "mock-1"}}
    (world.folder / "judge.json").write_text(json.dumps(meta))
    stored = world.store.put(world.folder / "judge.json")
    release = world.ledger.assets.put("release", "judge", stored.digest, uri=stored.uri, meta=meta, actor="test")
    world.ledger.aliases.move("release", "judge", "prod", release, actor="test")
    world.want("judge", model=None, engine="torch", upstream=meta["options"])
    own_key(world.ledger, world.folder / ".longrein", actor="test")
    eye = Eye(world)
    with world.serve() as gateway, world.client(gateway) as client:
        (world.folder / ".longrein" / judging.NOTE).write_text(json.dumps({"url": gateway.url}))
        ids = {}
        for word in ("good", "bad", "odd", "words", "good"):
            text = [{"role": "user", "content": f"{word} 问题"}]
            ids[client.chat.completions.create(model="support", messages=text).id] = word
        counts = eye.part._judges.counts["support"]
        until(lambda: counts["graded"] + counts["failed"] == 5)
        assert counts == {"graded": 3, "failed": 2, "left_out": 0}
        said = {id: [(f["name"], f["value"]) for f in world.ledger.feedback.of(id)] for id in ids}
        assert said == {id: {"good": [("judged", 0.9)], "bad": [("judged", 0.0)]}.get(w, []) for id, w in ids.items()}
        for _ in range(3):
            client.chat.completions.create(model="support", messages=[{"role": "user", "content": "good"}])
        until(lambda: counts["left_out"] == 3)
        gateway.tally.flush()
        scores = [b.scores["judged"] for b in world.ledger.traffic.blocks("support", until_ms=1 << 60) if b.scores]
        assert sum(s.count for s in scores) == 3
    eye.part._told = 0.0
    eye.observer.look()
    (row,) = [row for row in world.ledger.drift.of("support")]
    assert row["state"]["judge"] == counts
    eye.close()
    mock.close()


def test_a_share_is_the_same_answers_for_everybody() -> None:
    ids = [f"chatcmpl-{i:024x}" for i in range(10_000)]
    chosen = [id for id in ids if judging._chosen(id, 0.05)]
    assert 400 < len(chosen) < 600
    assert set(chosen) < {id for id in ids if judging._chosen(id, 0.2)}
    assert all(judging._chosen(id, 1.0) for id in ids)


def test_no_gateway_and_no_end(world: World) -> None:
    """Nobody answers: counted. A flood: bounded."""
    world.promote(world.release("support", "v1"), judge={"endpoint": "support", "share": 1, "per_minute": 300})
    eye = Eye(world)
    judges, counts = eye.part._judges, eye.part._judges.counts["support"]
    judges.offer([Observation(id=f"r{i}", ts_ms=i, endpoint="support", output="x") for i in range(1000)])
    judges.offer([Observation(id="none", ts_ms=0, endpoint="support"), Observation(id="other", ts_ms=0, endpoint="x")])
    until(lambda: not judges._waiting and sum(counts.values()) == 1000)
    assert counts["failed"] >= judging.MOST and counts["left_out"] >= 700 and counts["graded"] == 0
    eye.close()


@pytest.mark.parametrize(
    ("judge", "told"),
    [
        ("{endpoint: other}", "there is no 'other' in endpoints"),
        ("{endpoint: support}", "a judge is not judged itself"),
        ("{share: .1}", "endpoint"),
        ("{endpoint: support, share: 0}", "share"),
    ],
)
def test_what_a_judge_may_be(tmp_path: Path, judge: str, told: str) -> None:
    upstream = "upstream: {urls: ['http://127.0.0.1:1'], model: x}, approval: manual"
    (tmp_path / "longrein.yaml").write_text(f"project: a\nendpoints:\n  support: {{{upstream}, judge: {judge}}}\n")
    with pytest.raises(Error, match=told):
        nouns.read(tmp_path / "longrein.yaml")
