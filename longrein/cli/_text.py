"""Values as people read them: tables, sizes, durations, ages. No colour is needed to read any of it."""

import time
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any


def table(rows: Iterable[Sequence[Any]], heads: Sequence[str] = ()) -> str:
    """Columns two spaces apart; the last one is as wide as it likes."""
    lines = [[str(cell) for cell in row] for row in rows]
    lines = [[h.upper() for h in heads], *lines] if heads else lines
    if not lines:
        return ""
    widths = [max(width(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell + " " * (size - width(cell)) for cell, size in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def width(text: str) -> int:
    """Terminal columns: Chinese takes two, a combining mark none."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def short(text: str, columns: int) -> str:
    """At most so many columns, on one line; what is cut shows as …"""
    text = " ".join(text.split())
    if width(text) <= columns:
        return text
    kept, used = [], 0
    for character in text:
        used += width(character)
        if used > columns - 1:
            break
        kept.append(character)
    return "".join(kept).rstrip() + "…"


def indent(text: str, by: str = "  ") -> str:
    return "\n".join(by + line if line else line for line in text.splitlines())


def size(count: float) -> str:
    """Bytes: 1.4 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def duration(seconds: float | None) -> str:
    """0.4 s, 12 s, 3:05, 2:10:00; "–" when unknown."""
    if seconds is None:
        return "–"
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def ago(ms: int | None) -> str:
    """How long before now: 5 s ago, 3 min ago, 2 h ago, 6 d ago."""
    if not ms:
        return "–"
    seconds = max(0.0, time.time() - ms / 1000)
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit} ago"
    return f"{int(seconds)} s ago"


def when(ms: int | None) -> str:
    """Local time to the second."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(ms / 1000)) if ms else "–"


def money(usd: float | None) -> str:
    return "–" if usd is None else "$0" if usd == 0 else f"${usd:.2g}" if usd < 0.1 else f"${usd:,.2f}"


def number(value: Any) -> str:
    """A metric's value: 0.9312, 12,034, –."""
    if value is None:
        return "–"
    if isinstance(value, float) and not value.is_integer():
        return f"{value:.4g}"
    return f"{value:,.0f}" if isinstance(value, (int, float)) else str(value)


def pairs(values: dict[str, Any]) -> str:
    return table((f"{key}", value) for key, value in values.items())
