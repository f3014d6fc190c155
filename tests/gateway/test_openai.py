"""The OpenAI API through the official client, over a real server and a real engine process."""

import hashlib
import json

import httpx
import openai
import pytest


@pytest.fixture(scope="module")
def client(echo):
    world, gateway = echo
    with world.client(gateway) as client:
        yield client


@pytest.fixture(scope="module")
def post(echo):
    """A body of any kind, past the client's own checks."""
    world, gateway = echo
    with httpx.Client(base_url=gateway.url, headers={"Authorization": f"Bearer {world.key}"}) as http:
        yield lambda body, path="/v1/chat/completions": http.post(
            path, **({"content": body} if isinstance(body, bytes) else {"json": body})
        )


def say(client, text, **options):
    return client.chat.completions.create(model="support", messages=[{"role": "user", "content": text}], **options)


def body(**more):
    return {"model": "support", "messages": [{"role": "user", "content": "hi"}], **more}


def test_a_chat_is_answered_with_usage_and_traceable_ids(echo, client):
    world, _ = echo
    message = {"role": "user", "content": "where is my 卡"}
    raw = client.chat.completions.with_raw_response.create(model="support", messages=[message])
    answer = raw.parse()
    assert answer.choices[0].message.content == "v1 where is my 卡"
    assert answer.choices[0].finish_reason == "stop"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (4, 5, 9)
    assert raw.headers["x-request-id"] == answer.id
    release = world.ledger.assets.get("release:support@prod")
    assert raw.headers["x-longrein-release"] == release.digest
    assert answer.system_fingerprint == f"lr_{release.digest[:12]}"


