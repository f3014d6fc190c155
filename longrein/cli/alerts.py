"""Show what is wrong: alerts that fire and that were, objectives and what is left of their budgets, channels."""

from typing import TYPE_CHECKING, Any

import click

from longrein.cli import _text
from longrein.cli.main import Session
from longrein.core.errors import Error, nearest

if TYPE_CHECKING:
    from longrein.core.ledger import Alert, Ledger

RECENT = 10  # that are over


@click.group(help=__doc__, invoke_without_command=True)
@click.option("-n", "--limit", default=RECENT, show_default=True, type=click.IntRange(0, 1000),
              help="How many to show of those that are over.")  # fmt: skip
@click.pass_context
def command(ctx: click.Context, limit: int) -> None:
    if ctx.invoked_subcommand is None:
        session: Session = ctx.obj
        data = describe(session.workspace.ledger, limit)
        session.show(data, as_text(data))


@command.command()
@click.argument("channel")
@click.pass_obj
def test(session: Session, channel: str) -> None:
    """Send a message to a channel of longrein.yaml, to see whether it arrives."""
    from longrein.core.ledger import now_ms
    from longrein.ops.monitor.channel import connect
    from longrein.ops.monitor.message import trial

    channels = session.workspace.spec.channels
    if channel not in channels:
        raise Error("not_found", f"there is no channel {channel[:100]!r} in longrein.yaml", nearest(channel, channels))
    config = channels[channel]
    found, secrets = connect(config)
    try:
        found.send(trial(channel, config.language, now_ms()))
    except Error as error:
        raise Error(
            error.code, secrets.hide(f"channel {channel}: {error.message}"), "check its url and options"
        ) from error
    session.show({"channel": channel, "sent": True}, f"channel {channel} took the message")


def describe(ledger: "Ledger", limit: int = RECENT) -> dict[str, Any]:
    from longrein.core.ledger import now_ms

    now = now_ms()
    silences = ledger.silences.active(now)
    return {
        "firing": [_as_data(a, any(s.covers(a) for s in silences)) for a in ledger.alerts.firing()],
        "recent": [_as_data(a, False) for a in ledger.alerts.recent(limit * 3 + 100) if not a.firing][:limit],
        "objectives": ledger.objectives.all(),
        "channels": ledger.notices.channels(now),
        "silences": silences,
    }


def as_text(data: dict[str, Any]) -> str:
    parts = ["\n".join(firing(data["firing"])) or "nothing fires"]
    if states := [(e, name, s) for e, found in data["objectives"].items() for name, s in found.items()]:
        heads = ("endpoint", "objective", "allowed", "budget left", "burns 1 h", "6 h", "3 d", "seen")
        parts.append(_text.table([_objective(*state) for state in states], heads))
    parts += [_channel(channel) for channel in data["channels"].values() if channel.waiting or channel.given_up]
    parts += [f"silence {s.id}: {s.about}, until {_text.when(s.end_ms)} ({s.reason})" for s in data["silences"]]
    if data["recent"]:
        rows = [(a["id"], a["kind"], _place(a), _text.ago(a["since_ms"]),
                 _text.duration((a["resolved_ms"] - a["since_ms"]) / 1000), _text.short(a["summary"], 80))
                for a in data["recent"]]  # fmt: skip
        parts.append(_text.table(rows, ("over", "kind", "where", "began", "took", "what it said")))
    return "\n\n".join(parts)


def firing(alerts: list[dict[str, Any]]) -> list[str]:
    """One line each."""
    return [
        f"{a['severity'].upper()}{' (silenced)' if a['silenced'] else ''} {a['id']}: {a['kind']} {_place(a)}, "
        f"{_text.ago(a['since_ms'])}: {_text.short(a['summary'], 200)}"
        for a in alerts
    ]


def _as_data(alert: "Alert", silenced: bool) -> dict[str, Any]:
    from longrein.ops.monitor.message import as_data

    return {**as_data(alert), "silenced": silenced}


def _place(alert: dict[str, Any]) -> str:
    return f"{alert['subject']} {alert['name']}".rstrip()


def _objective(endpoint: str, name: str, state: dict[str, Any]) -> tuple[str, ...]:
    from longrein.ops.monitor.message import times

    money = "usd_per_day" in state
    allowed = f"${state['usd_per_day']:g} a day" if money else f"{100 * state['budget']:.3g} %"
    left = f"{100 * state['budget_left']:.1f} %" if state["budget_left"] > 0 else "none"
    left += "" if state["complete"] else " …"  # older traffic is not read yet
    burns = (f"{times(state['burn_rates'][seconds])}x" for seconds in ("3600", "21600", "259200"))
    return endpoint, name, allowed, left, *burns, "–" if money else _text.number(state["events"])


def _channel(c: Any) -> str:
    lost = f"; {c.given_up} given up in the last day" if c.given_up else ""
    failing = f", failing since {_text.when(c.failing_ms)}: {c.error}" if c.failing_ms else ""
    return f"channel {c.name}: {c.waiting} notices wait{failing}{lost}"
