"""Named bytes to read, wherever they lie: what readers are given."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader, FileIO, RawIOBase
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import Any, BinaryIO, Literal, Protocol

MEMORY_BYTES = 32 << 20  # a larger copy is on disk, in a file without a name


class Blob(Protocol):
    """A local Path is one, and so is what lies in a compressed file or an archive."""

    @property
    def name(self) -> str:
        """With the suffix that tells the format, and no folder."""
        ...

    def open(self, mode: Literal["rb"]) -> BinaryIO:
        """A stream from the beginning at every call; it may lack `seek`. Bytes that cannot be had raise OSError."""
        ...


class Range:
    """A blob: the bytes from `start` to `stop` of a file."""

    def __init__(self, path: Path, start: int, stop: int) -> None:
        self.path, self.start, self.stop = path, start, stop

    @property
    def name(self) -> str:
        return self.path.name

    def open(self, mode: Literal["rb"]) -> BinaryIO:
        return BufferedReader(_Bounded(self.path, self.start, self.stop), 1 << 16)


class Copy:
    """A blob that holds its bytes: of a stream that comes past only once, or cannot seek."""

    def __init__(self, name: str, stream: BinaryIO) -> None:
        self.name = name
        self._file = SpooledTemporaryFile[bytes](MEMORY_BYTES)
        shutil.copyfileobj(stream, self._file, 1 << 20)

    def open(self, mode: Literal["rb"]) -> BinaryIO:
        return BufferedReader(_View(self._file), 1 << 16)


@contextmanager
def seekable(blob: Blob) -> Iterator[tuple[BinaryIO, int]]:
    """A stream for formats whose index lies at the end, and how many bytes it has."""
    with blob.open("rb") as file:
        if file.seekable():
            yield _sized(file)
            return
        with Copy(blob.name, file).open("rb") as copy:
            yield _sized(copy)


def local(stream: BinaryIO) -> str | None:
    """The path of a stream that is a file on this machine: some libraries read those faster by themselves."""
    name = getattr(stream, "name", None)
    return name if isinstance(name, str) else None


def _sized(file: BinaryIO) -> tuple[BinaryIO, int]:
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    return file, size


class _View(RawIOBase):
    """One of several streams over the same file, each with its place."""

    def __init__(self, file: "SpooledTemporaryFile[bytes]") -> None:
        self._file, self._at = file, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        if whence == os.SEEK_CUR:
            offset, whence = self._at + offset, os.SEEK_SET
        self._at = self._file.seek(offset, whence)
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        self._file.seek(self._at)
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


class _Bounded(FileIO):
    """A file that begins and ends within another; it does not seek."""

    def __init__(self, path: Path, start: int, stop: int) -> None:
        super().__init__(path)
        super().seek(start)
        self._left = stop - start

    def seekable(self) -> bool:
        return False

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")[: self._left]
        count = super().readinto(view) or 0
        self._left -= count
        return count
