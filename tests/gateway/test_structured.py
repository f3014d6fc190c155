"""Answers of a JSON schema: a model of random weights, so that only the mask can make them valid."""

import json
from typing import Any

import jsonschema
import openai
import pytest
from tiny import make

from longrein.core.errors import Error
from longrein.core.generation import Request
from longrein.plugins.engine.torch import Torch

WORD = {"type": "string", "maxLength": 8}
SCHEMAS: dict[str, dict[str, Any]] = {
    "object": {
        "type": "object",
        "properties": {"name": WORD, "age": {"type": "integer", "minimum": 18, "maximum": 130}},
        "required": ["name", "age"],
        "additionalProperties": False,
    },
    "choice": {"enum": ["yes", "no", None, 7, "是的，我的卡丢了"]},
    "constant": {"type": "object", "properties": {"类型": {"const": "退款"}}, "required": ["类型"]}
    | {"additionalProperties": False},
    "array": {"type": "array", "items": {"enum": [1, 2, 3]}, "minItems": 2, "maxItems": 4},
    "tuple": {"type": "array", "prefixItems": [{"type": "boolean"}, WORD], "items": False, "minItems": 2},
    "union": {"anyOf": [{"type": "null"}, {"type": "integer", "minimum": -5, "maximum": 5}, {"type": "boolean"}]},
    "references": {
        "$defs": {
            "place": {
                "type": "object",
                "properties": {"city": WORD},
                "required": ["city"],
                "additionalProperties": False,
            }
        },
        "type": "object",
        "properties": {"from": {"$ref": "#/$defs/place"}, "to": {"$ref": "#/$defs/place"}},
        "required": ["from", "to"],
        "additionalProperties": False,
    },
    "recursive": {
        "$ref": "#/$defs/node",
        "$defs": {
            "node": {
                "type": "object",
                "properties": {"value": {"enum": [0, 1]}, "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"const": 0}]}},
                "required": ["value", "next"],
                "additionalProperties": False,
            }
        },
    },
    "formats": {
        "type": "object",
        "properties": {
            "day": {"type": "string", "format": "date"},
            "id": {"type": "string", "format": "uuid"},
            "address": {"type": "string", "format": "ipv4"},
        },
        "required": ["day", "id", "address"],
        "additionalProperties": False,
    },
    "pattern": {"type": "string", "pattern": "^[A-Z]{3}-[0-9]{4}$"},
    "steps": {"type": "integer", "multipleOf": 5, "minimum": 10, "maximum": 95},
    "combined": {"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 9}]},
}
CHECK = jsonschema.FormatChecker()


@pytest.fixture(scope="module")
def engine(tmp_path_factory) -> Torch:
    folder = make(tmp_path_factory.mktemp("models") / "llama", max_position_embeddings=1024)
    return Torch(folder, {"threads": 1, "max_batch": 8})


def answers(engine: Torch, requests: list[Request]) -> list[tuple[str, str | None]]:
    """(text, finish reason) of each, all at once. Errors: those of the requests."""
    for request in requests:
        engine.submit(request)
    texts = {request.id: "" for request in requests}
    reasons: dict[str, str | None] = {}
    while engine.pending():
        for event in engine.step():
            if event.error:
                raise Error.from_dict(event.error)
            texts[event.id] += event.text
            reasons[event.id] = event.finish_reason or reasons.get(event.id)
    return [(texts[request.id], reasons[request.id]) for request in requests]


def ask(schema: dict[str, Any], seed: int = 0, **fields: Any) -> Request:
    return Request(id=f"{seed}", prompt="给我 JSON:", json_schema=schema, seed=seed, **fields)


@pytest.mark.parametrize("name", SCHEMAS)
def test_what_a_random_model_says_is_of_the_schema(engine, name):
    """Every answer parses and validates, or is what max_tokens cut, and says so."""
    schema, whole = SCHEMAS[name], 0
    jsonschema.Draft202012Validator.check_schema(schema)
    for text, reason in answers(engine, [ask(schema, seed, max_tokens=200, top_k=40) for seed in range(8)]):
        if reason == "stop":
            jsonschema.validate(json.loads(text), schema, format_checker=CHECK)
            whole += 1
        else:
            assert reason == "length"
    assert whole >= 4


def test_greedy_and_beside_others(engine):
    """A mask is of its own row only."""
    free = Request(id="free", prompt="hello", temperature=0, max_tokens=30)
    (alone,) = answers(engine, [free])
    kept, beside = answers(engine, [ask(SCHEMAS["object"], temperature=0, max_tokens=200), free])
    assert beside == alone
    jsonschema.validate(json.loads(kept[0]), SCHEMAS["object"])


def test_max_tokens_ends_it_as_length(engine):
    schema = {"type": "array", "items": {"type": "integer"}, "minItems": 100}
    ((text, reason),) = answers(engine, [ask(schema, max_tokens=9)])
    assert reason == "length" and text.startswith("[")


@pytest.mark.parametrize(
    ("schema", "part"),
    [
        ({"type": "foo"}, "foo"),
        ({"properties": {"a": {"not": {}}}}, "#/properties/a/not"),
        ({"type": "array", "uniqueItems": True}, "#/uniqueItems"),
        ({"$ref": "#/$defs/x"}, "does not exist"),
        ({"type": "string", "pattern": "("}, "regex"),
        ({"enum": []}, "Unsatisfiable"),
        ({"enum": ["x" * 300_000]}, "bytes"),
        ({"type": 5}, "must be a string"),
        ({"$ref": "http://example.com/x.json"}, "example.com"),
    ],
)
def test_a_schema_that_cannot_be_kept_is_refused(engine, schema, part):
    with pytest.raises(Error) as error:
        engine.submit(ask(schema))
    assert (error.value.code, error.value.details["param"]) == ("invalid", "response_format")
    assert part in error.value.message and not engine.pending()


def test_a_bias_forces_and_forbids(engine):
    """logit_bias is in logits: 100 is as good as certain, -100 as good as never."""
    (token,) = engine.text.tokenizer.encode("我").ids[:1]
    forced = Request(id="a", prompt="x", temperature=0, max_tokens=3, logit_bias={token: 100.0})
    engine.submit(forced)
    ids = []
    while engine.pending():
        ids += [i for event in engine.step() for i in event.token_ids]
    assert ids == [token] * 3
    with pytest.raises(Error, match="vocabulary"):
        engine.submit(Request(prompt="x", logit_bias={10**6: 1.0}))


@pytest.fixture(scope="module")
def served(tmp_path_factory, new_world):
    folder = tmp_path_factory.mktemp("structured")
    world = new_world(folder)
    model = make(folder / "hf", max_position_embeddings=1024)
    world.promote(world.release("support", model, engine="torch", max_batch=4, threads=1))
    with world.serve() as gateway, world.client(gateway) as client:
        yield client
    world.ledger.close()


def say(client: openai.OpenAI, **options: Any) -> Any:
    messages: Any = [{"role": "user", "content": "请用 JSON 回答"}]
    return client.chat.completions.create(model="support", messages=messages, max_tokens=300, **options)


def test_through_the_official_client(served):
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": SCHEMAS["object"]}}
    whole = say(served, response_format=wanted, seed=1)
    assert whole.choices[0].finish_reason == "stop"
    jsonschema.validate(json.loads(whole.choices[0].message.content), SCHEMAS["object"])
    chunks = list(say(served, response_format=wanted, seed=1, stream=True))
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == whole.choices[0].message.content
    several = say(served, response_format=wanted, n=3, temperature=1.5, seed=2)
    for choice in several.choices:
        jsonschema.validate(json.loads(choice.message.content), SCHEMAS["object"])


def test_json_mode(served):
    for seed in range(4):
        answer = say(served, response_format={"type": "json_object"}, seed=seed, extra_body={"top_k": 20})
        choice = answer.choices[0]
        if choice.finish_reason == "stop":
            assert isinstance(json.loads(choice.message.content), dict)
        else:
            assert choice.finish_reason == "length" and choice.message.content.startswith("{")


def test_a_bad_schema_is_a_400_that_says_where(served):
    bad = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"properties": {"a": {"not": {}}}}}}
    with pytest.raises(openai.BadRequestError) as error:
        say(served, response_format=bad)
    assert error.value.param == "response_format" and "#/properties/a/not" in error.value.message
