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
@click.option("--card", is_flag=True, help="Print the card (README.md) of a model or dataset instead.")
@click.option("--page", type=click.Path(path_type=Path), help="Write a dataset's report there, as one HTML file.")
@click.option("--rejected", is_flag=True, help="Print rows that a dataset dropped, and why.")
@click.option("--reason", default="", help="Only rows dropped for this.")
@click.option("-n", "--limit", default=20, show_default=True, type=click.IntRange(1), help="So many of them.")
@click.option("--license", default="", help="For the card of a dataset: an SPDX name.")
@click.option("--lang", type=click.Choice(["en", "zh"]), default="en", show_default=True, help="Of card and page.")
@click.option("--no-texts", is_flag=True, help="Show no text of any row on card and page: to publish them.")
@click.option("--note", metavar="TEXT", help="Write a note on it, in place of the one before.")
@click.pass_obj
def command(
    session: Session, ref: str, card: bool, page: Path | None, rejected: bool, reason: str, limit: int, license: str,
    lang: str, no_texts: bool, note: str | None,
) -> None:  # fmt: skip
    workspace = session.workspace
    asset = workspace.asset(ref)
    if note is not None:
        workspace.note(ref, note)
    if page:
        _write_page(page, _profile(workspace, asset, no_texts), lang)
        session.show({"ref": asset.ref, "page": str(page)}, f"the report of {asset.ref} is in {page}")
        return
    if rejected or reason:
        _show_rejected(session, asset, reason, limit)
        return
    if card:
        told = (
            _data_card(workspace, asset, no_texts, lang, license)
            if asset.kind == "dataset"
            else _card(workspace, asset)
        )
        session.show({"ref": asset.ref, "card": told}, told)
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


def _data_card(workspace: "Workspace", asset: "Asset", no_texts: bool, lang: str, license: str) -> str:
    from longrein.data import card

    return card.markdown(_profile(workspace, asset, no_texts), lang, license).rstrip()


def _card(workspace: "Workspace", asset: "Asset") -> str:
    path = Path(workspace.path(asset.ref)) / "README.md"
    if not path.is_file():
        raise Error("not_found", f"{asset.ref} has no card", "models and datasets have one")
    return path.read_text("utf-8").rstrip()


def _write_page(page: Path, facts: dict[str, Any], lang: str) -> None:
    import yaml

    from longrein.data import page as report

    config = yaml.safe_dump(facts["config"], sort_keys=False, allow_unicode=True)
    page.write_text(report.html(facts, config, lang), "utf-8")


def _show_rejected(session: Session, asset: "Asset", reason: str, limit: int) -> None:
    from longrein.data import profile

    found = profile.rejected(session.workspace.store, _dataset(asset), reason, limit)
    rows = [(f"{r['source']}:{r['line']}", r["stage"], r["reason"], r["detail"], r["row"]) for r in found]
    shown = [tuple(_text.short(cell, 60) for cell in row) for row in rows]
    session.show(found, _text.table(shown, ("PLACE", "STEP", "REASON", "DETAIL", "ROW")) if rows else "no such rows")


def _profile(workspace: "Workspace", asset: "Asset", no_texts: bool) -> dict[str, Any]:
    from longrein.data import profile

    facts = profile.profile(workspace.ledger, workspace.store, _dataset(asset), workspace.root)
    return profile.without_texts(facts) if no_texts else facts


def _dataset(asset: "Asset") -> "Asset":
    if asset.kind != "dataset":
        raise Error("invalid", f"{asset.ref} is no dataset", "longrein ls datasets")
    return asset
