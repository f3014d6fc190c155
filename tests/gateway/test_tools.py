"""Tools: a call that must be made is one, with any model; calls among words are found; who knows none says so."""

import json
from typing import Any

import jsonschema
import openai
import pytest
from tiny import TEMPLATE, make

from longrein.gateway.tools import Parser

WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 6}, "unit": {"enum": ["C", "F"]}},
    "required": ["city", "unit"],
    "additionalProperties": False,
}
TOOLS: Any = [
    {"type": "function", "function": {"name": "weather", "description": "天气", "parameters": WEATHER}},
    {"type": "function", "function": {"name": "stop"} | {"parameters": {"enum": [{}]}}},
]
NAMED: Any = {"type": "function", "function": {"name": "weather"}}


@pytest.fixture(scope="module")
def served(tmp_path_factory, new_world):
    folder = tmp_path_factory.mktemp("tools")
    world = new_world(folder)
    model = make(folder / "hf", max_position_embeddings=1024)
    (model / "chat_template.jinja").write_text("{% if tools %}{{ tools | tojson }}{% endif %}" + TEMPLATE)
    world.promote(world.release("support", model, engine="torch", max_batch=4, threads=1))
    plain = make(folder / "plain")
    world.promote(world.release("plain", plain, engine="torch", max_batch=2, threads=1), engine="torch")
    with world.serve() as gateway, world.client(gateway) as client:
        yield client
    world.ledger.close()


def say(client: openai.OpenAI, model: str = "support", **options: Any) -> Any:
    messages: Any = [
        {"role": "user", "content": "天气?"},
        {"role": "assistant", "tool_calls": [{"id": "c", "type": "function", "function": {"name": "stop"}}]},
        {"role": "tool", "tool_call_id": "c", "content": "ok"},
    ]
    options = {"max_tokens": 200, "tools": TOOLS, **options}
    return client.chat.completions.create(model=model, messages=messages, **options)


@pytest.mark.parametrize("choice", ["required", NAMED])
def test_a_call_that_must_be_made(served, choice):
    for seed in range(4):
        answer = say(served, tool_choice=choice, seed=seed, extra_body={"top_k": 30}).choices[0]
        assert answer.finish_reason == "tool_calls" and answer.message.content is None
        (call,) = answer.message.tool_calls
        assert call.function.name in (["weather"] if choice is NAMED else ["weather", "stop"])
        if call.function.name == "weather":
            jsonschema.validate(json.loads(call.function.arguments), WEATHER)
    chunks = list(say(served, tool_choice=NAMED, seed=1, stream=True))
    (delta,) = [c.choices[0].delta.tool_calls for c in chunks if c.choices[0].delta.tool_calls]
    assert delta[0].index == 0 and delta[0].function.name == "weather"
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_tools_reach_the_template_and_auto_may_just_talk(served):
    with_tools, without = (say(served, tool_choice=choice, max_tokens=5) for choice in ("auto", "none"))
    assert with_tools.usage.prompt_tokens > without.usage.prompt_tokens + 20
    assert with_tools.choices[0].message.content


def test_a_template_without_tools_says_so(served):
    with pytest.raises(openai.BadRequestError, match="takes no tools"):
        say(served, model="plain")


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_calls_among_words(size):
    """However the text is cut, nothing of a call is shown as words."""
    one = '<tool_call>\n{"name": "weather", "arguments": {"city": "北京"}}\n</tool_call>'
    text = f"Let me look <b>up</b>. {one}\n{one}"
    parser = Parser({"weather"}, forced=False)
    words = ""
    for at in range(0, len(text), size):
        ended = at + size >= len(text)
        parser.push(text[at : at + size], ended)
        words += parser.words(ended)
    assert words == "Let me look <b>up</b>. "
    assert [json.loads(call["function"]["arguments"]) for call in parser.calls] == [{"city": "北京"}] * 2


@pytest.mark.parametrize(
    "text", ["<tool_call>{nonsense}</tool_call>", '<tool_call>{"name": "x"}</tool_call>', "<tool_"]
)
def test_what_is_no_call_is_words(text):
    parser = Parser({"weather"}, forced=False)
    parser.push(text, True)
    assert parser.words(True) == text and parser.calls == []
