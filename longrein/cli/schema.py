"""Print the JSON Schema of longrein.yaml, for editors."""

import click

from longrein.cli.main import Session


@click.command(help=__doc__ + "\n\nFor example: longrein schema > .longrein/schema.json")
@click.pass_obj
def command(session: Session) -> None:
    from longrein.control import nouns

    session.json = True
    session.show(nouns.schema())
