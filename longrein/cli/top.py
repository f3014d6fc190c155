"""Watch endpoints, releases, engines, machines and alerts live, in the terminal."""

import shutil
import signal
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import click

from longrein.cli import _rollout, _serving, _text
from longrein.cli.main import Session, visible
from longrein.cli.monitor import percentiles, quality, share
from longrein.core.errors import Error

if TYPE_CHECKING:
    from longrein.workspace import Workspace

NOW_MS, PAST_MS, BINS, BLOCK_MS = 60_000, 600_000, 20, 10_000  # what numbers are of, and the little bars
SAMPLED_MS = 20_000
MARKS = {"critical": "‼", "warning": "!", "info": "·"}
# The columns of the table of releases, and which of them go first where it is narrow.
HEADS = ("endpoint", "release", "per s", "10 min", "errors", "latency", "first token", "tokens/s", "cost", "quality")
GIVEN_UP = ("cost", "quality", "first token", "tokens/s", "10 min", "errors")


@click.command(help=__doc__)
@click.option("--once", is_flag=True, help="Print one frame and end.")
@click.option("--every", default=1.0, show_default=True, type=click.FloatRange(0.2, 3600), help="Seconds.")
@click.pass_obj
def command(session: Session, once: bool, every: float) -> None:
    workspace = session.workspace
    if once:
        data = collect(workspace)
        session.show(data, "\n".join(draw(data, shutil.get_terminal_size().columns)))
        return
    signal.signal(signal.SIGTERM, _end)
    try:
        if session.json or not sys.stdout.isatty():
            _stream(session, workspace, every)
        _live(workspace, every)
    except KeyboardInterrupt:
        return  # that is how one leaves it


def collect(workspace: "Workspace") -> dict[str, Any]:
    """What a frame shows."""
    from longrein.core.ledger import now_ms
    from longrein.models.experiment.describe import as_of_now

    now, ledger = now_ms(), workspace.ledger
    by = ("endpoint", "release")
    past = _past(workspace, now)
    sampled = {(row["endpoint"], row["release"]): row for row in workspace.monitor(now - SAMPLED_MS, machine=True)}
    releases = workspace.monitor(now - NOW_MS, by=by)
    serves = {name: asset.ref for name, asset in workspace.serves().items()}
    shown: dict[Any, Any] = {(row["endpoint"], row["release"]): row for row in releases}
    for key in serves.items():
        shown.setdefault(key, None)
    return {
        "project": workspace.root.name, "url": _serving.running(workspace), "now_ms": now,
        "alerts": [{"kind": a.kind, "subject": a.subject, "name": a.name, "severity": a.severity,
                    "summary": a.summary, "since_ms": a.since_ms} for a in ledger.alerts.firing()],
        "releases": [
            {"endpoint": name, "release": release, "serves": serves.get(name) == release, "now": row,
             "past": past.get((name, release), "")} for (name, release), row in sorted(shown.items())
        ],
        "rollouts": [as_of_now(ledger, seen) for seen in ledger.rollouts.all_live().values()],
        "engines": [_samples(row) for key, row in sampled.items() if key[0] and "running" in row["gauges"]],
        "machines": [_samples(row) for key, row in sampled.items() if not key[0]] or [_here(workspace)],
    }  # fmt: skip


def draw(data: dict[str, Any], columns: int) -> list[str]:
    """A frame, no line wider than the terminal."""
    where = f"gateway at {data['url']}" if data["url"] else "no gateway runs here"
    lines = [f"{data['project']}  {where}  {time.strftime('%H:%M:%S', time.localtime(data['now_ms'] / 1000))}"]
    lines += [
        f"{MARKS[a['severity']]} {_text.ago(a['since_ms'])}  {a['subject']}  {a['kind']} {a['name']}: {a['summary']}"
        for a in data["alerts"]
    ]
    if data["releases"]:
        lines += ["", *_releases(data["releases"], columns)]
    for seen in data["rollouts"]:
        lines += ["", *_rollout.as_text(seen).splitlines()[:-1]]
    if data["engines"]:
        lines += ["", *_text.table(map(_engine, data["engines"]), ENGINE).splitlines()]
    lines += ["", *_text.table(map(_machine, data["machines"])).splitlines()]
    return [clip(visible(line), columns) for line in lines]


ENGINE = ("engine", "running", "waiting", "slots", "batch", "step", "kv")


def _releases(rows: Sequence[dict[str, Any]], columns: int) -> list[str]:
    heads = list(HEADS)
    for name in ("", *GIVEN_UP):
        if name:
            heads.remove(name)
        table = _text.table(([_cell(row, head) for head in heads] for row in rows), heads).splitlines()
        if max(map(_text.width, table)) <= columns:
            break
    return table


