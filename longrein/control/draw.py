"""Lineage as a picture: a layered drawing of its own in SVG, Mermaid text, or a tree for the terminal."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise
from typing import Any

from longrein.core.ledger import Asset, Lineage, Run

COLORS = {
    "dataset": "#dbeafe", "model": "#dcfce7", "prompt": "#fef9c3", "report": "#fae8ff", "release": "#fee2e2",
    "index": "#cffafe", "policy": "#ffedd5",
}  # fmt: skip
WIDE, HIGH, GAP_X, GAP_Y, MARGIN = 230, 58, 70, 26, 24
DEEPEST = 100  # levels of a tree: more is a picture's work
CHARACTER = 7.4  # width of one at 13 px, a Chinese one twice that


@dataclass
class Node:
    """A box: an asset, or the run between assets."""

    id: str
    kind: str  # the asset's, or "run"
    title: str
    detail: str
    layer: int = 0
    row: float = 0.0


@dataclass
class Graph:
    nodes: dict[str, Node]
    arrows: list[tuple[str, str]]  # the way the data went
    bends: dict[tuple[str, str], list[Node]] = field(default_factory=dict)  # where a long arrow passes each column


def graph(lineage: Lineage, runs: Mapping[str, Run]) -> Graph:
    """Boxes and arrows of a lineage; every arrow leads from what was read to what was made."""
    nodes = {f"a{a.id}": Node(f"a{a.id}", a.kind, a.ref.partition(":")[2], facts(a)) for a in lineage.assets}
    for id in lineage.runs:
        run = runs.get(id)
        name = run.capability or run.name if run else ""
        nodes[f"r{id}"] = Node(f"r{id}", "run", name or "run", id[:12])
    arrows = []
    for edge in lineage.edges:
        run_id, asset_id = f"r{edge.run_id}", f"a{edge.asset_id}"
        if run_id in nodes and asset_id in nodes:
            arrows.append((asset_id, run_id) if edge.direction == "in" else (run_id, asset_id))
    return Graph(nodes, sorted(set(arrows)))


def facts(asset: Asset) -> str:
    """What is most worth knowing of an asset, in a few words."""
    meta = asset.meta
    if asset.kind == "dataset" and "rows" in meta:
        return f"{meta['rows']:,} rows"
    if asset.kind == "report" and meta.get("metrics"):
        name, value = next(iter(meta["metrics"].items()))
        return f"{name} {value['value']:.4g}"
    if asset.kind == "model" and meta.get("parameters"):
        return f"{meta['parameters']:,} parameters"
    if asset.kind == "prompt":
        return str(meta.get("system", ""))
    return asset.digest[:12]


def place(drawn: Graph) -> None:
    """Columns by the longest way from a source, rows by the median of the neighbours; an arrow over several columns
    gets a place of its own in each, so that it crosses no box (Sugiyama, Tagawa and Toda 1981)."""
    before, after = _neighbours(drawn.nodes, drawn.arrows)
    for id in _ordered(drawn.nodes, before, after):
        drawn.nodes[id].layer = max((drawn.nodes[b].layer + 1 for b in before[id]), default=0)
    for id, node in drawn.nodes.items():  # a source stands next to what reads it first
        if not before[id] and after[id]:
            node.layer = min(drawn.nodes[a].layer for a in after[id]) - 1
    points, steps = dict(drawn.nodes), list[tuple[str, str]]()
    for source, target in drawn.arrows:
        way = [Node(f"{source} {target} {n}", "", "", "", n) for n in _between(drawn, source, target)]
        drawn.bends[source, target] = way
        points |= {n.id: n for n in way}
        ids = [source, *(n.id for n in way), target]
        steps += pairwise(ids)
    _sort(points, *_neighbours(points, steps))


def _between(drawn: Graph, source: str, target: str) -> range:
    return range(drawn.nodes[source].layer + 1, drawn.nodes[target].layer)


def _neighbours(
    nodes: Iterable[str], arrows: list[tuple[str, str]]
) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    before: dict[str, list[str]] = {n: [] for n in nodes}
    after: dict[str, list[str]] = {n: [] for n in before}
    for source, target in arrows:
        before[target].append(source)
        after[source].append(target)
    return before, after


def _sort(points: dict[str, Node], before: dict[str, list[str]], after: dict[str, list[str]]) -> None:
    layers: dict[int, list[Node]] = {}
    for node in sorted(points.values(), key=lambda n: (not n.kind, n.kind, n.title, n.id)):
        layers.setdefault(node.layer, []).append(node)
    columns = [layers[i] for i in sorted(layers)]
    tallest = max(map(len, columns), default=0)
    for column in columns:
        _settle(column, tallest)
    for sweep in range(8):
        near = before if sweep % 2 == 0 else after
        for column in columns if sweep % 2 == 0 else reversed(columns):
            weight = {n.id: _median([points[m].row for m in near[n.id]], n.row) for n in column}
            column.sort(key=lambda n, weight=weight: weight[n.id])  # type: ignore[misc]
            _settle(column, tallest)


def svg(drawn: Graph, title: str = "") -> str:
    """A picture that needs nothing else: no script, no font, no network."""
    place(drawn)
    columns = 1 + max((n.layer for n in drawn.nodes.values()), default=0)
    points = [*drawn.nodes.values(), *(n for way in drawn.bends.values() for n in way)]
    rows = 1 + max((n.row for n in points), default=0.0)
    wide = 2 * MARGIN + columns * WIDE + (columns - 1) * GAP_X
    high = 2 * MARGIN + 30 + rows * HIGH + (rows - 1) * GAP_Y
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide:g} {high:g}" width="{wide:g}" height="{high:g}" '
        "font-family=\"system-ui, 'Noto Sans CJK SC', 'PingFang SC', 'Microsoft YaHei', sans-serif\" font-size=\"13\">",
        f"<title>{escape(title or 'lineage')}</title>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="#64748b"/></marker></defs>',
        f'<rect width="{wide:g}" height="{high:g}" fill="#ffffff"/>',
        f'<text x="{MARGIN}" y="{MARGIN + 4}" font-weight="600" fill="#0f172a">{escape(title)}</text>',
    ]
    parts += [_arrow([drawn.nodes[a], *drawn.bends[a, b], drawn.nodes[b]]) for a, b in drawn.arrows]
    parts += [_box(node) for node in drawn.nodes.values()]
    return "\n".join([*parts, "</svg>", ""])


def mermaid(drawn: Graph) -> str:
    """The same as Mermaid, for Markdown pages that draw it."""
    lines = ["flowchart LR"]
    for node in drawn.nodes.values():
        text = (
            f"{node.title}<br/>{node.detail}" if node.kind == "run" else f"{node.kind}:{node.title}<br/>{node.detail}"
        )
        quoted = text.replace('"', "#quot;").replace("\n", " ")
        lines.append(f'  {node.id}(["{quoted}"])' if node.kind == "run" else f'  {node.id}["{quoted}"]')
    lines += [f"  {source} --> {target}" for source, target in drawn.arrows]
    for kind in sorted({n.kind for n in drawn.nodes.values()} & COLORS.keys()):
        members = ",".join(n.id for n in drawn.nodes.values() if n.kind == kind)
        lines += [f"  classDef {kind} fill:{COLORS[kind]},stroke:#64748b,color:#0f172a", f"  class {members} {kind}"]
    return "\n".join(lines) + "\n"


def tree(lineage: Lineage, runs: Mapping[str, Run], direction: str = "up") -> list[str]:
    """Lines for a terminal: the start at the top, below each asset the run and what lies beyond it."""
    by_id = {a.id: a for a in lineage.assets}
    near, far = ("out", "in") if direction == "up" else ("in", "out")
    runs_of: dict[int, list[str]] = {}
    beyond: dict[str, list[int]] = {}
    for edge in lineage.edges:
        if edge.direction == near:
            runs_of.setdefault(edge.asset_id, []).append(edge.run_id)
        if edge.direction == far:
            beyond.setdefault(edge.run_id, []).append(edge.asset_id)
    lines: list[str] = []
    seen: set[int] = set()

    def walk(asset: Asset, prefix: str, head: str) -> None:
        steps = [(r, i) for r in runs_of.get(asset.id, []) for i in beyond.get(r, []) if i in by_id and i != asset.id]
        cut = "  (see above)" if asset.id in seen else "  …" if len(prefix) > DEEPEST * 3 else ""
        lines.append(f"{head}{asset.ref}  {_shorten(facts(asset), 60)}" + (cut if steps else ""))
        seen.add(asset.id)
        if cut:
            return
        for n, (run_id, other) in enumerate(steps):
            last = n == len(steps) - 1
            run = runs.get(run_id)
            by = f"{(run.capability or run.name) if run else 'run'} {run_id[:12]}: "
            walk(by_id[other], prefix + ("   " if last else "│  "), prefix + ("└─ " if last else "├─ ") + by)

    if lineage.assets:
        walk(lineage.assets[0], "", "")
    return lines


def _ordered(
    nodes: Mapping[str, Node], before: Mapping[str, Sequence[str]], after: Mapping[str, Sequence[str]]
) -> list[str]:
    """Sources first (Kahn 1962). Lineage has no cycles: a run reads only what was there before it."""
    waits = {n: len(before[n]) for n in nodes}
    ready = [n for n in nodes if not waits[n]]
    for id in ready:
        for other in after[id]:
            waits[other] -= 1
            if not waits[other]:
                ready.append(other)
    return ready


def _settle(column: list[Node], tallest: int) -> None:
    """Give the boxes of a column their rows, centred."""
    for i, node in enumerate(column):
        node.row = i + (tallest - len(column)) / 2


def _median(values: list[float], default: float) -> float:
    if not values:
        return default
    ordered, half = sorted(values), len(values) // 2
    return ordered[half] if len(values) % 2 else (ordered[half - 1] + ordered[half]) / 2


def _at(node: Node) -> tuple[float, float]:
    return MARGIN + node.layer * (WIDE + GAP_X), MARGIN + 30 + node.row * (HIGH + GAP_Y)


def _box(node: Node) -> str:
    x, y = _at(node)
    middle = x + WIDE / 2
    run = node.kind == "run"
    fill, dash = ("#f8fafc", ' stroke-dasharray="4 3"') if run else (COLORS.get(node.kind, "#f1f5f9"), "")
    room = int((WIDE - 24) / CHARACTER)
    title = _shorten(node.title if run else f"{node.kind}: {node.title}", room)
    return (
        f"<g><title>{escape(f'{node.kind}:{node.title} {node.detail}')}</title>"
        f'<rect x="{x:g}" y="{y:g}" width="{WIDE}" height="{HIGH}" rx="{HIGH / 2 if run else 8:g}" fill="{fill}" '
        f'stroke="#64748b"{dash}/>'
        f'<text x="{middle:g}" y="{y + 25:g}" text-anchor="middle" font-weight="600" fill="#0f172a">'
        f"{escape(title)}</text>"
        f'<text x="{middle:g}" y="{y + 44:g}" text-anchor="middle" font-size="12" fill="#475569">'
        f"{escape(_shorten(node.detail, room))}</text></g>"
    )


def _arrow(way: list[Node]) -> str:
    """From the right edge of the first, level across each column in between, to the left edge of the last."""
    x, y = _at(way[0])
    path = f"M{x + WIDE:g} {y + HIGH / 2:g}"
    for before, node in pairwise(way):
        (x1, y1), (x2, y2) = _at(before), _at(node)
        x1, y1, y2, bend = x1 + WIDE, y1 + HIGH / 2, y2 + HIGH / 2, GAP_X / 2
        end = x2 - 2 if node is way[-1] else x2
        path += f"C{x1 + bend:g} {y1:g} {x2 - bend:g} {y2:g} {end:g} {y2:g}"
        path += "" if node is way[-1] else f"H{x2 + WIDE:g}"
    return f'<path d="{path}" fill="none" stroke="#64748b" stroke-width="1.4" marker-end="url(#tip)"/>'


def _shorten(text: str, room: int) -> str:
    """To so many characters, a wide one counted twice."""
    text, used, kept = " ".join(text.split()), 0, ""
    for character in text:
        used += 1 if ord(character) < 0x1100 else 2
        if used > room:
            return kept.rstrip()[: max(1, len(kept) - 1)] + "…"
        kept += character
    return kept


def as_data(lineage: Lineage) -> dict[str, Any]:
    """Plain data: assets, runs and edges by ref."""
    refs = {a.id: a.ref for a in lineage.assets}
    return {
        "assets": [{"ref": a.ref, "digest": a.digest, "facts": facts(a)} for a in lineage.assets],
        "runs": lineage.runs,
        "edges": [
            {"run": e.run_id, "asset": refs[e.asset_id], "direction": e.direction, "role": e.role}
            for e in lineage.edges
            if e.asset_id in refs
        ],
    }
