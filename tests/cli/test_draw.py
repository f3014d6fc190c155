"""Drawings of lineage: every box and arrow is there, boxes do not overlap, long arrows cross none."""

from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import pytest

from longrein.control import draw
from longrein.core.ledger import Asset, Ledger, Lineage, Run

SVG = "{http://www.w3.org/2000/svg}"


class Maker:
    """Makes assets by runs, in a real ledger."""

    def __init__(self, folder: Path) -> None:
        self.ledger = Ledger(f"sqlite:///{folder}/ledger.db")

    def make(self, capability: str, kind: str, name: str, *inputs: Asset) -> Asset:
        run = self.ledger.runs.start(capability=capability)
        for asset in inputs:
            self.ledger.assets.link(run, asset.id, "in")
        digest = f"{self.ledger.events.head()[0]:064x}"
        made = self.ledger.assets.put(kind, name, digest, run_id=run)
        self.ledger.runs.finish(run)
        return made

    def lineage(self, asset: Asset, direction: str = "up") -> tuple[Lineage, dict[str, Run]]:
        found = self.ledger.assets.lineage(asset, direction)
        return found, {run: self.ledger.runs.get(run) for run in found.runs}


@pytest.fixture
def maker(tmp_path: Path) -> Maker:
    return Maker(tmp_path)


@pytest.fixture
def report(maker: Maker) -> Asset:
    data, more = maker.make("data.ingest", "dataset", "客服"), maker.make("data.ingest", "dataset", 'a <b> & "c"')
    words = maker.make("models.prompt", "prompt", "p")
    model = maker.make("models.train", "model", "m", data, more, words)
    return maker.make("models.evaluate", "report", "m", model, data, words)


def test_boxes_apart_and_arrows_around_them(maker: Maker, report: Asset) -> None:
    drawn = draw.graph(*maker.lineage(report))
    root = ElementTree.fromstring(draw.svg(drawn, "标题 <&>"))
    boxes = [
        (float(r.get("x", 0)), float(r.get("y", 0)), float(r.get("width", 0)), float(r.get("height", 0)))
        for r in root.iterfind(f"{SVG}g/{SVG}rect")
    ]
    assert len(boxes) == 10  # 5 assets and the 5 runs that made them
    for (x, y, w, h), (x2, y2, w2, h2) in combinations(boxes, 2):
        assert x + w <= x2 or x2 + w2 <= x or y + h <= y2 or y2 + h2 <= y
    assert len(root.findall(f"{SVG}path")) == len(drawn.arrows) == 11
    wide, high = float(root.get("width", 0)), float(root.get("height", 0))
    assert all(x >= 0 and y >= 0 and x + w <= wide and y + h <= high for x, y, w, h in boxes)
    assert drawn.nodes[drawn.arrows[0][0]].layer < drawn.nodes[drawn.arrows[0][1]].layer
    for (source, target), way in drawn.bends.items():
        assert len(way) == drawn.nodes[target].layer - drawn.nodes[source].layer - 1
        for bend in way:  # a place of its own, where no box stands
            assert all((n.layer, n.row) != (bend.layer, bend.row) for n in drawn.nodes.values())


def test_hostile_names_stay_text(maker: Maker, report: Asset) -> None:
    drawn = draw.graph(*maker.lineage(report))
    assert "<b>" not in draw.svg(drawn)
    quoted = [line for line in draw.mermaid(drawn).splitlines() if "a <b>" in line]
    assert quoted and all(line.count('"') == 2 for line in quoted)


def test_tree_shows_a_shared_input_once_in_full(maker: Maker, report: Asset) -> None:
    lineage, runs = maker.lineage(report)
    lines = draw.tree(lineage, runs)
    assert lines[0].startswith("report:m@1") and len(lines) == 7
    assert sum("dataset:客服@1" in line for line in lines) == 2


def test_a_long_chain(maker: Maker) -> None:
    asset = maker.make("models.train", "model", "m")
    for _ in range(120):
        asset = maker.make("models.train", "model", "m", asset)
    lineage, runs = maker.lineage(asset)
    drawn = draw.graph(lineage, runs)
    ElementTree.fromstring(draw.svg(drawn))
    assert max(n.layer for n in drawn.nodes.values()) == 241
    assert draw.tree(lineage, runs)[-1].endswith("…")


def test_nothing_but_the_asset(maker: Maker) -> None:
    asset = maker.ledger.assets.put("model", "alone", "0" * 64)
    lineage, runs = maker.lineage(asset)
    assert draw.tree(lineage, runs) == ["model:alone@1  000000000000"]
    ElementTree.fromstring(draw.svg(draw.graph(lineage, runs)))
