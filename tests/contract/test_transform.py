"""What every transform plugin keeps; found by itself, run over each (see longrein.core.ports.Transform)."""

import copy
import re
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from longrein.core import plugins
from longrein.core.errors import Error
from longrein.core.ports import Notes, RowWise, Survey, Verdict

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
    "sample": {"share": 0.5},
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


def made(name: str, given: list[dict[str, Any]] | None = None, **options: Any) -> tuple[Any, list[Verdict]]:
    """A transform, and what it says of these rows."""
    given = rows() if given is None else given
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
    return transform, verdicts


def apply(name: str, given: list[dict[str, Any]], **options: Any) -> list[Verdict]:
    return made(name, given, **options)[1]


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
def test_a_rowwise_one_judges_batches_as_the_whole(name):
    """However rows are cut, by however many instances: the same verdicts, and counts that add up."""
    given, (whole, verdicts) = rows(), made(name)
    if not isinstance(whole, RowWise):
        pytest.skip("it looks at rows together")
    assert not isinstance(whole, Survey)
    parts, counts = list[Verdict](), Counter[str]()
    for start, end in pairwise([0, 1, 2, 7, 30, len(given)]):
        one, found = made(name, given[start:end])
        parts += found
        counts += one.counts
    assert parts == verdicts and counts == +whole.counts


@pytest.mark.parametrize("name", NAMES)
def test_notes_say_all_that_it_needs_of_a_row(name):
    """Taken in batches, by another instance: the same verdicts as with the rows."""
    given, (whole, verdicts) = rows(), made(name)
    if not isinstance(whole, Notes):
        pytest.skip("it takes no notes")
    notes: list[bytes] = []
    for start, end in pairwise([0, 1, 2, 7, 30, len(given)]):
        notes += plugins.load("transform", name)(NEEDED.get(name, {})).prepare(given[start:end])
    light = [{"note": n, "source": r["source"], "line": r["line"]} for n, r in zip(notes, given, strict=True)]
    _, found = made(name, light)
    tell = [(v.reason, v.detail, v.row.get("group")) for v in verdicts]
    assert [(v.reason, v.detail, v.row.get("group")) for v in found] == tell and any(v.reason for v in verdicts)


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
