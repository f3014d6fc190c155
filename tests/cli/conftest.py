"""The command line as people call it, and a project whose trainer and engine are done at once."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from longrein.cli.main import main

PROJECT = Path(__file__).parent / "project"
INTENTS = {
    "refund": ["money back", "refund me", "退款 请"],
    "order_status": ["where parcel", "track order", "包裹 哪里"],
    "invoice": ["need invoice", "tax receipt", "发票 开"],
}


@dataclass
class Done:
    """What a call left behind."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        return json.loads(self.out)


Call = Callable[..., Done]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """`longrein …` in this process."""

    def run(*arguments: object) -> Done:
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main([str(a) for a in arguments])
        found = capsys.readouterr()
        return Done(int(left.value.code or 0), found.out, found.err)

    return run


def spawn(*arguments: object, env: dict[str, str] | None = None, **options: Any) -> "subprocess.Popen[str]":
    """`longrein …` in a process of its own."""
    command = [sys.executable, "-m", "longrein.cli.main", *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "encoding": "utf-8"} | options
    return subprocess.Popen(command, env={**os.environ, **(env or {})}, **pipes)


def tickets(rows: int = 20) -> str:
    """A CSV in which words give the intent away."""
    lines = ["text,intent"]
    for intent, phrases in INTENTS.items():
        lines += [f"{phrase} {intent[0]}{n},{intent}" for n in range(rows) for phrase in phrases]
    return "\n".join(lines) + "\n"


def make(folder: Path) -> Path:
    shutil.copytree(PROJECT, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "data").mkdir(exist_ok=True)
    (folder / "data" / "tickets.csv").write_text(tickets(), "utf-8")
    return folder


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project before its first apply."""
    return make(tmp_path / "tickets")


@pytest.fixture
def words(tmp_path: Path) -> Path:
    """A project of prompts only, which applies in a moment."""
    folder = tmp_path / "words"
    folder.mkdir()
    (folder / "longrein.yaml").write_text("project: words\nprompts:\n  greet: {system: 你好 hello}\n", "utf-8")
    return folder


@pytest.fixture(scope="session")
def _applied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make(tmp_path_factory.mktemp("applied") / "tickets")
    process = spawn("apply", "-C", folder)
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert "serves release:support@1" in out
    return folder


@pytest.fixture
def applied(_applied: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of the project after its first apply: a release is in production."""
    folder = tmp_path / "tickets"
    shutil.copytree(_applied, folder)
    yield folder


def edit(folder: Path, old: str, new: str) -> None:
    """Change the lifecycle file."""
    file = folder / "longrein.yaml"
    text = file.read_text("utf-8")
    assert old in text
    file.write_text(text.replace(old, new), "utf-8")
