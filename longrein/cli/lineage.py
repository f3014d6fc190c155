"""Show what an asset came from, or with --down what came from it: as a tree, an SVG picture or Mermaid."""

from pathlib import Path
from typing import Any

import click

from longrein.cli import _text
from longrein.cli._complete import refs
from longrein.cli.main import Session


@click.command(help=__doc__)
@click.argument("ref", shell_complete=refs)
@click.option("--down", is_flag=True, help="What came from it.")
@click.option("--svg", type=click.Path(dir_okay=False), metavar="FILE", help="Draw it into a file; - is stdout.")
@click.option("--mermaid", is_flag=True, help="Print it as Mermaid, for Markdown.")
@click.option("--rows", is_flag=True, help="Of a dataset: what became of each source's rows.")
@click.option("--source", default="", metavar="FILE[:LINE]", help="Of a dataset: the rows that came from there.")
@click.pass_obj
def command(session: Session, ref: str, down: bool, svg: str | None, mermaid: bool, rows: bool, source: str) -> None:
    workspace = session.workspace
    if rows or source:
        from longrein.data import trace

        traced = trace.sources(workspace.store, workspace.dataset_asset(ref), source)
        session.show(traced, _rows(traced) if source else _sources(traced))
        return
    from longrein.control import draw

    direction = "down" if down else "up"
    found = workspace.lineage(ref, direction)
    runs = workspace.ledger.runs.many(found.runs)
    drawn = draw.graph(found, runs)
    if mermaid:
        session.show(draw.as_data(found), draw.mermaid(drawn).rstrip())
    elif svg == "-":
        click.echo(draw.svg(drawn, _title(found.assets[0].ref, down)), nl=False)
    elif svg:
        Path(svg).write_text(draw.svg(drawn, _title(found.assets[0].ref, down)), "utf-8")
        session.show(draw.as_data(found) | {"file": svg}, f"drawn into {svg}")
    else:
        session.show(draw.as_data(found), "\n".join(draw.tree(found, runs, direction)))


def _title(ref: str, down: bool) -> str:
    return f"What came from {ref}" if down else f"What {ref} came from"


def _sources(traced: dict[str, Any]) -> str:
    rows = [
        (s["source"], s["digest"][:12] or "–", _text.number(s["rows"]), _text.number(s["kept"]),
         ", ".join(f"{n:,} {reason}" for reason, n in s["dropped"].items()) or "–")
        for s in traced["sources"]
    ]  # fmt: skip
    return _text.table(rows, ("source", "digest", "rows", "kept", "dropped"))


def _rows(traced: dict[str, Any]) -> str:
    kept = [
        (
            f"{r['source']}:{r['line']}",
            r["row_id"][:12],
            r["split"],
            r.get("touched") or "–",
            _text.short(r["input"], 60),
        )
        for r in traced["kept"]
    ]
    gone = [
        (
            f"{r['source']}:{r['line']}",
            "dropped",
            r["stage"],
            r["reason"],
            _text.short(r["detail"] or r["row"] or "", 60),
        )
        for r in traced["dropped"]
    ]
    return _text.table(kept + gone, ("place", "row", "split", "changed by", "text"))