def test_a_stream_says_the_same_in_pieces(client):
    chunks = list(say(client, "one two three", stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    texts = [c.choices[0].delta.content or "" for c in chunks if c.choices]
    assert [t for t in texts if t] == ["v1", " one", " two", " three"]
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == 4
    assert len({c.id for c in chunks}) == 1


def test_a_stream_without_usage_ends_with_done(post):
    response = post(body(stream=True))
    assert response.headers["content-type"].startswith("text/event-stream")
    events = response.text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    assert all("usage" not in json.loads(e.removeprefix("data: ")) for e in events[:-2])


@pytest.mark.parametrize("stream", [False, True])
def test_several_choices_each_with_its_own_seed(client, stream):
    got = say(client, "read", n=3, seed=7, stream=stream, temperature=0.5)
    if stream:
        texts = {0: "", 1: "", 2: ""}
        for chunk in got:
            texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    else:
        texts = {c.index: c.message.content for c in got.choices}
        assert got.usage.prompt_tokens == 1 and got.usage.completion_tokens == 3
    assert [json.loads(texts[i])["seed"] for i in range(3)] == [7, 8, 9]


def test_stop_and_max_tokens_end_an_answer(client):
    stopped = say(client, "a b c", stop="b").choices[0]
    assert (stopped.message.content, stopped.finish_reason) == ("v1 a", "stop")
    short = say(client, "a b c", max_completion_tokens=2).choices[0]
    assert (short.message.content, short.finish_reason) == ("v1 a", "length")


def test_logprobs_have_openais_shape(client):
    content = say(client, "a", logprobs=True, top_logprobs=2).choices[0].logprobs.content
    assert [c.token for c in content] == ["v1", " a"]
    assert [t.token for t in content[0].top_logprobs] == ["v1", "x"] and bytes(content[0].bytes) == b"v1"
    older = client.completions.create(model="support", prompt="ab c", logprobs=1)
    assert older.choices[0].logprobs.text_offset == [0, 2, 5]
    pieces = client.completions.create(model="support", prompt="ab c", logprobs=1, stream=True)
    assert [o for p in pieces if p.choices[0].logprobs for o in p.choices[0].logprobs.text_offset] == [0, 2, 5]


def test_completions_take_texts_and_tokens_one_or_many(client):
    one = client.completions.create(model="support", prompt="a b")
    assert (one.object, one.choices[0].text) == ("text_completion", "v1 a b")
    many = client.completions.create(model="support", prompt=["a", "b c"], n=2)
    assert [c.text for c in many.choices] == ["v1 a", "v1 a", "v1 b c", "v1 b c"]
    assert many.usage.prompt_tokens == 3
    assert client.completions.create(model="support", prompt=[1, 2]).choices[0].text == "v1 [1, 2]"
    assert len(client.completions.create(model="support", prompt=[[1], [2]]).choices) == 2
    streamed = client.completions.create(model="support", prompt="a b", stream=True)
    assert "".join(c.choices[0].text for c in streamed) == "v1 a b"
    words = " ".join(["w"] * 30)
    assert client.completions.create(model="support", prompt=words).usage.completion_tokens == 16  # OpenAI's default


def test_extra_sampling_parameters_and_ignored_ones_are_accepted(client):
    extra = {"top_k": 5, "min_p": 0.1, "repetition_penalty": 1.1, "logit_bias": {}, "tools": [], "top_p": None}
    assert say(client, "hi", user="u1", metadata={"a": "b"}, extra_body=extra).choices[0].message.content == "v1 hi"


def test_content_in_parts_and_a_copied_answer_are_understood(client):
    first = say(client, "hi").choices[0].message.model_dump()
    parts = [{"type": "text", "text": "a "}, {"type": "text", "text": "b"}]
    answer = client.chat.completions.create(
        model="support", messages=[first, {"role": "developer", "content": "d"}, {"role": "user", "content": parts}]
    )
    assert answer.choices[0].message.content == "v1 a b"


def test_models_are_the_endpoints(client):
    (model,) = client.models.list().data
    assert (model.id, model.owned_by, model.release) == ("support", "longrein", "release:support@1")
    assert client.models.retrieve("support").id == "support"
    with pytest.raises(openai.NotFoundError, match="did you mean 'support'"):
        client.models.retrieve("suport")


@pytest.mark.parametrize(
    ("change", "param", "part"),
    [
        ({"temprature": 1}, "temprature", "did you mean 'temperature'"),
        ({"temperature": 3}, "temperature", "<= 2"),
        ({"temperature": "hot"}, "temperature", "Expected `float`"),
        ({"top_p": 0}, "top_p", "> 0"),
        ({"n": 0}, "n", ">= 1"),
        ({"n": 1000}, "n", "<= 128"),
        ({"stop": [""]}, "stop[0]", "length >= 1"),
        ({"stop": ["x"] * 17}, "stop", "length <= 16"),
        ({"max_tokens": 0}, "max_tokens", ">= 1"),
        ({"max_tokens": 10**30}, "max_tokens", "<="),
        ({"temperature": 10**400}, None, ""),
        ({"max_tokens": 1, "max_completion_tokens": 2}, "max_tokens", "differ"),
        ({"top_logprobs": 2}, "top_logprobs", "needs logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "<= 20"),
        ({"seed": 2**80}, "seed", "<="),
        ({"stream": "yes"}, "stream", "bool"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools", "takes no tools"),
        ({"tools": [{"type": "function"}]}, "tools[0]", "function"),
        ({"tool_choice": "required"}, "tool_choice", "names no tool"),
        ({"response_format": {"type": "json_object"}}, "response_format", "this engine cannot"),
        ({"response_format": {"type": "json_schema"}}, "response_format", "does not fit"),
        ({"response_format": {"type": "grammar"}}, "response_format.type", "grammar"),
        ({"logit_bias": {"x": 1}}, None, "logit_bias"),
        ({"logit_bias": {"5": 101}}, None, "<= 100"),
        ({"messages": []}, "messages", "length >= 1"),
        ({"messages": None}, "messages", "missing"),
        ({"messages": "hi"}, "messages", "array"),
        ({"messages": [{"role": "ghost", "content": "x"}]}, "messages[0].role", "ghost"),
        ({"messages": [{"role": "user"}]}, "messages[0]", "content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "text": ""}]}]}, None, "image_url"),
        ({"model": 5}, "model", "str"),
        ({"model": None}, "model", "missing"),
        ({"x" * 100_000: 1}, "x" * 100, "there is no parameter"),
    ],
)
def test_bad_parameters_are_named(post, change, param, part):
    response = post(body(**change))
    error = response.json()["error"]
    assert response.status_code == 400 and error["type"] == "invalid_request_error", error
    assert part in error["message"]
    assert param is None or error["param"] == param
    assert len(response.content) < 1000


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[]", b'"x"', b"\xff\xfe{}", b'{"model": "\xe9"}', b"[" * 100_000, b'{"a": NaN}', b'{"a": "\\ud800"}'],
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_a_body_that_is_no_json_is_told_so(post, data, path):
    response = post(data, path)
    assert response.status_code == 400
    assert response.json()["error"]["message"].startswith("the body is not")
    assert response.headers["x-request-id"]


@pytest.mark.parametrize("prompt", [[], [10**30], [-1], ["a", 1], [[]], {"a": 1}, [[1], "a"], [1.5]])
def test_odd_prompts_are_refused(post, prompt):
    response = post({"model": "support", "prompt": prompt}, "/v1/completions")
    if prompt != [[]]:  # a prompt of no tokens is for the engine to judge
        assert response.status_code == 400 and "prompt" in response.json()["error"]["param"]


def test_a_prompt_longer_than_the_context(client):
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as error:
            say(client, "w " * 51, stream=stream)
        assert error.value.code == "context_length_exceeded"
        assert error.value.param == "messages"


def test_an_unknown_model_names_the_nearest(client):
    with pytest.raises(openai.NotFoundError) as error:
        client.chat.completions.create(model="suport", messages=[{"role": "user", "content": "x"}])
    assert error.value.code == "model_not_found" and "did you mean 'support'" in error.value.message


def test_a_huge_body_is_refused_and_the_connection_still_good(echo, post):
    response = post(body(user="x" * (9 << 20)))
    assert response.status_code == 413
    assert response.json()["error"]["code"] == "request_too_large"
    assert post(body()).status_code == 200


def test_every_request_is_in_the_log_under_its_id(echo, client, post):
    world, gateway = echo
    answer = say(client, "remember 我")
    failed = post(body(model="nothing")).headers["x-request-id"]
    streamed = [c.id for c in say(client, "in pieces", stream=True)][-1]
    gateway.recorder.flush()
    row = world.requests.get(answer.id)
    assert (row["endpoint"], row["status"], row["finish_reason"]) == ("support", 200, "stop")
    assert (row["input"], row["output"]) == ("remember 我", "v1 remember 我")
    assert (row["prompt_tokens"], row["completion_tokens"]) == (2, 3)
    assert 0 < row["ttft_ms"] <= row["total_ms"] and row["queue_ms"] is not None
    assert row["output_digest"] == hashlib.sha256("v1 remember 我".encode()).hexdigest() and not row["refusal"]
    assert row["release"] == world.ledger.assets.get("release:support@prod").digest
    assert world.requests.get(failed)["status"] == 404
    assert world.requests.get(streamed)["output"] == "v1 in pieces"


def test_the_same_words_have_the_same_digest_whatever_the_sampling(echo, client):
    world, gateway = echo
    ids = [say(client, "same", seed=1).id, say(client, "same", temperature=0).id, say(client, "other").id]
    gateway.recorder.flush()
    first, second, third = (world.requests.get(id)["input_digest"] for id in ids)
    assert first == second != third and len(first) == 64
