"""/v1/batches: files of requests, answered in the offline lane: behind all online traffic, over kills and restarts.

A batch is its JSON, its input file and two files that only grow. What was answered is known from these: the id of each
line in them ends with the number of the line that it answers, and one that a kill cut off is cut away. Of all gateway
processes of a project the one that holds the lock runs batches, one at a time, the oldest first.
"""

import asyncio
import contextlib
import fcntl
import logging
import os
import re
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from longrein.core.errors import Error
from longrein.core.ledger import ApiKey, now_ms
from longrein.gateway import files
from longrein.gateway.auth import Door
from longrein.gateway.files import Files, Folder, answer, owner_of, shown_as
from longrein.gateway.inference import KINDS, Inference, new_id, read_body

PATH = "/v1/batches"
MAX_BODY_BYTES = 1 << 16
AT_ONCE = 32  # requests of a batch under way
PRIORITY = 100  # see core.generation.Request
LOOK_S = 0.5
WAIT_S = (1.0, 60.0)  # before a line is tried again: at first, and at most
TRIES = 100
AGAIN = frozenset({408, 429, 502, 503, 504})
OPEN = ("validating", "in_progress", "finalizing", "cancelling")
log = logging.getLogger(__name__)


class Create(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """completion_window: hours until what is not answered then expires, as "24h"."""

    input_file_id: str
    endpoint: str
    completion_window: Annotated[str, Meta(pattern="^[1-9][0-9]{0,2}h$")]
    metadata: Annotated[dict[str, str], Meta(max_length=16)] | None = None


class Counts(msgspec.Struct):
    total: int = 0
    completed: int = 0
    failed: int = 0


class Batch(msgspec.Struct, kw_only=True):
    """As OpenAI shows it; `owner` and `key_id` are not shown."""

    id: str
    object: str = "batch"
    endpoint: str
    input_file_id: str
    completion_window: str
    created_at: int
    expires_at: int
    status: str = "validating"
    errors: Any = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    in_progress_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    request_counts: Counts = msgspec.field(default_factory=Counts)
    metadata: dict[str, str] | None = None
    owner: str = ""
    key_id: str = ""


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    custom_id: Annotated[str, Meta(min_length=1, max_length=512)]
    method: str
    url: str
    body: dict[str, Any]


QUERIES: dict[str, tuple[str, ...]] = dict.fromkeys((PATH, files.PATH), ("limit", "after"))
BODIES: dict[str, type[msgspec.Struct]] = {PATH: Create}
LINE = msgspec.json.Decoder(_Line)


class Batches:
    """The routes, and what runs batches from `start` to `close`; all in the event loop."""

    def __init__(self, folder: Path, inference: Inference, door: Door) -> None:
        self.folder, self.inference, self.door = folder, inference, door
        self.files = Files(folder / "files")
        self.known = Folder(folder, Batch, "batch")
        self.woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def create(self, request: Request) -> Response:
        """Answer a file of requests, each line {"custom_id", "method", "url", "body"}, when there is time."""
        data = await read_body(request.scope, request.receive, MAX_BODY_BYTES)
        try:
            body = msgspec.json.decode(data, type=Create)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Error("invalid", f"the batch cannot be read: {error}", "see docs: the OpenAI API") from error
        if body.endpoint not in KINDS:
            raise Error("invalid", f"endpoint: {body.endpoint[:80]!r}", f"one of {', '.join(KINDS)}", param="endpoint")
        owner, key = owner_of(request), request.scope["longrein.key"]
        self.files.known.get(body.input_file_id, owner)
        now, hours = now_ms() // 1000, int(body.completion_window[:-1])
        batch = Batch(
            id=f"batch_{secrets.token_hex(12)}", created_at=now, expires_at=now + 3600 * hours, owner=owner,
            key_id=key.id if key else "", **msgspec.structs.asdict(body),
        )  # fmt: skip
        await asyncio.to_thread(self.known.put, batch)
        self.woken.set()
        return answer(shown_as(batch))

    async def list(self, request: Request) -> Response:
        """The batches of this API key, or of its team."""
        return answer(await asyncio.to_thread(self.known.page, request, owner_of(request)))

    async def get(self, request: Request) -> Response:
        """How far a batch is."""
        return answer(shown_as(self._seen(request)))

    async def cancel(self, request: Request) -> Response:
        """Ask no more of it; what was answered stays."""
        batch = self._seen(request)
        if batch.status not in OPEN:
            raise Error("conflict", f"the batch is {batch.status} already", "", openai_code=None)
        self._mark(batch).touch()
        return answer(shown_as(self._seen(request)))

    def routes(self) -> Iterator[Route]:
        yield from self.files.routes()
        yield Route(PATH, self.create, methods=["POST"])
        yield Route(PATH, self.list, methods=["GET"])
        yield Route(PATH + "/{id}", self.get, methods=["GET"])
        yield Route(PATH + "/{id}/cancel", self.cancel, methods=["POST"])

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """What is under way is cut off; the next start goes on with it."""
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        """Run what is open, whenever this process holds the lock."""
        with (self.folder / "lock").open("ab") as lock:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    for batch in reversed(await asyncio.to_thread(self.known.all)):
                        if batch.status in OPEN:
                            await _Run(self, batch).run()
                except BlockingIOError:
                    pass
                except OSError as error:
                    log.error("batches wait: %s", error)
                self.woken.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.woken.wait(), LOOK_S)

    def _seen(self, request: Request) -> Batch:
        batch: Batch = self.known.get(request.path_params["id"], owner_of(request))
        if batch.status in OPEN and self._mark(batch).exists():
            batch.status = "cancelling"
            batch.cancelling_at = int(self._mark(batch).stat().st_mtime)
        return batch

    def _mark(self, batch: Batch) -> Path:
        """There when the batch is to be cancelled."""
        return self.folder / f"{batch.id}.cancel"


