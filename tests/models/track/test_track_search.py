"""The search grammar, held against mlflow's own parser, filter and sort."""

import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.utils.search_utils import SearchUtils

from longrein.core.errors import Error
from longrein.models.track.grammar import EXPERIMENTS, LOGGED, MODELS, RUNS, VERSIONS, Clause, parse_filter, parse_order

WORDS = ("adam", "Adam", "sgd", "a%b", "a_b", "a*b", "[ab]", "a?b", "学习", "it's", "", "x y", "ÄÖ")
KEYS = ("lr", "opt", "a b", "验证", "mlflow.source.name")
SLOW = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def test_clauses():
    assert parse_filter("metrics.loss < 0.3 and tags.`a b` ILIKE 'x%'", RUNS) == [
        Clause("metric", "loss", "<", 0.3),
        Clause("tag", "a b", "ILIKE", "x%"),
    ]
    assert parse_filter("""params."a b" != "it's" AND metric.`y`>=-1e-3""", RUNS) == [
        Clause("param", "a b", "!=", "it's"),
        Clause("metric", "y", ">=", -1e-3),
    ]
    assert parse_filter("run_id IN ('a', 'b',) AND attributes.`Run name` LIKE '%'", RUNS) == [
        Clause("attribute", "run_id", "IN", ("a", "b")),
        Clause("attribute", "run_name", "LIKE", "%"),
    ]
    assert parse_filter("params.lr IS NOT NULL and tag.mlflow.user is null", RUNS) == [
        Clause("param", "lr", "IS NOT NULL", None),
        Clause("tag", "mlflow.user", "IS NULL", None),
    ]
    assert parse_filter("datasets.context NOT IN ('train') AND created > 5", RUNS) == [
        Clause("dataset", "context", "NOT IN", ("train",)),
        Clause("attribute", "start_time", ">", 5.0),
    ]
    assert parse_filter(" \n ", RUNS) == parse_filter("", VERSIONS) == []
    assert parse_filter("name='it''s'", MODELS) == [Clause("attribute", "name", "=", "it's")]
    assert parse_filter("params.p IN ('1', '2') AND creation_time > 1", LOGGED)[1].key == "creation_timestamp"


@pytest.mark.parametrize(
    "text",
    [
        "metrics.loss", "metrics.loss <", "< 1", "metrics.loss < 'a'", "metrics.loss < 1 OR metrics.loss > 2",
        "params.a = 1",
        "(metrics.loss < 1)", "foo.x = 'a'", "stats = 'x'", "params.a-b = 'x'", "params.a='x",
        "metrics.loss LIKE 'a'", "metrics.loss IS NULL", "status IS NULL", "status IN ('A')", 
        "run_id IN ()",
        "run_id IN (1)", "run_id IN ('a'", "start_time = '1'", "start_time LIKE '1'", "dataset.size = '1'",
        "status = FINISHED", "status == 'x'", "tags.a > 'b'", "params.a = `x`",
        "metrics.x = 1.2.3", "tags.a = 'x'; DROP TABLE runs",
    ],
)  # fmt: skip
def test_what_mlflow_refuses_is_refused(text):
    with pytest.raises(MlflowException):  # else the case proves nothing
        SearchUtils.filter([_Nothing()], text) if SearchUtils.parse_search_filter(text) else None
    with pytest.raises(Error) as refused:
        parse_filter(text, RUNS)
    assert refused.value.code == "invalid"


class _Nothing:
    """A run without anything, for mlflow's filter to check the comparators against."""

    class data:
        metrics, params, tags = {}, {}, {}

    class info:
        run_id = status = run_name = user_id = artifact_uri = None
        start_time = end_time = None


def test_orders():
    assert parse_order(["metrics.`a b` DESC", "start_time asc", "params.x", "Created"][:3], RUNS) == [
        ("metric", "a b", False),
        ("attribute", "start_time", True),
        ("param", "x", True),
    ]
    for wrong in (["metrics.x DOWN"], ["loss"], ["metrics.x ASC DESC"], [""], ["metrics.x", "metric.x DESC"]):
        with pytest.raises(Error):
            parse_order(wrong, RUNS)


def test_a_filter_has_an_end():
    clauses = ["metrics.m > 1"] * 100
    assert len(parse_filter(" AND ".join(clauses), RUNS)) == 100
    for text in (
        " AND ".join([*clauses, "metrics.m > 1"]),
        f"run_id IN ({','.join(['0'.join(chr(39) * 2)] * 10_001)})",
    ):
        with pytest.raises(Error, match="at most"):
            parse_filter(text, RUNS)


