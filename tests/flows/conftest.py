"""Drives `apply` in processes of their own, on either database, and kills them where it hurts; and a small disk."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from lifecycle import Driver

DRIVER = """
import os, sys
sys.path.insert(0, sys.argv[1])
import lifecycle
from longrein.control import loop, plan
from longrein.core.ledger.work import Work

root, point = sys.argv[2], sys.argv[3]

def die(*_, **__):
    os.kill(os.getpid(), 9)

def watch(news):
    if f"{news.what} {news.subject}" == point:
        die()

if point == "before recording":  # a process is through, and nobody has written down what it made
    loop.Loop._record = die
elif point == "while recording":  # the claim is finished within a transaction that is still open
    finish = Work.finish
    Work.finish = lambda *given, **named: (finish(*given, **named), die())
elif point == "after recording":
    loop._tidy = die
elif point == "while claiming":
    claim = Work.claim
    Work.claim = lambda *given, **named: (claim(*given, **named), die())
elif point == "after claiming":
    loop.Loop._job = die
elif point == "while judging":
    loop.gate.judge = die
for line in lifecycle.apply(root, watch):
    print(line)
"""


@pytest.fixture
def drive(ledger_url: str, monkeypatch: pytest.MonkeyPatch) -> Driver:
    """Starts `apply` of a project in a process that kills itself at a point; on the ledger of this test."""
    monkeypatch.setenv("LONGREIN_LEDGER", ledger_url)

    def start(root: Path, point: str = "") -> "subprocess.Popen[str]":
        here = str(Path(__file__).parents[1])
        return subprocess.Popen([sys.executable, "-c", DRIVER, here, root, point], stdout=subprocess.PIPE, text=True)

    return start


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 8 MiB."""
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(path)]
    if os.geteuid() != 0 or shutil.which("mount") is None or subprocess.run(mount, check=False).returncode != 0:
        pytest.skip("needs root and a system that mounts, to have a small disk to fill")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", path], check=True)
