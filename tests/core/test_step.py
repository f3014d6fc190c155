"""Steps and the worker that runs them: what they say, what they make, and how they fail."""

import json
import os
import pickle
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from longrein.core import worker
from longrein.core.errors import CODES, Error, nearest
from longrein.core.step import Context, Input, Job

STEPS = """
import errno, os, sys
from longrein.core.errors import Error

def good(context):
    context.progress(1, 2, "rows", loss=0.5)
    context.metrics({"loss": 0.5}, step=1)
    context.params({"lr": 0.1, "层": [1]})
    context.note("行 1")
    (context.scratch / "out.txt").write_text(context.config["text"])
    context.put("report", context.name, context.scratch / "out.txt", {"n": 1})

def bad(context):
    raise Error("invalid", "the rows are odd", "look at them", row=3)

def broken(context):
    return 1 / 0

def memory(context):
    raise MemoryError

def full(context):
    raise RuntimeError("LanceError(IO): Generic error: No space left on device (os error 28)")

def leave(context):
    sys.exit(0)

def none(context):
    pass
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "odd_steps.py").write_text(STEPS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


def job(project: Path, entry: str, **config: Any) -> Job:
    inputs = {"dataset": Input("dataset:客服@3", "aa", "lance/客服.lance?version=7", {"rows": 3})}
    return Job(entry, "意图", config, inputs, str(project / "store"), str(project))


def run(project: Path, entry: str, **config: Any) -> "subprocess.CompletedProcess[str]":
    job(project, entry, **config).write(project / "scratch")
    command = [sys.executable, "-m", "longrein.core.worker", str(project / "scratch")]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def said(project: Path) -> list[dict[str, Any]]:
    lines = (project / "scratch" / "events.jsonl").read_text("utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "time"} for line in lines if line]


def test_a_job_survives_its_file(tmp_path: Path) -> None:
    one = job(tmp_path, "x:y", text="你好 \U0001f469", nested={"a": [1, None, 0.5]})
    one.write(tmp_path / "scratch")
    assert Job.read(tmp_path / "scratch") == one


def test_a_good_step(project: Path) -> None:
    done = run(project, "odd_steps:good", text="你好")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    (output,) = json.loads((project / "scratch" / "result.json").read_text("utf-8"))["outputs"]
    assert (output["kind"], output["name"], output["bytes"], output["meta"]) == ("report", "意图", 6, {"n": 1})
    assert (project / "store" / output["uri"]).read_text("utf-8") == "你好"
    assert said(project) == [
        {"type": "progress", "done": 1, "total": 2, "unit": "rows", "fields": {"loss": 0.5}},
        {"type": "metrics", "values": {"loss": 0.5}, "step": 1},
        {"type": "params", "values": {"lr": "0.1", "层": "[1]"}},
        {"type": "note", "text": "行 1"},
    ]


@pytest.mark.parametrize(
    ("entry", "code", "message"),
    [
        ("odd_steps:bad", "invalid", "the rows are odd"),
        ("odd_steps:broken", "failed", "ZeroDivisionError: division by zero (odd_steps.py:"),
        ("odd_steps:memory", "failed", "ran out of memory"),
        ("odd_steps:full", "no_space", "the disk is full"),
        ("odd_steps:leave", "failed", "SystemExit"),
        ("odd_steps:absent", "failed", "absent"),
        ("nowhere:run", "failed", "No module named 'nowhere'"),
    ],
)
def test_a_step_that_fails(project: Path, entry: str, code: str, message: str) -> None:
    (project / "scratch").mkdir()
    (project / "scratch" / "result.json").write_text("of an earlier attempt")
    done = run(project, entry)
    assert done.returncode == 1 and not (project / "scratch" / "result.json").exists()
    error = Error.from_dict(json.loads((project / "scratch" / "error.json").read_text("utf-8")))
    assert error.code == code and message in error.message and error.hint
    assert ("Traceback" in done.stderr) == (entry != "odd_steps:bad")  # what a person wrote needs none
    assert run(project, "odd_steps:none").returncode == 0 and not (project / "scratch" / "error.json").exists()


def test_a_step_without_a_job(tmp_path: Path) -> None:
    assert worker.main(tmp_path) == 1
    assert json.loads((tmp_path / "error.json").read_text())["code"] == "failed"


def test_an_attempt_that_starts_over_says_that_earlier_metrics_go(tmp_path: Path) -> None:
    one = job(tmp_path, "x:y")
    Context(one, tmp_path / "scratch").metrics({"loss": 3.0}, step=1)
    with (tmp_path / "scratch" / "events.jsonl").open("a") as file:
        file.write('{"type": "metr')  # cut off by a crash
    second = Context(one, tmp_path / "scratch")
    second.note("again")
    second.metrics({"loss": 3.0}, step=1)
    second.metrics({"loss": 2.0}, step=2)
    third = Context(one, tmp_path / "scratch")
    third.resumed(2)
    third.metrics({"loss": 1.0}, step=3)
    lines = (tmp_path / "scratch" / "events.jsonl").read_text().splitlines()
    whole = [json.loads(line) for line in lines if line.endswith("}")]
    assert [e.get("step", e["type"]) for e in whole] == [1, "note", -1, 1, 2, 2, 3]


def test_a_worker_dies_with_the_process_that_started_it(project: Path) -> None:
    """Its parent is killed while it works: no orphan goes on."""
    (project / "slow.py").write_text(
        "import os, time\ndef run(context):\n    context.note(str(os.getpid()))\n    time.sleep(60)\n"
    )
    job(project, "slow:run").write(project / "scratch")
    code = (
        "import os, subprocess, sys\nos.environ['LONGREIN_PARENT'] = str(os.getpid())\n"
        "subprocess.run([sys.executable, '-m', 'longrein.core.worker', sys.argv[1]])"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, project / "scratch"], stdout=subprocess.PIPE)
    events = project / "scratch" / "events.jsonl"
    while not (events.exists() and events.read_text().endswith("\n")):
        assert parent.poll() is None
    child = os.pidfd_open(int(said(project)[0]["text"]))
    os.kill(parent.pid, signal.SIGKILL)
    assert select.select([child], [], [], 20)[0], "the worker outlived its parent"
    parent.wait()


def test_errors_are_plain_data_and_back() -> None:
    error = Error("no_space", "满了", "free some", path="/x", n=1)
    for copy in (Error.from_dict(error.as_dict()), pickle.loads(pickle.dumps(error))):
        assert copy.as_dict() == error.as_dict() == {
            "code": "no_space", "message": "满了", "hint": "free some", "path": "/x", "n": 1,
        }  # fmt: skip
        assert (copy.http_status, copy.exit_code, str(copy)) == (507, 10, "满了")
    assert all(400 <= status < 600 and 0 < exit_code < 256 for status, exit_code in CODES.values())


def test_nearest() -> None:
    assert nearest("modle", ["model", "prompt"]) == "did you mean 'model'?"
    assert nearest("意思", ["意图", "x"]) == "did you mean '意图'?"
    assert nearest("zzz", ["b", "a", "a"]) == "valid: a, b"
    assert nearest("zzz", map(str, range(30))).endswith(", …") and nearest("x", []) == "there are none yet"
