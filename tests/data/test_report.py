"""The card and the page of a dataset: every row accounted for, hostile text shown and not obeyed."""

import html.parser
import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import longrein as lr
from longrein.data import card, page, profile
from longrein.workspace import Workspace

HOSTILE = '<script>alert(1)</script> | `x` </td> \u202egnp.exe \x1b[31m " onload="x'
ROWS = [
    {"text": "write to anna@example.com about the refund of order 1", "intent": "refund", "quality": 0.25},
    {"text": "写信给 li@example.cn 谈退款，谢谢", "intent": "refund", "quality": 0.75},
    {"text": HOSTILE, "intent": "odd", "quality": 0.5},
    {"text": "x", "intent": "short", "quality": 1},
    *(
        {"text": f"where is my parcel number {n} please tell me now", "intent": "where", "quality": 1}
        for n in range(40)
    ),
    {"text": "where is my parcel number 1 please tell me now", "intent": "where", "quality": 0},
]
FILE = """
project: report
datasets:
  tickets:
    sources: [data/*.jsonl]
    input: text
    output: intent
    keep: [quality]
    transforms: [pii, length: {min: 2}, near_dedup: {ngram: 2, threshold: 0.6}]
"""


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    folder = tmp_path_factory.mktemp("report")
    (folder / "data").mkdir()
    lines = [json.dumps(r, ensure_ascii=False) for r in ROWS] + ["{broken"]
    (folder / "data" / "a.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    (folder / "longrein.yaml").write_text(FILE)
    workspace = lr.open(folder)
    workspace.apply()
    return workspace


@pytest.fixture(scope="module")
def facts(workspace: Workspace) -> dict[str, Any]:
    return profile.profile(workspace.ledger, workspace.store, workspace.asset("dataset:tickets"), workspace.root)


def test_every_row_is_accounted_for(facts: dict[str, Any]) -> None:
    assert facts["rows_in"] == len(ROWS) + 1 == facts["rows"] + sum(r["rows"] for r in facts["rejected"])
    assert {(r["stage"], r["reason"]) for r in facts["rejected"]} == {
        ("read", "malformed"), ("length", "too_short"), ("near_dedup", "near_duplicate")
    }  # fmt: skip
    assert sum(facts["split"].values()) == sum(facts["language"].values()) == facts["rows"]
    for bars in facts["lengths"].values():
        assert sum(bar["rows"] for bar in bars) == facts["rows"]
        assert all(one["to"] + 1 == other["from"] for one, other in itertools.pairwise(bars))
    assert [r["examples"][0]["line"] for r in facts["rejected"] if r["reason"] == "too_short"] == [4]
    assert facts["clusters"][0]["rows"] == 1 + next(r["rows"] for r in facts["rejected"] if r["stage"] == "near_dedup")
    assert facts["numbers"]["quality"]["0"] == 0.25


def test_changed_rows_stand_as_they_came_and_as_they_are(facts: dict[str, Any]) -> None:
    changed = {one["line"]: one for one in facts["changed"]}
    assert set(changed) == {1, 2}
    assert changed[1]["before"] == ROWS[0]["text"] and "anna@" not in changed[1]["after"]
    assert changed[2]["by"] == ["pii"]


def test_source_that_changed_since_is_not_shown_as_it_was(workspace: Workspace) -> None:
    file = workspace.root / "data" / "a.jsonl"
    before = file.read_bytes()
    try:
        file.write_bytes(before.replace(b"anna", b"otto"))
        asset = workspace.asset("dataset:tickets")
        assert profile.profile(workspace.ledger, workspace.store, asset, workspace.root)["changed"] == []
    finally:
        file.write_bytes(before)


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_card_is_read_by_hugging_face_and_its_tables_hold(facts: dict[str, Any], lang: str) -> None:
    from huggingface_hub import DatasetCard

    text = card.markdown(facts, lang, "mit")
    head = DatasetCard(text).data.to_dict()
    assert head["license"] == "mit" and head["size_categories"] == ["n<1K"] and {"en", "zh"} <= set(head["language"])
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert len(tables) >= 5
    for table in tables:
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(widths) == 1, table
    assert "<script>" not in re.sub(r"\\.", "", text) and "\x1b" not in text and "\u202e" not in text


class _Tags(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.names: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.names |= {name for name, _ in attrs}
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_page_is_whole_and_alone_and_obeys_no_row(facts: dict[str, Any], lang: str) -> None:
    text = page.html(facts, yaml.safe_dump(facts["config"]), lang)
    found = _Tags()
    found.feed(text)
    assert found.open == []
    assert not found.seen & {"script", "link", "img", "iframe"} and not {n for n in found.names if n.startswith("on")}
    assert "http" not in text.replace("http-equiv", "")
    assert "<script>alert(1)" in found.text and "␀202e" in found.text and "\x1b" not in text
    for word in card.WORDS[lang]:
        assert word in card.WORDS["en"] and word in card.WORDS["zh"]


def test_marks_show_both_texts_whole() -> None:
    for before, after in [("", ""), ("a b", "a c"), ("退款 li@x.cn", "退款 [EMAIL]"), ("<b>", "</b>"), ("x", "")]:
        one, other = page.marked(before, after)
        assert re.sub("</?(del|ins)>", "", one) == page._text(before)
        assert re.sub("</?(del|ins)>", "", other) == page._text(after)


def test_what_is_published_has_no_text_of_a_row(facts: dict[str, Any]) -> None:
    bare = profile.without_texts(facts)
    for text in (card.markdown(bare), page.html(bare, "")):
        assert "parcel" not in text and "anna" not in text and "a.jsonl:4" in text


def test_dataset_made_by_hand_has_a_card_too(workspace: Workspace, tmp_path: Path) -> None:
    from longrein.data import checkout, revise

    asset = workspace.asset("dataset:tickets@1")
    checkout.write(workspace.store, asset.uri, tmp_path / "out", "jsonl", ref=asset.ref, digest=asset.digest)
    file = next((tmp_path / "out").rglob("*.jsonl"))
    file.write_text(file.read_text("utf-8").replace("please", "kindly"), "utf-8")
    made = revise.commit(workspace.ledger, workspace.store, "tickets", tmp_path / "out", actor="test")
    found = profile.profile(workspace.ledger, workspace.store, made, workspace.root)
    assert found["rows"] > 0 and found["ref"] == "dataset:tickets@2"
    assert card.WORDS["en"]["unknown"] in card.markdown(found) and "<h1>" in page.html(found, "")
