"""Runs: metrics, params and tags, and what an attempt that died leaves behind, on both databases."""

import math

import pytest

from longrein.core.errors import Error
from longrein.core.ledger import Ledger

INF = math.inf
LARGEST = 1.7976931348623157e308


@pytest.fixture
def run(ledger: Ledger) -> str:
    return ledger.runs.start(capability="models.train", name="意图", experiment="model:意图", actor="ann")


def test_a_run_from_start_to_end(ledger: Ledger, run: str) -> None:
    assert ledger.runs.get(run).status == "RUNNING"
    used = {"cpu_s": 2.5, "wall_s": 3.5, "max_rss_bytes": 2.0**33}
    ledger.runs.finish(run, usage=used, cost_usd=0.25)
    ended = ledger.runs.get(run[:10])
    assert (ended.status, ended.name, ended.actor, ended.cost_usd) == ("FINISHED", "意图", "ann", 0.25)
    assert (ended.cpu_s, ended.wall_s, ended.max_rss_bytes) == (2.5, 3.5, 2**33)
    assert ended.ended_ms is not None and ended.ended_ms >= ended.started_ms
    assert [e.kind for e in ledger.events.recent(f"run:{run}")] == ["run.finished", "run.started"]


def test_a_failed_run_keeps_its_error(ledger: Ledger, run: str) -> None:
    ledger.runs.finish(run, "FAILED", error=Error("no_space", "the disk is full", "free some", path="/x"))
    error = ledger.runs.get(run).error
    assert error == {"code": "no_space", "message": "the disk is full", "hint": "free some", "path": "/x"}


def test_runs_are_found_by_a_beginning_that_is_their_own(ledger: Ledger, run: str) -> None:
    ledger.runs.start(run[:31] + ("0" if run[31] != "0" else "1"))
    for wanted, code in ((run[:12], "invalid"), (run[:7], "not_found"), ("zz" * 8, "not_found"), ("", "not_found")):
        with pytest.raises(Error) as caught:
            ledger.runs.get(wanted)
        assert caught.value.code == code
    assert ledger.runs.get(run).id == run


def test_recent_runs_newest_first(ledger: Ledger) -> None:
    for i, (capability, name) in enumerate([("a", "x"), ("b", "x"), ("a", "y")]):
        ledger.runs.start(f"{i:032x}", capability=capability, name=name)
    assert [int(r.id) for r in ledger.runs.recent()] == [2, 1, 0]
    assert [int(r.id) for r in ledger.runs.recent("a")] == [2, 0]
    assert [int(r.id) for r in ledger.runs.recent(name="x", limit=1)] == [1]


def test_experiments_are_made_once(ledger: Ledger) -> None:
    ids = [ledger.runs.experiment(name) for name in ("Default", "客服", "Default", "客服", "x")]
    assert ids[0] == 0 and ids[:2] == ids[2:4] and len(set(ids)) == 3


def test_the_latest_metric_is_that_of_the_last_step(ledger: Ledger, run: str) -> None:
    ledger.runs.log(run, [("loss", 3.0, 1, 10), ("loss", 1.0, 3, 30), ("loss", 2.0, 2, 40), ("acc", 0.5, 0, 1)])
    assert ledger.runs.metrics(run) == {"loss": 1.0, "acc": 0.5}
    ledger.runs.log(run, [("loss", 9.0, 2, 99)])  # late, of an earlier step
    ledger.runs.log(run, [("loss", 1.5, 3, 31)])  # the same step again, later
    assert ledger.runs.metrics(run)["loss"] == 1.5
    assert ledger.runs.history(run, "loss") == [(1, 10, 3.0), (2, 40, 2.0), (2, 99, 9.0), (3, 30, 1.0), (3, 31, 1.5)]


def test_a_point_logged_twice_counts_once(ledger: Ledger, run: str) -> None:
    points = [("loss", 1.0, 1, 10), ("loss", 2.0, 1, 10), ("loss", 1.0, 1, 10)]
    ledger.runs.log(run, points)
    ledger.runs.log(run, points)
    assert sorted(ledger.runs.history(run, "loss")) == [(1, 10, 1.0), (1, 10, 2.0)]


def test_numbers_that_are_none(ledger: Ledger, run: str) -> None:
    ledger.runs.log(run, [("x", v, step, 0) for step, v in enumerate([math.nan, INF, -INF, 0.1 + 0.2, -0.0, 5e-324])])
    values = [v for _, _, v in ledger.runs.history(run, "x")]
    assert math.isnan(values[0]) and values[1:4] == [LARGEST, -LARGEST, 0.30000000000000004]
    ledger.runs.log(run, [("y", math.nan, 0, 0)])
    assert math.isnan(ledger.runs.metrics(run)["y"]) and ledger.runs.metrics(run)["x"] == 5e-324


def test_large_steps_and_odd_names(ledger: Ledger, run: str) -> None:
    names = ["损失", "a b", "a/b", "'; DROP TABLE metrics; --", "👩‍👧", "x" * 5000]
    ledger.runs.log(run, [(name, 1.0, 2**62, -5) for name in names])
    assert set(ledger.runs.metrics(run)) == set(names)
    with pytest.raises(Error) as caught:
        ledger.runs.log(run, [("x", 1.0, 2**63, 0)])
    assert caught.value.code == "invalid"
    assert "x" not in ledger.runs.metrics(run)


def test_points_after_the_step_that_work_resumed_from_are_dropped(ledger: Ledger, run: str) -> None:
    ledger.runs.log(run, [(k, float(s), s, s) for s in range(10) for k in ("loss", "lr")] + [("late", 1.0, 8, 0)])
    ledger.runs.drop_after(run, 4)
    assert ledger.runs.metrics(run) == {"loss": 4.0, "lr": 4.0}
    assert [s for s, _, _ in ledger.runs.history(run, "loss")] == [0, 1, 2, 3, 4]
    ledger.runs.drop_after(run, -1)
    assert ledger.runs.metrics(run) == {} == {k: v for k, v in ledger.runs.metrics("nobody").items()}


def test_params_and_tags(ledger: Ledger, run: str) -> None:
    ledger.runs.log(run, parameters={"lr": "0.1", "层": "2"}, labels={"git": "abc"})
    ledger.runs.log(run, parameters={"lr": "0.2"})
    assert ledger.runs.params(run) == {"lr": "0.2", "层": "2"} and ledger.runs.tags(run) == {"git": "abc"}


def test_a_million_points_need_not_be_one_statement(ledger: Ledger, run: str) -> None:
    ledger.runs.log(run, (("loss", float(i), i, i) for i in range(5000)))
    assert ledger.runs.metrics(run) == {"loss": 4999.0}
