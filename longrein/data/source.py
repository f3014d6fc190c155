"""Which files a dataset is made from, and whether they changed. Light: `plan` calls it."""

import glob
import json
import os
import time
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import msgspec

from longrein.core import digest, plugins
from longrein.core.blob import Blob
from longrein.core.errors import Error
from longrein.core.ports import Reader, Record
from longrein.data import near, remote, unpack

# Options of transforms that name files: lists of globs as in `sources`, or one path.
OPTIONS = ("against", "positive", "negative", "model", "tokenizer", "key")
SHARDS = "webdataset"  # a reader that takes archives as they are
SETTLED_S = 2.0  # a file written more recently is hashed again next time: its mtime might not show another write


class Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Files by a glob, or what a URL stands for; with the reader to use when the suffix does not tell."""

    path: str  # a glob below the project, an absolute path, or a URL; ${NAME} in a URL is an environment variable
    reader: str = ""
    options: dict[str, Any] = {}  # of the reader
    remote: dict[str, Any] = {}  # of what reaches the URL: the table of a database, the endpoint of a bucket
    optional: bool = False  # a glob that may match nothing yet, like the folder that a rule collects into


class File(NamedTuple):
    path: Path
    name: str  # relative to the project, or absolute where it was configured so; of what is remote its URL
    reader: str
    options: dict[str, Any]
    digest: str = ""  # of what is remote: of its revision, and of its content once it is fetched


class Stat(NamedTuple):
    """What changes when a file is written, as far as the file system tells."""

    bytes: int
    mtime_ns: int
    inode: int


def stat(path: Path) -> Stat:
    s = path.stat()
    return Stat(s.st_size, s.st_mtime_ns, s.st_ino)


def find(
    sources: Iterable[str | Source], project: Path, *, fetch: bool = False, told: remote.Told | None = None
) -> list[File]:
    """The files, in the order of `sources` and by name within a glob; one matched twice is taken once.

    A relative path stays inside the project: `..` and links that lead out are refused. An absolute path is taken as
    it is, since somebody wrote it on purpose. Hidden files are matched only by name. What is remote is only listed,
    unless `fetch` brings it into the project's cache. Errors: `invalid`; of remote ones as of remote.find.
    """
    found: dict[Path | str, File] = {}
    for source in sources:
        entry = Source(path=source) if isinstance(source, str) else source
        if remote.is_remote(entry.path):
            for path, name, known in remote.find(entry.path, entry.remote, project, fetch=fetch, told=told):
                found.setdefault(name, File(path, name, entry.reader, entry.options, known))
            continue
        for path, name in _match(entry.path.removeprefix("file://"), project, entry.optional):
            found.setdefault(path.resolve(), File(path, name, entry.reader, entry.options))
    return list(found.values())


def named(options: dict[str, Any], project: Path, *, fetch: bool = False) -> dict[str, list[File]]:
    """By option, the files that a transform's options name; what is neither text nor list is left to it to refuse."""
    listed = {name: [value] if isinstance(value, str) else value for name in OPTIONS if (value := options.get(name))}
    files = {n: [one for one in v if not near.is_version(one)] for n, v in listed.items() if isinstance(v, list)}
    return {name: find(value, project, fetch=fetch) for name, value in files.items()}


def plugin_of(source: str | Source) -> str:
    """The plugin that reaches it; "" for local files."""
    path = source if isinstance(source, str) else source.path
    return remote.plugin_of(path) if remote.is_remote(path) else ""


def digests(files: Iterable[File], cache: Path | None = None) -> dict[str, str]:
    """sha256 of each file by name; of what is remote what `find` says.

    `cache` is a JSON file that spares hashing what did not change since.
    """
    known = _load(cache)
    fresh: dict[str, list[Any]] = {}
    result = {}
    for file in files:
        if file.digest:
            result[file.name] = file.digest
            continue
        before, place = stat(file.path), str(file.path.resolve())
        entry = known.get(place)
        if entry is None or entry[:3] != list(before):
            entry = [*before, digest.of_file(file.path)]
        result[file.name] = str(entry[3])
        if time.time() - before.mtime_ns / 1e9 > SETTLED_S:
            fresh[place] = entry
    if cache is not None and fresh != known:
        cache.parent.mkdir(parents=True, exist_ok=True)
        staged = cache.with_suffix(f".{os.getpid()}.tmp")
        staged.write_text(json.dumps(known | fresh), "utf-8")
        os.replace(staged, cache)
    return result


