"""A model trained on a mixture, by the torch trainer: from two sources to a model that knows both."""

import json
from pathlib import Path

import lifecycle


def test_a_tiny_model_learns_what_both_teach(tmp_path: Path) -> None:
    root = tmp_path / "shop"
    told = {"colours": [("sky", "blue"), ("grass", "green")], "sounds": [("cat", "meow"), ("dog", "woof")]}
    for name, pairs in told.items():
        (root / name).mkdir(parents=True)
        rows = [{"q": f"{ask} {i}", "a": answer} for i in range(60) for ask, answer in pairs]
        (root / name / "x.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    pair = {"input": "q", "output": "a"}
    datasets = {name: {"sources": [f"{name}/*"], **pair} for name in told}
    datasets["both"] = {"mix": {"weights": {"colours": 2, "sounds": 1}, "rows": 120, "epochs": {"sounds": 2}}}
    model = {"dataset": "both", "size": "nano", "epochs": 2, "vocabulary": 300}
    lifecycle.create(root, datasets=datasets, models={"m": model}, evaluations={}, prompts={}, gates={}, endpoints={})
    assert {"done dataset:both", "done model:m", "done report:m"} <= set(lifecycle.apply(root))
    workspace = lifecycle.open(root)
    mixed = workspace.asset("dataset:both").meta["mix"]
    assert [mixed[n]["rows"] for n in told] == [80, 40] and mixed["sounds"]["epochs"] < 1
    up = {a.ref for a in workspace.ledger.assets.lineage(workspace.asset("model:m"), "up").assets}
    assert {"dataset:both@1", "dataset:colours@1", "dataset:sounds@1"} <= up
    workspace.ledger.close()
