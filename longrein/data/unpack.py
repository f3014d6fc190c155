"""Compressed files and archives: what is inside, read as streams, never on disk under a name from inside."""

import bz2
import errno
import gzip
import lzma
import os
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from io import BufferedReader, RawIOBase
from typing import Any, BinaryIO, ClassVar, Literal, NamedTuple

from longrein.core.blob import Blob, Copy, seekable
from longrein.core.encoding import SURE, detect
from longrein.core.errors import Error
from longrein.core.ports import Reader, Record

CODECS = (".gz", ".bz2", ".xz", ".zst", ".lz4")
SHORT = {".tgz": ".tar.gz", ".tbz2": ".tar.bz2", ".txz": ".tar.xz", ".tzst": ".tar.zst"}
ARCHIVES = (".zip", ".tar")
NESTED = 4  # archives in archives; some contain themselves
# What a file may unpack to, however it is nested: this much, or this many times its size. Texts reach 20, logs 100.
FREE_BYTES = 256 << 20
RATIO = 200
BLOCK_BYTES = 1 << 16
SHARD_KINDS = (".json", ".cls", ".txt", ".text", ".id")  # of a WebDataset sample that is one file alone
SAMPLE_BYTES = 16 << 20  # the readers' limit of a sample's member
_machine = {errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO}
_damage = (EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, tarfile.TarError, NotImplementedError, ValueError)


class Bomb(OSError):
    """It unpacks to more than a file of its size should."""


class Budget:
    """How much one file, with all it contains, may still unpack to."""

    def __init__(self, packed_bytes: int) -> None:
        self.allowed = self.left = max(FREE_BYTES, RATIO * packed_bytes)

    def spend(self, amount: int) -> None:
        self.left -= amount
        if self.left < 0:
            raise Bomb(f"it unpacks to more than {self.allowed:,} bytes; if that is meant, unpack it by hand")


class Packed:
    """A Reader: each file inside is read by the reader that its name tells, at its own lines, called after its path.

    A file inside that cannot be read is one rejected record; the others are read. Errors: OSError when it is damaged.
    """

    suffixes: ClassVar[tuple[str, ...]] = ()

    def __init__(self, reader_of: Callable[[str], Reader], shards: bool) -> None:
        """shards: tar files are WebDataset shards; else it is found out."""
        self.reader_of, self.shards = reader_of, shards

    def read(self, blob: Blob, options: Mapping[str, Any]) -> Iterator[Record]:
        whole, done = _Watched(blob), 0
        try:
            for row, line, _, reason, detail, raw, path in self._read(whole, options, "", Budget(whole.bytes), 0):
                at = whole.at()
                yield Record(row, line, max(0, at - done), reason, detail, raw, path)
                done = max(done, at)
        except Bomb as error:
            yield Record(None, 1, 0, "too_large", str(error))

    def _read(
        self, blob: Blob, options: Mapping[str, Any], path: str, budget: "Budget", depth: int
    ) -> Iterator[Record]:
        inner = inflated(blob, budget)
        if not is_archive(inner.name) or self.shards or _is_shard(inner, bare=inner is blob):
            yield from self.reader_of(inner.name).read(inner, options)
            return
        for member in members(inner, budget):
            name = f"{path}!{member.name}" if path else member.name
            for record in self._member(member, options, name, budget, depth + 1):
                yield record if record.member else record._replace(member=name)

    def _member(
        self, member: "Member", options: Mapping[str, Any], path: str, budget: "Budget", depth: int
    ) -> Iterator[Record]:
        if member.blob is None:
            yield Record(None, 1, 0, *member.wrong.split(":", 1))
        elif depth > NESTED:
            yield Record(None, 1, 0, "nested_too_deep", f"{NESTED} archives within each other are read")
        elif not self._known(member.blob.name):
            yield Record(None, 1, 0, "unknown_format", "no reader knows files of this name")
        else:
            yield from guarded(self._read(member.blob, options, path, budget, depth))

    def _known(self, name: str) -> bool:
        try:
            return is_archive(name) or bool(self.reader_of(plain(name)))
        except Error as error:
            if error.code != "invalid":
                raise
            return False


def guarded(records: Iterator[Record]) -> Iterator[Record]:
    """The records, and where a file cannot be read, or not further, one more that says so.

    What is no fault of the file is raised: a disk without room, a missing package, a bomb.
    """
    line = 0
    try:
        for record in records:
            line = record.line
            yield record
    except Bomb:
        raise
    except (OSError, Error) as error:
        if error.code != "invalid" if isinstance(error, Error) else error.errno in _machine:
            raise
        yield Record(None, line + 1, 0, "unreadable", str(error))


class Member(NamedTuple):
    name: str  # its path in the archive, printable
    blob: Blob | None
    wrong: str = ""  # why there is none, "reason:detail"


def is_packed(name: str) -> bool:
    return name.lower().endswith((*CODECS, *SHORT, *ARCHIVES))


def is_archive(name: str) -> bool:
    """Compressed or not."""
    return plain(name).lower().endswith(ARCHIVES)


def plain(name: str) -> str:
    """The name without the suffixes of compression: "a.tar" for "a.tgz"."""
    for short, full in SHORT.items():
        if name.lower().endswith(short):
            return name[: -len(short)] + full[: full.rindex(".")]
    while name.lower().endswith(CODECS):
        name = name[: name.rindex(".")]
    return name


def inflated(blob: Blob, budget: Budget) -> Blob:
    """The blob without its compression."""
    lowered = blob.name.lower()
    for short, full in SHORT.items():
        if lowered.endswith(short):
            return _Inflated(blob, plain(blob.name), full[full.rindex(".") :], budget)
    if not lowered.endswith(CODECS):
        return blob
    stem, _, codec = blob.name.rpartition(".")
    return inflated(_Inflated(blob, stem, f".{codec.lower()}", budget), budget)


