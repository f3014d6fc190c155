"""Takes a person out of the files of batches: what was asked for them, and what was answered."""

import os
import re
from collections.abc import Callable, Container
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from longrein.gateway.batches import OPEN, Batch
from longrein.gateway.files import Files, Folder

ASKED = b'{"erased":true}\n'
ANSWERED: dict[str, Any] = {"custom_id": None, "response": None, "error": {"code": "erased", "message": "erased"}}
_NUMBER = re.compile(rb'{"id":"(batch_req_[0-9a-f]+_([0-9]+))"')


class _Body(msgspec.Struct):
    user: Any = None
    safety_identifier: Any = None


class _Asked(msgspec.Struct):
    body: _Body


class _Response(msgspec.Struct):
    request_id: str = ""


class _Answered(msgspec.Struct):
    response: _Response | None = None


def erase(folder: Path, user: str, ids: Container[str], *, dry_run: bool = False) -> tuple[int, list[str]]:
    """(lines erased, batches left as they are, because they are under way). ids: of their requests in the log."""
    if not folder.exists():
        return 0, []
    files, batches = Files(folder / "files"), Folder(folder, Batch, "batch").all()
    asked = {f.id: _lines_of(files.data(f.id), user) for f in files.known.all() if f.purpose == "batch"}
    left = [b for b in batches if b.status in OPEN and asked.get(b.input_file_id)]
    count = 0
    for batch in batches:
        numbers = asked.get(batch.input_file_id, set())
        for id in (batch.output_file_id, batch.error_file_id) if batch.status not in OPEN else ():
            if id and files.known.read(id):
                count += _rewrite(files, id, partial(_answered, numbers, ids), dry_run)
    for id in asked.keys() - {b.input_file_id for b in left}:
        mine = asked[id]
        count += _rewrite(files, id, partial(_asked, mine), dry_run) if mine else 0
    return count, [b.id for b in left]


def _lines_of(path: Path, user: str) -> set[int]:
    """Numbers of the lines that ask something for a user."""
    found = set()
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                body = msgspec.json.decode(line, type=_Asked).body
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                continue
            if user in (body.user, body.safety_identifier):
                found.add(number)
    return found


def _asked(numbers: set[int], number: int, line: bytes) -> bytes | None:
    """What stands for a line of theirs."""
    return ASKED if number in numbers else None


def _answered(numbers: set[int], ids: Container[str], number: int, line: bytes) -> bytes | None:
    """What stands for an answer of theirs."""
    found = _NUMBER.match(line)
    if not found:
        return None
    response = msgspec.json.decode(line, type=_Answered).response
    if int(found[2]) not in numbers and (response is None or response.request_id not in ids):
        return None
    erased = msgspec.json.encode({"id": found[1].decode(), **ANSWERED}) + b"\n"
    return erased if erased != line else None


def _rewrite(files: Files, id: str, change: Callable[[int, bytes], bytes | None], dry_run: bool) -> int:
    """Put what `change` makes of a file's lines in their place, whole or not at all; how many it changed."""
    path, count = files.data(id), 0
    staged = path.with_suffix(".new")
    with path.open("rb") as source, staged.open("wb") as target:
        for number, line in enumerate(source, 1):
            new = change(number, line)
            count += new is not None
            target.write(line if new is None else new)
        target.flush()
        os.fsync(target.fileno())
    if count and not dry_run:
        os.replace(staged, path)
        files.known.put(msgspec.structs.replace(files.known.read(id), bytes=path.stat().st_size))
    staged.unlink(missing_ok=True)
    return count
