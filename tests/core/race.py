"""Runs one piece of code in several processes that start together, for tests of what is shared between them."""

import json
import subprocess
import sys
from typing import Any

START = "import json, sys\nprint('ready', flush=True)\nsys.stdin.readline()\n"


def script(code: str, *arguments: str) -> "subprocess.Popen[str]":
    """A process that runs `code`; `sys.argv[1:]` are the arguments."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def race(code: str, *arguments: str, runners: int = 3) -> list[Any]:
    """What each process printed as its last line (JSON), after all were let go at once.

    `code` is in two parts around a line `GO`: what each does alone first (imports), and the race itself.
    """
    before, _, after = code.partition("\nGO\n")
    processes = [script(before + "\n" + START + after, *arguments, str(number)) for number in range(runners)]
    for process in processes:
        assert process.stdout and process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    results = []
    for process in processes:
        out, _ = process.communicate(timeout=60)
        assert process.returncode == 0, out
        results.append(json.loads(out.splitlines()[-1]))
    return results
