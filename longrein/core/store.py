"""Where bytes live: content-addressed files and folders, and Lance tables, below one root.

A uri is relative to the root, so a workspace can move: `sha256/ab/abcdef…` for a file or folder,
`lance/<name>.lance?version=7` for one version of a table.
"""

import os
import shutil
import uuid
from pathlib import Path
from typing import NamedTuple

from longrein.core import digest
from longrein.core.errors import Error


class Stored(NamedTuple):
    digest: str  # sha256, 64 hex digits
    uri: str
    bytes: int


class Store:
    """Local files. `put` is atomic: a name appears only when everything below it is on disk."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def put(self, source: Path) -> Stored:
        """Move a file or folder into the store; the same content twice is kept once. `source` is gone afterwards.

        Errors: `not_found` when there is no source, `invalid` for a symbolic link in it.
        """
        if not os.path.lexists(source):
            raise Error("not_found", f"there is no {source} to store")
        try:
            key = digest.of_tree(source)
        except ValueError as error:
            raise Error("invalid", str(error), "copy the file in place of the link") from error
        uri, target = f"sha256/{key[:2]}/{key}", self.root / "sha256" / key[:2] / key
        size = digest.size_of(source)
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            self._move(source, target)
        _remove(source)
        return Stored(key, uri, size)

    def path(self, uri: str) -> Path:
        """The local path behind a uri. Errors: `not_found` when the bytes are gone."""
        path = self.root / uri.partition("?")[0]
        if not path.resolve().is_relative_to(self.root.resolve()):
            raise Error("invalid", f"the uri {uri!r} points outside the store")
        if not path.exists():
            raise Error("not_found", f"the store no longer holds {uri}", "rebuild it: longrein apply")
        return path

    def holds(self, uri: str) -> bool:
        path, _, number = uri.partition("?version=")
        if number.isdigit():  # a table outlives its versions: Lance has a file for each, named to sort newest first
            path += f"/_versions/{2**64 - 1 - int(number):020d}.manifest"
        try:
            return self.path(path).exists()
        except Error:
            return False

    def verify(self, uri: str, expected: str) -> Path:
        """`path`, after checking that the bytes still have the digest they were stored under.

        Errors: `corrupt`, naming the digest found.
        """
        path = self.path(uri)
        try:
            found = digest.of_tree(path)
        except ValueError as error:  # somebody put a link there
            raise Error("corrupt", str(error), f"move {path} away and rebuild it: longrein apply") from error
        if found != expected:
            raise Error(
                "corrupt",
                f"{uri} does not match its digest: expected {expected[:12]}, found {found[:12]}",
                f"move {path} away and rebuild it: longrein apply",
            )
        return path

    def _move(self, source: Path, target: Path) -> None:
        """Flush to disk, then one rename; from another file system by way of a copy beside the target."""
        staged = self.root / "staging" / uuid.uuid4().hex
        try:
            if source.stat().st_dev != target.parent.stat().st_dev:
                staged.parent.mkdir(exist_ok=True)
                (shutil.copytree if source.is_dir() else shutil.copy2)(source, staged)
                source = staged
            _flush(source)
            os.rename(source, target)
        except OSError:
            if not target.exists():  # else another process put the same content first: theirs serves
                raise
        finally:
            _remove(staged)


def _flush(path: Path) -> None:
    for file in path.rglob("*") if path.is_dir() else [path]:
        if file.is_file():
            with file.open("rb") as handle:
                os.fsync(handle.fileno())


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
