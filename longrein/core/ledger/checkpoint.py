"""Signed checkpoints of the audit trail: proof, kept elsewhere, of how far it went and what it said."""

import base64
import os
from pathlib import Path
from typing import Any

from longrein.core.digest import canonical
from longrein.core.errors import Error
from longrein.core.ledger.database import now_ms
from longrein.core.ledger.events import Events

FORMAT = "longrein-checkpoint-1"


def sign(events: Events, key_file: Path, project: str = "") -> dict[str, Any]:
    """The head of the verified chain, signed with Ed25519 (RFC 8032); the key is made on first use.

    Errors: `corrupt` when the chain itself is broken: nothing is signed then.
    """
    count = events.verify()
    seq, hash = events.head()
    if seq != count:  # somebody wrote meanwhile
        count = events.verify()
        seq, hash = events.head()
    key = _key(key_file)
    public = key.public_key().public_bytes_raw()
    body = {"format": FORMAT, "project": project, "seq": seq, "hash": hash, "signed_ms": now_ms()}
    body["public_key"] = base64.b64encode(public).decode()
    return body | {"signature": base64.b64encode(key.sign(canonical(body))).decode()}


def check(checkpoint: dict[str, Any], fingerprint: str = "") -> str:
    """The fingerprint of the key that signed a checkpoint.

    fingerprint: the one it must be, as noted when the first checkpoint was taken. Errors: `corrupt` for a forged or
    damaged checkpoint, `invalid` for what is none.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    if checkpoint.get("format") != FORMAT:
        raise Error("invalid", "this is not a checkpoint of Longrein", "make one: longrein audit checkpoint")
    body = {k: v for k, v in checkpoint.items() if k != "signature"}
    try:
        public = base64.b64decode(checkpoint["public_key"], validate=True)
        signature = base64.b64decode(checkpoint["signature"], validate=True)
        Ed25519PublicKey.from_public_bytes(public).verify(signature, canonical(body))
    except (InvalidSignature, KeyError, ValueError, TypeError) as error:
        raise Error(
            "corrupt", "the checkpoint's signature does not fit it", "use the file as it was exported"
        ) from error
    found = _fingerprint(public)
    if fingerprint and found != fingerprint:
        raise Error("corrupt", f"the checkpoint was signed by another key: {found}", f"expected {fingerprint}")
    return found


def _fingerprint(public: bytes) -> str:
    from hashlib import sha256

    return sha256(public).hexdigest()[:32]


def _key(path: Path) -> Any:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            fresh = Ed25519PrivateKey.generate()
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "wb") as file:
                file.write(base64.b64encode(fresh.private_bytes_raw()) + b"\n")
        return Ed25519PrivateKey.from_private_bytes(base64.b64decode(path.read_bytes(), validate=False))
    except ValueError as error:
        raise Error("corrupt", f"{path} holds no Ed25519 key", "move it away: another one is made") from error
    except OSError as error:
        raise Error(
            "invalid", f"the key file {path} cannot be used: {error.strerror}", "give another: --key FILE"
        ) from error
