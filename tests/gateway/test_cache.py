"""The answer cache: the same words to the same tenant only, from the same release only, while they last."""

import json

import httpx
import pytest
from mock_upstream import Mock, by_turns, say
from test_upstream import USER, release

from longrein.gateway.cache import Cache, Entry
from longrein.gateway.said import Said
from longrein.models.deploy import Cache as Config


@pytest.fixture
def asked(world):
    """ask(key, **body) over a gateway whose upstream never says the same twice."""
    mock = Mock(by_turns(*(say(f"answer {i}") for i in range(50))))
    first = world.promote(release(world, "gpt", mock), cache={"ttl_s": 60}, log_text=True)
    with world.serve() as gateway, httpx.Client(timeout=30) as http:

        def ask(key="", headers=None, **body):
            content = {"model": "gpt", "messages": [USER], "temperature": 0, **body}
            auth = {"Authorization": f"Bearer {key or world.key}"}
            return http.post(f"{gateway.url}/v1/chat/completions", json=content, headers={**auth, **(headers or {})})

        yield world, gateway, mock, first, ask
    mock.close()


def said(response):
    if response.headers["content-type"].startswith("application/json"):
        return response.json()["choices"][0]["message"]["content"]
    events = [json.loads(e.removeprefix("data: ")) for e in response.text.strip().split("\n\n")[:-1]]
    return "".join(e["choices"][0]["delta"].get("content") or "" for e in events if e["choices"])


@pytest.mark.parametrize("stream", [False, True])
def test_the_same_request_gets_the_same_answer_under_an_id_of_its_own(asked, stream):
    world, gateway, mock, _, ask = asked
    first, second = ask(stream=stream), ask(stream=stream, user="somebody else")
    assert [r.headers["x-longrein-cache"] for r in (first, second)] == ["miss", "hit"]
    assert said(first) == said(second) == "answer 0" and len(mock.asked) == 1
    ids = [r.headers["x-request-id"] for r in (first, second)]
    assert ids[0] != ids[1] and ids[1] in second.text and ids[0] not in second.text
    assert second.text.endswith("[DONE]\n\n") == stream
    gateway.recorder.flush()
    row = world.requests.get(ids[1])
    assert row["cached"] and row["output"] == "answer 0" and row["completion_tokens"] == 3 and row["status"] == 200
    assert said(ask(stream=not stream)) == "answer 1"  # another form is another request


def test_whoever_samples_wants_another_answer_and_may_refuse_kept_ones(asked):
    *_, ask = asked
    answers = [ask(temperature=None), ask(temperature=None), ask(temperature=0.7)]
    assert len({said(r) for r in answers}) == 3 and not any("x-longrein-cache" in r.headers for r in answers)
    seeded = [ask(temperature=0.7, seed=1), ask(temperature=0.7, seed=1), ask(temperature=0.7, seed=2)]
    assert [r.headers["x-longrein-cache"] for r in seeded] == ["miss", "hit", "miss"]
    told = [ask(headers={"cache-control": word}) for word in ("no-store", "no-cache")]
    assert len({said(r) for r in told}) == 2 and not any("x-longrein-cache" in r.headers for r in told)
    assert ask().headers["x-longrein-cache"] == "miss"


def test_no_answer_crosses_to_another_tenant_or_release(asked):
    world, gateway, mock, first, ask = asked
    other = world.ledger.keys.create("other", ("infer",), actor="test")
    gateway.refresh()
    assert said(ask()) == "answer 0" and said(ask(other)) == "answer 1" and said(ask(other)) == "answer 1"
    world.promote(release(world, "gpt", mock, total_s=500.0))
    gateway.refresh()
    gateway.settled(30)
    assert said(ask()) == "answer 2" and ask().headers["x-longrein-cache"] == "hit"
    world.ledger.aliases.move("release", "gpt", "prod", first, actor="test", back=True)
    gateway.refresh()
    assert said(ask()) == "answer 0"


def test_errors_are_not_kept_and_without_a_cache_nothing_is(asked):
    world, gateway, mock, _, ask = asked
    script = mock.script

    async def broken(mock, asked):
        asked.writer.close()

    mock.script = broken
    assert ask().status_code == 503
    mock.script = script
    assert ask().status_code == 200
    world.want("gpt", cache=None)
    gateway.refresh()
    assert "x-longrein-cache" not in ask().headers


def entry(text, until=float("inf")):
    return Entry("id", text, 1, 1, "stop", [], Said(), until)


def test_it_holds_as_much_as_it_may_the_longest_unused_goes_first():
    cache = Cache(Config(max_bytes=65536))
    for i in range(20):
        cache.put(b"%d" % i, entry(b"x" * 7000))
        cache.get(b"0")
    assert cache.bytes <= 65536 and cache.get(b"0") and cache.get(b"19") and not cache.get(b"1")
    cache.put(b"huge", entry(b"x" * 60000))
    assert cache.get(b"huge") is None and cache.get(b"19")
    cache.put(b"old", entry(b"x", until=0.0))
    before = cache.bytes
    assert cache.get(b"old") is None and cache.bytes < before
