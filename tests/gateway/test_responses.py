"""The responses API by the official client."""

import json

import openai
import pytest


@pytest.fixture
def client(echo):
    world, gateway = echo
    with world.client(gateway) as client:
        yield client


def test_a_text_is_answered_and_its_id_leads_back(echo, client):
    world, gateway = echo
    answer = client.responses.create(model="support", input="你好 there", metadata={"a": "b"})
    assert answer.output_text == "v1 你好 there" and answer.status == "completed" and answer.metadata == {"a": "b"}
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (2, 3)
    gateway.recorder.flush()
    assert world.requests.get(answer.id)["endpoint"] == "support"


def test_a_stream_has_openais_events_in_order(client):
    with client.responses.stream(model="support", input="one two") as stream:
        events = list(stream)
        final = stream.get_final_response()
    kinds = [event.type for event in events]
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == "v1 one two"
    assert [e.sequence_number for e in events] == list(range(len(events)))
    assert final.output_text == "v1 one two" and final.usage.output_tokens == 3


def test_items_instructions_and_length(client):
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "first"}]},
        {"type": "message", "id": "m", "role": "assistant", "content": [{"type": "output_text", "text": "yes"}]},
        {"role": "user", "content": "read"},
    ]
    read = json.loads(client.responses.create(model="support", input=items, instructions="Be kind.").output_text)
    assert [m["role"] for m in read["messages"]] == ["system", "user", "assistant", "user"]
    assert [m["content"] for m in read["messages"]] == ["Be kind.", "first", "yes", "read"]
    short = client.responses.create(model="support", input="a b c", max_output_tokens=2)
    assert short.status == "incomplete" and short.incomplete_details.reason == "max_output_tokens"
    events = list(client.responses.create(model="support", input="a b c", max_output_tokens=2, stream=True))
    assert events[-1].type == "response.incomplete"


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"previous_response_id": "resp_1"}, "whole conversation"),
        ({"background": True}, "background"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"input": []}, "length"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "item_reference|role"),
        ({"temperature": 9}, "temperature"),
        ({"extra_body": {"nonsense": 1}}, "nonsense"),
    ],
)
def test_what_is_not_supported_is_refused(client, change, part):
    with pytest.raises(openai.BadRequestError, match=part):
        client.responses.create(**{"model": "support", "input": "x"} | change)
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model="nobody", input="x", stream=True)
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="lr-wrong").responses.create(model="support", input="x")
