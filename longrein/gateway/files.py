"""/v1/files: what clients upload for batches, and what batches give back; on disk, and seen by its owner only."""

import asyncio
import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from longrein.core.errors import Error
from longrein.core.ledger import ApiKey, now_ms

PATH = "/v1/files"
MAX_FILE_BYTES = 512 << 20
FORM_BYTES = 64 << 10  # of the form around a file
LIMIT = 100  # of a page, where none is asked for


class File(msgspec.Struct, kw_only=True):
    """As OpenAI shows it; `owner` is not shown."""

    id: str
    object: str = "file"
    bytes: int
    created_at: int
    filename: str
    purpose: str
    status: str = "processed"
    expires_at: int | None = None
    owner: str = ""


class Folder:
    """JSON of one type by id, each in a file of its own that is replaced whole."""

    def __init__(self, path: Path, type_: type[msgspec.Struct], word: str) -> None:
        self.path, self.type, self.word = path, type_, word
        path.mkdir(parents=True, exist_ok=True)

    def get(self, id: str, owner: str) -> Any:
        """Errors: `not_found`, also for what is somebody else's."""
        found = self.read(id) if re.fullmatch(r"[a-z]+[-_][0-9a-z]{1,40}", id) else None
        if found is None or found.owner != owner:
            hint = f"{self.word}s are seen by the API key, or the team of keys, that made them"
            raise Error("not_found", f"there is no {self.word} {id[:80]!r}", hint, openai_code=None)
        return found

    def read(self, id: str) -> Any:
        try:
            return msgspec.json.decode((self.path / f"{id}.json").read_bytes(), type=self.type)
        except FileNotFoundError:
            return None

    def put(self, value: Any) -> None:
        staged = self.path / f"{value.id}.{secrets.token_hex(4)}.new"
        with staged.open("wb") as file:
            file.write(msgspec.json.encode(value))
            os.fsync(file.fileno())
        os.replace(staged, self.path / f"{value.id}.json")

    def all(self) -> list[Any]:
        """The newest first."""
        found = [self.read(path.stem) for path in self.path.glob("*.json")]
        return sorted((f for f in found if f), key=lambda f: (f.created_at, f.id), reverse=True)

    def page(self, request: Request, owner: str) -> dict[str, Any]:
        """A list as OpenAI's clients page through it, by `limit` and `after`."""
        mine = [f for f in self.all() if f.owner == owner]
        after, limit = request.query_params.get("after"), request.query_params.get("limit", str(LIMIT))
        if not limit.isdecimal() or not 0 < int(limit) <= 10_000:
            raise Error("invalid", f"limit: {limit[:20]!r} is no number from 1 to 10000", param="limit")
        if after:
            mine = mine[next((i + 1 for i, f in enumerate(mine) if f.id == after), len(mine)) :]
        shown = mine[: int(limit)]
        ends = {"first_id": shown[0].id, "last_id": shown[-1].id} if shown else {"first_id": None, "last_id": None}
        return {"object": "list", "data": list(map(shown_as, shown)), **ends, "has_more": len(mine) > len(shown)}


class Files:
    """`folder` holds a file's bytes beside what is known of it."""

    def __init__(self, folder: Path) -> None:
        self.known = Folder(folder, File, "file")

    def data(self, id: str) -> Path:
        return self.known.path / f"{id}.data"

    async def create(self, request: Request) -> Response:
        """Upload a file: a form with `file` and `purpose`."""
        size = request.headers.get("content-length", "")
        if not size.isdecimal() or int(size) > MAX_FILE_BYTES + FORM_BYTES:
            raise Error("too_large", f"a file may have {MAX_FILE_BYTES} bytes, told by content-length", "send less")
        try:
            async with request.form(max_files=1, max_fields=20) as form:
                upload, purpose = form.get("file"), form.get("purpose")
                if not isinstance(upload, UploadFile) or not isinstance(purpose, str):
                    raise Error("invalid", "the form has no file, or no purpose", "send both", param="file")
                if purpose != "batch":
                    raise Error("invalid", f"purpose {purpose[:40]!r} is not supported", "batch is", param="purpose")
                name = (upload.filename or "file")[:200]
                file = await asyncio.to_thread(self.add, name, purpose, owner_of(request), upload.file)
        except HTTPException as error:
            raise Error("invalid", f"the form cannot be read: {error.detail}", "send multipart/form-data") from error
        return answer(shown_as(file))

    def add(self, name: str, purpose: str, owner: str, data: BinaryIO | Path, id: str = "") -> File:
        """Keep what a stream holds, or what lies at a path in this folder already. Errors: `no_space`."""
        id = id or f"file-{secrets.token_hex(12)}"
        try:
            if not isinstance(data, Path):
                with self.data(id).open("wb") as target:
                    shutil.copyfileobj(data, target, 1 << 20)
                    os.fsync(target.fileno())
            size, now = self.data(id).stat().st_size, now_ms() // 1000
            file = File(id=id, bytes=size, created_at=now, filename=name, purpose=purpose, owner=owner)
            self.known.put(file)
        except OSError as error:
            self.data(id).unlink(missing_ok=True)
            code = "no_space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "failed"
            raise Error(code, f"the file could not be kept: {error.strerror}", "free some space") from error
        return file

    async def list(self, request: Request) -> Response:
        """The files of this API key, or of its team."""
        return answer(await asyncio.to_thread(self.known.page, request, owner_of(request)))

    async def get(self, request: Request) -> Response:
        """What is known of a file."""
        return answer(shown_as(self.known.get(request.path_params["id"], owner_of(request))))

    async def content(self, request: Request) -> Response:
        """The bytes of a file."""
        file = self.known.get(request.path_params["id"], owner_of(request))
        return FileResponse(self.data(file.id), media_type="application/octet-stream", filename=file.filename)

    async def delete(self, request: Request) -> Response:
        """Delete a file. A batch that still reads it fails."""
        file = self.known.get(request.path_params["id"], owner_of(request))
        (self.known.path / f"{file.id}.json").unlink(missing_ok=True)
        self.data(file.id).unlink(missing_ok=True)
        return answer({"id": file.id, "object": "file", "deleted": True})

    def routes(self) -> Iterator[Route]:
        yield Route(PATH, self.create, methods=["POST"])
        yield Route(PATH, self.list, methods=["GET"])
        yield Route(PATH + "/{id}", self.get, methods=["GET"])
        yield Route(PATH + "/{id}", self.delete, methods=["DELETE"])
        yield Route(PATH + "/{id}/content", self.content, methods=["GET"])


def owner_of(request: Request) -> str:
    """Whose a thing is that this request makes: its key's team's, else its key's."""
    key: ApiKey | None = request.scope["longrein.key"]
    return "" if key is None else f"team {key.team}" if key.team else f"key {key.id}"


def shown_as(value: msgspec.Struct) -> dict[str, Any]:
    shown: dict[str, Any] = msgspec.to_builtins(value)
    return {name: v for name, v in shown.items() if name not in ("owner", "key_id")}


def answer(value: Any) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")
