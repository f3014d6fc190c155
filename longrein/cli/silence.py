"""Tell nobody of some alerts for a while; without arguments, show the silences in force."""

import re

import click

from longrein.cli import _text
from longrein.cli.logs import UNITS
from longrein.cli.main import Session
from longrein.core.errors import Error


@click.command(help=__doc__)
@click.argument("what", nargs=-1, metavar="[ALERT | KIND] [SUBJECT] [NAME]")
@click.option("--all", "everything", is_flag=True, help="All alerts.")
@click.option("--for", "age", default="2h", show_default=True, metavar="TIME", help="For 30s, 10m, 2h or 7d.")
@click.option("--reason", default="", help="Why, for the audit trail.")
@click.option("--end", type=int, metavar="ID", help="End this silence now.")
@click.pass_obj
def command(session: Session, what: tuple[str, ...], everything: bool, age: str, reason: str, end: int | None) -> None:
    """WHAT: the number of an alert that fires; or a kind (slo_burning), a subject (endpoint:support), and a name."""
    workspace = session.workspace
    silences = workspace.ledger.silences
    if sum((bool(what), everything, end is not None)) > 1:
        raise click.UsageError("name alerts, or --all, or --end ID")
    if end is not None:
        ended = silences.end(end, actor=workspace.actor)
        session.show(ended, f"silence {end} of {ended.about} has ended")
    elif what or everything:
        kind, subject, name = _about(session, what)
        made = silences.add(kind, subject, name, for_s=_seconds(age), reason=reason, actor=workspace.actor)
        session.show(made, f"silence {made.id}: nobody is told of {made.about} until {_text.when(made.end_ms)}")
    else:
        from longrein.core.ledger import now_ms

        found = silences.active(now_ms())
        rows = [(s.id, s.about, _text.when(s.end_ms), s.actor, s.reason) for s in found]
        heads = ("silence", "of", "until", "by", "reason")
        session.show(found, _text.table(rows, heads) if rows else "nothing is silenced")


def _about(session: Session, what: tuple[str, ...]) -> tuple[str, str, str]:
    """Kind, subject and name; "" is any."""
    if len(what) == 1 and what[0].isdecimal():
        found = next((a for a in session.workspace.ledger.alerts.firing() if a.id == int(what[0])), None)
        if found is None:
            raise Error("not_found", f"no alert {what[0]} fires", "longrein alerts")
        return found.kind, found.subject, found.name
    words = list(what)
    kind = words.pop(0) if words and ":" not in words[0] else ""
    subject = words.pop(0) if words and ":" in words[0] else ""
    if words and not subject:
        raise Error("invalid", f"{words[0][:100]!r} is no subject", "write kind:name, as in endpoint:support")
    return kind, subject, " ".join(words)


def _seconds(age: str) -> float:
    found = re.fullmatch(r"(\d{1,6})([smhd])", age)
    if not found:
        raise Error("invalid", f"--for cannot be {age[:50]!r}", "write 30s, 10m, 2h or 7d")
    return float(int(found[1]) * UNITS[found[2]])
