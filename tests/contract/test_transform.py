"""What every transform plugin keeps; found by itself, run over each (see longrein.core.ports.Transform)."""

import copy
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from longrein.core import plugins
from longrein.core.errors import Error
from longrein.core.ports import Survey, Verdict

NAMES = plugins.names("transform")
TEXTS = [
    "hello",
    " Hello ",
    "你好，退款！",
    "ＡＢＣ\u200b１２３",
    "",
    "  ",
    "!!!!",
    "哈" * 40,
    "a@example.com",
    "<b></b><i></i>",
    "cafÃ©",
    "\0\r\n\u2028x",
]
HERE = Path(__file__).parent
NEEDED = {  # options without a default
    "budget": {"total": 10**6},
    "classify": {"positive": [str(HERE / "good.txt")], "negative": [str(HERE / "bad.txt")]},
    "decontaminate": {"against": [str(HERE / "evaluation.txt")]},
}
OUTPUTS = ["a", "A ", "b", None]


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def rows() -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    for i, text in enumerate(TEXTS * 3):
        made.append({"input": text, "output": OUTPUTS[i % 4], "source": "f", "line": i + 1})
        talk = [{"role": "user", "content": text}, {"role": "assistant", "content": "so"}]
        made.append({"messages": talk, "source": "g", "line": i + 1, "extra": "{}"})
    return made


def apply(name: str, given: list[dict[str, Any]], **options: Any) -> list[Verdict]:
    try:
        transform = plugins.load("transform", name)(NEEDED.get(name, {}) | options)
    except Error as error:
        if error.code != "missing_package":
            raise
        pytest.skip(error.message)
    if isinstance(transform, Survey):
        transform.survey(iter(given))
    verdicts = list(transform.apply(iter(given)))
    assert isinstance(transform.counts, Counter)
    return verdicts


@pytest.mark.parametrize("name", NAMES)
def test_one_verdict_for_each_row_in_order(name):
    given = rows()
    verdicts = apply(name, given)
    assert [(v.row["source"], v.row["line"]) for v in verdicts] == [(r["source"], r["line"]) for r in given]
    assert [set(v.row) - {"group", "language"} for v in verdicts] == [set(r) for r in given]
    assert all(v.reason == "" or re.fullmatch("[a-z_]+", v.reason) for v in verdicts)
    assert all(v.detail for v in verdicts if v.reason)
    assert plugins.version("transform", name)


@pytest.mark.parametrize("name", NAMES)
def test_rows_are_not_changed_in_place_and_runs_agree(name):
    given = rows()
    before = copy.deepcopy(given)
    assert apply(name, given) == apply(name, given)
    assert given == before


@pytest.mark.parametrize("name", NAMES)
def test_no_rows(name):
    assert apply(name, []) == []


@pytest.mark.parametrize("name", NAMES)
def test_rows_without_a_source(name):
    verdicts = apply(
        name, [{"input": "a", "output": "b"}, {"input": "a", "output": "b"}, {"input": "a", "output": "c"}]
    )
    assert len(verdicts) == 3


@pytest.mark.parametrize("name", NAMES)
def test_verdicts_come_as_rows_come(name):
    transform = plugins.load("transform", name)(NEEDED.get(name, {}))
    given = rows()
    if isinstance(transform, Survey):
        transform.survey(iter(given))
    taken = 0

    def stream() -> Iterator[dict[str, Any]]:
        nonlocal taken
        for row in given:
            taken += 1
            yield row

    for number, _ in enumerate(transform.apply(stream()), 1):
        assert taken - number <= 8192  # a batch may be held, the stream may not


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_option_is_refused(name):
    with pytest.raises((msgspec.ValidationError, Error), match="colour"):
        plugins.load("transform", name)(NEEDED.get(name, {}) | {"colour": "red"})


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(texts=st.lists(st.tuples(st.text(max_size=20), st.sampled_from(OUTPUTS)), max_size=6))
def test_what_is_kept_stays_the_same_the_second_time(name, texts):
    given = [{"input": text, "output": output} for text, output in texts]
    kept = [v.row for v in apply(name, given) if not v.reason]
    assert [tuple(v) for v in apply(name, kept)] == [(row, "", "") for row in kept]
