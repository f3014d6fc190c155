"""Show how a release moves into an endpoint's traffic, and the ones before it; hold it, or let it go on."""

import click

from longrein.cli import _rollout
from longrein.cli.main import Session


@click.command(help=__doc__)
@click.argument("endpoint")
@click.option("--pause", is_flag=True, help="Hold it where it is. It is still taken back if it proves worse.")
@click.option("--resume", is_flag=True, help="Let it go on.")
@click.option("--reason", default="", help="Why, for the audit trail.")
@click.option("-n", "--limit", default=5, show_default=True, type=click.IntRange(1, 1000), help="How many to show.")
@click.pass_obj
def command(session: Session, endpoint: str, pause: bool, resume: bool, reason: str, limit: int) -> None:
    if pause and resume:
        raise click.UsageError("--pause or --resume, not both")
    if pause or resume:
        session.workspace.pause(endpoint, pause, reason=reason)
    found = session.workspace.rollouts(endpoint, limit)
    session.show(
        found, "\n\n".join(map(_rollout.as_text, found)) or f"no release was rolled out to {endpoint} in steps"
    )
