"""Content addressing: the same bytes and config give the same digest, on any machine."""

import hashlib
import json
from pathlib import Path
from typing import Any

CHUNK_BYTES = 1 << 20


def canonical(value: Any) -> bytes:
    """JSON with sorted keys, no spaces, no NaN, UTF-8: the one byte form of a small value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def of_json(value: Any) -> str:
    return hashlib.sha256(canonical(value)).hexdigest()


def of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def of_tree(path: Path, *, follow: bool = False) -> str:
    """A file's own digest, or for a folder the digest of its sorted (relative path, file digest) pairs.

    A symbolic link is refused with ValueError, unless `follow` says that what it leads to counts.
    """
    if path.is_symlink() and not follow:
        raise ValueError(f"{path} is a symbolic link: assets hold plain files only")
    if path.is_file():
        return of_file(path)
    listing = []
    for file in sorted(path.rglob("*"), key=lambda p: p.relative_to(path).as_posix()):
        if file.is_symlink() and not follow:
            raise ValueError(f"{file} is a symbolic link: assets hold plain files only")
        if file.is_file():
            listing.append([file.relative_to(path).as_posix(), of_file(file)])
    return of_json(listing)


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
