"""Compare two versions: rows of datasets; settings, inputs and metrics of models, releases and the like."""

from typing import TYPE_CHECKING, Any

import click

from longrein.cli import _text
from longrein.cli._complete import refs
from longrein.cli.main import Session
from longrein.core.errors import Error

if TYPE_CHECKING:
    from longrein.workspace import Workspace


@click.command(help=__doc__)
@click.argument("before", shell_complete=refs)
@click.argument("after", shell_complete=refs)
@click.pass_obj
def command(session: Session, before: str, after: str) -> None:
    data = compare(session.workspace, before, after)
    session.show(data, as_text(data))


def compare(workspace: "Workspace", before: str, after: str) -> dict[str, Any]:
    one, other = workspace.asset(before), workspace.asset(after)
    if one.kind != other.kind:
        raise Error("invalid", f"{one.ref} and {other.ref} are of different kinds", "compare two versions of one kind")
    from longrein.models import registry

    data = registry.compare(workspace.ledger, one, other)
    if one.kind == "dataset":
        from longrein.data import version

        data["rows"] = version.diff(workspace.store, one.uri, other.uri)
    return data


def as_text(data: dict[str, Any]) -> str:
    before, after = data["refs"]
    if data["same"]:
        return f"{before} and {after} have the same content"
    parts = [_rows(data["rows"])] if "rows" in data else []
    for part in ("config", "inputs", "metrics", "meta"):
        rows = [
            (name, *(_text.short(_text.number(v), 50) for v in pair), _change(*pair))
            for name, pair in _leaves(data.get(part, {})).items()
        ]
        if rows and not (part == "meta" and "rows" in data):
            parts.append(_text.table(rows, (part, before, after, "")))
    return "\n\n".join(parts)


def _rows(rows: dict[str, Any]) -> str:
    """What happened to the rows, with samples, columns and counts."""
    before, after = rows["rows"]
    told = [f"{rows[what]:,} {what}" for what in ("added", "removed", "changed", "moved", "same")]
    lines = [f"{before:,} → {after:,} rows: {', '.join(told)}"]
    for what, sign in (("added", "+"), ("removed", "−"), ("moved", "↔"), ("changed", "≠")):
        for row in rows["samples"][what]:
            pair = [row["before"], row["after"]] if what == "changed" else [row]
            lines.append(f"  {sign} " + "  →  ".join(_text.short(_brief(r), 70) for r in pair))
    gone, come = rows["characters"]
    if gone or come:
        less, more = rows["tokens"]
        lines.append(f"{come:,} characters came, {gone:,} went: about {more:,} and {less:,} tokens")
    lines += [f"column {name} came" for name in rows["columns_added"]]
    lines += [f"column {name} went" for name in rows["columns_removed"]]
    lines += [f"column {name}: {' → '.join(types)}" for name, types in rows["columns_changed"].items()]
    for what in ("splits", "languages"):
        changed = {name: pair for name, pair in rows[what].items() if pair[0] != pair[1]}
        if changed:
            lines.append(f"{what}: " + ", ".join(f"{name} {a:,} → {b:,}" for name, (a, b) in changed.items()))
    return "\n".join(lines)


def _brief(row: dict[str, Any]) -> str:
    told = row.get("input", "") + (f" ⇒ {row['output']}" if row.get("output") else "")
    return f"{told} ({row['split']})" if row.get("split") else told


def _leaves(pairs: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Pairs of nested values as pairs of the leaves that differ."""
    found: dict[str, list[Any]] = {}
    for name, (a, b) in pairs.items():
        if isinstance(a, dict) or isinstance(b, dict):
            a, b = a if isinstance(a, dict) else {}, b if isinstance(b, dict) else {}
            inner = {k: [a.get(k), b.get(k)] for k in sorted(a.keys() | b.keys(), key=str) if a.get(k) != b.get(k)}
            found |= {f"{name}.{k}": v for k, v in _leaves(inner).items()}
        else:
            found[name] = [a, b]
    return found


def _change(before: Any, after: Any) -> str:
    numbers = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in (before, after))
    return f"{after - before:+.4g}" if numbers and before != after else ""
