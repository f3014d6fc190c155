"""Serve what is in production, on 127.0.0.1 unless told otherwise; Ctrl-C finishes what is under way and ends."""

import click

from longrein.cli import _serving
from longrein.cli.main import Session


@click.command(help=__doc__)
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="0: any free one.")
@_serving.workers
@_serving.watch
@click.option("--worker", default="", hidden=True, help="SOCKET,PIPE: be one of several, as their parent says.")
@click.pass_obj
def command(session: Session, host: str, port: int, workers: int, watch: bool, worker: str) -> None:
    workspace = session.workspace
    if worker:
        _serving.work(workspace, host, worker)
        return
    with (
        _serving.until_signal() as asked,
        _serving.started(workspace, host, port, workers=workers, watch=watch, moved=_serving.tell(session)) as gateway,
    ):
        _serving.announce(session, workspace, gateway)
        _serving.states(session, gateway, asked)
        while not asked.wait(_serving.CHECK_S):
            gateway.check()
        session.say("stopping")
