"""Verifies a package, its signature first, and brings its release into a project."""

import shutil
import uuid
from collections.abc import Collection, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from longrein.core import digest, folder, signature
from longrein.core.errors import Error
from longrein.core.ledger import Asset, Ledger
from longrein.core.store import Store, Stored
from longrein.models.deploy import ALIAS
from longrein.models.package.layout import Descriptor, Layout
from longrein.models.package.pack import ARTIFACT, ENVELOPE, FILEPATH, RECORD, RELEASE, STATEMENT


class _Part(msgspec.Struct):
    kind: str
    name: str
    digest: str
    meta: dict[str, Any]


class _Record(msgspec.Struct):
    """What a package says of its release (longrein.models.package.pack)."""

    name: str
    digest: str
    meta: dict[str, Any]
    parts: dict[str, _Part]


class _Verdict(msgspec.Struct):
    gate: str
    gate_digest: str
    reasons: list[str] = []


def unpack(
    ledger: Ledger, store: Store, source: Path, scratch: Path, *, trusted: Collection[str], actor: str
) -> tuple[Asset, str]:
    """(release, fingerprint of the key that signed it). The same package twice is the same version.

    Nothing is loaded or recorded before the signature and every byte below it were checked. Gates that the release
    passed where it was made count here too, for gates of the same name and definition: the signer vouches for them.
    Errors: `blocked` when no trusted key signed it, `corrupt`, `invalid`, `not_found`.
    """
    layout, artifact, statement, signer = vouched(source, trusted)
    staged = scratch / f"unpack-{uuid.uuid4().hex}"
    try:
        record = _extract(layout, artifact, staged)
        return _record(ledger, store, staged, record, statement, signer, actor), signer
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def vouched(source: Path, trusted: Collection[str]) -> tuple[Layout, Descriptor, dict[str, Any], str]:
    """(layout, artifact, statement, signer) once a trusted key is found to have signed the artifact's manifest, and so
    the digests of all that is in it. Errors: as `unpack`."""
    layout = Layout(source)
    manifests = [(entry, layout.read(entry)) for entry in layout.index()]  # an index that was copied may tell no types
    artifact = _only([entry for entry, manifest in manifests if manifest.get("artifactType") == ARTIFACT], source)
    statements = [manifest for _, manifest in manifests if manifest.get("artifactType") == STATEMENT]
    statement, signer = _statement(layout, statements, artifact, trusted)
    return layout, artifact, statement, signer


def serve(ledger: Ledger, release: Asset, *, actor: str) -> None:
    """Want an endpoint with a release's name, and have it serve that. For a project that has no more than this."""
    wanted = ledger.work.wanted() or {}
    endpoints = {**(wanted.get("endpoints") or {}), release.name: {}}
    with ledger.transaction():
        ledger.work.want({**wanted, "endpoints": endpoints}, actor=actor)
        ledger.aliases.move("release", release.name, ALIAS, release, actor=actor, reason="unpacked")


def _only(found: list[Descriptor], source: Path) -> Descriptor:
    if len(found) != 1:
        raise Error(
            "invalid", f"{source} holds {len(found)} ModelPack artifacts, not one", "longrein package REF --to …"
        )
    return found[0]


def _statement(
    layout: Layout, manifests: list[dict[str, Any]], artifact: Descriptor, trusted: Collection[str]
) -> tuple[dict[str, Any], str]:
    """(statement, signer) of the artifact, by the first signature of a trusted key."""
    refused: Error | None = None
    for manifest in manifests:
        if manifest.get("subject", {}).get("digest") != artifact["digest"]:
            continue
        for layer in manifest["layers"]:
            if layer["mediaType"] != ENVELOPE:
                continue
            try:
                payload, signer = signature.opened(layout.path(layer).read_bytes(), STATEMENT, trusted)
            except Error as error:
                refused = error
                continue
            statement = msgspec.json.decode(payload)
            named = [s["digest"]["sha256"] for s in statement["subject"]]
            if named != [artifact["digest"].removeprefix("sha256:")]:
                raise Error("corrupt", "the signature is of another package", "fetch the package again")
            return statement, signer
    raise refused or Error("blocked", "the package is not signed", "have it made again: longrein package")


def _extract(layout: Layout, artifact: Descriptor, to: Path) -> _Record:
    """Copy every file of the artifact, checked, to where its annotation says, which is below `to`."""
    for layer in layout.read(artifact)["layers"]:
        name = PurePosixPath(str(layer.get("annotations", {}).get(FILEPATH, "")))
        if not name.parts or name.is_absolute() or ".." in name.parts:
            raise Error("invalid", f"the package names a file {str(name)[:80]!r}, outside itself")
        target = to / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(layout.path(layer), target)
    try:
        record = msgspec.json.decode((to / RECORD).read_bytes(), type=_Record)
        sealed = msgspec.json.decode((to / RELEASE).read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.DecodeError) as error:
        raise Error("invalid", f"the package lacks what Longrein keeps in it: {error}") from error
    found = {role: digest.of_tree(to / role) for role in record.parts if (to / role).exists()}
    for role, part in record.parts.items():
        if not part.digest == sealed.get(role) == found.get(role):
            raise Error("corrupt", f"the {role} in the package is not the one that its release names")
        if part.kind == "model":
            folder.check(to / role)
    if digest.of_file(to / RELEASE) != record.digest:
        raise Error("corrupt", "the package's release is not the one that it names")
    return record


def _record(
    ledger: Ledger, store: Store, staged: Path, record: _Record, statement: Mapping[str, Any], signer: str, actor: str
) -> Asset:
    stored = {role: store.put(staged / role) for role in record.parts}
    sealed = store.put(staged / RELEASE)
    verdicts = msgspec.convert(statement["predicate"].get("longrein_verdicts", []), list[_Verdict])
    with ledger.transaction():
        run = ledger.runs.start(
            capability="models.package", name=record.name, experiment=f"release:{record.name}", actor=actor,
            config={"signer": signer, "statement": statement},
        )  # fmt: skip
        meta = dict(record.meta)
        for role, part in record.parts.items():
            asset = _put(ledger, part.kind, part.name, stored[role], part.meta, run, actor)
            meta[role] = {"ref": asset.ref, "digest": asset.digest, "uri": asset.uri}
        release = _put(ledger, "release", record.name, sealed, meta, run, actor)
        held = {(v.gate, v.gate_digest) for v in ledger.aliases.verdicts(release.digest)}
        for v in verdicts:
            if (v.gate, v.gate_digest) not in held:
                by = f"{actor} (package signed by {signer})"
                ledger.aliases.judge(v.gate, v.gate_digest, [release], True, v.reasons, actor=by, run_id=run)
        ledger.runs.finish(run, actor=actor)
    return release


def _put(ledger: Ledger, kind: str, name: str, s: Stored, meta: dict[str, Any], run: str, actor: str) -> Asset:
    return ledger.assets.put(
        kind, name, s.digest, uri=s.uri, bytes=s.bytes, meta=meta, run_id=run, actor=actor, role=kind
    )