def records(file: File, blob: Blob | None = None) -> Iterator[Record]:
    """Everything in a file, or in a blob that is a piece of it, and in the files inside where it is an archive.

    A file that cannot be read, or not to its end, is one rejected record more (`unreadable`). Errors: `invalid` for
    options of the reader and for files that no reader knows, `missing_package`.
    """
    reader = reader_of(file)
    try:
        yield from unpack.guarded(reader.read(blob or file.path, file.options))
    except msgspec.ValidationError as error:
        raise Error("invalid", f"options of the source {file.name}: {error}") from error


def reader_of(file: File) -> Reader:
    """The one configured, else by the longest suffix that fits, compression aside. Errors: `invalid`."""

    def find(name: str) -> Reader:
        reader: Reader = plugins.load("reader", file.reader) if file.reader else _by_suffix(name)
        return reader

    name = file.path.name
    if not unpack.is_packed(name):
        return find(name)
    if not unpack.is_archive(name):
        find(unpack.plain(name))
    return unpack.Packed(find, shards=file.reader == SHARDS)


def _by_suffix(name: str) -> Reader:
    known = _suffixes(tuple(plugins.names("reader")))
    fitting = [suffix for suffix in known if name.lower().endswith(suffix)]
    if not fitting:
        raise Error(
            "invalid",
            f"no reader knows files like {name!r}",
            f"known: {', '.join(sorted(known))}; or name one: {{path: {name}, reader: text}}",
        )
    reader: Reader = plugins.load("reader", known[max(fitting, key=len)])
    return reader


@lru_cache(4)
def _suffixes(readers: tuple[str, ...]) -> dict[str, str]:
    """The reader of each suffix, of those whose packages are there."""
    known = dict[str, str]()
    for candidate in readers:
        try:
            known |= dict.fromkeys(plugins.load("reader", candidate).suffixes, candidate)
        except Error as error:
            if error.code != "missing_package":
                raise
    return known


def _match(pattern: str, project: Path, optional: bool) -> list[tuple[Path, str]]:
    absolute, magic = os.path.isabs(pattern), glob.has_magic(pattern)
    if not absolute and ".." in PurePosixPath(pattern).parts:
        raise Error(
            "invalid",
            f"the source {pattern!r} leaves the project's folder",
            "copy the files below the project, or write their absolute path",
        )
    full = pattern if absolute else os.path.join(glob.escape(str(project)), pattern)
    paths = [Path(p) for p in sorted(glob.glob(full, recursive=True))] if magic else [Path(_plain(pattern, project))]
    files = [p for p in paths if p.is_file()]
    if not files and not optional:
        raise Error("invalid", f"no file matches the source {pattern!r}", _nothing_hint(paths, pattern, project))
    inside = project.resolve()
    if not absolute:
        for path in files:
            if not path.resolve().is_relative_to(inside):
                raise Error(
                    "invalid",
                    f"{path.relative_to(project)} is a link to {path.resolve()}, outside the project's folder",
                    "copy the file, or write its absolute path as the source",
                )
    return [(p, _name(p, project)) for p in files]


def _plain(pattern: str, project: Path) -> str:
    return pattern if os.path.isabs(pattern) else str(project / pattern)


def _name(path: Path, project: Path) -> str:
    """Relative names make the same dataset digest on every machine. Bytes that are no UTF-8 are written as \\xff."""
    name = path.relative_to(project).as_posix() if path.is_relative_to(project) else path.as_posix()
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _nothing_hint(paths: list[Path], pattern: str, project: Path) -> str:
    folders = [p for p in paths if p.is_dir()]
    if folders:
        return f"{pattern} is a folder: name its files, for example {pattern.rstrip('/')}/*.jsonl"
    return f"relative sources start at {project}; quote a pattern that begins with * in YAML"


def _load(cache: Path | None) -> dict[str, list[Any]]:
    """The cache, or nothing when it is absent or damaged: it only saves time."""
    try:
        value = json.loads(cache.read_text("utf-8")) if cache else {}
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
