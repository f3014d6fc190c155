"""Embeddings by the official client: equal to transformers' hidden states, in both encodings, cut."""

import math

import openai
import pytest
import torch
from tiny import make
from transformers import AutoModelForCausalLM, AutoTokenizer

TEXTS = ["我的卡丢了", "Where is my order?", "hello " * 30]


@pytest.fixture(scope="module")
def served(tmp_path_factory, new_world):
    folder = tmp_path_factory.mktemp("embeddings")
    world = new_world(folder)
    world.promote(world.release("support", make(folder / "hf"), engine="torch", max_batch=4, threads=1))
    with world.serve() as gateway, world.client(gateway) as client:
        yield client, make(folder / "same")
    world.ledger.close()


def expected(folder, text: str) -> torch.Tensor:
    ids = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt").input_ids
    with torch.inference_mode():
        hidden = AutoModelForCausalLM.from_pretrained(folder).model(ids).last_hidden_state[0]
    return torch.nn.functional.normalize(hidden.mean(0), dim=-1)


def test_they_are_the_means_of_the_hidden_states(served):
    client, folder = served
    answer = client.embeddings.create(model="support", input=TEXTS)
    assert [row.index for row in answer.data] == [0, 1, 2] and answer.usage.prompt_tokens > 20
    for text, row in zip(TEXTS, answer.data, strict=True):
        torch.testing.assert_close(torch.tensor(row.embedding), expected(folder, text), rtol=1e-3, atol=1e-4)


def test_encodings_dimensions_and_tokens(served):
    client, folder = served
    ids = AutoTokenizer.from_pretrained(folder)(TEXTS[0]).input_ids
    whole = client.embeddings.create(model="support", input=TEXTS[0], encoding_format="float").data[0].embedding
    for same in (ids, [ids], [TEXTS[0]]):
        found = client.embeddings.create(model="support", input=same).data[0].embedding
        assert found == pytest.approx(whole, abs=1e-6)
    cut = client.embeddings.create(model="support", input=TEXTS[0], dimensions=8).data[0].embedding
    length = math.hypot(*whole[:8])
    assert cut == pytest.approx([x / length for x in whole[:8]], abs=1e-6)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"input": []}, "empty"),
        ({"input": ""}, "empty"),
        ({"input": ["a", 1]}, "mixes"),
        ({"input": "word " * 5000}, "context"),
        ({"dimensions": 5000}, "dimensions"),
        ({"extra_body": {"temperature": 1}}, "no parameter"),
        ({"input": ["a"] * 513}, "too many"),
    ],
)
def test_what_cannot_be_embedded_is_refused(served, change, part):
    client, _ = served
    with pytest.raises(openai.BadRequestError, match=part):
        client.embeddings.create(**{"model": "support", "input": "a"} | change)


def test_an_engine_without_says_so(echo):
    world, gateway = echo
    with world.client(gateway) as client, pytest.raises(openai.BadRequestError, match="no embeddings"):
        client.embeddings.create(model="support", input="a")