def _cell(row: dict[str, Any], head: str) -> str:
    now: dict[str, Any] = row["now"] or {"requests": 0, "scores": {}}
    if head == "endpoint":
        return _text.short(row["endpoint"], 24)
    if head == "release":
        name = str(row["release"]).rpartition("@")[2]
        return (name[:12] or "–") + (" *" if row["serves"] else "")
    if head == "10 min":
        return str(row["past"])
    if head == "quality":
        return quality(now["scores"], 1)
    if not now["requests"]:
        return "0" if head == "per s" else "–"
    if head in ("latency", "first token"):
        return percentiles(now, head.replace(" ", "_"))
    if head == "errors":
        return share(now["errors"], now["requests"])
    if head == "cost":
        return _text.money(now["cost_usd"])
    return f"{now['requests_per_s']:.3g}" if head == "per s" else f"{now['tokens_per_s']:,.0f}"


def _engine(row: dict[str, Any]) -> list[str]:
    g = row["gauges"]
    room, used = _mean(g, "kv_tokens_room"), _mean(g, "kv_tokens")
    kv = used / room if room and used is not None else _mean(g, "kv_share")
    slots, most = _mean(g, "slots_used"), _mean(g, "slots_total")
    step, batch = _mean(g, "step_s"), _mean(g, "batch")
    return [
        _text.short(row["of"], 30), _count(_mean(g, "running")), _count(_mean(g, "waiting")),
        f"{bar(slots / most)} {most:.0f}" if most and slots is not None else "–", _count(batch),
        "–" if step is None else f"{step * 1000:.3g} ms", "–" if kv is None else f"{100 * kv:.0f} %",
    ]  # fmt: skip


def _machine(row: dict[str, Any]) -> list[str]:
    g = row["gauges"]
    cells = [_text.short(row["of"], 24), f"cpu {bar(_mean(g, 'cpu_share') or 0.0)}"]
    for name, key in (("memory", "memory"), ("disk", "disk"), ("accelerator memory", "accelerator_memory")):
        used, most = _mean(g, f"{key}_bytes"), _mean(g, f"{key}_total_bytes")
        cells += [f"{name} {_text.size(used)} of {_text.size(most)}"] if used is not None and most else []
    if (busy := _mean(g, "accelerator_share")) is not None:
        cells.append(f"{_count(_mean(g, 'accelerators'))} accelerators {bar(busy)}")
    return cells[:6] + [""] * (6 - len(cells))


def bar(share: float, length: int = 8) -> str:
    """[####    ] 50 %"""
    full = round(min(max(share, 0.0), 1.0) * length)
    return f"[{'#' * full}{' ' * (length - full)}] {100 * share:.0f} %"


def clip(line: str, columns: int) -> str:
    """Cut to a width; unlike _text.short it keeps the gaps between columns."""
    if _text.width(line) <= columns:
        return line
    kept, used = "", 0
    for character in line:
        used += _text.width(character)
        if used > columns - 1:
            break
        kept += character
    return kept + "…"


def _past(workspace: "Workspace", now: int) -> dict[tuple[str, str], str]:
    """Requests of the last minutes as little bars, by endpoint and release."""
    from longrein.ops.monitor.series import read, spark

    found: dict[tuple[str, ...], list[float]] = {}
    for point in read(workspace.ledger, now - PAST_MS, by=("endpoint", "release"), step_ms=BLOCK_MS):
        bins = found.setdefault(point.group, [0.0] * BINS)
        bins[min(max((point.start_ms - now + PAST_MS) * BINS // PAST_MS, 0), BINS - 1)] += point.block.requests
    return {(group[0], workspace.release(group[1], group[0])): spark(bins) for group, bins in found.items()}


def _samples(row: dict[str, Any]) -> dict[str, Any]:
    return {"of": row["release"].removeprefix("release:"), "gauges": row["gauges"]}


def _here(workspace: "Workspace") -> dict[str, Any]:
    """This machine, where no gateway samples it."""
    from longrein.ops.monitor import probe

    found = probe.machine(workspace.root) | probe.accelerators()
    return {"of": "this machine", "gauges": {name: {"mean": value} for name, value in found.items()}}


def _mean(gauges: dict[str, Any], name: str) -> float | None:
    return (gauges.get(name) or {}).get("mean")


def _count(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def _stream(session: Session, workspace: "Workspace", every: float) -> NoReturn:
    """Frames one after another, for a file or a program."""
    import msgspec

    while True:
        data = collect(workspace)
        text = msgspec.json.encode(data).decode() if session.json else "\n".join([*draw(data, 120), ""])
        click.echo(text)
        sys.stdout.flush()
        time.sleep(every)


def _live(workspace: "Workspace", every: float) -> NoReturn:
    """In place of what the terminal showed, which comes back at the end, however it comes."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text
    from sqlalchemy.exc import SQLAlchemyError

    console = Console(highlight=False)
    frame = ["…"]
    with Live(console=console, screen=True, auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            try:
                frame = draw(collect(workspace), console.width)
                trouble: list[str] = []
            except (Error, SQLAlchemyError) as error:
                trouble = [clip(f"the ledger does not answer: {str(error).splitlines()[0]}", console.width)]
            shown = Text(no_wrap=True, overflow="crop")
            for line in (trouble + frame)[: console.height]:
                loud = line[:1] in MARKS.values() or line in trouble
                shown.append(line + "\n", style="bold red" if loud else "bold" if line.isupper() else "")
            live.update(shown, refresh=True)
            time.sleep(every)


def _end(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt
