"""Releases whose model is served elsewhere, over real sockets: what passes through, and all that can go wrong there."""

import asyncio
import hashlib
import json
import socket
import threading
import time
from contextlib import contextmanager

import httpx
import msgspec
import openai
import pytest
from mock_upstream import (
    Mock,
    begin,
    break_mid_stream,
    by_turns,
    chunk,
    event,
    gated,
    hang,
    hang_mid_stream,
    raw,
    say,
    status,
    whole,
)

from longrein.core.generation import Request
from longrein.gateway import upstream

QUICK = {"connect_s": 2.0, "first_byte_s": 0.3, "idle_s": 0.3, "total_s": 20.0}
SSE = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
USER = {"role": "user", "content": "hi"}


def until(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not happen"
    return value


def release(world, name, *mocks, system="", **options):
    """A release of an upstream."""
    settings = {"urls": [m if isinstance(m, str) else m.url for m in mocks], "model": "mock", **options}
    meta = {"model": None, "prompt": None, "engine": "openai", "options": settings}
    if system:
        file = world.folder / "prompt.json"
        file.write_bytes(msgspec.json.encode({"system": system}))
        asset = world.put("prompt", name, file)
        meta["prompt"] = {"ref": asset.ref, "digest": asset.digest, "uri": asset.uri}
    file = world.folder / "release.json"
    file.write_bytes(msgspec.json.encode(meta))
    stored = world.store.put(file)
    return world.ledger.assets.put("release", name, stored.digest, uri=stored.uri, meta=meta, actor="test")


@pytest.fixture
def mock():
    mock = Mock()
    yield mock
    mock.close()


@pytest.fixture
def serve(world, mock):
    """serve(script, endpoint config…, options…): a gateway before the mock."""

    @contextmanager
    def serving(script=None, *more, config=None, **options):
        mock.script = script or mock.script
        world.promote(release(world, "gpt", mock, *more, **options), **(config or {}))
        with world.serve() as gateway, world.client(gateway) as client:
            yield Asker(world, gateway, client)

    return serving


class Asker:
    def __init__(self, world, gateway, client):
        self.world, self.gateway, self.client = world, gateway, client

    def chat(self, **options):
        return self.client.chat.completions.create(**{"model": "gpt", "messages": [USER], **options})

    def post(self, body, path="/v1/chat/completions", key="", **headers):
        headers = {"Authorization": f"Bearer {key or self.world.key}", **headers}
        content = body if isinstance(body, bytes) else json.dumps({"model": "gpt", "messages": [USER], **body})
        return httpx.post(self.gateway.url + path, content=content, headers=headers, timeout=30)

    def record(self, id):
        self.gateway.recorder.flush()
        return self.world.requests.get(id)

    def metric(self, name):
        text = httpx.get(f"{self.gateway.url}/metrics").text
        return [
            float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(f"longrein_engine_{name}{{")
        ]


def test_an_answer_through_the_real_client_is_counted_and_logged_under_our_id(serve, mock):
    with serve(say("hello there 卡"), config={"log_text": True}) as ask:
        raw_ = ask.client.chat.completions.with_raw_response.create(model="gpt", messages=[USER])
        answer = raw_.parse()
        assert answer.choices[0].message.content == "hello there 卡"
        assert (answer.id, answer.model) == (raw_.headers["x-request-id"], "gpt")
        row = ask.record(answer.id)
        assert (row["prompt_tokens"], row["completion_tokens"], row["cached_tokens"]) == (7, 3, 5)
        assert (row["output"], row["input"], row["finish_reason"]) == ("hello there 卡", "hi", "stop")
        assert (row["upstream"], row["attempts"], row["estimated"]) == (mock.url, 1, False)
        assert mock.asked[0].path == "/v1/chat/completions" and mock.asked[0].json["model"] == "mock"
        ask.client.completions.create(model="gpt", prompt="once")
        assert mock.asked[1].path == "/v1/completions" and mock.asked[1].json["prompt"] == "once"


@pytest.mark.parametrize("stream", [True, False])
def test_the_log_knows_a_digest_of_words_that_it_does_not_hold(serve, stream):
    said = "I'm sorry, but I can't help with that 卡."
    with serve(say(said)) as ask:
        answer = ask.chat(stream=stream)
        row = ask.record([c.id for c in answer][-1] if stream else answer.id)
        assert row["output"] is None and row["refusal"]
        assert row["output_digest"] == hashlib.sha256(said.encode()).hexdigest()


@pytest.mark.parametrize("wanted", [True, False])
def test_a_stream_comes_in_pieces_with_the_usage_only_where_it_was_asked_for(serve, mock, wanted):
    with serve(say("one two 三")) as ask:
        options = {"stream_options": {"include_usage": True, "odd": 1}} if wanted else {}
        chunks = list(ask.chat(stream=True, **options))
        assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "one two 三"
        assert {c.model for c in chunks} == {"gpt"} and len({c.id for c in chunks}) == 1
        assert bool(chunks[-1].usage) is wanted and bool(chunks[-1].choices) is not wanted
        assert mock.asked[0].json["stream_options"] == {**options.get("stream_options", {}), "include_usage": True}
        row = ask.record(chunks[0].id)
        assert (row["prompt_tokens"], row["completion_tokens"], row["finish_reason"]) == (7, 3, "stop")
        assert 0 < row["ttft_ms"] <= row["total_ms"] and row["stream"]


def test_what_the_gateway_does_not_know_passes_through_byte_for_byte(serve, mock):
    tools = b'[ {"type":"function", "function":{"name":"f","parameters":{"b":1.50,"a":"\\u5361"}}} ]'
    image = b'[{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:,x"}}], "x" : 1e2}]'
    body = b'{"model":"gpt", "messages":%b,"tools":%b,"response_format":{"type":"json_object"},"odd_field":[1, 2]}'

    async def call_tool(mock, asked):
        said = {"role": "assistant", "content": None, "tool_calls": [{"id": "call_1", "function": {"name": "f"}}]}
        choice = {"index": 0, "message": said, "finish_reason": "tool_calls", "odd": {"id": "up-2"}}
        await whole(asked.writer, {"id": "up-1", "model": "m", "choices": [choice], "novel": [1]})

    with serve(call_tool) as ask:
        answer = ask.post(body % (image, tools))
        assert answer.status_code == 200, answer.text
        sent = mock.asked[0].body
        assert tools in sent and image in sent and b'"odd_field":[1, 2]' in sent
        assert "authorization" not in mock.asked[0].headers
        value = answer.json()
        assert value["novel"] == [1] and value["choices"][0]["odd"] == {"id": "up-2"}
        assert value["choices"][0]["message"]["tool_calls"][0]["id"] == "call_1"
        row = ask.record(value["id"])
        assert row["finish_reason"] == "tool_calls" and row["estimated"] and row["prompt_tokens"] > 0


def test_words_that_look_like_the_protocol_do_not_mislead_it(serve):
    words = 'data: [DONE] "finish_reason":"stop" "usage":{ "error" "id":"up-1" \n\n data: {}'

    async def tricky(mock, asked):
        await begin(asked.writer)
        data = event({"role": "assistant", "content": "a"}) + event({"content": words}) + event({}, "stop")
        for i in range(0, len(data), 7):  # cut anywhere, inside a character too
            await chunk(asked.writer, data[i : i + 7])
        await chunk(asked.writer, b": a comment\n\ndata: [DONE]\n\n")
        asked.writer.write(b"0\r\n\r\n")

    with serve(tricky) as ask:
        assert "".join(c.choices[0].delta.content or "" for c in ask.chat(stream=True)) == "a" + words


WORDS = [
    "plain ", "卡 ", 'a "quote" ',
    "back\\slash\\", "line\nend\n\n", '{"content": "x"} ', '"},"finish_reason":"stop"}]}',
    "é\u2028😀", "\\\" ", "data: [DONE]\n\n", "up-1 mock-1 ", " ", "end",
]  # fmt: skip


def _streams():
    """(what it is, events, words) of streams as servers write them."""
    for ascii in (True, False):
        for separators in ((",", ":"), (", ", ": ")):

            def event(delta, finish=None, ascii=ascii, separators=separators, index=0, **more):
                choice = {"index": index, "delta": delta, "finish_reason": finish}
                value = {"id": "up-1", "model": "mock-1", "choices": [choice], **more}
                return b"data: " + json.dumps(value, ensure_ascii=ascii, separators=separators).encode() + b"\n\n"

            said = [event({"content": w}) for w in WORDS * 3]
            end = [event({}, "stop")]
            start = [event({"role": "assistant", "content": ""})]
            kind = f"ascii={ascii} {separators}"
            yield f"{kind} plain", [*start, *said, *end], "".join(WORDS * 3)
            changing = [event({"content": w}, created=i, obfuscation="x" * i) for i, w in enumerate(WORDS * 3)]
            yield f"{kind} changing", [*start, *changing, *end], "".join(WORDS * 3)
            two = [event({"content": w}, index=i) for w in WORDS for i in (0, 1)]
            yield f"{kind} two", [*start, *two, *end], "".join(WORDS)
            tokens = [event({"content": w}, logprobs={"content": [{"token": w}]}) for w in WORDS]
            yield f"{kind} tokens", [*start, *tokens, *end], "".join(WORDS)
            mixed = [*said[:20], b": ping\n\n", event({"reasoning_content": "hm"}), *said[20:]]
            yield f"{kind} mixed", [*start, *mixed, *end], "".join(WORDS * 3)
            late = [event({"content": "last "}, "stop")]
            yield f"{kind} late", [*start, *said, *late], "".join([*WORDS * 3, "last "])


@pytest.mark.parametrize("keep", [True, False])
def test_events_pass_through_whatever_their_form_and_are_heard_at_whatever_pace(serve, mock, keep):
    """Nothing but names differ from what the upstream says, and the log's digest is that of the words."""
    streams = {kind: (events, words) for kind, events, words in _streams()}
    pace = {"whole": 1 << 20, "events": 0, "torn": 97}

    async def script(mock, asked):
        kind, size = asked.json["messages"][0]["content"].split("|")
        events, data = streams[kind][0], b"".join(streams[kind][0])
        cuts = [data[i : i + pace[size]] for i in range(0, len(data), pace[size])] if pace[size] else events
        await begin(asked.writer)
        for part in cuts:
            await chunk(asked.writer, part)
            if size != "whole":
                await asyncio.sleep(0)
        await chunk(asked.writer, b"data: [DONE]\n\n")
        asked.writer.write(b"0\r\n\r\n")

    with serve(script, config={"log_text": keep}) as ask:
        for kind, (events, words) in streams.items():
            for size in pace:
                asked = [{"role": "user", "content": f"{kind}|{size}"}]
                answer = ask.post({"stream": True, "messages": asked})
                found = [json.loads(e[6:]) for e in answer.content.split(b"\n\n") if e.startswith(b"data: {")]
                renamed = {"id": answer.headers["x-request-id"], "model": "gpt"}
                assert found == [json.loads(e[6:]) | renamed for e in events if e.startswith(b"data: ")], (kind, size)
                row = ask.record(renamed["id"])
                assert row["output_digest"] == hashlib.sha256(words.strip().encode()).hexdigest(), (kind, size)
                if keep and "two" not in kind:
                    assert row["output"] == words


def test_the_releases_system_prompt_and_the_key_from_the_environment(serve, mock, monkeypatch):
    monkeypatch.setenv("UP_KEY", "sk-up")
    with serve(system="be kind 卡", key_env="UP_KEY") as ask:
        ask.chat()
        assert mock.asked[0].json["messages"] == [{"role": "system", "content": "be kind 卡"}, USER]
        assert mock.asked[0].headers["authorization"] == "Bearer sk-up"
        own = [{"role": "system", "content": "mine"}, USER]
        ask.chat(messages=own)
        assert mock.asked[1].json["messages"] == own
        assert ask.world.key not in str(mock.asked)


def test_without_its_key_a_release_cannot_be_served(world, mock):
    world.promote(release(world, "gpt", mock, key_env="NOT_SET_ANYWHERE"))
    with (
        world.serve() as gateway,
        world.client(gateway) as client,
        pytest.raises(openai.InternalServerError, match="NOT_SET_ANYWHERE holds no API key"),
    ):
        client.chat.completions.create(model="gpt", messages=[USER])


def test_every_third_call_fails_and_every_client_is_answered(serve, mock):
    with serve(by_turns(say("fine"), say("fine"), status(500))) as ask:
        ids = [ask.chat().id for _ in range(9)]
        assert sorted(ask.record(id)["attempts"] for id in ids) == [1] * 5 + [2] * 4
        assert ask.metric("retries_total") == [4.0] and ask.metric("opened_total") == [0.0]


def test_busy_for_a_moment_is_waited_for_and_for_long_is_told(serve, mock):
    with serve(by_turns(status(429, retry_after="0"), say("now"))) as ask:
        assert ask.chat().choices[0].message.content == "now"
        mock.script = status(429, "slow down", retry_after="77")
        began = time.monotonic()
        with pytest.raises(openai.RateLimitError, match="slow down") as told:
            ask.chat()
        assert told.value.response.headers["retry-after"] == "77" and time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("script", "code", "part"),
    [
        (status(400, "too long"), 400, "too long"),
        (status(422, "odd"), 400, "odd"),
        (status(413, "large"), 413, "large"),
        (status(401), 502, "key_env"),
        (status(404, "no such model"), 502, "no such model"),
        (status(500), 502, "status 500"),
        (status(503, retry_after="0"), 503, "status 503"),
        (raw(b"GET / HTTP/1.1\r\n\r\n"), 502, "does not answer in HTTP"),
        (raw(b"\x16\x03\x01"), 502, "does not answer in HTTP"),
        (raw(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n<html"), 502, "no client understands"),
        (raw(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"), 502, "has no choices"),
        (raw(b"HTTP/1.1 200 OK\r\ncontent-length: 9999\r\n\r\n{"), 502, "in the middle of its answer"),
        (raw(b"HTTP/1.1 200 OK\r\nx: " + b"y" * 70000 + b"\r\n\r\n"), 502, "larger than"),
        (raw(b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n"), 502, "does not answer in HTTP"),
        (raw(b""), 503, "without an answer"),
        (hang, 504, "did not come to begin in time"),
        (raw(b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{", then_close=False), 504, "further in time"),
    ],
)
def test_a_failure_is_told_in_its_own_words(serve, mock, script, code, part):
    with serve(script, retries=1, **QUICK) as ask:
        answer = ask.post({})
        assert (answer.status_code, part in answer.json()["error"]["message"]) == (code, True), answer.text
        row = ask.record(answer.headers["x-request-id"])
        assert row["status"] == code and row["finish_reason"] == "error" and row["endpoint"] == "gpt"
        mock.script = say("well again")
        assert ask.chat().choices[0].message.content == "well again"
        assert ask.metric("running") == [0.0]


@pytest.mark.parametrize(
    ("script", "part"),
    [
        (break_mid_stream, "in the middle of its answer"),
        (hang_mid_stream, "further in time"),
        (raw(SSE + event({"content": "one"})), "in the middle"),
        (gated(b"data: {oops\n\n"), "no client understands"),
        (gated(b'data: {"error": {"message": "out of memory"}}\n\n'), "out of memory"),
        (gated(b"data: " + b"x" * (9 << 20)), "is larger than"),
    ],
)
def test_a_stream_that_breaks_off_ends_with_an_error_never_as_if_it_were_whole(serve, mock, script, part):
    with serve(script, **QUICK) as ask:
        with pytest.raises(openai.APIError) as told:
            for _ in ask.chat(stream=True):
                mock.go()
        assert part in told.value.message
        answer = ask.post({"stream": True})  # the gate stands open now
        assert "[DONE]" not in answer.text and part in answer.text
        assert ask.record(answer.headers["x-request-id"])["finish_reason"] == "error"


def test_an_error_in_place_of_a_stream_has_a_status(serve):
    first = raw(b'HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: {"error": {"message": "bad"}}\n\n')
    with serve(by_turns(first, raw(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"))) as ask:
        assert [ask.post({"stream": True}).status_code for _ in range(2)] == [502, 502]


def test_a_stream_that_lost_only_its_last_line_is_whole(serve):
    data = event({"content": "all"}) + event({}, "stop")
    with serve(raw(SSE + data)) as ask:
        assert ask.post({"stream": True}).text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_hangs_up_hangs_up_on_the_upstream(serve, mock, stream):
    with serve(hang_mid_stream if stream else hang) as ask:
        body = json.dumps({"model": "gpt", "messages": [USER], "stream": stream})
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ask.world.key}\r\n"
        with socket.create_connection(("127.0.0.1", ask.gateway.port)) as wire:
            wire.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
            if stream:
                assert b"200 OK" in wire.recv(4096)
            until(lambda: mock.asked)
        until(lambda: mock.gone == 1)
        until(lambda: ask.metric("running") == [0.0])
        ask.gateway.recorder.flush()
        (row,) = ask.world.requests.find()
        assert (row["status"], row["finish_reason"]) == (499, "cancelled")


def test_connections_are_kept_used_again_and_replaced_when_they_were_closed(serve, mock):
    with serve() as ask:
        for _ in range(3):
            ask.chat()
            list(ask.chat(stream=True))
        assert mock.connections == 1

        async def once(mock, asked):
            await say("bye")(mock, asked)
            asked.writer.close()

        mock.script = once
        ids = [ask.chat().id for _ in range(4)]
        assert [ask.record(id)["attempts"] for id in ids] == [1] * 4


def test_no_more_connections_than_allowed_and_who_waits_too_long_is_told(serve, mock):
    async def slow(mock, asked):
        await mock.gate.wait()
        await say("done")(mock, asked)

    with serve(slow, max_connections=2, retries=0, connect_s=0.5) as ask:
        answers = []
        threads = [threading.Thread(target=lambda: answers.append(ask.post({}))) for _ in range(3)]
        for thread in threads:
            thread.start()
        until(lambda: answers)
        assert answers[0].status_code == 503 and "all 2 connections are in use" in answers[0].text
        mock.go()
        for thread in threads:
            thread.join()
        assert sorted(a.status_code for a in answers) == [200, 200, 503] and mock.connections == 2


def test_a_slow_client_slows_its_upstream_and_fills_no_memory(serve, mock):
    events, words = 1000, "w" * 65536  # more than what the kernel keeps on the way

    async def flood(mock, asked):
        await begin(asked.writer)
        for _ in range(events):
            await chunk(asked.writer, event({"content": words}))
            mock.sent += len(words)
        await chunk(asked.writer, event({}, "stop") + b"data: [DONE]\n\n")
        asked.writer.write(b"0\r\n\r\n")

    with serve(flood) as ask:
        body = json.dumps({"model": "gpt", "messages": [USER], "stream": True})
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ask.world.key}\r\n"
        with socket.create_connection(("127.0.0.1", ask.gateway.port)) as wire:
            wire.sendall(f"{head}Connection: close\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
            until(lambda: settled(mock))
            assert 0 < mock.sent < events * len(words) / 2
            read = 0
            while data := wire.recv(1 << 20):
                read += len(data)
            assert read > events * len(words)


def settled(mock):
    """Whether the mock can send no more for a while."""
    before = mock.sent
    deadline = time.monotonic() + 0.3
    while time.monotonic() < deadline:
        if mock.sent != before:
            return False
    return before > 0


def test_replicas_share_conversations_and_stand_in_for_each_other(serve, mock):
    other = Mock(say("other"))
    try:
        with serve(say("first"), other, retries=1) as ask:
            for i in range(12):
                turns = [{"role": "user", "content": f"talk {i}"}]
                said = {ask.chat(messages=turns).choices[0].message.content}
                turns += [{"role": "assistant", "content": "x"}, {"role": "user", "content": "go on"}]
                said |= {ask.chat(messages=turns).choices[0].message.content for _ in range(2)}
                assert len(said) == 1
            assert mock.asked and other.asked
            other.close()
            assert {ask.chat(messages=[{"role": "user", "content": f"{i}"}]).choices[0].message.content
                    for i in range(8)} == {"first"}  # fmt: skip
    finally:
        other.close()


def test_a_replica_that_fails_is_left_alone_until_it_answers_again(serve, mock, monkeypatch):
    monkeypatch.setattr(upstream, "OPEN_S", (0.1, 0.4))
    with serve(status(500), retries=0) as ask:
        assert {ask.post({}).status_code for _ in range(upstream.FAILURES)} == {502}
        asked = len(mock.asked)
        told = ask.post({})
        assert told.status_code in (502, 503)
        mock.script = say("back")
        until(lambda: ask.post({}).status_code == 200)
        assert asked >= upstream.FAILURES and ask.metric("replicas_up") == [1.0]


def test_an_upstream_that_is_down_at_first_is_served_once_it_is_up(world):
    spare = Mock()
    port = int(spare.url.split(":")[2].split("/")[0])
    spare.close()
    world.promote(release(world, "gpt", f"http://127.0.0.1:{port}/v1"))
    with world.serve() as gateway, world.client(gateway) as client:
        with pytest.raises(openai.InternalServerError, match="can be reached"):
            client.chat.completions.create(model="gpt", messages=[USER])
        mock = Mock(say("up"), port=port)
        try:
            until(lambda: gateway.settled(30)["gpt"] == "serving")
            assert client.chat.completions.create(model="gpt", messages=[USER]).choices[0].message.content == "up"
        finally:
            mock.close()


def test_another_endpoint_answers_what_this_one_cannot(world, mock):
    world.promote(world.release("local", "v1"))
    mock.script = status(503, retry_after="0")
    world.promote(release(world, "gpt", mock, retries=0), fallback=["local"])
    with world.serve() as gateway, world.client(gateway) as client:
        for stream in (False, True):
            answer = client.chat.completions.create(model="gpt", messages=[USER], stream=stream)
            parts = (
                [c.choices[0].delta.content or "" for c in answer] if stream else [answer.choices[0].message.content]
            )
            assert "".join(parts) == "v1 hi"
        mock.script = status(400, "your fault")
        with pytest.raises(openai.BadRequestError, match="your fault"):
            client.chat.completions.create(model="gpt", messages=[USER])


def test_generate_speaks_the_words_of_the_engine_port(mock):
    async def run():
        engine = await upstream.Upstream.start("x", {"urls": [mock.url], "model": "mock"})
        try:
            return [e async for e in engine.generate(Request(id="1", messages=[USER], max_tokens=5, logprobs=None))]
        finally:
            await engine.stop()

    mock.script = say("a b c")
    events = asyncio.run(run())
    assert "".join(e.text for e in events) == "a b c" and events[-1].finish_reason == "stop"
    assert events[-1].usage.completion_tokens == 3
    assert mock.asked[0].json["max_tokens"] == 5 and mock.asked[0].json["messages"] == [USER]


def test_a_circuit_opens_tries_once_and_closes():
    circuit = upstream.Circuit()
    assert [circuit.failed() for _ in range(upstream.FAILURES)] == [False] * (upstream.FAILURES - 1) + [True]
    assert not circuit.allows(0)
    circuit.healthy()
    assert circuit.allows(0)
    circuit.asked()
    assert not circuit.allows(0)  # one at a time
    assert circuit.failed() and circuit.open_s == 2 * upstream.OPEN_S[0]
    circuit.healthy()
    circuit.asked()
    circuit.gave_up()
    assert circuit.allows(0)
    circuit.asked()
    circuit.succeeded()
    assert circuit.allows(0) and circuit.open_s == upstream.OPEN_S[0]
    circuit.busy(5.0)
    assert not circuit.allows(4.9) and circuit.allows(5.0)


@pytest.mark.parametrize(
    ("value", "seconds"), [(b"3", 3), (b"0", 0), (b"-1", 1), (b"nan", 1), (b"Wed, 21 Oct", 1), (b"1e99", 86400)]
)
def test_retry_after_is_read_or_guessed(value, seconds):
    assert upstream.retry_after_s(value) == seconds
