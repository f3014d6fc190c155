"""Artifacts on disk: MLflow's `mlflow-artifacts:/…` tree in one folder, and its way into the store."""

import os
import shutil
import time
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from longrein.core.errors import Error
from longrein.core.store import Store, Stored

SCHEME = "mlflow-artifacts"
STORE = "store"  # mlflow-artifacts:/store/sha256/… reads (never writes) the bytes of assets


class Artifacts:
    """Files as clients name them. A name appears when its bytes are all there; nothing leads out of the folder."""

    def __init__(self, store: Store) -> None:
        self.store, self.root, self.staging = store, store.root / "artifacts", store.root / "staging"

    def path(self, name: str) -> Path:
        """The local path of "1/<run>/artifacts/model". Errors: `invalid` for one that leads elsewhere."""
        parts = name.strip("/").split("/")
        if any(p in (".", "..") or "\0" in p or "\\" in p for p in parts) or (name.strip("/") and "" in parts):
            raise Error("invalid", f"Invalid path {name[:300]!r}", "write a relative path without '..'")
        if parts[0] == STORE:
            uri = "/".join(parts[1:])
            if not uri.startswith("sha256/"):
                raise Error("not_found", f"there is no artifact {name!r}")
            return self.store.path(uri)
        path = self.root.joinpath(*parts)
        if not path.resolve().is_relative_to(self.root.resolve()):  # through a link somebody put there
            raise Error("invalid", f"Invalid path {name[:300]!r}", "write a relative path without '..'")
        return path

    def target(self, name: str) -> Path:
        """Where an upload goes. Errors: `invalid` also for the read-only part, or when a file is in the way."""
        if not name.strip("/") or name.strip("/").split("/")[0] == STORE:
            raise Error("invalid", f"Invalid path {name[:300]!r}: it cannot be written")
        path = self.path(name)
        if path.is_dir():
            raise Error("invalid", f"Invalid path {name[:300]!r}: a folder of that name is there already")
        return path

    def stage(self) -> Path:
        """A new file to write to, on the same file system as its place."""
        self.staging.mkdir(parents=True, exist_ok=True)
        return self.staging / f"upload-{uuid.uuid4().hex}"

    def settle(self, staged: Path, name: str) -> None:
        """Bring a staged file to its place in one step, flushed."""
        path = self.target(name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            os.replace(staged, path)
        except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
            raise Error("invalid", f"Invalid path {name[:300]!r}: a file or folder is in the way") from error

    def sweep(self, older_s: float = 86_400) -> None:
        """Remove what uploads left behind that were cut off by a crash."""
        if self.staging.is_dir():
            for path in self.staging.glob("upload-*"):
                if path.stat().st_mtime < time.time() - older_s:
                    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    def list(self, name: str, relative_to: str = "") -> list[dict[str, Any]]:
        """The entries of a folder, sorted, paths prefixed by `relative_to`; a missing folder or a file has none."""
        path = self.path(name)
        if not path.is_dir():
            return []
        prefix = f"{relative_to.strip('/')}/" if relative_to.strip("/") else ""
        return [
            {"path": f"{prefix}{entry.name}", "is_dir": True}
            if entry.is_dir()
            else {"path": f"{prefix}{entry.name}", "is_dir": False, "file_size": entry.stat().st_size}
            for entry in sorted(path.iterdir())
        ]

    def delete(self, name: str) -> None:
        """Remove a file or folder; one that is not there is fine."""
        if not name.strip("/") or name.strip("/").split("/")[0] == STORE:
            raise Error("invalid", f"Invalid path {name[:300]!r}: it cannot be deleted")
        path = self.path(name)
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    def snapshot(self, uri: str) -> Stored | None:
        """The bytes behind an `mlflow-artifacts:` uri as content in the store, by hard links: no second copy.

        None when they lie elsewhere, or are not there. A later upload replaces a file and never rewrites it, so the
        store's copy stays as it is.
        """
        name = local_name(uri)
        if name is None or not (path := self.path(name)).exists():
            return None
        staged = self.stage()
        if path.is_dir():
            shutil.copytree(path, staged, copy_function=_link)
        else:
            _link(str(path), str(staged))
        return self.store.put(staged)


def local_name(uri: str) -> str | None:
    """ "1/<run>/artifacts" of "mlflow-artifacts:/1/<run>/artifacts"; None for a place that is not ours to serve."""
    parts = urlsplit(uri)
    return unquote(parts.path).strip("/") if parts.scheme == SCHEME else None


def _link(source: str, target: str) -> str:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copy2(source, target)
    return target