class _Run:
    """One batch, from the beginning or from where it was left."""

    def __init__(self, batches: Batches, batch: Batch) -> None:
        self.batches, self.batch, self.files = batches, batch, batches.files
        hex = batch.id.removeprefix("batch_")
        self.ids = {"output": f"file-{hex}o", "error": f"file-{hex}e"}
        self.done: set[int] = set()  # numbers of lines
        self.sinks: dict[str, BinaryIO] = {}
        self.counts: Counter[str] = Counter()

    async def run(self) -> None:
        batch = self.batch
        source = self.files.data(batch.input_file_id)
        if not source.exists():
            self._end("failed", "the input file was deleted")
            return
        if batch.key_id and self._key() is None:
            self._end("failed", "the API key was revoked")
            return
        with contextlib.ExitStack() as stack:
            for name, id in self.ids.items():
                self.sinks[name] = stack.enter_context(await asyncio.to_thread(self._open, name, id))
            batch.status, batch.in_progress_at = "in_progress", batch.in_progress_at or _now()
            batch.request_counts.total = len([1 async for _ in self._read(source)])
            self._save()
            await self._lines(source)
            for sink in self.sinks.values():
                sink.flush()
                await asyncio.to_thread(os.fsync, sink.fileno())
        for name, id in self.ids.items():
            if self.files.data(id).stat().st_size:
                self.files.add(f"{batch.id}_{name}.jsonl", "batch_output", batch.owner, self.files.data(id), id)
                setattr(batch, f"{name}_file_id", id)
        self._end("cancelled" if self.cancelled else "expired" if self.expired else "completed")

    @property
    def cancelled(self) -> bool:
        return self.batches._mark(self.batch).exists()

    @property
    def expired(self) -> bool:
        return _now() >= self.batch.expires_at

    async def _lines(self, source: Path) -> None:
        """Ask for each line that has no answer yet, AT_ONCE at once."""
        room, tasks = asyncio.Semaphore(AT_ONCE), set[asyncio.Task[None]]()
        seen: set[int] = set()  # hashes of custom ids
        try:
            async for number, raw in self._read(source):
                line = self._parse(raw)
                if isinstance(line, _Line) and hash(line.custom_id) in seen:
                    line = Error("invalid", f"custom_id {line.custom_id!r} is not the first of its kind")
                elif isinstance(line, _Line):
                    seen.add(hash(line.custom_id))
                if number in self.done:
                    continue
                if isinstance(line, Error):
                    self._refuse(number, "", line)
                    continue
                await room.acquire()
                if self.cancelled:
                    room.release()
                    break
                task = asyncio.create_task(self._one(number, line))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                task.add_done_callback(lambda _: room.release())
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _read(self, source: Path) -> AsyncIterator[tuple[int, bytes]]:
        return _read(source, self.batches.inference.max_body_bytes)

    def _parse(self, raw: bytes) -> _Line | Error:
        try:
            line = LINE.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            return Error("invalid", f"the line cannot be read: {error}")
        if line.method != "POST" or line.url != self.batch.endpoint:
            return Error("invalid", f"{line.method[:20]} {line.url[:80]} is not what this batch is for")
        if line.body.get("stream"):
            return Error("invalid", "a batch has no streams")
        return line

    async def _one(self, number: int, line: _Line) -> None:
        """Answer a line, trying again while there is no room for it."""
        body, wait_s = msgspec.json.encode(line.body), WAIT_S[0]
        for _ in range(TRIES):
            if self.expired:
                message = "the batch expired before this was answered"
                self._refuse(number, line.custom_id, Error("timeout", message), "batch_expired")
                return
            if self.cancelled:
                return
            id, status, data, retry_s = await self._ask(body)
            if status not in AGAIN:
                break
            await asyncio.sleep(min(max(wait_s, retry_s), WAIT_S[1], max(0, self.batch.expires_at - _now())))
            wait_s = min(2 * wait_s, WAIT_S[1])
        response = {"status_code": status, "request_id": id, "body": msgspec.Raw(data)}
        self._put("output" if status == 200 else "error", number, line.custom_id, response, None)

    async def _ask(self, body: bytes) -> tuple[str, int, bytes, float]:
        """(id, status, body, seconds to wait) of a request's answer, which takes the way of a client's."""
        id = new_id(self.batch.endpoint)
        head: dict[str, Any] = {}
        parts: list[bytes] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body}

        async def send(message: Any) -> None:
            head.update(message if message["type"] == "http.response.start" else {})
            parts.append(message.get("body", b""))

        scope: dict[str, Any] = {
            "type": "http", "path": self.batch.endpoint, "headers": [], "longrein.id": id, "longrein.key": self._key(),
            "longrein.priority": PRIORITY,
        }  # fmt: skip
        await self.batches.inference(scope, receive, send)
        headers = dict(head["headers"])
        return id, head["status"], b"".join(parts), float(headers.get(b"retry-after", 0))

    def _key(self) -> ApiKey | None:
        live = self.batches.door.keys.values()
        return next((key for key in live if key.id == self.batch.key_id), None)

    def _refuse(self, number: int, custom_id: str, error: Error, code: str = "invalid_line") -> None:
        message = error.message if custom_id else f"line {number}: {error.message}"
        self._put("error", number, custom_id, None, {"code": code, "message": message[:1000]})

    def _put(self, sink: str, number: int, custom_id: str, response: Any, error: Any) -> None:
        value = {"id": f"batch_req_{self.batch.id.removeprefix('batch_')}_{number}", "custom_id": custom_id or None}
        self.sinks[sink].write(msgspec.json.encode(value | {"response": response, "error": error}) + b"\n")
        self.done.add(number)
        self.counts[sink] += 1
        if self.counts.total() % AT_ONCE == 0:
            self._save()

    def _open(self, name: str, id: str) -> BinaryIO:
        """A file of answers, without one that was cut off; takes note of those in it."""
        path = self.files.data(id)
        path.touch()
        whole = 0
        with path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                whole += len(line)
                found = re.match(rb'{"id":"batch_req_[0-9a-f]+_([0-9]+)"', line)
                assert found, "only lines of _put are in it"
                self.done.add(int(found[1]))
                self.counts[name] += 1
        os.truncate(path, whole)
        return path.open("ab", buffering=0)

    def _save(self) -> None:
        counts = self.batch.request_counts
        counts.completed, counts.failed = self.counts["output"], self.counts["error"]
        self.batches.known.put(self.batch)

    def _end(self, status: str, why: str = "") -> None:
        batch = self.batch
        if why:
            error = {"code": "failed", "message": why, "line": None, "param": None}
            batch.errors = {"object": "list", "data": [error]}
        else:
            batch.finalizing_at = _now()
        batch.status = status
        setattr(batch, f"{status}_at", _now())
        self._save()
        self.batches._mark(batch).unlink(missing_ok=True)


async def _read(path: Path, most: int) -> AsyncIterator[tuple[int, bytes]]:
    """(number, line) of all that are not blank; one that is too long comes cut, which is no JSON."""
    with path.open("rb") as file:
        number = 0
        while line := file.readline(most):
            number += 1
            while not line.endswith(b"\n") and (rest := file.readline(1 << 20)):
                line = line[:100] + (b"\n" if rest.endswith(b"\n") else b"")
            if line.strip():
                yield number, line
            if number % 100 == 0:
                await asyncio.sleep(0)


def _now() -> int:
    return now_ms() // 1000
