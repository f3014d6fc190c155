"""Runs one step in this process: `python -m longrein.core.worker SCRATCH`.

Exit status 0 means that result.json holds the outputs; 1 that error.json holds the Error; another one stands for the
code of an Error that could not be written.
"""

import ctypes
import importlib
import json
import os
import signal
import sys
import traceback
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from longrein.core import plugins
from longrein.core.errors import Error
from longrein.core.step import Context, Job


def main(scratch: Path) -> int:
    for name in ("result.json", "error.json"):
        (scratch / name).unlink(missing_ok=True)
    try:
        job = Job.read(scratch)
        plugins.use_project(Path(job.project))
        context = Context(job, scratch)
        module, _, function = job.entry.partition(":")
        getattr(importlib.import_module(module), function)(context)
        _write(scratch / "result.json", {"outputs": [asdict(o) for o in context.outputs]})
        return 0
    except BaseException as error:  # noqa: BLE001 - the edge of the process: whatever it was becomes error.json
        if not isinstance(error, Error):
            traceback.print_exc()
        told = as_error(error)
        with suppress(OSError):  # on a full disk the exit status alone has to say it
            _write(scratch / "error.json", told.as_dict())
            return 1
        return told.exit_code


def as_error(error: BaseException) -> Error:
    """Any exception as the one a person reads."""
    if isinstance(error, Error):
        return error
    if isinstance(error, KeyboardInterrupt):
        return Error("interrupted", "the step was interrupted", "run `longrein apply` again: it resumes")
    if "No space left on device" in str(error):  # not every library raises it as an OSError
        return Error("no_space", "the disk is full", "free some space, then run `longrein apply` again: it resumes")
    if isinstance(error, MemoryError):
        return Error("failed", "the step ran out of memory", "lower its batch size, or give it a larger machine")
    where = traceback.extract_tb(error.__traceback__)[-1:]
    place = f" ({Path(where[0].filename).name}:{where[0].lineno})" if where else ""
    return Error("failed", f"{type(error).__name__}: {error}{place}", "the whole traceback is in the step's log")


def _write(path: Path, value: Any) -> None:
    staged = path.with_suffix(".tmp")
    staged.write_text(json.dumps(value, ensure_ascii=False), "utf-8")
    os.replace(staged, path)


def die_with_parent() -> None:
    """Ask Linux to end this process when the loop that started it dies, so that no orphan works twice."""
    if sys.platform == "linux" and os.environ.get("LONGREIN_PARENT"):
        PR_SET_PDEATHSIG = 1
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != int(os.environ["LONGREIN_PARENT"]):
            sys.exit(1)


if __name__ == "__main__":
    die_with_parent()
    os.nice(int(os.environ.get("LONGREIN_NICE", "0")))
    sys.exit(main(Path(sys.argv[1])))
