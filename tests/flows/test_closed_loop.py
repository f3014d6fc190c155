"""The story of examples/closed-loop, shortened: noticed, learnt, released; then two bad ones taken back. No hands."""

import importlib.util
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import longrein as lr
from longrein.control.rules import firing

EXAMPLE = Path(__file__).parents[2] / "examples" / "closed-loop"
SHORTER = {
    "warm_up: 500": "warm_up: 120",
    "at_least: 1500": "at_least: 200",
    "steps: [{weight: 30, requests: 100}, {weight: 60, requests: 300}]": "steps: [{weight: 50, requests: 100}]",
}


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"closed_loop_{name}", EXAMPLE / f"{name}.py")
    assert spec and spec.loader
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def told(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    root = tmp_path_factory.mktemp("closed-loop")
    load("prepare").prepare(data / "clinc150", root, known=("banking",), new=("travel",), intents=6, rows=60)
    shutil.copy(EXAMPLE / "longrein.yaml", root)
    text = (root / "longrein.yaml").read_text("utf-8")
    for old, new in SHORTER.items():
        assert old in text
        text = text.replace(old, new)
    (root / "longrein.yaml").write_text(text, "utf-8")
    return root, load("run").story(root, rate=40, late_s=2, quiet=150, after=100)


def test_it_is_noticed_after_the_shift_and_not_before(told: tuple[Path, dict[str, Any]]) -> None:
    _, facts = told
    assert facts["early"] == []
    assert facts["alert"].subject == "endpoint:assistant" and facts["delay"] > 0


def test_the_new_dataset_holds_what_was_asked(told: tuple[Path, dict[str, Any]]) -> None:
    root, facts = told
    workspace = lr.open(root)
    assert len(facts["rows"]) >= 200
    learnt = {row["input"] for row in workspace.dataset("requests@2")}
    assert {row["text"] for row in facts["rows"]} <= learnt
    logged = workspace.requests.many(row["request_id"] for row in facts["rows"])
    assert all(logged[row["request_id"]]["input"] == row["text"] for row in facts["rows"])
    behind = {asset.ref for asset in workspace.lineage(facts["learnt"].ref).assets}
    assert "dataset:requests@2" in behind


def test_a_better_release_was_moved_in_by_the_rollout(told: tuple[Path, dict[str, Any]]) -> None:
    root, facts = told
    assert (facts["rollout"].status, facts["rollout"].candidate) == ("promoted", facts["learnt"])
    assert facts["during"] < 0.1 and facts["after"] > facts["during"] + 0.25
    ledger = lr.open(root).ledger
    (fired,) = firing.recent(ledger)
    assert (fired.name, fired.run.status, fired.cause.alert) == ("learn", "FINISHED", facts["alert"].id)
    assert facts["rollout"].started_ms > fired.run.started_ms
    ledger.events.verify()


def test_a_bad_release_and_a_bad_prompt_were_taken_back(told: tuple[Path, dict[str, Any]]) -> None:
    _, facts = told
    assert [rollout.status for rollout in facts["bad"]] == ["rolled_back", "rolled_back"]
    assert facts["now"] == facts["learnt"]
    assert facts["failed"] <= len(facts["answers"]) / 100
