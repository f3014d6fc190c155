"""One request as the request log keeps it, and the file a gateway process appends to; longrein.data.requests reads."""

import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import msgspec

FOLDER = "requests"  # in .longrein
SEGMENT = ".jsonl"
ROTATE_S, ROTATE_BYTES = 600.0, 16 << 20
TEXT_DAYS, DAYS = 30.0, 400.0  # how long texts and records are kept, unless the endpoint says otherwise
OPERATIONS = {"cmpl": "text_completion", "embd": "embeddings"}  # by what ids begin with; all others are chats
ID_MS = 12  # hex digits of the time in the last 24 characters of an id


class Record(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One request, answered or not. The fields are the log's columns; one more needs a default, and nothing else."""

    id: str  # ends with 12 hex digits of its time and 12 random ones
    ts_ms: int  # when it came
    endpoint: str = ""
    release: str = ""  # digest
    engine: str = ""  # what computed the answer: of `auto`, what it chose
    arm: str = ""  # of the roll-out: "" for what clients saw, "shadow" for copies
    key_id: str = ""
    team: str = ""
    user: str = ""  # what the client called its user
    session: str = ""
    trace: str = ""  # the client's traceparent: core.trace
    status: int = 500
    finish_reason: str = ""  # stop, length, cancelled, error
    error: str = ""  # the code of core.errors, where it failed
    limit: str = ""  # the limit that refused it
    stream: bool = False
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0  # of the prompt
    estimated: bool = False  # the tokens are a guess: the upstream told none
    cached: bool = False  # the whole answer came from the gateway's cache
    attempts: int = 1
    upstream: str = ""  # the replica that answered
    queue_ms: float | None = None
    ttft_ms: float | None = None
    total_ms: float = 0.0
    prefill_ms: float = 0.0  # of the engine: its share of the steps that read the prompt
    decode_ms: float = 0.0  # and of those that wrote the answer
    cost_usd: float | None = None
    saved_usd: float | None = None  # what the answer had cost that the cache gave again
    tags: list[str] = []  # "feature=search": what the client wants costs and values summed by
    refusal: bool = False  # the model declined, by the answer's first words: longrein.gateway.said
    guards: list[str] = []  # "pii:masked": what each guard that acted did
    input_digest: str = ""
    output_digest: str = ""  # SHA-256 of the words of the (first) answer, without the space around them
    input: str | None = None  # the texts only where the endpoint's log_text says so
    output: str | None = None
    erased: bool = False  # who and what was asked is gone; the counts stand

    @property
    def operation(self) -> str:
        """What was asked for, as the beginning of its id tells."""
        return OPERATIONS.get(self.id[:4], "chat")

    @property
    def failure(self) -> str:
        """Why it was not answered: our word where there is one, else the status; "" for what was."""
        return "" if self.status == 200 else self.error or self.finish_reason or str(self.status)


def held_bytes(record: Record) -> int:
    """About what it takes in memory."""
    return 500 + len(record.input or "") + len(record.output or "")


def segments(folder: Path) -> list[Path]:
    """Those not sealed yet, the oldest first."""
    return sorted(folder.glob("*" + SEGMENT))


def lock(file: BinaryIO) -> bool:
    """Hold a file while this process lives; False when another one does."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class Segment:
    """JSON lines of one process, locked while it lives. After a kill the lock is free, and all that was written is
    there; a torn last line is skipped by whoever reads."""

    def __init__(self, folder: Path, worker: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{time.time_ns() // 1_000_000:013d}-{worker}{SEGMENT}"
        self._file = self.path.open("ab", buffering=0)
        lock(self._file)
        self._opened = time.monotonic()
        self._torn = False

    @property
    def full(self) -> bool:
        return self._file.tell() > ROTATE_BYTES or time.monotonic() - self._opened > ROTATE_S

    def append(self, lines: bytes) -> None:
        """Whole lines, each with its end: all of them or none. Errors: OSError."""
        torn, self._torn = self._torn, True
        data = b"\n" + lines if torn else lines
        file = self._file.fileno()
        size = os.fstat(file).st_size
        try:
            while data:
                data = data[self._file.write(data) :]
        except OSError:  # they will be given again: what is there of them would be there twice
            with suppress(OSError):
                os.ftruncate(file, size)
                self._torn = torn
            raise
        self._torn = False

    def close(self) -> None:
        if self._file.tell():
            os.fdatasync(self._file.fileno())
        else:
            self.path.unlink(missing_ok=True)
        self._file.close()
