"""A small project for the tests of training and evaluation: bilingual requests, four intents, a Lance table."""

import json
import random
from pathlib import Path
from typing import Any

import lance
import pyarrow as pa

from longrein.core.step import Context, Input, Job

WORDS = {
    "refund": ["money back", "refund", "return it", "退款", "退货", "把钱退给我"],
    "shipping": ["parcel", "delivery", "courier", "快递", "包裹到哪了", "物流"],
    "invoice": ["invoice", "receipt", "tax number", "发票", "开票", "税号"],
    "password": ["password", "log in", "account locked", "密码", "登录不了", "账号被锁"],
}
FRAMES = [
    "please help with {}",
    "{} now!",
    "I have a question: {}",
    "你好，{}，谢谢",
    "{} 怎么办？",
    "why is my {} late",
]
QUICK = {
    "size": "nano",
    "vocabulary": 320,
    "epochs": 4,
    "batch_tokens": 512,
    "learning_rate": 0.03,
    "dataset": "requests",
}


def requests(n: int = 240, seed: int = 0) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    rows = []
    for i in range(n):
        output = rng.choice(sorted(WORDS))
        text = rng.choice(FRAMES).format(rng.choice(WORDS[output])) + f" #{rng.randrange(100)}"
        split = ("train", "train", "train", "train", "validation", "test")[i % 6]
        rows.append({"input": text, "output": output, "split": split, "source": "requests.jsonl", "line": i + 1})
    return rows


def write(folder: Path, rows: list[dict[str, Any]], schema: pa.Schema | None = None) -> Input:
    """A dataset in the store of the project `folder`, as an input of a step."""
    (folder / "store" / "lance").mkdir(parents=True, exist_ok=True)
    table = lance.write_dataset(
        pa.Table.from_pylist(rows, schema),
        str(folder / "store/lance/requests.lance"),
        mode="overwrite",
        enable_stable_row_ids=True,
    )
    return Input(f"dataset:requests@{table.version}", "d" * 64, f"lance/requests.lance?version={table.version}")


def job(folder: Path, config: dict[str, Any], **inputs: Input) -> Job:
    return Job("longrein.models.train:run", "support", config, inputs, str(folder / "store"), str(folder))


def context(folder: Path, config: dict[str, Any], scratch: str = "work", **inputs: Input) -> Context:
    return Context(job(folder, config, **inputs), folder / scratch)


def said(scratch: Path) -> list[dict[str, Any]]:
    """All events of a step; each attempt begins on a line of its own."""
    lines = (scratch / "events.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines if line]


def events(scratch: Path, kind: str) -> list[dict[str, Any]]:
    return [e for e in said(scratch) if e["type"] == kind]


def curve(scratch: Path) -> list[tuple[int, dict[str, float]]]:
    """The metrics as the loop keeps them: what an attempt logged beyond where the next one went on is dropped."""
    kept: list[tuple[int, dict[str, float]]] = []
    for event in said(scratch):
        if event["type"] == "resumed":
            kept = [(step, values) for step, values in kept if step <= event["step"]]
        if event["type"] == "metrics":
            kept.append((event["step"], event["values"]))
    return kept
