"""Any JSON at all is either understood or refused with a sentence: nothing else, and never by an engine's encoder."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longrein.core.errors import Error
from longrein.core.generation import Event, Logprob, Request, Usage
from longrein.gateway.answer import Answer, Completion
from longrein.gateway.openai import IGNORED, LATER, SAMPLING, ChatBody, CompletionBody, parse, with_system

leaf = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5)
)
value = st.recursive(leaf, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=8), v, max_size=3))
message = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant", "tool"]), "content": st.text() | value}
)
good = {
    "model": st.just("m"),
    "messages": st.lists(message, max_size=3),
    "prompt": st.text() | st.lists(st.text() | st.integers(), max_size=3),
    "temperature": st.floats(0, 2),
    "n": st.integers(1, 4),
    "seed": st.integers(),
    "stop": st.text() | st.lists(st.text(), max_size=3),
}
keys = sorted({*SAMPLING, *IGNORED, *LATER, *ChatBody.__struct_fields__, *CompletionBody.__struct_fields__})
body = st.dictionaries(st.sampled_from(keys) | st.text(max_size=5), value, max_size=4)


@settings(max_examples=300, deadline=None)
@given(body, st.fixed_dictionaries({}, optional=good), st.sampled_from([ChatBody, CompletionBody]))
def test_any_json_is_understood_or_refused(odd, usual, type_):
    try:
        ask = parse(msgspec.json.encode({**odd, **usual}), type_)
    except Error as error:
        assert error.code == "invalid" and error.message
        return
    for request in ask.requests:
        again = msgspec.msgpack.decode(msgspec.msgpack.encode(request), type=Request)
        assert again == request


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_refused(data):
    with pytest.raises(Error) as error:
        parse(data, ChatBody)
    assert error.value.code == "invalid"


def test_seeds_of_choices_stay_in_range():
    data = msgspec.json.encode({"model": "m", "prompt": "x", "n": 3, "seed": 2**63 - 1})
    assert [r.seed for r in parse(data, CompletionBody).requests] == [2**63 - 1, -(2**63), -(2**63) + 1]


def test_a_completion_has_no_system_prompt():
    request = Request(prompt="x")
    assert with_system(request, "be kind") is request


def test_usage_counts_each_prompt_once():
    answer = Completion("cmpl-1", "m", "0" * 64, n=2, count=4, keep=True, include_usage=True)
    for i in range(4):
        answer.add(i, Event("", "hi", [1, 2], None, "stop", None, Usage(10 + i // 2, 2, cached_tokens=3 + i // 2)))
    assert answer.usage() == {
        "prompt_tokens": 21, "completion_tokens": 8, "total_tokens": 29, "prompt_tokens_details": {"cached_tokens": 7},
    }  # fmt: skip


def test_an_event_without_text_makes_no_chunk_and_half_a_character_is_no_text():
    answer = Answer("chatcmpl-1", "m", "0" * 64, n=1, count=1, keep=False, include_usage=False)
    event = Event("", "", [1])
    answer.add(0, event)
    assert answer.chunk(0, event) == b""
    token = Logprob("\ufffd", -1.0, [("\ufffd", -1.0)])
    event = Event("", "", [2], [token], "length", None, Usage(1, 2))
    answer.add(0, event)
    assert answer.chunk(0, event).count(b"data: ") == 2
