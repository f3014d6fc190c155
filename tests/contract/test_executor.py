"""What every executor must do, whoever wrote it."""

import json
import os
import select
from pathlib import Path
from typing import Any

import pytest

from longrein.core import plugins
from longrein.core.errors import Error
from longrein.core.ports import Handle
from longrein.core.step import Job

STEPS = """
import os, subprocess, sys
from longrein.core.errors import Error

def good(context):
    context.note(os.environ["GREETING"] + " " + os.environ["OMP_NUM_THREADS"] + " " + os.getcwd())
    print("printed"); print("complained", file=sys.stderr)
    block = bytearray(60_000_000)
    sum(range(3_000_000))
    (context.scratch / "out").write_text("x")
    context.put("report", context.name, context.scratch / "out", {})

def bad(context):
    raise Error("invalid", "odd rows")

def hang(context):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
    context.note(f"{os.getpid()} {child.pid}")
    child.wait()

def die(context):
    os.kill(os.getpid(), 9)
"""


@pytest.fixture(params=plugins.names("executor"))
def executor(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "exec_steps.py").write_text(STEPS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return plugins.load("executor", request.param)({})


def job(project: Path, entry: str) -> Job:
    return Job(
        f"exec_steps:{entry}", "n", {}, {}, str(project / "store"), str(project), cpus=1, env={"GREETING": "你好"}
    )


def end(handle: Handle) -> int:
    while (status := handle.poll()) is None:
        os.sched_yield()
    return status


def test_a_job_runs_and_is_accounted_for(executor: Any, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    handle = executor.submit(job(tmp_path, "good"), scratch)
    assert isinstance(handle, Handle)
    assert end(handle) == 0 and handle.poll() == 0
    assert json.loads((scratch / "events.jsonl").read_text("utf-8"))["text"] == f"你好 1 {tmp_path}"
    assert {"printed", "complained"} <= set((scratch / "log.txt").read_text().split())
    usage = handle.usage()
    assert usage["max_rss_bytes"] > 60_000_000 and usage["wall_s"] > 0 and usage["cpu_s"] > 0
    assert len(json.loads((scratch / "result.json").read_text())["outputs"]) == 1


def test_a_job_that_fails_leaves_its_error(executor: Any, tmp_path: Path) -> None:
    assert end(executor.submit(job(tmp_path, "bad"), tmp_path / "s")) == 1
    assert json.loads((tmp_path / "s" / "error.json").read_text())["code"] == "invalid"


def test_a_job_that_dies_says_by_which_signal(executor: Any, tmp_path: Path) -> None:
    assert end(executor.submit(job(tmp_path, "die"), tmp_path / "s")) == -9
    assert not (tmp_path / "s" / "result.json").exists()


def test_a_cancelled_job_ends_with_all_its_children(executor: Any, tmp_path: Path) -> None:
    handle = executor.submit(job(tmp_path, "hang"), tmp_path / "s")
    events = tmp_path / "s" / "events.jsonl"
    while not (events.exists() and events.read_text().endswith("\n")):
        assert handle.poll() is None
    watched = [os.pidfd_open(int(pid)) for pid in json.loads(events.read_text())["text"].split()]
    handle.cancel()
    handle.cancel()  # twice is harmless
    assert handle.poll() is not None
    for fd in watched:
        assert select.select([fd], [], [], 20)[0], "a process lives on"


def test_two_jobs_at_once(executor: Any, tmp_path: Path) -> None:
    handles = [executor.submit(job(tmp_path, "good"), tmp_path / f"s{i}") for i in range(2)]
    assert [end(h) for h in handles] == [0, 0]


def test_an_unknown_option_is_refused_with_a_sentence(executor: Any) -> None:
    with pytest.raises(Error) as caught:
        type(executor)({"nonsense": 1})
    assert caught.value.code == "invalid" and "nonsense" in caught.value.message
