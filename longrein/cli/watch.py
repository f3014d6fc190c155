"""Watch what gateways answer: alerts, drift, rules. `serve` and `up` do so by themselves, unless told --no-watch."""

import click

from longrein.cli import _serving
from longrein.cli.main import Session


@click.command(help=__doc__)
@click.option("--child", is_flag=True, hidden=True)
@click.pass_obj
def command(session: Session, child: bool) -> None:
    from longrein.control.observer import Observer
    from longrein.core.worker import die_with_parent

    workspace = session.workspace
    with _serving.until_signal() as asked:
        if child:
            die_with_parent()
        else:
            session.say(f"watching {workspace.file}; Ctrl-C stops")
        Observer(workspace.ledger, workspace.store, workspace.root, actor="observer").run(asked)
