"""Explain an answer (its request id) or an asset: release, model, prompt, runs, dataset, source rows, who approved."""

from typing import Any

import click

from longrein.cli import _text
from longrein.cli._complete import refs
from longrein.cli.main import Session


@click.command(help=__doc__)
@click.argument("what", metavar="REQUEST|REF", shell_complete=refs)
@click.option("--text", default="", help="The request's text, where the log does not keep it: finds the rows like it.")
@click.option("--rows", default=5, show_default=True, help="How many source rows to show.")
@click.option("--row", default="", metavar="ID|FILE:LINE", help="Of a dataset: where this row came from.")
@click.pass_obj
def command(session: Session, what: str, text: str, rows: int, row: str) -> None:
    if row:
        from longrein.data import trace

        workspace = session.workspace
        traced = trace.row(workspace.ledger, workspace.store, workspace.dataset_asset(what), row)
        session.show(traced, row_as_text(traced))
        return
    found = session.workspace.why(what, text=text, rows=rows)
    session.show(found, as_text(found))


def as_text(found: dict[str, Any]) -> str:
    parts = []
    if request := found.get("request"):
        parts.append(_request(request))
        parts += [_said(f) for f in found.get("feedback", [])]
    if release := found.get("release"):
        parts.append(_release(release, found))
        parts += [_side(found["rollout"])] if found.get("rollout") else []
    elif "request" in found:
        parts.append("no release answered it")
    parts += [_asset(a, found) for a in found.get("assets", []) if a["ref"] != (release or {}).get("ref")]
    if found.get("rows"):
        parts.append(_rows(found["rows"]))
    elif found.get("assets"):
        parts.append("its text is not in the log: --text TEXT finds the training rows most like it")
    return "\n".join(parts)


def _request(r: dict[str, Any]) -> str:
    took = f"{r['total_ms']:.0f} ms, {r['prompt_tokens']} + {r['completion_tokens']} tokens, status {r['status']}"
    lines = [f"request {r['id']}", f"  {_text.when(r['ts_ms'])} at endpoint {r['endpoint'] or '–'}: {took}"]
    if r["input"]:
        lines += [f"  asked     {_text.short(r['input'], 100)}", f"  answered  {_text.short(r['output'] or '', 100)}"]
    return "\n".join(lines)


def _said(f: dict[str, Any]) -> str:
    value = f"{f['name']} {_text.number(f['value'])}" if f["value"] is not None else "a comment"
    return f"  feedback  {value} ({_text.when(f['ts_ms'])}) {_text.short(f['comment'], 80)}".rstrip()


def _side(r: dict[str, Any]) -> str:
    what = f"{r['strategy']} of {r['candidate']} against {r['stable']}, {r['status'].replace('_', ' ')}"
    return f"  as {r['arm']} of rollout {r['id']}: {what}"


def _release(release: dict[str, Any], found: dict[str, Any]) -> str:
    lines = [f"release {release['ref']}  digest {release['digest'][:12]}"]
    for gate in found.get("gates", []):
        word = "passed" if gate["passed"] else "failed"
        lines.append(
            f"  gate {gate['gate']} {word}: {'; '.join(gate['reasons'])}  ({gate['by']}, {_text.when(gate['at_ms'])})"
        )
    for move in found.get("promotions", []):
        word = "rolled back to" if move["kind"] == "alias.rolled_back" else "put into production"
        why = f": {move['reason']}" if move.get("reason") else ""
        lines.append(f"  {word} by {move['by']}, {_text.when(move['at_ms'])}{why}")
    return "\n".join(lines)


def _asset(asset: dict[str, Any], found: dict[str, Any]) -> str:
    kind, _, name = asset["ref"].partition(":")
    run = next((r for r in found.get("runs", []) if r["id"] == asset["run"]), None)
    lines = [f"{kind} {name}  digest {asset['digest'][:12]}"]
    if run:
        of = f" from {', '.join(run['inputs'])}" if run["inputs"] else ""
        cost = f", {_text.money(run['cost_usd'])}" if run["cost_usd"] else ""
        lines.append(f"  made by run {run['id'][:12]} ({run['capability']}, {_text.duration(run['wall_s'])}{cost}){of}")
    meta = asset["meta"]
    if kind == "dataset":
        files = ", ".join(s["path"] for s in meta.get("sources", [])[:5])
        dropped = ", ".join(f"{n:,} {reason}" for reason, n in meta.get("dropped", {}).items()) or "none"
        lines.append(
            f"  {meta.get('rows', 0):,} rows kept of {meta.get('rows_in', 0):,} from {files}; dropped: {dropped}"
        )
    elif kind == "prompt":
        lines.append(f"  “{_text.short(meta.get('system', ''), 100)}”")
    elif kind == "report" and meta.get("metrics"):
        lines.append("  " + ", ".join(f"{k} {_text.number(v['value'])}" for k, v in meta["metrics"].items()))
    return "\n".join(lines)


def _rows(rows: list[dict[str, Any]]) -> str:
    table = [
        (
            f"  {r['similarity']:.2f}",
            f"{r['source']}:{r['line']}",
            _text.short(r["input"], 70),
            f"⇒ {_text.short(r['output'] or '', 40)}",
        )
        for r in rows
    ]
    return "training rows most like the request (a similarity, not a proof of cause):\n" + _text.table(table)


def row_as_text(found: dict[str, Any]) -> str:
    lines = []
    for row in found["rows"]:
        touched = row.get("touched", "").replace(",", ", ") or "none"
        lines += [
            f"row {row['row_id']} of {found['ref']}  ({row.get('split') or '–'})",
            f"  {_text.short(row['input'], 90)}"
            + (f" ⇒ {_text.short(row['output'], 40)}" if row.get("output") else ""),
            f"  from {row['source']}:{row['line']}, a file with the digest {(row['source_digest'] or '')[:12]}",
            f"  changed by {touched}; in this dataset since {row['since']}",
        ]
    if run := found["run"]:
        lines.append(
            f"made by run {run['id'][:12]} ({run['capability']}, {run['by']}, {_text.when(run['started_ms'])})"
        )
    lines.append(f"used by {', '.join(found['used_by']) or 'nothing yet'}")
    return "\n".join(lines)
