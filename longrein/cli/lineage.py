"""Show what an asset came from, or with --down what came from it: as a tree, an SVG picture or Mermaid."""

from pathlib import Path

import click

from longrein.cli._complete import refs
from longrein.cli.main import Session


@click.command(help=__doc__)
@click.argument("ref", shell_complete=refs)
@click.option("--down", is_flag=True, help="What came from it.")
@click.option("--svg", type=click.Path(dir_okay=False), metavar="FILE", help="Draw it into a file; - is stdout.")
@click.option("--mermaid", is_flag=True, help="Print it as Mermaid, for Markdown.")
@click.pass_obj
def command(session: Session, ref: str, down: bool, svg: str | None, mermaid: bool) -> None:
    from longrein.control import draw

    workspace = session.workspace
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
