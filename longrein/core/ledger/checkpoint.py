"""Signed checkpoints of the audit trail: proof, kept elsewhere, of how far it went and what it said."""

import base64
from pathlib import Path
from typing import Any

from longrein.core import signature
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
    body = {"format": FORMAT, "project": project, "seq": seq, "hash": hash, "signed_ms": now_ms()}
    body["public_key"] = base64.b64encode(signature.public_key(key_file)).decode()
    return body | {"signature": base64.b64encode(signature.sign(key_file, canonical(body))).decode()}


def check(checkpoint: dict[str, Any], fingerprint: str = "") -> str:
    """The fingerprint of the key that signed a checkpoint.

    fingerprint: the one it must be, as noted when the first checkpoint was taken. Errors: `corrupt` for a forged or
    damaged checkpoint, `invalid` for what is none.
    """
    if checkpoint.get("format") != FORMAT:
        raise Error("invalid", "this is not a checkpoint of Longrein", "make one: longrein audit checkpoint")
    body = {k: v for k, v in checkpoint.items() if k != "signature"}
    try:
        public = base64.b64decode(checkpoint["public_key"], validate=True)
        signed = base64.b64decode(checkpoint["signature"], validate=True)
        fits = signature.verify(public, signed, canonical(body))
    except (KeyError, ValueError, TypeError):
        fits = False
    if not fits:
        raise Error("corrupt", "the checkpoint's signature does not fit it", "use the file as it was exported")
    found = signature.fingerprint(public)
    if fingerprint and found != fingerprint:
        raise Error("corrupt", f"the checkpoint was signed by another key: {found}", f"expected {fingerprint}")
    return found