def members(blob: Blob, budget: Budget) -> Iterator[Member]:
    """The files of an archive in its order; hidden ones are left out. Links are not followed. Errors: OSError."""
    try:
        yield from _zipped(blob, budget) if blob.name.lower().endswith(".zip") else _tarred(blob)
    except _damage as error:
        raise OSError(f"{blob.name} is damaged or breaks off: {error}") from error


def _zipped(blob: Blob, budget: Budget) -> Iterator[Member]:
    with seekable(blob) as (file, _), zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            name = info.filename if info.flag_bits & 0x800 else _label(info.filename.encode("cp437", "replace"))
            if info.is_dir() or _hidden(name):
                continue
            if info.flag_bits & 0x1:
                yield Member(name, None, "encrypted:a password is needed; unpack it by hand")
            else:
                yield Member(name, _Zipped(archive, info, name.rpartition("/")[2], budget))


def _tarred(blob: Blob) -> Iterator[Member]:
    with blob.open("rb") as file, tarfile.open(fileobj=file, mode="r|") as archive:
        for info in archive:
            name = _label(info.name.encode("utf-8", "surrogateescape"))
            if not info.isfile() or _hidden(name):
                continue
            if info.issparse():
                yield Member(name, None, "unreadable:a sparse file, whose size is not what it takes")
                continue
            stream = archive.extractfile(info)
            assert stream is not None  # it is a file
            yield Member(name, Copy(name.rpartition("/")[2], stream))  # type: ignore[arg-type]


def _is_shard(blob: Blob, bare: bool) -> bool:
    """Whether a tar file is one of WebDataset: its first two files share a name up to the first dot, or it is `bare`
    (not compressed) and begins with a file that can be a sample alone."""
    if not blob.name.lower().endswith(".tar"):
        return False
    try:
        with blob.open("rb") as file, tarfile.open(fileobj=file, mode="r|") as archive:
            names = []
            for info in archive:
                names += [info.name] if info.isfile() else []
                if len(names) == 2 or info.size > SAMPLE_BYTES:  # behind a large one there is nothing to look for
                    break
    except (*_damage, OSError):
        return False
    keys = [folder + slash + name.partition(".")[0] for folder, slash, name in (n.rpartition("/") for n in names)]
    return (len(keys) == 2 and keys[0] == keys[1]) or (bare and bool(names) and names[0].lower().endswith(SHARD_KINDS))


def _hidden(name: str) -> bool:
    parts = [part for part in name.split("/") if part not in (".", "..")]
    return any(part.startswith(".") for part in parts) or "__MACOSX" in parts


def _label(raw: bytes) -> str:
    """A name as people wrote it, for archives that do not say in what encoding."""
    text = raw.decode(detect(raw, least=SURE) or "utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class _Watched:
    """A blob that knows how far it was read."""

    def __init__(self, blob: Blob) -> None:
        self.name, self._blob = blob.name, blob
        with self.open("rb") as file:
            self.bytes = file.seek(0, os.SEEK_END) if file.seekable() else 0

    def open(self, mode: Literal["rb"]) -> BinaryIO:
        self._file = self._blob.open(mode)
        return self._file

    def at(self) -> int:
        return 0 if self._file.closed else self._file.tell()


class _Inflated:
    """A blob: what a compressed one holds."""

    def __init__(self, blob: Blob, name: str, suffix: str, budget: Budget) -> None:
        self.name, self._blob, self._suffix, self._budget = name, blob, suffix, budget

    def open(self, mode: Literal["rb"]) -> BinaryIO:
        file = self._blob.open("rb")
        stream = _decompressed(file, self._suffix)
        return BufferedReader(_Counted(stream, self._blob.name, self._budget, file), BLOCK_BYTES)


class _Zipped:
    """A blob: a member of a ZIP file."""

    def __init__(self, archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str, budget: Budget) -> None:
        self.name, self._archive, self._info, self._budget = name, archive, info, budget

    def open(self, mode: Literal["rb"]) -> BinaryIO:
        try:
            stream = self._archive.open(self._info)
        except _damage as error:
            raise OSError(f"{self.name} is damaged: {error}") from error
        return BufferedReader(_Counted(stream, self.name, self._budget), BLOCK_BYTES)


def _decompressed(file: BinaryIO, suffix: str) -> Any:
    """A stream with read1."""
    if suffix == ".gz":
        return gzip.GzipFile(fileobj=file)
    if suffix == ".bz2":
        return bz2.BZ2File(file)
    if suffix == ".xz":
        return lzma.LZMAFile(file)
    import pyarrow as pa  # `plan` does without

    return pa.CompressedInputStream(pa.PythonFile(file, "r"), suffix[1:].replace("zst", "zstd"))


class _Counted(RawIOBase):
    """A decompressed stream: it cannot seek, spends the budget, and says in one way that it is damaged."""

    def __init__(self, stream: Any, name: str, budget: Budget, below: BinaryIO | None = None) -> None:
        self._stream, self._name, self._budget, self._below = stream, name, budget, below
        self._read = getattr(stream, "read1", stream.read)  # what is there, so that damage further on loses nothing
        self._at = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._read(min(len(buffer), BLOCK_BYTES))
        except (*_damage, OSError) as error:
            raise OSError(f"{self._name} is damaged or breaks off after {self._at:,} bytes: {error}") from error
        self._budget.spend(len(data))
        self._at += len(data)
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
            if self._below is not None:
                self._below.close()
        super().close()
