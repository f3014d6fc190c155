"""A dataset's report as one HTML file: no network, light and dark, English and Chinese, for screen and paper."""

import difflib
import re
from collections.abc import Iterable
from html import escape
from typing import Any

from longrein.data.card import WORDS, place

WORD = re.compile(r"\w+|\s+|.", re.DOTALL)
MOST_BARS = 24

STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #5a6675; --line: #dde3ea; --paper: #fff; --panel: #f6f8fa;
  --bar: #2f6fb5; --bad: #b3411f; --good: #1d7a46; --gone: #fbe3db; --new: #dcf3e4; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6eaf0; --soft: #9aa7b5; --line: #323b46; --paper: #12161c;
  --panel: #1a2028; --bar: #6aa8e8; --bad: #f0936f; --good: #6fce96; --gone: #4a2318; --new: #173c26; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 2rem 1.25rem 4rem; color: var(--ink); background: var(--paper);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", "Noto Sans CJK SC", "PingFang SC", "Microsoft YaHei",
  sans-serif; }
h1 { margin: 0; font-size: 1.9rem; letter-spacing: -.02em; } h2 { margin: 2.6rem 0 .8rem; font-size: 1.15rem; }
p { margin: .3rem 0; } .soft { color: var(--soft); } code { font: .87em ui-monospace, "SF Mono", Menlo, monospace; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: .75rem; margin: 1.5rem 0 0; }
.card { padding: .8rem 1rem; background: var(--panel); border-radius: .6rem; }
.card b { display: block; font-size: 1.45rem; font-variant-numeric: tabular-nums; letter-spacing: -.01em; }
.two { display: grid; grid-template-columns: repeat(auto-fit, minmax(19rem, 1fr)); gap: 0 2rem; }
.wide { overflow-x: auto; } table { width: 100%; border-collapse: collapse; }
th { text-align: left; font-weight: 600; color: var(--soft); font-size: .85rem; }
th, td { padding: .4rem .7rem .4rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.t { min-width: 14rem; overflow-wrap: anywhere; white-space: pre-wrap; unicode-bidi: isolate; }
svg { display: block; width: 100%; max-width: 31rem; height: auto; } svg text { fill: var(--ink); font-size: 12px; }
svg .soft { fill: var(--soft); } svg rect { fill: var(--bar); } svg rect.bad { fill: var(--bad); }
del { background: var(--gone); color: inherit; } ins { background: var(--new); color: inherit; text-decoration: none;
  border-bottom: 2px solid var(--good); }
details { margin: .4rem 0; } summary { cursor: pointer; padding: .25rem 0; }
summary:focus-visible { outline: 2px solid var(--bar); outline-offset: 2px; }
pre { margin: 0; padding: 1rem; background: var(--panel); border-radius: .6rem; overflow-x: auto; }
@media print { details { display: block; } body { max-width: none; padding: 0; } h2 { break-after: avoid; } }
"""


def html(facts: dict[str, Any], config: str, lang: str = "en") -> str:
    """facts: of longrein.data.profile; config: as YAML. Texts of rows are escaped: they may be anything."""
    w = WORDS[lang]
    body = [_top(facts, w), _flow(facts, w), _spread(facts, w), _why(facts, w), _changed(facts, w), _rows(facts, w),
            _origins(facts, config, w)]  # fmt: skip
    code = "zh-CN" if lang == "zh" else "en"
    return (
        f'<!doctype html>\n<html lang="{code}"><head><meta charset="utf-8"><title>{_text(facts["ref"])}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<style>{STYLE}</style></head>\n<body>\n{''.join(filter(None, body))}</body></html>\n"
    )


def _top(facts: dict[str, Any], w: dict[str, str]) -> str:
    came, kept = facts.get("rows_in"), facts["rows"]
    cards = [(f"{kept:,}", w["rows_kept"])]
    if came is not None:
        cards = [(f"{came:,}", w["rows_in"]), *cards, (f"{came - kept:,}", w["rows_dropped"])]
    cards.append((_size(facts["bytes"]), w["size"]))
    shown = "".join(f'<div class="card"><b>{value}</b><span class="soft">{name}</span></div>' for value, name in cards)
    told = f"<code>{_text(facts['ref'])}</code> · {w['digest']} <code>{facts['digest'][:12]}</code> · {w['is']}"
    return f'<header><h1>{_text(facts["name"])}</h1><p class="soft">{told}</p></header><div class="cards">{shown}</div>'


def _flow(facts: dict[str, Any], w: dict[str, str]) -> str:
    steps = facts.get("steps") or []
    if not steps:
        return _section(w["what"], f'<p class="soft">{w["unknown"]}</p>') if facts.get("rows_in") is None else ""
    rows = [
        f"<tr><td>{_text(s['name'])}</td>{_number(s['rows_in'])}{_number(s['rows_out'])}"
        f"{_number(s['rows_in'] - s['rows_out'])}<td class=n>{s['cpu_s']:.2f} s</td><td class=n>{s['mb_s']:,}</td></tr>"
        for s in steps
    ]
    heads = [w["step"], w["in"], w["kept"], w["dropped"], w["cpu"], w["speed"]]
    done = "".join(
        f"<p>{_text(name)}: {_text(', '.join(f'{k} {n:,}' for k, n in counts.items()))}</p>"
        for name, counts in (facts.get("transforms") or {}).items()
    )
    found = f"<details open><summary>{w['found']}</summary>{done}</details>" if done else ""
    return _section(w["steps"], _table(heads, rows, numbers=range(1, 6)) + found)


def _spread(facts: dict[str, Any], w: dict[str, str]) -> str:
    charts = [
        (w[title], [(name or "–", n) for name, n in facts[key].items()])
        for key, title in (("split", "splits"), ("language", "languages"))
        if facts.get(key)
    ]
    for name, bars in facts["lengths"].items():
        charts.append((f"{w[name]}: {w['lengths']}", [(f"{b['from']:,}–{b['to']:,}", b["rows"]) for b in bars]))
    parts = [f"<div><h2>{title}</h2>{_bars(bars)}</div>" for title, bars in charts]
    if facts["numbers"]:
        rows = [
            f"<tr><td>{_text(name)}</td>{''.join(f'<td class=n>{value:.4g}</td>' for value in spread.values())}</tr>"
            for name, spread in facts["numbers"].items()
        ]
        heads = ["", "0 %", "25 %", "50 %", "75 %", "100 %"]
        parts.append(f"<div><h2>{w['numbers']}</h2>{_table(heads, rows, numbers=range(1, 6))}</div>")
    return f'<div class="two">{"".join(parts)}</div>'


def _why(facts: dict[str, Any], w: dict[str, str]) -> str:
    if not facts["rejected"]:
        return ""
    chart = _bars([(r["reason"], r["rows"]) for r in facts["rejected"]], "bad")
    parts = []
    for r in facts["rejected"]:
        rows = [
            f"<tr><td class=t>{_text(e['row'])}</td><td class=t>{_text(e['detail'])}</td>{_place(e)}</tr>"
            for e in r["examples"]
        ]
        name = f"{_text(r['reason'])} <span class=soft>({_text(r['stage'])}, {r['rows']:,})</span>"
        parts.append(f"<details><summary>{name}</summary>{_table([w['row'], w['reason'], w['place']], rows)}</details>")
    if facts["clusters"]:
        parts.append(f"<h2>{w['clusters']}</h2>")
    for c in facts["clusters"]:
        rows = [f"<tr><td class=t>{_text(e['row'])}</td>{_place(e)}</tr>" for e in c["dropped"]]
        name = f"{c['rows']:,} {w['rows']} <span class=soft>({w['stays']}: {_text(c['kept'])})</span>"
        parts.append(f"<details><summary>{name}</summary>{_table([w['row'], w['place']], rows)}</details>")
    return _section(w["why"], chart + "".join(parts))


def _changed(facts: dict[str, Any], w: dict[str, str]) -> str:
    rows = []
    for one in facts["changed"]:
        before, after = marked(one["before"], one["after"])
        by = _text(", ".join(one["by"]))
        rows.append(f"<tr><td>{by}</td><td class=t>{before}</td><td class=t>{after}</td>{_place(one)}</tr>")
    return _section(w["changed"], _table([w["by"], w["before"], w["after"], w["place"]], rows)) if rows else ""


def _rows(facts: dict[str, Any], w: dict[str, str]) -> str:
    rows = [
        f"<tr><td class=t>{_text(s['input'])}</td><td class=t>{_text(s['output'])}</td>{_place(s)}</tr>"
        for s in facts["samples"]
    ]
    return _section(w["samples"], _table([w["input"], w["output"], w["place"]], rows)) if rows else ""


def _origins(facts: dict[str, Any], config: str, w: dict[str, str]) -> str:
    rows = [
        f"<tr><td class=t>{_text(s['path'])}</td>{_number(s.get('rows', 0))}<td class=n>{_size(s.get('bytes', 0))}</td>"
        f"<td><code>{_text(s.get('digest', '')[:12])}</code></td></tr>"
        for s in facts.get("sources") or []
    ]
    heads = [w["source"], w["rows"], w["size"], w["digest"]]
    refs = "".join(
        f"<p>{w[key]}: {', '.join(f'<code>{_text(ref)}</code>' for ref in facts[key]) or w['none']}</p>"
        for key in ("made_of", "used_by")
    )
    made = _section(w["config"], f"<pre><code>{_text(config)}</code></pre>") if facts["config"] else ""
    return (
        (_section(w["sources"], _table(heads, rows, numbers=(1, 2))) if rows else "")
        + made
        + _section(w["lineage"], refs)
    )


def marked(before: str, after: str) -> tuple[str, str]:
    """Both texts, escaped, with what went and what came marked."""
    one, other = WORD.findall(before), WORD.findall(after)
    old, new = [], []
    for kind, a, b, c, d in difflib.SequenceMatcher(None, one, other, autojunk=False).get_opcodes():
        gone, came = _text("".join(one[a:b])), _text("".join(other[c:d]))
        old.append(gone if kind == "equal" or not gone else f"<del>{gone}</del>")
        new.append(came if kind == "equal" or not came else f"<ins>{came}</ins>")
    return "".join(old), "".join(new)


def _bars(values: list[tuple[str, int]], kind: str = "") -> str:
    """Horizontal bars with their names and numbers, the names first, so that it reads without colours."""
    shown, rest = values[:MOST_BARS], sum(n for _, n in values[MOST_BARS:])
    shown += [("…", rest)] if rest else []
    most, total, lines = max(n for _, n in shown) or 1, sum(n for _, n in values) or 1, []
    for at, (name, n) in enumerate(shown):
        y, width = at * 24, 230 * n / most
        share = f"{n:,}  {n / total:.1%}"
        lines.append(
            f'<text x="150" y="{y + 16}" text-anchor="end">{_text(_fit(name))}</text>'
            f'<rect class="{kind}" x="158" y="{y + 4}" width="{width:.1f}" height="16" rx="3"/>'
            f'<text class="soft" x="{164 + width:.1f}" y="{y + 16}">{share}</text>'
        )
    told = escape("; ".join(f"{name} {n}" for name, n in shown), quote=True)
    return f'<svg viewBox="0 0 500 {len(shown) * 24}" role="img" aria-label="{told}">{"".join(lines)}</svg>'


def _fit(name: str) -> str:
    return name if len(name) <= 24 else name[:23] + "…"


def _section(title: str, inside: str) -> str:
    return f"<section><h2>{title}</h2>{inside}</section>"


def _table(heads: list[str], rows: Iterable[str], numbers: Iterable[int] = ()) -> str:
    right = set(numbers)
    head = "".join(f"<th{' class=n' if i in right else ''}>{name}</th>" for i, name in enumerate(heads))
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def _number(value: int) -> str:
    return f"<td class=n>{value:,}</td>"


def _place(one: dict[str, Any]) -> str:
    return f'<td class="soft"><code>{_text(place(one))}</code></td>'


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _text(value: str) -> str:
    """Escaped; control characters, and those that turn the direction of text, are shown, not obeyed."""
    return escape("".join(c if c in "\n\t" or c.isprintable() else f"␀{ord(c):x}" for c in value))