@given(st.text(max_size=60))
def test_no_text_breaks_the_parser(text):
    for scope in (RUNS, EXPERIMENTS, MODELS, VERSIONS, LOGGED):
        for parse in (lambda t, s=scope: parse_filter(t, s), lambda t, s=scope: parse_order([t], s)):
            try:
                parse(text)
            except Error as error:
                assert error.code == "invalid"


def quoted(text):
    return f'"{text}"' if "'" in text else f"'{text}'"


values = st.sampled_from(WORDS)
patterns = st.lists(st.sampled_from([*"abAx%_*?[]", "学", "%"]), max_size=4).map("".join)
numbers = st.sampled_from([-1.5, 0.0, 0.5, 1.0, 2.0, "1e30"])
key = st.sampled_from(KEYS).map(lambda k: f"`{k}`")
clause = st.one_of(
    st.builds("metrics.{} {} {}".format, key, st.sampled_from([">", ">=", "=", "!=", "<", "<="]), numbers),
    st.builds(
        lambda e, k, op, v: f"{e}.{k} {op} {quoted(v)}",
        st.sampled_from(["params", "tags"]), key, st.sampled_from(["=", "!="]), values,
    ),
    st.builds(
        lambda e, k, op, v: f"{e}.{k} {op} {quoted(v)}",
        st.sampled_from(["params", "tags"]), key, st.sampled_from(["LIKE", "ILIKE"]), patterns,
    ),
    st.builds("{}.{} IS {}NULL".format, st.sampled_from(["params", "tags"]), key, st.sampled_from(["", "NOT "])),
    st.builds("start_time {} {}".format, st.sampled_from([">", "=", "!=", "<="]), st.integers(0, 12)),
    st.builds("status {} '{}'".format, st.sampled_from(["=", "!="]), st.sampled_from(["RUNNING", "FINISHED"])),
    st.builds("run_name LIKE '{}'".format, patterns),
)  # fmt: skip
orders = st.lists(
    st.builds(
        "{} {}".format,
        st.one_of(
            key.map("metrics.{}".format), key.map("params.{}".format), st.sampled_from(["start_time", "run_name"])
        ),
        st.sampled_from(["ASC", "DESC", ""]),
    ).map(str.strip),
    max_size=2,
    unique_by=lambda o: o.removesuffix("ASC").removesuffix("DESC").strip(),
)


@pytest.fixture(scope="module")
def runs(world):
    """Twelve runs that differ in all that can be searched."""
    id = world.experiment("searched")
    for i in range(12):
        run = world.run(id, start_time=i // 2, run_name=f"{WORDS[i]}-run")
        value = (0.5, 1.0, math.nan, 2.0, math.inf, -1.5)[i % 6]
        world.client.log_batch(
            run,
            [Metric(k, value + j, 1, 1) for j, k in enumerate(KEYS) if (i + j) % 3],
            [Param(k, WORDS[(i + j) % len(WORDS)]) for j, k in enumerate(KEYS) if (i + j) % 2],
            [RunTag(k, WORDS[(i * j) % len(WORDS)]) for j, k in enumerate(KEYS) if (i + j) % 4],
        )
        if i % 3:
            world.client.set_terminated(run)
    return world, id, world.client.search_runs([id])


@SLOW
@given(st.lists(clause, max_size=3).map(" AND ".join), orders)
def test_search_finds_what_mlflow_finds(runs, text, order):
    world, id, everything = runs
    wanted = SearchUtils.sort(SearchUtils.filter(everything, text), order)
    found = world.client.search_runs([id], text, order_by=order)
    assert [r.info.run_id for r in found] == [r.info.run_id for r in wanted]


def test_pages_follow_each_other(runs):
    world, id, everything = runs
    found, token = [], None
    while True:
        page = world.client.search_runs([id], max_results=5, order_by=["metrics.lr DESC"], page_token=token)
        found += page
        token = page.token
        if not token:
            break
    assert [r.info.run_id for r in found] == [r.info.run_id for r in SearchUtils.sort(everything, ["metrics.lr DESC"])]
    for bad in ("x", "bm9wZQ==", "eyJvZmZzZXQiOiAtMX0="):
        with pytest.raises(MlflowException, match="Invalid page token"):
            world.client.search_runs([id], page_token=bad)
    for most in (0, -1, 123456789):
        assert f"Invalid value {most} for parameter 'max_results'" in world.refused(
            "runs/search", {"experiment_ids": [id], "max_results": most}
        )


def test_searching_nowhere_finds_nothing(world):
    assert world.client.search_runs([]) == [] == world.client.search_runs(["424242"])
    with pytest.raises(MlflowException, match="Invalid experiment ID"):
        world.client.search_runs(["x"])
