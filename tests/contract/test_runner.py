"""What every runner plugin keeps; found by itself, run over each (see longrein.core.ports.Runner)."""

import itertools
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from longrein.core import plugins
from longrein.core.errors import Error
from longrein.core.ports import Runner


@pytest.fixture(params=plugins.names("runner"), scope="module")
def runner(request: pytest.FixtureRequest) -> Iterator[Runner]:
    if request.param == "ray":
        request.getfixturevalue("cluster")
    try:
        made = plugins.load("runner", request.param)({}, 2)
    except Error as error:
        if error.code != "missing_package":
            raise
        pytest.skip(error.message)
    yield made
    made.close()


def double(value: int) -> int:
    return 2 * value


def refuse(value: int) -> int:
    if value == 3:
        raise Error("invalid", "three is not for us", "take four", line=3)
    return value


def stumble(place: str) -> str:
    """Dies the first time."""
    Path(place).parent.mkdir(exist_ok=True)
    try:
        Path(place).touch(exist_ok=False)
    except FileExistsError:
        return place
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def test_results_in_the_order_of_the_tasks(runner):
    assert list(runner.map(double, range(100))) == list(range(0, 200, 2))
    assert list(runner.map(double, [])) == []


def test_tasks_are_taken_as_there_is_room(runner):
    taken = itertools.count()
    results = runner.map(double, (next(taken) for _ in itertools.repeat(None)))
    assert list(itertools.islice(results, 30)) == list(range(0, 60, 2))
    assert next(taken) <= 30 + 100
    results.close()


def test_an_error_is_raised_as_it_was_and_the_runner_goes_on(runner):
    with pytest.raises(Error) as raised:
        list(runner.map(refuse, range(10)))
    assert raised.value.as_dict() == {
        "code": "invalid",
        "message": "three is not for us",
        "hint": "take four",
        "line": 3,
    }
    assert list(runner.map(double, [1])) == [2]


def test_what_a_killed_worker_had_runs_again(runner, tmp_path):
    if getattr(runner, "workers", 2) < 2:
        pytest.skip("it maps in this process")
    places = [str(tmp_path / "marks" / str(i)) for i in (1, 2)]
    assert list(runner.map(stumble, places)) == places


def test_an_unknown_option_is_refused(runner):
    with pytest.raises((msgspec.ValidationError, Error), match="colour"):
        type(runner)({"colour": "red"}, 1)


def fall(_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_task_that_kills_each_worker_ends_in_an_error():
    made = plugins.load("runner", "local")({}, 2)
    with pytest.raises(Error, match="workers died"):
        list(made.map(fall, [1]))
    made.close()
