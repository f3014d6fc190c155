"""Signatures by Ed25519 (RFC 8032): of the audit trail's checkpoints, and of packages, in DSSE envelopes."""

import base64
import hashlib
import json
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from longrein.core.errors import Error


def sign(key_file: Path, message: bytes) -> bytes:
    """64 bytes. The key is made, mode 0600, where there is none yet.

    Errors: `corrupt` when the file holds no key, `invalid` when it cannot be used.
    """
    signature: bytes = _key(key_file).sign(message)
    return signature


def public_key(key_file: Path) -> bytes:
    """32 bytes; the key is made where there is none yet."""
    public: bytes = _key(key_file).public_key().public_bytes_raw()
    return public


def verify(public: bytes, signature: bytes, message: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def fingerprint(public: bytes) -> str:
    """What people note of a public key: 32 hex digits of its SHA-256."""
    return hashlib.sha256(public).hexdigest()[:32]


def envelope(kind: str, payload: bytes, key_file: Path) -> dict[str, Any]:
    """A payload, signed, as a DSSE envelope (github.com/secure-systems-lab/dsse), with the public key beside it."""
    public, signature = public_key(key_file), sign(key_file, _encoded(kind, payload))
    signed = {"keyid": fingerprint(public), "sig": _text(signature), "public_key": _text(public)}
    return {"payloadType": kind, "payload": _text(payload), "signatures": [signed]}


def opened(data: bytes, kind: str, trusted: Collection[str]) -> tuple[bytes, str]:
    """(payload, fingerprint of the key that signed it) of a DSSE envelope.

    trusted: fingerprints, one of which it must be. Errors: `corrupt` when no signature fits, `blocked` when only keys
    that nobody trusts signed it.
    """
    try:
        value = json.loads(data)
        payload = base64.b64decode(value["payload"], validate=True)
        signatures = [(_bytes(s["public_key"]), _bytes(s["sig"])) for s in value["signatures"]]
        fits = value["payloadType"] == kind
    except (ValueError, KeyError, TypeError) as error:
        raise Error("corrupt", "the signature is damaged", "fetch or make the package again") from error
    message = _encoded(kind, payload)
    signers = [fingerprint(public) for public, signature in signatures if verify(public, signature, message)]
    if not signers or not fits:
        raise Error("corrupt", "the signature does not fit what it signs", "fetch or make the package again")
    known = [signer for signer in signers if signer in trusted]
    if not known:
        hint = f"compare with who made it; then: --trust {signers[0]}"
        raise Error("blocked", f"it was signed by the key {signers[0]}, which is not trusted here", hint)
    return payload, known[0]


def _encoded(kind: str, payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding: what is signed cannot be read as another kind of thing."""
    return b"DSSEv1 %d %s %d %s" % (len(kind.encode()), kind.encode(), len(payload), payload)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


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
