"""Show what answers cost and what they bring, by endpoint, release, team, user, feature, day."""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

from longrein.cli import _text
from longrein.cli._complete import refs
from longrein.cli.logs import since_ms
from longrein.cli.main import Session
from longrein.core.errors import Error

if TYPE_CHECKING:
    from longrein.ops.value.report import Line, Report

DAY_MS = 86_400_000


@click.group(help=__doc__, invoke_without_command=True)
@click.option("--since", default="7d", show_default=True, metavar="AGE", help="30s, 10m, 2h or 7d.")
@click.option(
    "--by", default="endpoint", show_default=True, metavar="WHAT",
    help="endpoint, release, model, engine, team, key, user, session, hour, day; else a tag's name, such as feature.",
)  # fmt: skip
@click.option(
    "--with", "more", multiple=True, type=click.Choice(["idle", "training"]),
    help="Each answer bears its share of idle time, of the steps that made its release; repeatable.",
)  # fmt: skip
@click.option(
    "--answers", default=0, metavar="N", help="With training: the answers planned, if more than there are so far."
)
@click.option("--top", default=20, show_default=True, metavar="N", help="So many groups; the others are one row.")
@click.option("--csv", "as_csv", is_flag=True, help="Every number, as CSV.")
@click.option("--focus", is_flag=True, help="CSV with the columns of FOCUS 1.2, a row for each group and day.")
@click.pass_context
def command(
    context: click.Context, /, since: str, by: str, more: tuple[str, ...], answers: int, top: int, as_csv: bool,
    focus: bool,
) -> None:  # fmt: skip
    if context.invoked_subcommand:
        return
    session: Session = context.obj
    start_ms = since_ms(since)
    options: dict[str, Any] = {"idle": "idle" in more, "training": "training" in more, "answers": answers}
    if focus:
        days = session.workspace.cost_by_day(by, start_ms, **options)
        click.echo(to_focus(days, session.workspace.spec.project), nl=False)
        return
    report = session.workspace.cost(by, start_ms, most=1_000_000 if as_csv else max(top, 1), **options)
    if as_csv:
        click.echo(to_csv(report), nl=False)
    else:
        session.show(report, as_text(report))


@command.command("what-if")
@click.argument("endpoint", shell_complete=refs)
@click.option("--since", default="7d", show_default=True, metavar="AGE", help="Measured since: 30s, 10m, 2h or 7d.")
@click.option("--usd-per-hour", type=click.FloatRange(0, 1e6), help="Of another machine.")
@click.option("--speed", default=1.0, type=click.FloatRange(1e-3, 1e6), help="Of that one: times as fast as now.")
@click.option("--price", default="", metavar="IN,OUT", help="Of an API: USD a million tokens read, and written.")
@click.option("--try", "model", default="", metavar="MODEL", help="Measure this model here, now: support@3.")
@click.option("--engine", default="", help="Measure it, or the model of now, with another engine.")
@click.option("--option", "options", multiple=True, metavar="NAME=VALUE", help="Of the engine: dtype=int8; repeatable.")
@click.pass_obj
def what_if(
    session: Session, /, endpoint: str, since: str, usd_per_hour: float | None, speed: float, price: str, model: str,
    engine: str, options: tuple[str, ...],
) -> None:  # fmt: skip
    """Price alternatives from measured figures: a cache, fuller engines, another model, machine or API."""
    from longrein.ops.value.whatif import Machine

    machine = None if usd_per_hour is None else Machine(usd_per_hour, speed)
    found = session.workspace.what_if(
        endpoint, since_ms(since), machine=machine, price=_price(price), model=model, engine=engine,
        options=_options(options),
    )  # fmt: skip
    rows = [(one.what, _money(one.usd_per_1k), "" if one.what == "now" else f"{one.change:+.0%}") for one in found]
    table = _text.table(rows, ("what if", "per 1k", "change"))
    session.show(found, table + "\n\n" + "\n".join(f"{one.what}: {one.assumes}" for one in found))


def _price(text: str) -> Any:
    import msgspec

    from longrein.core.limit import Price

    try:
        read, written = map(float, text.split(",")) if text else (None, None)
        return msgspec.convert({"input_usd_per_mtok": read, "output_usd_per_mtok": written}, Price) if text else None
    except ValueError:
        raise Error("invalid", f"--price cannot be {text[:50]!r}", "write --price 0.15,0.60") from None


