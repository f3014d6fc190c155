"""End to end with the torch engine: a small random model behind the official client."""

import openai
import pytest
from tiny import make


@pytest.fixture(scope="module")
def served(tmp_path_factory, new_world):
    folder = tmp_path_factory.mktemp("torch")
    world = new_world(folder)
    release = world.release("support", make(folder / "hf"), system="Be kind.", engine="torch", max_batch=4, threads=1)
    world.promote(release)
    with world.serve() as gateway, world.client(gateway) as client:
        yield gateway, client
    world.ledger.close()


def say(client, text, **options):
    options = {"max_tokens": 12, **options}
    return client.chat.completions.create(model="support", messages=[{"role": "user", "content": text}], **options)


def test_greedy_answers_are_the_same_whole_and_streamed(served):
    _, client = served
    whole = say(client, "我的卡丢了", temperature=0)
    pieces = say(client, "我的卡丢了", temperature=0, stream=True, stream_options={"include_usage": True})
    chunks = list(pieces)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole.choices[0].message.content
    used, again = whole.usage, chunks[-1].usage
    assert (again.prompt_tokens, again.completion_tokens) == (used.prompt_tokens, used.completion_tokens)
    assert used.prompt_tokens > 10 and 0 < again.prompt_tokens_details.cached_tokens < used.prompt_tokens
    assert whole.choices[0].finish_reason in ("stop", "length")


def test_prefixes_are_shared_under_one_salt_only(served):
    _, client = served

    def cached(salt):
        used = say(client, "a question of a kind", extra_body={"cache_salt": salt}).usage
        return used.prompt_tokens_details.cached_tokens

    assert [cached("one") > 10, cached("one") > 10, cached("two") > 10] == [False, True, False]


def test_a_seed_repeats_and_choices_differ(served):
    _, client = served
    texts = [c.message.content for c in say(client, "hello", n=4, seed=3).choices]
    assert texts == [c.message.content for c in say(client, "hello", n=4, seed=3).choices]
    assert len(set(texts)) > 1


def test_logprobs_are_ordered(served):
    _, client = served
    content = say(client, "hello", temperature=0, logprobs=True, top_logprobs=3).choices[0].logprobs.content
    for token in content:
        values = [t.logprob for t in token.top_logprobs]
        assert len(values) == 3 and values == sorted(values, reverse=True) and values[0] == token.logprob <= 0


def test_a_prompt_longer_than_the_context_and_odd_tokens(served):
    _, client = served
    with pytest.raises(openai.BadRequestError) as error:
        say(client, "word " * 5000)
    assert error.value.code == "context_length_exceeded" and "256 tokens" in error.value.message
    with pytest.raises(openai.BadRequestError, match="vocabulary"):
        client.completions.create(model="support", prompt=[10**6])
    assert client.completions.create(model="support", prompt="hello", temperature=0).usage.completion_tokens <= 16


def test_more_clients_than_slots_are_all_answered(served):
    import concurrent.futures

    _, client = served
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        alone = say(client, "same", temperature=0).choices[0].message.content
        together = list(pool.map(lambda i: say(client, "same", temperature=0), range(12)))
    assert [a.choices[0].message.content for a in together] == [alone] * 12


def test_a_stream_that_is_closed_frees_its_slot(served):
    gateway, client = served
    stream = say(client, "hello", stream=True, max_tokens=200, extra_body={"ignore_eos": True})
    next(stream)
    stream.close()
    replica = gateway.fleet.lanes["support"].serving
    assert say(client, "after").choices
    assert replica.inflight <= 1
