"""Show the rules, what they did last and when they come next; fire one by hand."""

import os
from typing import TYPE_CHECKING, Any

import click

from longrein.cli import _text
from longrein.cli.main import Session
from longrein.core.errors import Error, nearest

if TYPE_CHECKING:
    from longrein.workspace import Workspace

HEADS = ("rule", "on", "endpoint", "does", "last", "next")
STATES = {"RUNNING": "at work", "FINISHED": "done", "FAILED": "failed", "KILLED": "given up"}


@click.group(help=__doc__, invoke_without_command=True)
@click.option("-n", "--limit", default=10, show_default=True, type=click.IntRange(1, 1000), help="Firings to show.")
@click.pass_context
def command(ctx: click.Context, limit: int) -> None:
    if ctx.invoked_subcommand is None:
        session: Session = ctx.find_root().obj
        data = describe(session.workspace, limit)
        session.show(data, as_text(data))


@command.command()
@click.argument("name")
@click.option("--endpoint", default="", help="For this endpoint, where the rule names none.")
@click.option("--dry-run", is_flag=True, help="Say what it would do, and what holds it back.")
@click.pass_obj
def run(session: Session, name: str, endpoint: str, dry_run: bool) -> None:
    """Fire a rule now, and stay with it until it is done."""
    from longrein.control.rules import act, due, firing
    from longrein.control.rules.rule import OF_ENDPOINT
    from longrein.core.ledger import now_ms

    workspace = session.workspace
    spec = workspace.spec
    if name not in spec.rules:
        raise Error("not_found", f"there is no rule {name!r}", nearest(name, spec.rules))
    if endpoint and endpoint not in spec.endpoints:
        raise Error("not_found", f"there is no endpoint {endpoint!r}", nearest(endpoint, spec.endpoints))
    rule, now = spec.rules[name], now_ms()
    if not (rule.endpoint or endpoint) and any(action in OF_ENDPOINT for action, _ in rule.actions):
        raise Error("invalid", f"{name} names no endpoint", f"longrein rules run {name} --endpoint NAME")
    cause = due.Cause(f"hand:{now}:{os.getpid()}", rule.on or "schedule", endpoint, "fired by hand", now, now)
    if dry_run:
        _, held = due.decide(name, rule, [cause], firing.past(workspace.ledger, name, rule, now), now)
        would, why = [_words(*one) for one in rule.actions], held[0].why if held else ""
        text = "\n".join([f"{name} would", *(f"  {i}. {one}" for i, one in enumerate(would, 1))])
        session.show({"rule": name, "would": would, "held": why}, text + (f"\nnot by itself now: {why}" if why else ""))
        return
    keys, _ = firing.fire(workspace.ledger, name, rule, [cause], actor=workspace.actor, now=now, by_hand=True)
    place = act.Place(workspace.ledger, workspace.store, workspace.root)
    done = act.run(place, keys[0])
    if done is None:
        raise Error("conflict", f"an observer took {name} over", "longrein rules")
    found = firing.as_data(firing.read(workspace.ledger, workspace.ledger.runs.get(done.run.id)))
    session.show(found, _firing(found))
    if found["error"]:
        raise Error.from_dict(found["error"])


@command.command(hidden=True)
@click.argument("key")
@click.pass_obj
def resume(session: Session, key: str) -> None:
    from longrein.control.rules import act
    from longrein.core.worker import die_with_parent

    die_with_parent()
    os.nice(int(os.environ.get("LONGREIN_NICE", "0")))
    workspace = session.workspace
    act.run(act.Place(workspace.ledger, workspace.store, workspace.root), key)


def describe(workspace: "Workspace", limit: int = 10) -> dict[str, Any]:
    """The rules as last applied, each with its last firing, what holds it back and when it comes next."""
    from longrein.control import nouns
    from longrein.control.rules import due, firing, observe
    from longrein.core.ledger import now_ms

    ledger, now = workspace.ledger, now_ms()
    wanted = ledger.work.wanted()
    spec = nouns.restore(wanted) if wanted else workspace.spec
    rules, causes = [], observe.found(ledger, now)
    for name, rule in spec.rules.items():
        last = firing.recent(ledger, name, 1)
        _, held = due.decide(name, rule, causes, firing.past(ledger, name, rule, now), now)
        rules.append({
            "rule": name, "on": rule.trigger, "endpoint": rule.endpoint, "do": [_words(*one) for one in rule.actions],
            "last": firing.as_data(last[0]) if last else None, "next_ms": due.next_moment(rule, now),
            "held": [{"why": h.why, "until_ms": h.until_ms, "cause": h.cause.summary} for h in held],
        })  # fmt: skip
    return {"rules": rules, "firings": [firing.as_data(f) for f in firing.recent(ledger, limit=limit)]}


def as_text(data: dict[str, Any]) -> str:
    if not data["rules"]:
        return "longrein.yaml has no rules, or was not applied yet"
    rows = [
        (r["rule"], r["on"], r["endpoint"] or "any", ", ".join(r["do"]), _last(r["last"]), _next(r))
        for r in data["rules"]
    ]
    return "\n\n".join([_text.table(rows, HEADS), *map(_firing, data["firings"])])


def _last(last: dict[str, Any] | None) -> str:
    return f"{STATES[last['status']]} {_text.ago(last['ended_ms'] or last['started_ms'])}" if last else "never"


def _next(rule: dict[str, Any]) -> str:
    if rule["held"]:
        why, until = rule["held"][0]["why"], rule["held"][0]["until_ms"]
        return f"{why}, until {_text.when(until)}" if until else str(why)
    return _text.when(rule["next_ms"]) if rule["next_ms"] else "when it happens"


def _firing(f: dict[str, Any]) -> str:
    head = f"{f['rule']} {STATES[f['status']]}, {_text.ago(f['started_ms'])}: {f['why']}"
    lines = [head + (f" (endpoint {f['endpoint']})" if f["endpoint"] else "") + f"  run {f['run'][:12]}"]
    for action in f["actions"]:
        mark = "✓" if action["done"] else "·"
        lines.append(f"  {mark} {action['do']}" + (f": {action['done']}" if action["done"] else ""))
    lines += [f"  now: {f['now']}"] if f["now"] and f["status"] == "RUNNING" else []
    lines += [f"  error: {f['error']['message']}"] if f["error"] else []
    return "\n".join(lines)


def _words(name: str, options: Any) -> str:
    if name == "notify":
        return f"notify {options}"
    if name == "collect":
        return f"collect {options.at_least} to {options.limit} requests into {options.into}"
    return f"shift {options.weight:g} %" if name == "shift" else name
