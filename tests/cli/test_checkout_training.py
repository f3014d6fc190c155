"""checkout for training, as people type it: from a mixture and pairs to files with their counts."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import tiny

LIFECYCLE = """project: notes
datasets:
  mixed: {mix: {weights: {a: 3, b: 1}, rows: 40}}
  a: {sources: [a/*], input: text, split: {train: 1}}
  b: {sources: [b/*], input: text, split: {train: 1}}
  pairs: {sources: [pairs/*], format: preference, split: {train: 1}}
"""


def test_from_a_mixture_to_files(tmp_path: Path, call):
    root = tmp_path / "notes"
    for name in ("a", "b"):
        (root / name).mkdir(parents=True)
        (root / name / "x.jsonl").write_text("".join(json.dumps({"text": f"{name} {i}"}) + "\n" for i in range(50)))
    (root / "pairs").mkdir()
    pair = {"prompt": "Q?", "chosen": "yes", "rejected": "no"}
    (root / "pairs" / "x.jsonl").write_text(json.dumps(pair) + "\n" + json.dumps(pair | {"rejected": "yes"}) + "\n")
    (root / "longrein.yaml").write_text(LIFECYCLE)
    tiny._tokenizer().save_pretrained(root / "model")
    assert call("-C", root, "apply").code == 0
    shown = call("-C", root, "--json", "show", "dataset:mixed").data
    assert {name: one["rows"] for name, one in shown["meta"]["mix"].items()} == {"a": 30, "b": 10}
    assert call("-C", root, "logs", "dataset:mixed").code == 0
    again = call("-C", root, "--json", "reproduce", "dataset:mixed").data
    assert again["same"] and again["code"] and again["stored"]
    assert [p.name for p in (root / ".longrein/store/lance").glob("mixed*")] == ["mixed.lance"]
    options = ["--format", "pretrain", "--tokenizer", root / "model", "--seq", 16, "--option", "shard_bytes=400"]
    done = call("-C", root, "--json", "checkout", "mixed", tmp_path / "out", *options)
    assert done.code == 0 and len(done.data["files"]) > 1 and done.data["whole"]
    ids = [
        i
        for f in done.data["files"]
        for row in pq.read_table(tmp_path / "out" / f)["input_ids"].to_pylist()
        for i in row
    ]
    assert len(ids) == done.data["counts"]["train"]["tokens"]
    text = tiny._tokenizer().decode(ids)
    assert text.count("<|im_end|>") == 40 and text.count("a ") == 30
    done = call("-C", root, "checkout", "pairs", tmp_path / "pairs", "--format", "preference")
    assert done.code == 0 and "train: 1 pairs" in done.out
    assert (
        call("-C", root, "checkout", "pairs", tmp_path / "x", "--format", "preferences").err.count("'preference'") == 1
    )
    wrong = call("-C", root, "checkout", "pairs", tmp_path / "x", "--seq", 8)
    assert wrong.code != 0 and "takes no 'seq'" in wrong.err and not (tmp_path / "x").exists()
