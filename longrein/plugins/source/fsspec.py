"""Object stores and file systems by fsspec: s3, gs, abfs, oss, hdfs, sftp, …, by a glob or an exact name."""

import errno
import glob
import importlib
import json
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from longrein.core.errors import Error
from longrein.core.ports import Object
from longrein.core.secret import Secrets, refuse_literal, refuse_password

VERSION = 1
BLOCK_BYTES = 8 << 20  # asked for at once
TAGS = ("ETag", "etag", "md5Hash", "content_md5", "checksum", "generation")
TIMES = ("LastModified", "last_modified", "mtime", "updated", "modified", "created")
EXTRAS = {"s3": "s3", "s3a": "s3"}  # the extra of ours that brings the package

T = TypeVar("T")


class Fsspec:
    """Options are those of the file system: endpoint_url, anon, key, secret, … Credentials are found as it finds them
    (AWS_…, GOOGLE_APPLICATION_CREDENTIALS)."""

    def __init__(self, url: str, options: Mapping[str, Any], project: Path) -> None:
        refuse_literal(options)
        refuse_password(url)
        self.url, self.secrets = url, Secrets()
        self._core = importlib.import_module("fsspec.core")
        scheme = url.partition("://")[0].rpartition(":")[2]
        filled = {"skip_instance_cache": True, "use_listings_cache": False, **self.secrets.fill(dict(options))}
        try:
            self.files, self.path = self._core.url_to_fs(self.secrets.fill(url), **filled)
        except ImportError as error:
            extra = EXTRAS.get(scheme)
            hint = f"pip install 'longrein[{extra}]'" if extra else str(error)
            raise Error("missing_package", f"{scheme}:// needs a package that is not installed", hint) from error
        except (ValueError, TypeError) as error:
            message = self.secrets.hide(f"{url} cannot be reached: {error}")
            raise Error("invalid", message, "check its scheme, and `remote`") from error

    def scan(self, known: Mapping[str, str]) -> Iterator[Object]:
        infos = self._ask(self.url, self._infos)
        folders = [i for i in infos if i.get("type") == "directory"]
        files = sorted((i for i in infos if i.get("type") != "directory"), key=lambda i: str(i["name"]))
        if not files:
            hint = (
                f"name its objects, for example {self.url.rstrip('/')}/*.jsonl" if folders else "check bucket and name"
            )
            raise Error("invalid", f"no object matches the source {self.url!r}", hint)
        for info in files:
            name = self.secrets.hide(str(self.files.unstrip_protocol(info["name"])))
            file = str(info["name"]).rstrip("/").rpartition("/")[2]
            if not file.startswith(".") or not glob.has_magic(self.path):
                yield Object(name, file, _revision(info), int(info.get("size") or 0))

    def fetch(self, object: Object, path: Path) -> None:
        key = self.files._strip_protocol(object.name)
        self._ask(object.name, lambda: self._copy(key, object, path))
        now = _revision(self._ask(object.name, lambda: self.files.info(key)))
        if now != object.revision or (object.bytes and path.stat().st_size != object.bytes):
            path.unlink()
            raise changed(object.name)

    def _infos(self) -> list[dict[str, Any]]:
        if glob.has_magic(self.path):
            return [*self.files.glob(self.path, detail=True).values()]
        return [self.files.info(self.path)]

    def _copy(self, key: str, one: Object, path: Path) -> None:
        have = path.stat().st_size if path.exists() and one.revision else 0
        with path.open("ab" if have else "wb", buffering=0) as out:  # what came stays, whatever happens next
            if one.bytes <= BLOCK_BYTES and not have:
                out.write(self.files.cat_file(key))
                return
            for start in range(have, one.bytes, BLOCK_BYTES):
                out.write(self.files.cat_file(key, start=start, end=min(start + BLOCK_BYTES, one.bytes)))

    def _ask(self, name: str, ask: Callable[[], T]) -> T:
        try:
            return ask()
        except Exception as error:
            if not isinstance(error, Error):  # each file system raises what its own library does
                raise self._error(name, error) from error
            raise

    def _error(self, name: str, error: Exception) -> Error:
        kind = type(error).__name__
        code, hint = "unavailable", "check the endpoint and the network, then apply again"
        if isinstance(error, FileNotFoundError):
            return Error("not_found", f"there is no {name}, or no longer", "check the name, then apply again")
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            code, hint = "no_space", "free some space, then apply again"
        elif isinstance(error, PermissionError):
            code, hint = "forbidden", "check the credentials and what they may read"
        elif isinstance(error, TimeoutError):
            code = "timeout"
        elif "Credential" in kind or "Auth" in kind:
            code, hint = "unauthorized", "give credentials in the environment, as its library wants them"
        return Error(code, self.secrets.hide(f"{name} cannot be read: {error or kind}"), hint)


def changed(name: str) -> Error:
    return Error("conflict", f"{name} changed while it was fetched", "run `longrein apply` again")


def _revision(info: Mapping[str, Any]) -> str:
    """By its tag, else by its size and time; "" for file systems that tell neither."""
    told = next((info[t] for t in TAGS if info.get(t)), None) or next((info[t] for t in TIMES if info.get(t)), None)
    told = told.timestamp() if isinstance(told, datetime) else told  # some listings have it so
    return json.dumps([str(told), info.get("size")]) if told is not None else ""


plugin = Fsspec
