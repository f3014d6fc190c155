"""Runs each job as a process of this machine, and accounts for its CPU time, memory and wall time."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from longrein.core.errors import Error
from longrein.core.step import Job

VERSION = 1


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of `compute: {executor: local, options: {…}}`."""

    nice: Annotated[int, Meta(ge=0, le=19)] = 0  # how much the job gives way to other processes, 0 to 19


class Process:
    """A running job. Its children form a process group, which ends as a whole."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self._process, self._started = process, time.monotonic()
        self._status: int | None = None
        self._usage: dict[str, float] = {}

    def poll(self) -> int | None:
        if self._status is None:
            pid, status, used = os.wait4(self._process.pid, os.WNOHANG)
            if pid:
                self._status = self._process.returncode = os.waitstatus_to_exitcode(status)
                self._usage = {
                    "cpu_s": used.ru_utime + used.ru_stime,
                    "wall_s": time.monotonic() - self._started,
                    "max_rss_bytes": used.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
                }
        return self._status

    def cancel(self) -> None:
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        while self.poll() is None:
            time.sleep(0.01)

    def usage(self) -> dict[str, float]:
        return self._usage


class Local:
    """The executor called "local"."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        try:
            self.config = msgspec.convert(dict(options), Config)
        except msgspec.ValidationError as error:
            raise Error("invalid", f"options of the executor 'local': {error}", "see compute.options") from error

    def submit(self, job: Job, scratch: Path) -> Process:
        job.write(scratch)
        threads = str(job.cpus)
        # Threads that spin while they wait starve each other on a busy machine: passive ones trained 14 times as fast
        # on two cores at load 14.
        env = {
            "OMP_WAIT_POLICY": "PASSIVE",
            **os.environ,
            "OMP_NUM_THREADS": threads,
            "TOKENIZERS_PARALLELISM": "false",
        }
        with (scratch / "log.txt").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "longrein.core.worker", str(scratch)],
                cwd=job.project,
                env={**env, **job.env, "LONGREIN_PARENT": str(os.getpid()), "LONGREIN_NICE": str(self.config.nice)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return Process(process)


plugin = Local
