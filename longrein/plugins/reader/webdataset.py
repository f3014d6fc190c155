"""WebDataset shards: members of a tar file that share a name up to its first dot are one row."""

import tarfile
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from longrein.core.blob import Blob
from longrein.core.errors import Error
from longrein.core.ports import Record

VERSION = 1
TEXTS = ("txt", "text", "md", "cls", "id")


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    max_member_bytes: int = 16 << 20  # a larger one makes its row a rejected one, never held in memory


class WebDataset:
    suffixes = (".tar",)

    def read(self, blob: Blob, options: Mapping[str, Any]) -> Iterator[Record]:
        """The fields of a `json` member become columns; a text member is a column called after its extension; others,
        pictures say, are left out. `__key__` is the name they share."""
        settings = msgspec.convert(options, Options)
        try:
            with blob.open("rb") as stream, tarfile.open(fileobj=stream, mode="r|") as file:
                yield from _rows(file, settings.max_member_bytes)
        except (tarfile.TarError, OSError, ValueError) as error:
            message = f"{blob.name} cannot be read as a WebDataset shard: {error}"
            raise Error("invalid", message, "check the file, or leave it out of `sources`") from error


def _rows(file: tarfile.TarFile, limit: int) -> Iterator[Record]:
    number, key, row, size, wrong = 0, "", dict[str, Any](), 0, ""
    for member in file:
        if not member.isfile():
            continue
        folder, _, name = member.name.rpartition("/")
        stem, _, kind = name.partition(".")
        whose = f"{folder}/{stem}" if folder else stem
        if whose != key and number:
            yield _record(row, number, size, wrong)
        if whose != key:
            number, key, row, size, wrong = number + 1, whose, {"__key__": whose}, 0, ""
        size += member.size
        wrong = wrong or _add(file, member, kind.lower(), row, limit)
    if number:
        yield _record(row, number, size, wrong)


def _record(row: dict[str, Any], number: int, size: int, wrong: str) -> Record:
    reason, _, detail = wrong.partition(":")
    return Record(None, number, size, reason, detail, row["__key__"]) if wrong else Record(row, number, size)


def _add(file: tarfile.TarFile, member: tarfile.TarInfo, kind: str, row: dict[str, Any], limit: int) -> str:
    """Put a member into its row; what is wrong with it, "reason:detail", or ""."""
    if kind != "json" and kind not in TEXTS:
        return ""
    if member.size > limit:
        return f"too_long:{member.name} has {member.size:,} bytes; max_member_bytes is {limit:,}"
    opened = file.extractfile(member)
    data = opened.read() if opened else b""
    try:
        if kind != "json":
            row[kind] = data.decode("utf-8")
            return ""
        value = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return f"malformed:{member.name}: {error}"
    row |= value if isinstance(value, dict) else {"json": value}
    return ""


plugin = WebDataset()