def _options(texts: Sequence[str]) -> dict[str, Any]:
    """Errors: `invalid`."""
    import msgspec

    found: dict[str, Any] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not name or not sign:
            raise Error("invalid", f"--option cannot be {text[:50]!r}", "write --option dtype=int8")
        try:
            found[name] = msgspec.json.decode(value)
        except msgspec.DecodeError:
            found[name] = value
    return found


def as_text(report: "Report") -> str:
    if not report.lines and report.bill_usd is None:
        return "\n".join(["nothing was asked in that time", *_notes(report)])
    lines = [*report.lines, report.total] if len(report.lines) > 1 else report.lines
    columns = _columns(lines)
    heads = (report.by, *(head for head, _ in columns))
    parts = [
        _text.table([(_text.short(line.group, 40), *(show(line) for _, show in columns)) for line in lines], heads)
    ]
    rest = [(one.what, _money(one.usd), one.why) for one in report.rest]
    if report.bill_usd is not None:
        busy = f"engines lived {_text.duration(report.alive_s)} and worked {_text.duration(report.busy_s)}"
        rest.append(("the bill", _money(report.bill_usd), f"of the hardware: {busy}"))
    rest += [(one.what, _money(one.usd), one.why) for one in report.steps]
    return "\n\n".join(filter(None, [*parts, _text.table(rest), "\n".join(_notes(report))]))


def _columns(lines: Sequence["Line"]) -> list[tuple[str, Any]]:
    """(head, cell) of those that say something here."""
    every: list[tuple[str, Any, bool]] = [
        ("requests", lambda one: f"{one.requests:,}", True),
        ("tokens", lambda one: f"{one.tokens_in:,} + {one.tokens_out:,}", True),
        ("cost", _cost, True),
        ("reading", lambda one: _money(one.prefill_usd), any(one.prefill_usd for one in lines)),
        ("writing", lambda one: _money(one.decode_usd), any(one.decode_usd for one in lines)),
        ("by tokens", lambda one: _money(one.tokens_usd), any(one.tokens_usd for one in lines)),
        ("idle", lambda one: _money(one.idle_usd), any(one.idle_usd for one in lines)),
        ("training", lambda one: _money(one.training_usd), any(one.training_usd for one in lines)),
        ("saved", lambda one: _money(one.saved_usd), any(one.saved_usd for one in lines)),
        ("per 1k", lambda one: _money(one.usd_per_1k), True),
        ("value", lambda one: _money(one.value_usd), any(one.value_usd for one in lines)),
        ("margin", lambda one: _money(one.margin_usd), any(one.value_usd for one in lines)),
        ("per success", lambda one: _money(one.usd_per_success), any(one.value_usd for one in lines)),
    ]
    return [(head, show) for head, show, wanted in every if wanted]


def _cost(line: "Line") -> str:
    """Unknown is not nothing."""
    if not line.unknown:
        return _money(line.cost_usd)
    return f"{_money(line.cost_usd)} + {line.unknown:,} unknown" if line.cost_usd else "unknown"


def _money(usd: float | None) -> str:
    return "–" if usd is None else f"-{_text.money(-usd)}" if usd < 0 else _text.money(usd)


def _notes(report: "Report") -> list[str]:
    return [f"note: {note}" for note in report.notes]


def to_csv(report: "Report") -> str:
    import msgspec

    rows = [{**msgspec.structs.asdict(line), "endpoints": " ".join(line.endpoints)} for line in report.lines]
    rest = [{"group": one.what, "cost_usd": one.usd} for one in (*report.rest, *report.steps)]
    names = [name for name in type(report.total).__struct_fields__]
    return _written([*rows, *rest], names)


def to_focus(days: Iterable["Report"], project: str) -> str:
    from longrein.ops.value import focus

    return _written((row for day in days for row in focus.rows(day, project)), focus.COLUMNS)


def _harmless(value: Any) -> Any:
    """A spreadsheet would run what begins like a formula, and clients name their tags and users."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def _written(rows: Iterable[dict[str, Any]], names: Sequence[str]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _harmless(value) for name, value in row.items()} for row in rows)
    return out.getvalue()
