"""Small parts: progress lines, text, doctor, the demo's story and its care for other folders."""

from pathlib import Path
from typing import Any

import pytest

from longrein.cli import _text
from longrein.cli._progress import Lines, told_fields
from longrein.control import nouns
from longrein.control.loop import News
from longrein.demo import corpus, story

from .conftest import Call


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_progress_says_a_line_every_few_seconds() -> None:
    said: list[str] = []
    clock = Clock()
    lines = Lines(said.append, clock)
    lines(News("start", "model:m", {"reasons": ["new"], "attempt": 2, "log": "/log"}))
    for clock.now in (1.0, 4.0, 6.0, 7.0):
        lines(
            News("progress", "model:m", {"done": clock.now, "total": 12, "fields": {"loss": 0.25, "tokens_s": 1234.4}})
        )
    lines(News("metrics", "model:m", {"values": {}}))
    lines(News("done", "model:m", {"ref": "model:m@1", "wall_s": 8.0}))
    assert said == [
        "▶ model:m, attempt 2: new",
        "  model:m  50% · loss 0.25 · 1,234 tokens/s · 6.0 s left",
        "✓ model:m@1  8.0 s",
    ]
    assert (lines.done, lines.took) == (["model:m@1"], {"model:m": 8.0})


def test_progress_takes_the_steps_own_estimate() -> None:
    said: list[str] = []
    clock = Clock()
    lines = Lines(said.append, clock)
    clock.now = 10.0
    lines(News("progress", "m", {"done": 0, "total": 0, "fields": {"left_s": 100.0}}))
    assert said == ["  m   0% · 1:40 left"]
    assert told_fields({"rows": 12345, "accuracy": 0.5, "left_s": 1}) == ["12,345 rows", "accuracy 0.5"]


def test_progress_tells_of_failures_and_waiting_once() -> None:
    said: list[str] = []
    lines = Lines(said.append, Clock())
    lines(News("start", "m", {"reasons": ["new"], "attempt": 1, "log": "/log"}))
    lines(News("failed", "m", {"code": "failed", "message": "no", "hint": ""}))
    for _ in range(3):
        lines(News("waiting", "m", {"owner": "host:1:2"}))
    assert said[1:] == ["✗ m: no", "… m is being done by another loop (host:1): waiting for it"]
    assert lines.failed["m"]["log"] == "/log"


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.04, "0.0 s"), (9.96, "10.0 s"), (59.6, "60 s"), (185, "3:05"), (7800, "2:10:00"), (None, "–")],
)
def test_durations(value: float | None, shown: str) -> None:
    assert _text.duration(value) == shown


def test_tables_align_wide_characters() -> None:
    lines = _text.table([("模型", "x"), ("model", "y")]).splitlines()
    assert lines == ["模型   x", "model  y"]
    assert _text.short("你好世界", 5) == "你好…" and _text.short("a\n b", 9) == "a b"
    assert _text.size(1500) == "1.5 kB" and _text.money(0.00123) == "$0.0012" and _text.money(12) == "$12.00"


def test_doctor_looks_at_machine_and_project(call: Call, words: Path, tmp_path: Path) -> None:
    alone = call("doctor", "--json", "-C", tmp_path)
    assert alone.code == 0 and "the machine alone" in alone.err
    names = {c["name"]: c for c in alone.data}
    assert {"python", "cpu", "memory", "disk", "packages", "extra lora"} <= names.keys() and "ledger" not in names
    assert "torch" in names["packages"]["told"]
    call("apply", "-C", words)
    whole = {c["name"]: c["state"] for c in call("doctor", "--json", "-C", words).data}
    assert (whole["ledger"], whole["store"], whole["key"]) == ("ok", "ok", "lacks")
    assert "✓ ledger" in call("doctor", "-C", words).out


def test_doctor_finds_a_key_that_others_can_read(call: Call, words: Path) -> None:
    call("apply", "-C", words)
    (words / ".longrein" / "key").write_text("lr-x")
    (words / ".longrein" / "key").chmod(0o644)
    done = call("doctor", "-C", words)
    assert done.code == 1 and "hint: chmod 600" in done.err


def test_demo_leaves_other_folders_alone(call: Call, words: Path, tmp_path: Path) -> None:
    for folder, told in ((words, "another project"), (tmp_path, "is not empty")):
        before = sorted(folder.rglob("*"))
        done = call("demo", folder)
        assert done.code == 4 and told in done.err
        assert sorted(folder.rglob("*")) == before


def test_the_demos_file_is_right_and_fits_its_data() -> None:
    assert story.TEMPLATE.read_text("utf-8").startswith(story.MARK)
    spec = nouns.read(story.TEMPLATE)
    assert spec.datasets["tickets"].transforms == corpus.TRANSFORMS
    assert {spec.datasets["tickets"].input, spec.datasets["tickets"].output} <= set(corpus.COLUMNS)
    assert spec.endpoints["support"].gates == ["quality"]


FACTS: dict[str, Any] = {
    "folder": "/home/me/demo",
    "dataset": {"ref": "dataset:tickets@1", "rows": 6000, "rows_in": 6862, 
                "dropped": {"duplicate": 568, "novel_reason": 1}, "languages": {"en": 4000, "zh": 2000}},
    "pii": {"email": 7}, "model": {"ref": "model:support@1", "parameters": 700000, "wall_s": 33.3},
    "metrics": {"loss": 0.05, "validation_loss": 0.07},
    "score": {"value": 0.96, "low": 0.94, "high": 0.97, "n": 600},
    "gate": {"name": "quality", "passed": True, "reasons": ["✓ exact_match 0.96 ≥ 0.85"]},
    "release": {"ref": "release:support@1", "digest": "ab" * 32},
    "request": {"id": "chatcmpl-1", "input": "where {is} it?", "output": "late_delivery", "total_ms": 31.4},
    "rows": [{"source": "data/raw/a.csv", "line": 7, "input": "where is it", "output": "late_delivery"}],
    "cost_usd": 0.0012, "wall_s": 43.2,
}  # fmt: skip


@pytest.mark.parametrize(
    ("language", "words"), [("en", ["What happened", "568 duplicate"]), ("zh", ["发生了什么", "568 重复"])]
)
def test_the_story(language: str, words: list[str]) -> None:
    told = story.tell(FACTS, language)
    for part in (
        *words, "6,862", "6,000", "96.0%", "94.0%", "✓ exact_match 0.96 ≥ 0.85", "where {is} it?", "late_delivery",
        "data/raw/a.csv:7", "abababababab", "$0.0012", "longrein why chatcmpl-1", "home/me/demo", "0.050", "7 email",
    ):  # fmt: skip
        assert part in told, part
