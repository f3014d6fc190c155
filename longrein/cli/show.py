"""Show an asset: what it is, who made it of what, who points at it and what the gates said."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from longrein.cli import _text
from longrein.cli._complete import refs
from longrein.cli.main import Session
from longrein.core.errors import Error

if TYPE_CHECKING:
    from longrein.core.ledger import Asset
    from longrein.workspace import Workspace


MOST_USES = 100  # the newest ones
DIGEST = re.compile(r"\b[0-9a-f]{64}\b")


@click.command(help=__doc__)
@click.argument("ref", shell_complete=refs)
@click.option("--card", is_flag=True, help="Print the model's card (README.md) instead.")
@click.option("--note", metavar="TEXT", help="Write a note on it, in place of the one before.")
@click.pass_obj
def command(session: Session, ref: str, card: bool, note: str | None) -> None:
    workspace = session.workspace
    asset = workspace.asset(ref)
    if note is not None:
        workspace.note(ref, note)
    if card:
        session.show({"ref": asset.ref, "card": _card(workspace, asset)}, _card(workspace, asset))
        return
    data = describe(workspace, asset)
    session.show(data, as_text(data))


def describe(workspace: "Workspace", asset: "Asset") -> dict[str, Any]:
    ledger = workspace.ledger
    made = ledger.assets.of_run(asset.run_id) if asset.run_id else []
    users = [
        {"run": run, "made": [a.ref for e, a in ledger.assets.of_run(run) if e.direction == "out"]}
        for run in ledger.assets.readers(asset.id)[-MOST_USES:]
    ]
    path = workspace.store.root / asset.uri.partition("?")[0]
    aliases = [alias for alias, (to, _) in ledger.aliases.get(asset.kind, asset.name).items() if to.id == asset.id]
    return {
        "ref": asset.ref, "digest": asset.digest, "aliases": aliases, "note": ledger.assets.description(asset),
        "bytes": asset.bytes, "created_ms": asset.created_ms, "path": str(path),
        "there": workspace.store.holds(asset.uri), "run": asset.run_id,
        "made_of": [a.ref for e, a in made if e.direction == "in"], "used_by": users,
        "verdicts": [vars(v) for v in ledger.aliases.verdicts(asset.digest)], "meta": asset.meta,
    }  # fmt: skip


def as_text(data: dict[str, Any]) -> str:
    there = "" if data["there"] else "  (gone: longrein apply rebuilds it)"
    facts = {
        data["ref"]: " ".join(data["aliases"]),
        **({"note": data["note"]} if data["note"] else {}),
        "digest": data["digest"],
        "size": _text.size(data["bytes"]),
        "made": f"{_text.when(data['created_ms'])} ({_text.ago(data['created_ms'])})",
        "by run": data["run"][:12] or "–",
        "of": ", ".join(data["made_of"]) or "–",
        "used for": ", ".join(sorted({r for u in data["used_by"] for r in u["made"]})) or "–",
        "lies in": data["path"] + there,
    }
    parts = [_text.pairs(facts)]
    if data["verdicts"]:
        rows = [
            (f"gate {v['gate']}", "passed" if v["passed"] else "failed", "; ".join(v["reasons"]), v["actor"],
             _text.ago(v["created_ms"]))
            for v in data["verdicts"]
        ]  # fmt: skip
        parts.append(_text.table(rows))
    if data["meta"]:
        parts.append("\n".join(tree(data["meta"])))
    return "\n\n".join(parts)


def tree(value: Any, depth: int = 0) -> list[str]:
    """Nested data as indented lines; a table of numbers (a metric with its interval) on one line."""
    lines: list[str] = []
    for name, one in value.items() if isinstance(value, dict) else ((f"- {i}", v) for i, v in enumerate(value)):
        pad = "  " * depth
        if isinstance(one, dict) and one.keys() >= {"value", "low", "high"}:
            interval = f"{_text.number(one['value'])}  [{_text.number(one['low'])}, {_text.number(one['high'])}]"
            lines.append(f"{pad}{name}: {interval}" + (f"  n={one['n']}" if "n" in one else ""))
        elif isinstance(one, (dict, list)) and one and any(isinstance(v, (dict, list)) for v in _values(one)):
            lines.append(f"{pad}{name}:")
            lines += tree(one, depth + 1)
        elif isinstance(one, dict):
            lines.append(f"{pad}{name}: " + (", ".join(f"{k} {_leaf(v)}" for k, v in one.items()) or "–"))
        elif isinstance(one, list):
            lines.append(f"{pad}{name}: " + (", ".join(map(_leaf, one)) or "–"))
        else:
            lines.append(f"{pad}{name}: {_leaf(one)}")
    return lines


def _leaf(value: Any) -> str:
    """Digests shortened: the whole ones are in --json."""
    return DIGEST.sub(lambda found: found[0][:12], _text.number(value))


def _values(one: Any) -> list[Any]:
    return list(one.values() if isinstance(one, dict) else one)


def _card(workspace: "Workspace", asset: "Asset") -> str:
    path = Path(workspace.path(asset.ref)) / "README.md"
    if not path.is_file():
        raise Error("not_found", f"{asset.ref} has no card", "models have one")
    return path.read_text("utf-8").rstrip()
