"""Apply, then keep serving and keep watch: what changes in longrein.yaml or the data is applied as it changes."""

from typing import TYPE_CHECKING

import click

from longrein.cli import _progress, _serving
from longrein.cli.main import Session, complain
from longrein.core.errors import Error

if TYPE_CHECKING:
    from longrein.workspace import Workspace

EVERY_S = 2.0


@click.command(help=__doc__)
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="0: any free one.")
@_serving.workers
@_serving.watch
@click.pass_obj
def command(session: Session, host: str, port: int, workers: int, watch: bool) -> None:
    from longrein.control.watch import Watch

    workspace = session.workspace
    workspace.spec  # noqa: B018 - a broken file ends it here, before anything starts
    moved = _serving.tell(session)
    with _serving.started(workspace, host, port, workers=workers, watch=watch, moved=moved) as gateway:
        _serving.announce(session, workspace, gateway)
        changes = Watch(workspace.ledger, workspace.file)
        told = apply(session, workspace, "", retry=True)
        gateway.refresh()
        _serving.states(session, gateway)
        session.say(f"watching {workspace.file.name}, its sources and the ledger; Ctrl-C stops")
        with _serving.until_signal() as asked:
            while not asked.wait(EVERY_S):
                gateway.check()
                if changes.moved():
                    told = apply(session, workspace, told, retry=False)
        session.say("stopping")


def apply(session: Session, workspace: "Workspace", told: str, *, retry: bool) -> str:
    """Apply and say how it went; what goes wrong is told, unless it was `told` already, and serving goes on."""
    from longrein.cli.apply import check, summary

    try:
        with _progress.watcher(session) as progress:
            plan = workspace.apply(progress, retry=retry)
        if progress.done or progress.failed or retry:
            session.say(summary(plan, progress))
        check(plan, progress)
    except Error as error:
        if error.message != told:
            complain(error)
        return error.message
    return ""
