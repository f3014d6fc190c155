"""Feedback over HTTP: joined to the release that answered, counted once, refused where it makes no sense."""

import concurrent.futures

import httpx
import pytest

from longrein.core.limit import Limit
from longrein.data import seal


@pytest.fixture(scope="module")
def served(echo):
    """(ask, say, world, gateway): ask(key, **headers) returns an answer's id, say(body, key) the response."""
    world, gateway = echo

    def ask(key="", **headers):
        body = {"model": "support", "messages": [{"role": "user", "content": "hi"}]}
        head = {"Authorization": f"Bearer {key or world.key}", **headers}
        return httpx.post(f"{gateway.url}/v1/chat/completions", headers=head, json=body).json()["id"]

    def say(body, key=""):
        head = {"Authorization": f"Bearer {key or world.key}", "Content-Type": "application/json"}
        content = {"content": body} if isinstance(body, bytes) else {"json": body}
        return httpx.post(f"{gateway.url}/v1/feedback", headers=head, **content)

    return ask, say, world, gateway


def scores(world, gateway):
    gateway.tally.flush()
    found = {}
    for block in world.ledger.traffic.blocks("support", until_ms=1 << 62):
        for name, histogram in block.scores.items():
            found[name, block.release] = found.get((name, block.release), 0) + histogram.count
    return found


def test_feedback_reaches_the_release_that_answered_once(served):
    ask, say, world, gateway = served
    id, release = ask(), world.ledger.assets.get("release:support@prod").digest
    body = {"request_id": id, "metrics": {"helpful": True, "分": -2.5}, "comment": "nicht schlecht 卡\0"}
    first = say(body)
    assert first.status_code == 200
    assert first.json().pop("age_s") < 60
    told = {k: v for k, v in first.json().items() if k != "age_s"}
    assert told == {"request_id": id, "recorded": ["helpful", "分"], "known": []}
    again = say({**body, "metrics": {"helpful": False, "more": 1}})
    assert (again.json()["recorded"], again.json()["known"]) == (["more"], ["helpful"])
    rows = {f["name"]: (f["value"], f["release"], f["endpoint"]) for f in world.ledger.feedback.of(id)}
    assert rows == {n: (v, release, "support") for n, v in (("helpful", 1.0), ("分", -2.5), ("more", 1.0))}
    found = scores(world, gateway)
    assert found["helpful", release] == found["分", release] == found["more", release] == 1
    text = httpx.get(f"{gateway.url}/metrics").text
    assert 'longrein_feedback_total{endpoint="support",outcome="duplicate"} 1' in text


def test_a_comment_alone(served):
    ask, say, world, _ = served
    id = ask()
    assert say({"request_id": id, "comment": "thanks"}).json()["recorded"] == []
    assert [(f["name"], f["value"], f["comment"]) for f in world.ledger.feedback.of(id)] == [("", None, "thanks")]


def test_the_same_said_by_many_at_once_counts_once(served):
    ask, say, world, gateway = served
    id = ask()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        told = list(pool.map(lambda _: say({"request_id": id, "metrics": {"race": 1}}), range(8)))
    assert [t.status_code for t in told] == [200] * 8
    assert sum(t.json()["recorded"] == ["race"] for t in told) == 1
    assert sum(n for (name, _), n in scores(world, gateway).items() if name == "race") == 1


def test_a_sessions_newest_answer(served):
    ask, say, *_ = served
    ask(**{"x-longrein-session": "s-1"})
    newest = ask(**{"x-longrein-session": "s-1"})
    ask(**{"x-longrein-session": "s-2"})
    assert say({"session": "s-1", "metrics": {"ok": 1}}).json()["request_id"] == newest
    assert say({"session": "s-9", "metrics": {"ok": 1}}).status_code == 404


