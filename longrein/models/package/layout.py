"""An OCI image layout on disk: blobs under their digests, and an index that names the manifests (image-spec 1.1)."""

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from longrein.core.digest import CHUNK_BYTES, canonical
from longrein.core.errors import Error

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
EMPTY = "application/vnd.oci.empty.v1+json"
NAME = "org.opencontainers.image.ref.name"
DIGEST = re.compile("sha256:[0-9a-f]{64}")
SMALL_BYTES = 16 << 20  # of a manifest or a config

Descriptor = dict[str, Any]  # {"mediaType", "digest", "size", …}


class Layout:
    """A folder. Nothing written to it depends on the time or the machine: the same content has the same digest."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def make(cls, folder: Path) -> "Layout":
        (folder / "blobs" / "sha256").mkdir(parents=True)
        (folder / "oci-layout").write_bytes(canonical({"imageLayoutVersion": "1.0.0"}))
        layout = cls(folder)
        layout._write_index([])
        return layout

    def put(self, source: Path | bytes, media_type: str, **more: Any) -> Descriptor:
        """Add a blob: bytes, or a copy of a file; the memory it takes does not grow with the file."""
        staged = self.folder / "blobs" / "staged"
        if isinstance(source, bytes):
            staged.write_bytes(source)
        else:
            shutil.copyfile(source, staged)
        digest, size = _measure(staged)
        staged.rename(self._blob(digest))
        return {"mediaType": media_type, "digest": digest, "size": size, **more}

    def put_json(self, value: Any, media_type: str, **more: Any) -> Descriptor:
        return self.put(canonical(value), media_type, **more)

    def manifest(self, name: str, config: Descriptor, layers: list[Descriptor], **more: Any) -> Descriptor:
        """Add a manifest and list it in the index under a name (a tag). more: artifactType, subject, annotations."""
        value = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers, **more}
        kind = {"artifactType": more["artifactType"]} if "artifactType" in more else {}
        made = self.put_json(value, MANIFEST, **kind)
        self._write_index([*self.index(), {**made, "annotations": {NAME: name}}])
        return made

    def index(self) -> list[Descriptor]:
        """The manifests listed. Errors: `invalid` when this is no layout."""
        try:
            if json.loads((self.folder / "oci-layout").read_bytes())["imageLayoutVersion"] != "1.0.0":
                raise ValueError("another version of the layout")
            found = json.loads((self.folder / "index.json").read_bytes())["manifests"]
            return [_checked(entry) for entry in found]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Error(
                "invalid", f"{self.folder} is no OCI image layout: {error}", "longrein package REF --to FOLDER"
            ) from error

    def read(self, descriptor: Mapping[str, Any]) -> Any:
        """The JSON of a small blob, after checking its digest. Errors: as `path`, and `corrupt`."""
        if descriptor["size"] > SMALL_BYTES:
            raise Error("too_large", f"{descriptor['digest'][:19]} has {descriptor['size']:,} bytes: too many to read")
        data = self.path(descriptor).read_bytes()
        try:
            return json.loads(data)
        except ValueError as error:
            raise Error("corrupt", f"{descriptor['digest'][:19]} is not JSON", "fetch the package again") from error

    def path(self, descriptor: Mapping[str, Any]) -> Path:
        """A blob's file, after checking that its bytes are those that the descriptor names.

        Errors: `not_found` when it is not there, `corrupt` when it is another.
        """
        blob = self._blob(_checked(dict(descriptor))["digest"])
        if not blob.is_file():
            raise Error("not_found", f"the package lacks {descriptor['digest'][:19]}", "fetch all of it again")
        if _measure(blob) != (descriptor["digest"], descriptor["size"]):
            raise Error("corrupt", f"{descriptor['digest'][:19]} does not match its digest", "fetch the package again")
        return blob

    def _blob(self, digest: str) -> Path:
        return self.folder / "blobs" / "sha256" / digest.removeprefix("sha256:")

    def _write_index(self, manifests: list[Descriptor]) -> None:
        value = {"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}
        (self.folder / "index.json").write_bytes(canonical(value))


def _checked(entry: Descriptor) -> Descriptor:
    """A descriptor from outside: its digest becomes a path, so it must be one and nothing else."""
    if not DIGEST.fullmatch(str(entry["digest"])) or not isinstance(entry["size"], int):
        raise Error("invalid", f"{str(entry['digest'])[:80]!r} is not a SHA-256 digest with a size")
    return entry


def _measure(path: Path) -> tuple[str, int]:
    """(digest, bytes) of a file, read in pieces."""
    size, hashed = 0, hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(CHUNK_BYTES):
            size += len(piece)
            hashed.update(piece)
    return f"sha256:{hashed.hexdigest()}", size
