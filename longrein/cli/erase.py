"""Take a person out of the request log, out of what was said of their answers, and out of the files of batches."""

import click

from longrein.cli.main import Session


@click.command(help=__doc__)
@click.option("--user", default="", help="Whom requests named as their `user`.")
@click.option("--session", "session_", default="", help="Or one session of requests.")
@click.option("-n", "--dry-run", is_flag=True, help="Say what would go, and erase nothing.")
@click.pass_obj
def command(session: Session, user: str, session_: str, dry_run: bool) -> None:
    """The audit trail keeps a digest of the name, and the counts."""
    if bool(user) == bool(session_):
        raise click.UsageError("name either --user or --session")
    found = session.workspace.erase(user=user, session=session_, dry_run=dry_run)
    head = "would erase (longrein erase without --dry-run does)" if dry_run else "erased"
    counts = f"{found['requests']:,} requests, {found['feedback']:,} judgements, {found['lines']:,} lines of batches"
    session.show(found, f"{head}: {counts}")
    if found["left"]:
        session.say(f"still under way, so erase again when they have ended: {', '.join(found['left'])}")
