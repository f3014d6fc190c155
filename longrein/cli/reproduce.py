"""Rebuild a dataset version from its sources, aside, and say whether the same rows come out."""

from typing import Any

import click

from longrein.cli._complete import refs
from longrein.cli.main import Session
from longrein.core.errors import Error


@click.command(help=__doc__)
@click.argument("ref", shell_complete=refs)
@click.pass_obj
def command(session: Session, ref: str) -> None:
    from longrein.data.reproduce import reproduce

    workspace = session.workspace
    asset = workspace.dataset_asset(ref)
    data = reproduce(workspace.ledger, workspace.store, workspace.root, asset, workspace.home / "work")
    session.show(data, as_text(data))
    if data["same"] is False:
        raise Error("failed", f"{asset.ref} was not reproduced", _hint(data))


def as_text(data: dict[str, Any]) -> str:
    lines = [f"  {path} {what} since" for path, what in data.get("sources", {}).items()]
    if data["same"] is None:
        made_of = " and ".join(data["by_hand"])
        lines.append(f"{data['ref']} was made by hand" + (f" from {made_of}" if made_of else "") + ": not rebuilt")
    elif data["same"]:
        lines.append(f"{data['ref']} is reproduced: digest {data['digest'][:12]} again")
    elif data["found"]:
        lines.append(f"{data['ref']} has the digest {data['digest'][:12]}, now comes {data['found'][:12]}")
    kept = "still have" if data["stored"] else "no longer have, or are gone:"
    lines.append(f"its rows in the store {kept} that digest")
    return "\n".join(lines)


def _hint(data: dict[str, Any]) -> str:
    if data["sources"]:
        return "bring the source files back as they were"
    return "the code is the same: please report it" if data["code"] else "another version of the code made it"
