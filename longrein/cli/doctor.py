"""Say what this machine and this project have and lack."""

from pathlib import Path

import click

from longrein.cli.main import Session
from longrein.core.errors import Error

MARKS = {"ok": "✓", "lacks": "–", "bad": "✗"}


@click.command(help=__doc__ + "\n\nExits with 1 when something is bad; what merely lacks is optional.")
@click.pass_obj
def command(session: Session) -> None:
    from longrein.control import doctor

    checks = list(doctor.machine(Path(session.project) if Path(session.project).is_dir() else Path.cwd()))
    try:
        workspace = session.workspace
    except Error:
        session.say("no project here: the machine alone was looked at")
    else:
        try:
            checks += doctor.project(workspace.ledger, workspace.home)
        except Error as error:
            checks.append(doctor.Check("ledger", "bad", error.message, error.hint))
    rows = [(MARKS[c.state], c.name, c.told + (f"\n{'':18}hint: {c.hint}" if c.hint else "")) for c in checks]
    session.show([vars(c) for c in checks], "\n".join(f"{mark} {name:<15} {told}" for mark, name, told in rows))
    bad = [c for c in checks if c.state == "bad"]
    if bad:
        raise Error("failed", f"{len(bad)} things are bad: {', '.join(c.name for c in bad)}", bad[0].hint)
