"""What every engine plugin keeps; found by itself, run over each (see longrein.core.ports.Engine)."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import tiny

from longrein.core import plugins
from longrein.core.errors import Error
from longrein.core.generation import Event, Limits, Load, Request
from longrein.core.ports import Engine, Steered

COUNTERS = {"running", "waiting", "slots_used", "slots_total", "steps_total", "tokens_in_total", "tokens_out_total"}
CHAT = [{"role": "user", "content": "How do I change the card? 我的卡丢了"}]


@pytest.fixture(scope="module", params=plugins.names("engine"))
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    folder = tiny.make(tmp_path_factory.mktemp("engine") / "model")
    try:
        made: Engine = plugins.load("engine", request.param)(folder, {})
    except Error as error:
        if error.code != "missing_package":
            raise
        pytest.skip(error.message)
    return made


def finish(engine: Engine, *requests: Request) -> dict[str, list[Event]]:
    events: dict[str, list[Event]] = {request.id: [] for request in requests}
    for request in requests:
        engine.submit(request)
    while engine.pending():
        for event in engine.step():
            events[event.id].append(event)
    return events


def chat(id: str, **fields: Any) -> Request:
    return Request(id=id, messages=CHAT, **fields)


def test_says_what_it_is(engine: Engine) -> None:
    assert engine.info["context"] > 0 and engine.info["max_batch"] > 0 and engine.info["chat"] is True
    assert json.loads(json.dumps(engine.info)) == engine.info


def test_each_request_ends_once_with_its_usage(engine: Engine) -> None:
    count = engine.info["max_batch"] + 3
    found = finish(engine, *(chat(str(i), max_tokens=1 + i % 7, temperature=0) for i in range(count)))
    for i, events in enumerate(found[str(i)] for i in range(count)):
        assert [e.finish_reason for e in events[:-1]] == [None] * (len(events) - 1)
        last = events[-1]
        assert last.finish_reason in ("stop", "length") and last.error is None and last.usage is not None
        assert last.usage.completion_tokens == sum(len(e.token_ids) for e in events) <= 1 + i % 7
        assert last.usage.prompt_tokens > 0


def test_greedy_and_seeded_answers_repeat(engine: Engine) -> None:
    for fields in ({"temperature": 0.0}, {"seed": 5}):
        found = finish(engine, *(chat(i, max_tokens=12, **fields) for i in "abc"))
        assert len({"".join(e.text for e in events) for events in found.values()}) == 1


def test_stop_strings_do_not_appear(engine: Engine) -> None:
    [whole] = finish(engine, chat("a", max_tokens=30, temperature=0, ignore_eos=True)).values()
    text = "".join(e.text for e in whole)
    stop = text[len(text) // 2 :][:3]
    [cut] = finish(engine, chat("a", max_tokens=30, temperature=0, ignore_eos=True, stop=[stop])).values()
    assert "".join(e.text for e in cut) == text[: text.index(stop)]
    assert (cut[-1].finish_reason, cut[-1].stop) == ("stop", stop)


def test_cancel(engine: Engine) -> None:
    for id in ("a", "b"):
        engine.submit(chat(id, ignore_eos=True))
    while not any(e.id == "a" for e in engine.step()):
        pass
    engine.cancel("a")
    engine.cancel("a")
    assert engine.pending() == 1
    assert {e.id for e in engine.step()} <= {"b"}
    engine.cancel("b")
    assert engine.pending() == 0 and engine.step() == []


def test_bad_requests(engine: Engine) -> None:
    for request in (Request(id="x"), Request(id="x", prompt=""), Request(id="x", prompt=[5] * 100_000)):
        with pytest.raises(Error) as caught:
            engine.submit(request)
        assert caught.value.code == "invalid" and caught.value.details["param"]
    assert engine.pending() == 0


def test_stats(engine: Engine) -> None:
    before = engine.stats()
    assert before.keys() >= COUNTERS | {"step_s", "batch_sizes"}
    [events] = finish(engine, chat("a", max_tokens=5, ignore_eos=True)).values()
    after = engine.stats()
    assert after["tokens_out_total"] - before["tokens_out_total"] == 5
    assert after["running"] == after["slots_used"] == 0
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(events), type=list[Event]) == events


def test_a_folder_it_cannot_serve(engine: Engine, tmp_path: Path) -> None:
    for folder in (tmp_path / "missing", tmp_path):
        with pytest.raises(Error) as caught:
            type(engine)(folder, {})
        assert caught.value.code in ("not_found", "invalid", "corrupt")


def test_one_that_is_steered_keeps_to_its_limits_and_says_what_it_did(engine: Engine) -> None:
    if not isinstance(engine, Steered):
        pytest.skip("its steps are not sized from outside")
    most = engine.limits
    assert most.batch == engine.info["max_batch"] and engine.slo is None
    try:
        engine.limits = Limits(batch=2, prefill_tokens=9, offline=1)
        for i in range(5):
            engine.submit(chat(str(i), max_tokens=4, ignore_eos=True, priority=i % 2))
        load = engine.load()
        assert [q.id for q in load.waiting] == ["0", "2", "4"] and load.running == 0
        first, ended = set(), 0
        while engine.pending():
            engine.step()
            assert engine.work and engine.work.batch <= 2 and engine.work.prefill_tokens <= 9
            first |= {id for id, _ in engine.work.first}
            ended += engine.work.ended
        assert first == set("01234") and ended == 5
        assert engine.load() == Load(0, 0, 0, [])
    finally:
        engine.limits = most
