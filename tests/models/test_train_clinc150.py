"""examples/clinc150: its rows are the official in-scope ones, its lifecycle file is valid and trains on them."""

import json
import runpy
from collections import Counter
from pathlib import Path

import small

from longrein.control import nouns
from longrein.core.spec import sparse
from longrein.models import train

EXAMPLE = Path(__file__).parents[2] / "examples" / "clinc150"


def test_the_example_prepares_and_trains(data: Path, tmp_path: Path) -> None:
    prepare = runpy.run_path(str(EXAMPLE / "prepare.py"))["prepare"]
    assert prepare(data / "clinc150" / "data_full.json", tmp_path / "rows.jsonl") == 22500
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text("utf-8").splitlines()]
    assert Counter(r["split"] for r in rows) == {"train": 15000, "validation": 3000, "test": 4500}
    assert len({r["intent"] for r in rows}) == 150
    spec = nouns.read(EXAMPLE / "longrein.yaml")
    assert [m.seed for m in spec.models.values()] == [0, 1, 2]
    asked = [{"input": r["text"], "output": r["intent"], "split": r["split"]} for r in rows[::30]]
    config = sparse(spec.models["intent"]) | {"max_steps": 10}
    context = small.context(tmp_path, config, dataset=small.write(tmp_path, asked))
    train.run(context)
    losses = [values["loss"] for _, values in small.curve(context.scratch) if "loss" in values]
    assert losses[-1] < losses[0] - 1
