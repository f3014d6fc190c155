"""Writes a release as a ModelPack artifact or a container image, signed, without a container engine."""

import json
import shutil
import tarfile
import uuid
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from longrein.core import folder, signature
from longrein.core.digest import canonical
from longrein.core.errors import Error
from longrein.core.ledger import Asset, Ledger
from longrein.core.store import Store
from longrein.models.package.layout import EMPTY, INDEX, MANIFEST, Descriptor, Layout

FORMATS = ("modelpack", "image")

ARTIFACT = "application/vnd.cncf.model.manifest.v1+json"  # ModelPack (github.com/modelpack/model-spec, docs/spec.md)
CONFIG = "application/vnd.cncf.model.config.v1+json"
WEIGHTS = "application/vnd.cncf.model.weight.v1.raw"
SETTINGS = "application/vnd.cncf.model.weight.config.v1.raw"
WORDS = "application/vnd.cncf.model.doc.v1.raw"
FILEPATH = "org.cncf.model.filepath"
IMAGE_CONFIG = "application/vnd.oci.image.config.v1+json"
IMAGE_LAYER = "application/vnd.oci.image.layer.v1.tar"
STATEMENT = "application/vnd.in-toto+json"  # in-toto attestation framework v1, with SLSA provenance v1
ENVELOPE = "application/vnd.dsse.envelope.v1+json"

RELEASE, RECORD = "release.json", "longrein.json"  # in a package: what its digest is over; what the ledger knows of it
INSIDE = "/opt/longrein/release"  # where an image keeps the package
HOME = "/var/lib/longrein"
COMMAND = (
    f'longrein unpack {INSIDE} --into {HOME} --trust "$LONGREIN_TRUST" && '
    f"exec longrein -C {HOME} serve --host 0.0.0.0 --port 8000"
)


def pack(
    ledger: Ledger, store: Store, release: Asset, to: Path, *, key_file: Path, format: str = "modelpack",
    base: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Write an OCI image layout with the release and a signed statement of where it came from.

    base: the layout of an image that has Longrein in it; without one, an image holds the release only, to be mounted.
    Returns the digests of the artifact and of the key. Errors: `conflict` when `to` is there already, `invalid` for
    what is no release or has no model, `corrupt` when stored bytes are not those that the ledger names.
    """
    if release.kind != "release":
        raise Error("invalid", f"{release.ref} is not a release", "longrein ls releases")
    if to.exists():
        raise Error("conflict", f"{to} is there already", "name a folder that is not")
    if base and format != "image":
        raise Error("invalid", "only an image has a base", "longrein package … --format image --base …")
    parts = {role: ledger.assets.get(part["ref"]) for role, part in _parts(release.meta)}
    if "model" not in parts:
        raise Error("invalid", f"{release.ref} has no model of its own to package", "its upstream serves it")
    files = dict(_files(store, release, parts))
    to.parent.mkdir(parents=True, exist_ok=True)
    staged = to.parent / f".{to.name}.{uuid.uuid4().hex}"
    try:
        made = _modelpack(Layout.make(staged), release, parts, files)
        signed = _sign(Layout(staged), made, _statement(ledger, release, made), key_file)
        if format == "image":
            inner = staged.with_name(staged.name + ".inner")
            staged.rename(inner)
            try:
                made = _image(Layout.make(staged), release, inner, base)
            finally:
                shutil.rmtree(inner, ignore_errors=True)
            signed = _sign(Layout(staged), made, _statement(ledger, release, made), key_file)
        staged.rename(to)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return {
        "ref": release.ref,
        "release": release.digest,
        "digest": made["digest"],
        "signer": signed,
        "folder": str(to),
    }


def tag(release: Asset) -> str:
    """The name of a release's manifest: its version."""
    return f"v{release.version}"


def _parts(meta: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, str]]]:
    """(role, {"ref", "digest", "uri"}) of each asset that a release bundles."""
    for role, part in sorted(meta.items()):
        if isinstance(part, dict) and part.keys() >= {"ref", "digest", "uri"}:
            yield role, part


def _files(store: Store, release: Asset, parts: Mapping[str, Asset]) -> Iterator[tuple[str, Path]]:
    """(path in the package, file), verified; no weights that run code when loaded."""
    yield RELEASE, store.verify(release.uri, release.digest)
    for role, asset in parts.items():
        path = store.verify(asset.uri, asset.digest)
        if path.is_file():
            yield role, path
            continue
        if asset.kind == "model":
            folder.check(path)
        for file in sorted(p for p in path.rglob("*") if p.is_file()):
            yield f"{role}/{file.relative_to(path).as_posix()}", file


def _modelpack(layout: Layout, release: Asset, parts: Mapping[str, Asset], files: Mapping[str, Path]) -> Descriptor:
    known = {
        role: {"kind": a.kind, "name": a.name, "digest": a.digest, "meta": _portable(a.meta)}
        for role, a in parts.items()
    }
    record = {"name": release.name, "digest": release.digest, "meta": _portable(release.meta), "parts": known}
    layers = [layout.put(path, _media(name), annotations={FILEPATH: name}) for name, path in sorted(files.items())]
    layers.append(layout.put_json(record, WORDS, annotations={FILEPATH: RECORD}))
    settings = files.get("model/config.json")
    precision = json.loads(settings.read_bytes()).get("dtype") if settings else None
    config = {
        "descriptor": {"name": release.name, "version": tag(release), "revision": release.digest},
        "config": {
            "architecture": "transformer",
            "format": "safetensors",
            **({"precision": precision} if isinstance(precision, str) else {}),
            "capabilities": {"inputTypes": ["text"], "outputTypes": ["text"]},
        },
        "modelfs": {"type": "layers", "diffIds": [layer["digest"] for layer in layers]},
    }
    described = layout.put_json(config, CONFIG)
    notes = {"dev.longrein.release": release.digest}
    return layout.manifest(tag(release), described, layers, artifactType=ARTIFACT, annotations=notes)