def test_a_key_judges_its_own_answers_and_its_teams(served):
    ask, say, world, _ = served
    keys = world.ledger.keys
    mine, team, other = (keys.create("k", team=t, limits=Limit(), actor="t") for t in ("", "blue", "blue"))
    served[3].refresh()
    id, shared = ask(mine), ask(team)
    assert say({"request_id": id, "metrics": {"a": 1}}, mine).status_code == 200
    assert say({"request_id": shared, "metrics": {"a": 1}}, other).status_code == 200
    told = say({"request_id": id, "metrics": {"a": 1}}, other)
    assert told.status_code == 404 and told.json()["error"]["code"] == "request_not_found"


def test_what_was_sealed_or_erased(served):
    ask, say, world, gateway = served
    id = ask(**{"x-longrein-session": "gone"})
    gateway.recorder.flush()
    seal.keep(world.requests.folder, {}, 0)  # the live segment stays, and is erased all the same
    assert say({"request_id": id, "metrics": {"a": 1}}).status_code == 200
    seal.erase(world.requests.folder, session="gone")
    told = say({"request_id": id, "metrics": {"b": 1}})
    assert told.status_code == 404 and "was erased" in told.json()["error"]["message"]


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"\xff", b'{"request_id": 5, "metrics": {"a": 1}}', {"metrics": {"a": 1}}, {"request_id": "x"},
     {"request_id": "x", "session": "y", "metrics": {"a": 1}}, {"request_id": "x", "metrics": {"": 1}},
     {"request_id": "x", "metrics": {"a\n": 1}}, {"request_id": "x", "metrics": {"a": "good"}},
     b'{"request_id": "x", "metrics": {"a": 1e999}}', {"request_id": "x", "metrics": {f"m{i}": 1 for i in range(51)}},
     {"request_id": "x" * 201, "metrics": {"a": 1}}, {"request_id": "x", "metrics": {"a": 1}, "extra": 1},
     {"request_id": "x", "metrics": {"a": None}}, {"request_id": "x", "comment": "x" * 10_001}],
)  # fmt: skip
def test_feedback_that_cannot_be_used(served, body):
    told = served[1](body)
    assert told.status_code == 400 and told.json()["error"]["message"]


@pytest.mark.parametrize("id", ["", "x", "chatcmpl-" + "0" * 24, "\0", "卡" * 50])
def test_an_answer_nobody_knows(served, id):
    told = served[1]({"request_id": id, "metrics": {"a": 1}})
    assert told.status_code == 404 and told.json()["error"]["code"] == "request_not_found"


def test_too_large_and_without_a_key(served):
    _, say, _, gateway = served
    assert say({"request_id": "x", "comment": "x" * 100_000}).status_code == 413
    assert httpx.post(f"{gateway.url}/v1/feedback", json={}).status_code == 401


def test_it_is_described(served):
    _, _, world, gateway = served
    described = httpx.get(f"{gateway.url}/openapi.json", headers={"Authorization": f"Bearer {world.key}"}).json()
    assert described["paths"]["/v1/feedback"]["post"]["requestBody"]
    assert "metrics" in described["components"]["schemas"]["Feedback"]["properties"]


def test_a_label_tells_whether_the_answer_was_right(served):
    ask, say, world, gateway = served
    id, release = ask(), world.ledger.assets.get("release:support@prod").digest
    output = world.requests.get(id)["output"]
    before = scores(world, gateway).get(("correct", release), 0)
    told = say({"request_id": id, "label": f" {output}\n"}).json()
    assert (told["recorded"], told["correct"]) == (["correct"], 1.0) and 0 <= told["age_s"] < 60
    assert say({"request_id": id, "label": "else"}).json()["known"] == ["correct"]
    other = ask()
    assert say({"request_id": other, "label": "卡"}).json()["correct"] == 0.0
    assert scores(world, gateway)["correct", release] == before + 2
    assert dict(world.ledger.feedback.labels("support"))[other] == "卡"
    twice = say({"request_id": id, "label": "x", "metrics": {"correct": 1}})
    assert twice.status_code == 400 and "by itself" in twice.json()["error"]["message"]
    assert say({"request_id": id, "label": ""}).status_code == 400
