"""Verify the audit trail, show it, or export a signed checkpoint of it."""

import json
from pathlib import Path
from typing import Any

import click

from longrein.cli import _text
from longrein.cli.main import Session
from longrein.core.errors import Error


@click.group(help=__doc__)
def command() -> None:
    pass


@command.command()
@click.option(
    "--checkpoint",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Also compare with a checkpoint taken earlier.",
)
@click.option(
    "--key", "fingerprint", default="", metavar="FINGERPRINT", help="The key that must have signed the checkpoint."
)
@click.pass_obj
def verify(session: Session, checkpoint: str | None, fingerprint: str) -> None:
    """Walk the whole chain: any event edited, removed or inserted is named."""
    from longrein.core.ledger import checkpoint as signed

    taken = _read(checkpoint) if checkpoint is not None else None
    signer = signed.check(taken, fingerprint) if taken is not None else ""
    count = session.workspace.ledger.events.verify(taken)
    text = f"{count:,} events, unbroken"
    if taken:
        text += f"; the checkpoint at event {taken['seq']:,} agrees, signed by key {signer}"
        if not fingerprint:
            session.say(f"compare that key with what you noted when you took it, or give it: --key {signer}")
    session.show({"events": count, "checkpoint": taken and taken["seq"], "signer": signer}, text)


@command.command()
@click.option("-n", "--limit", default=50, show_default=True, help="At most so many, the newest ones.")
@click.option("--subject", default="", help="Only about this, as in release:support@prod.")
@click.pass_obj
def log(session: Session, limit: int, subject: str) -> None:
    """Show who did what, the newest first."""
    from longrein.cli import ls

    found = session.workspace.ledger.events.recent(subject, limit=limit)
    rows = [
        (e.seq, _text.when(e.ts_ms), e.actor or "–", e.kind, e.subject, _text.short(ls.told(e.data), 80)) for e in found
    ]
    data = [ls.as_data(e) for e in found]
    session.show(data, _text.table(rows, ("seq", "time", "actor", "event", "subject", "data")))


@command.command()
@click.option(
    "--key",
    "key_file",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="The Ed25519 key; .longrein/audit.key if not given, made on first use.",
)
@click.option("--to", type=click.Path(dir_okay=False), metavar="FILE", help="Write it there; stdout if not given.")
@click.pass_obj
def checkpoint(session: Session, key_file: str | None, to: str | None) -> None:
    """Export the head of the chain, signed: keep it elsewhere, and verify against it later."""
    from longrein.core.ledger import checkpoint as signed

    workspace = session.workspace
    taken = signed.sign(workspace.ledger.events, Path(key_file or workspace.home / "audit.key"), workspace.root.name)
    signer = signed.check(taken)
    if to:
        Path(to).write_text(json.dumps(taken, indent=2, ensure_ascii=False) + "\n", "utf-8")
        session.say(f"note the key that signed it: {signer}")
        session.show(
            {"file": to, "seq": taken["seq"], "signer": signer}, f"checkpoint at event {taken['seq']:,} is in {to}"
        )
        return
    session.say(f"note the key that signed it: {signer}")
    session.json = True
    session.show(taken)


def _read(file: str) -> dict[str, Any]:
    try:
        value = json.loads(Path(file).read_text("utf-8"))
    except OSError as error:
        raise Error("not_found", f"{file} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise Error("invalid", f"{file} is not JSON", "make a checkpoint: longrein audit checkpoint") from error
    if not isinstance(value, dict):
        raise Error("invalid", f"{file} is not a checkpoint", "make one: longrein audit checkpoint")
    return value