def _media(name: str) -> str:
    if name.startswith("model/"):
        return WEIGHTS if name.endswith(".safetensors") else SETTINGS
    return WORDS


def _portable(meta: Any) -> Any:
    """Without where this project's store keeps things and which version numbers its ledger gave: digests say it all."""
    if not isinstance(meta, dict):
        return meta
    return {k: _portable(v) for k, v in meta.items() if "digest" not in meta or k not in ("ref", "uri")}


def _statement(ledger: Ledger, release: Asset, made: Descriptor) -> dict[str, Any]:
    """Where a release came from (slsa.dev/spec/v1.0/provenance), and which gates it passed."""
    above = ledger.assets.lineage(release).assets
    passed = [v for v in ledger.aliases.verdicts(release.digest) if v.passed]
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": release.ref, "digest": {"sha256": made["digest"].removeprefix("sha256:")}}],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": "urn:longrein:release:1",
                "externalParameters": {"release": release.ref, "digest": release.digest},
                "resolvedDependencies": [
                    {"uri": f"urn:longrein:{a.ref}", "digest": {"sha256": a.digest}}
                    for a in sorted(above, key=lambda a: a.ref)
                    if a.id != release.id
                ],
            },
            "runDetails": {
                "builder": {"id": "urn:longrein:builder", "version": {"longrein": version("longrein")}},
                "metadata": {"invocationId": release.run_id},
            },
            "longrein_verdicts": [
                {"gate": v.gate, "gate_digest": v.gate_digest, "reasons": v.reasons, "actor": v.actor}
                for v in reversed(passed)
            ],
        },
    }


def _sign(layout: Layout, made: Descriptor, statement: Mapping[str, Any], key_file: Path) -> str:
    """Add the signed statement, as a referrer of the artifact, under the tag where cosign looks for one."""
    envelope = signature.envelope(STATEMENT, canonical(statement), key_file)
    layer = layout.put_json(envelope, ENVELOPE)
    subject = {k: made[k] for k in ("mediaType", "digest", "size")}
    name = made["digest"].replace(":", "-") + ".att"
    empty = layout.put(b"{}", EMPTY)
    layout.manifest(name, empty, [layer], artifactType=STATEMENT, subject=subject)
    return str(envelope["signatures"][0]["keyid"])


def _image(layout: Layout, release: Asset, inner: Path, base: Path | None) -> Descriptor:
    """A container image with the package below INSIDE, on top of the base's layers."""
    below, config = _base(layout, base) if base else ([], {"architecture": "amd64", "os": "linux"})
    tar = layout.folder / "layer.tar"
    _tar(inner, tar)
    layer = layout.put(tar, IMAGE_LAYER)
    tar.unlink()
    run = dict(config.get("config") or {})
    run["Labels"] = {**(run.get("Labels") or {}), "dev.longrein.release": release.digest}
    if base:
        run |= {
            "Entrypoint": ["/bin/sh", "-c", COMMAND],
            "Cmd": None,
            "ExposedPorts": {"8000/tcp": {}},
            "User": "65532",
        }
    ids = [*((config.get("rootfs") or {}).get("diff_ids") or []), layer["digest"]]
    history = [*(config.get("history") or []), {"created_by": f"longrein package {release.ref}"}]
    value = {**config, "config": run, "rootfs": {"type": "layers", "diff_ids": ids}, "history": history}
    described = layout.put_json(value, IMAGE_CONFIG)
    return layout.manifest(tag(release), described, [*below, layer])


def _base(layout: Layout, folder: Path) -> tuple[list[Descriptor], dict[str, Any]]:
    """(layers, config) of a base image, its blobs copied. Errors: `invalid` when the layout holds no single image."""
    source = Layout(folder)
    entries = source.index()
    while len(entries) == 1 and entries[0]["mediaType"] == INDEX:
        nested = source.read(entries[0])["manifests"]
        entries = [m for m in nested if m.get("platform", {}).get("architecture") in ("amd64", None)]
    if len(entries) != 1 or entries[0]["mediaType"] != MANIFEST:
        raise Error(
            "invalid", f"{folder} holds no single image for amd64", "skopeo copy docker://IMAGE oci:FOLDER:base"
        )
    manifest = source.read(entries[0])
    for layer in manifest["layers"]:
        layout.put(source.path(layer), layer["mediaType"])
    return manifest["layers"], source.read(manifest["config"])


def _tar(folder: Path, to: Path) -> None:
    """A folder as INSIDE in a tar: in order of names, owned by root, at time 0."""
    with tarfile.open(to, "w", format=tarfile.PAX_FORMAT) as archive:
        for parent in reversed(Path(INSIDE).parents[:-1]):
            archive.addfile(_entry(parent.as_posix().lstrip("/")))
        archive.addfile(_entry(INSIDE.lstrip("/")))
        for path in sorted(folder.rglob("*"), key=lambda p: p.relative_to(folder).as_posix()):
            entry = _entry(f"{INSIDE.lstrip('/')}/{path.relative_to(folder).as_posix()}", path)
            if path.is_file():
                with path.open("rb") as file:
                    archive.addfile(entry, file)
            else:
                archive.addfile(entry)


def _entry(name: str, file: Path | None = None) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    if file and file.is_file():
        entry.size, entry.mode = file.stat().st_size, 0o444
    else:
        entry.type, entry.mode = tarfile.DIRTYPE, 0o755
    return entry
