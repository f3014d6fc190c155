"""A `vllm serve` process: found, started on a Unix socket, watched, and ended with the process that started it.

A Unix socket in a folder of our own, since a port could be taken meanwhile, and anybody on the machine could ask it
without a key.
"""

import asyncio
import atexit
import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec

from longrein.core.errors import Error
from longrein.plugins.engine._vllm.http import Answer, ask

END_S = 8.0  # for the process to give the GPU back after SIGTERM
POLL_S = 0.1
PR_SET_PDEATHSIG = 1
QUIET = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}  # it asks nobody and tells nobody


def find() -> str:
    """The program: on the PATH, or beside this Python. Errors: `missing_package`."""
    beside = Path(sys.executable).parent / "vllm"
    if found := shutil.which("vllm") or (str(beside) if os.access(beside, os.X_OK) else None):
        return found
    hint = "pip install vllm, best in an environment of its own, and put its bin folder on the PATH"
    raise Error("missing_package", "the engine 'vllm' needs the program vllm, which is not on the PATH", hint)


class Server:
    """name: what the model is called in requests."""

    name = "model"

    def __init__(self, model: Path, flags: list[str]) -> None:
        program = find()
        self.folder = tempfile.mkdtemp(prefix="longrein-vllm-")  # 0700
        self.socket = os.path.join(self.folder, "socket")
        command = [program, "serve", str(model), "--served-model-name", self.name, "--uds", self.socket, *flags]
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, env=os.environ | QUIET, preexec_fn=_dies_with(os.getpid())
        )
        self.ready = False
        atexit.register(self.close)
        threading.Thread(target=self._watch, daemon=True).start()

    async def started(self) -> None:
        """Wait until it answers its health check. Errors: `failed` when it ends before."""
        while True:
            if (status := self.process.poll()) is not None:
                self.close()
                raise Error("failed", f"vllm ended with status {status} while it was starting", "see the engine's log")
            with contextlib.suppress(Error):
                if (await self.whole("GET", "/health"))[0] == 200:
                    self.ready = True
                    return
            await asyncio.sleep(POLL_S)

    async def whole(self, method: str, path: str, value: Any = None) -> tuple[int, bytes]:
        """Status and body. Errors: `unavailable`."""
        async with self.open(method, path, value) as answer:
            return answer.status, b"".join([piece async for piece in answer.pieces()])

    @contextlib.asynccontextmanager
    async def open(self, method: str, path: str, value: Any = None) -> AsyncIterator[Answer]:
        """An answer whose head has come; the connection, and with it the work for it, ends with the context."""
        body = b"" if value is None else msgspec.json.encode(value)
        async with ask(self.socket, method, path, body) as answer:
            yield answer

    def close(self) -> None:
        """End the process. Twice is harmless."""
        self.ready = False
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(END_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _watch(self) -> None:
        """Once it has served, this process is nothing without it: whoever started this one is told, and starts anew."""
        status = self.process.wait()
        if self.ready:
            print(f"vllm ended with status {status}", file=sys.stderr, flush=True)
            shutil.rmtree(self.folder, ignore_errors=True)
            os._exit(1)


def _dies_with(parent: int) -> Any:
    """For the child, between fork and exec: Linux sends it SIGTERM when its parent is gone, however that ended."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl

    def prepare() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)

    return prepare
