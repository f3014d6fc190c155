"""Show what endpoints were asked and how they did: requests, errors, tokens, percentiles, quality, cost."""

import csv
import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from longrein.cli import _text
from longrein.cli.logs import UNITS, since_ms
from longrein.cli.main import Session
from longrein.core.errors import Error

if TYPE_CHECKING:
    from longrein.workspace import Workspace

HEADS = (
    "requests", "per s", "errors", "refusals", "tokens", "latency", "first token", "per token", "queue", "cost",
    "quality",
)  # fmt: skip


@click.command(help=__doc__)
@click.argument("endpoint", default="")
@click.option("--since", default="1h", show_default=True, metavar="AGE", help="30s, 10m, 2h or 7d.")
@click.option("--by", default="", metavar="release|team", help="One row for each; both with a comma between.")
@click.option("--step", default="", metavar="AGE", help="One row for each so much of the time.")
@click.option("--machine", is_flag=True, help="How the machines and engines were, in place of requests.")
@click.option("--csv", "as_csv", is_flag=True, help="Every number, as CSV.")
@click.pass_obj
def command(
    session: Session, /, endpoint: str, since: str, by: str, step: str, machine: bool, as_csv: bool
) -> None:  # fmt: skip
    groups = ("endpoint", *(name.strip() for name in by.split(",") if name.strip() not in ("", "endpoint")))
    workspace = session.workspace
    _check(workspace, endpoint)
    rows = workspace.monitor(since_ms(since), endpoint=endpoint, by=groups, step_ms=_length_ms(step), machine=machine)
    if as_csv:
        click.echo(to_csv(rows), nl=False)
    elif machine:
        session.show(rows, gauges(rows, bool(step)) or "nothing was sampled in that time: does a gateway run?")
    else:
        session.show(rows, table(rows, groups, bool(step)) or "nothing was asked in that time")


def table(rows: Sequence[dict[str, Any]], groups: Sequence[str], steps: bool) -> str:
    """Percentiles stand as p50 / p95 / p99."""
    shown = [row for row in rows if row["requests"] or row["scores"]]
    if not shown:
        return ""
    lines = [[*_where(row, groups, steps), *cells(row)] for row in shown]
    return _text.table(lines, (*(["from"] if steps else []), *groups, *HEADS))


def cells(row: dict[str, Any]) -> list[str]:
    return [
        _text.number(row["requests"]), _rate(row["requests_per_s"]), share(row["errors"], row["requests"]),
        share(row["refusals"], row["requests"]), f"{short(row['tokens_in'])} + {short(row['tokens_out'])}",
        *(percentiles(row, name) for name in ("latency", "first_token", "token", "queue")),
        _text.money(row["cost_usd"]), quality(row["scores"]),
    ]  # fmt: skip


def gauges(rows: Sequence[dict[str, Any]], steps: bool) -> str:
    lines = [
        [*_where(row, ("endpoint", "release"), steps), name, *(_amount(name, g.get(k)) for k in ("mean", "p95", "max")),
         _amount(name, g.get("sum"))]
        for row in rows for name, g in row["gauges"].items()
    ]  # fmt: skip
    heads = (*(["from"] if steps else []), "endpoint", "release or host", "sampled", "mean", "p95", "max", "sum")
    return _text.table(lines, heads) if lines else ""


def percentiles(row: dict[str, Any], name: str) -> str:
    """12 / 45 / 80 ms"""
    found = [row[f"{name}_p{q}_ms"] for q in (50, 95, 99)]
    if found[0] is None:
        return "–"
    unit, scale = ("s", 1000.0) if found[-1] >= 10_000 else ("ms", 1.0)
    return " / ".join(f"{v:.0f}" if v >= 10 else f"{v:.2g}" for v in (value / scale for value in found)) + f" {unit}"


def share(part: int, whole: int) -> str:
    return "–" if not whole else "0" if not part else f"{100 * part / whole:.3g} %"


def quality(scores: dict[str, Any], most: int = 3) -> str:
    """helpful 0.93 (120)"""
    said = [f"{_text.short(name, 20)} {_digits(s['mean'])} ({s['count']})" for name, s in scores.items()
            if s["mean"] is not None]  # fmt: skip
    return ", ".join(said[:most]) + (f" and {len(said) - most} more" if len(said) > most else "") or "–"


def short(count: float) -> str:
    """1,234, 12k, 3.4M"""
    for unit in ("", "k", "M", "G"):
        if count < 10_000 or unit == "G":
            break
        count /= 1000
    return f"{count:,.0f}{unit}" if count >= 100 or not unit else f"{count:.1f}{unit}"


def to_csv(rows: Sequence[dict[str, Any]]) -> str:
    """Flat: what is a mapping has a column for each of its keys."""
    flat = [_flat(row) for row in rows]
    out = io.StringIO()
    writer = csv.DictWriter(out, list(dict.fromkeys(key for row in flat for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return out.getvalue()


def _flat(row: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in row.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found


def _check(workspace: "Workspace", endpoint: str) -> None:
    """Errors: `not_found` for a name that neither the file nor traffic knows."""
    from longrein.core.errors import nearest

    known = {*((workspace.ledger.work.wanted() or {}).get("endpoints") or {}), *workspace.ledger.traffic.endpoints()}
    if endpoint and endpoint not in known:
        raise Error("not_found", f"there is no endpoint {endpoint[:80]!r}", nearest(endpoint, known))


def _length_ms(step: str) -> int:
    if not step:
        return 0
    found = re.fullmatch(r"(\d{1,6})([smhd])", step)
    if found and int(found[1]):
        return int(found[1]) * UNITS[found[2]] * 1000
    raise Error("invalid", f"--step cannot be {step[:50]!r}", "write 30s, 5m, 1h or 1d")


def _where(row: dict[str, Any], groups: Sequence[str], steps: bool) -> list[str]:
    return [
        *([_text.when(row["start_ms"])] if steps else []),
        *(_text.short(row[name].removeprefix("release:"), 40) or "–" for name in groups),
    ]


def _rate(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"


def _digits(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _amount(name: str, value: float | None) -> str:
    if value is None:
        return "–"
    return _text.size(value) if name.endswith("_bytes") else f"{100 * value:.3g} %" if name.endswith("_share") else (
        f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
    )  # fmt: skip
