"""Take an endpoint back to its previous release, or to one it served before: model, prompt, engine and all."""

import click

from longrein.cli.main import Session


@click.command(help=__doc__)
@click.argument("endpoint")
@click.option(
    "--to", default="", metavar="VERSION", help="The release's version number; the previous one if not given."
)
@click.option("--reason", default="", help="Why, for the audit trail.")
@click.pass_obj
def command(session: Session, endpoint: str, to: str, reason: str) -> None:
    asset = session.workspace.rollback(endpoint, to, reason=reason)
    data = {"endpoint": endpoint, "ref": asset.ref, "digest": asset.digest}
    session.show(data, f"endpoint {endpoint} serves {asset.ref} again")
