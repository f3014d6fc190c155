"""The OpenAI API through the official client, over a real server and a real engine process."""

import openai
import pytest


def say(client, text, **options):
    return client.chat.completions.create(model="support", messages=[{"role": "user", "content": text}], **options)


@pytest.fixture
def client(echo):
    world, gateway = echo
    with world.client(gateway) as client:
        yield client


def test_a_chat_is_answered_with_usage_and_traceable_ids(echo, client):
    world, gateway = echo
    raw = client.chat.completions.with_raw_response.create(
        model="support", messages=[{"role": "user", "content": "where is my 卡"}]
    )
    answer = raw.parse()
    assert answer.choices[0].message.content == "v1 where is my 卡"
    assert answer.choices[0].finish_reason == "stop"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (4, 5, 9)
    assert raw.headers["x-request-id"] == answer.id
    release = world.ledger.assets.get("release:support@prod")
    assert raw.headers["x-longrein-release"] == release.digest
    assert answer.system_fingerprint == f"lr_{release.digest[:12]}"
