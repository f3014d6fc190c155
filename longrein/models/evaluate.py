"""Evaluates a model on a split of a dataset: its answers, row by row, and what they are worth.

The report is a folder: report.json (all values) and predictions.jsonl (one line a row, by row id).
"""

import json
import shutil
from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import parse_qs

import msgspec
from msgspec import Meta, Struct

from longrein.core.errors import Error
from longrein.core.plugins import load
from longrein.core.step import Context
from longrein.core.text import language

VERSION = 1


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a model is evaluated: `evaluations: {model name: …}` in longrein.yaml."""

    dataset: str | None = None  # None: the one the model was trained on
    split: str = "test"
    limit: Annotated[int, Meta(ge=1)] | None = None  # rows, from the start of the split
    classes: Annotated[int, Meta(ge=0)] = 500  # scores by class where there are at most so many different outputs
    slices: tuple[str, ...] = ("language",)  # columns to score apart; language, where there is none, by script
    resamples: Annotated[int, Meta(ge=100)] = 1000  # of the bootstrap
    max_tokens: Annotated[int, Meta(ge=1)] | None = None  # of an answer; None: a little over twice the longest output
    seed: Annotated[int, Meta(ge=0)] = 0
    trainer: str = "torch"  # whose predict is asked
    options: dict[str, Any] = {}  # its own


def run(context: Context) -> None:
    """Inputs: "model", "dataset", and "prompt" where the model has one. Output: a report with the model's name."""
    from longrein.models import score  # brings numpy, which reading Config must not

    try:
        config = msgspec.convert(context.config, Config)
    except msgspec.ValidationError as error:
        raise Error("invalid", f"evaluation of {context.name!r}: {error}", "see `longrein schema`") from error
    rows = _rows(context, config)
    lines = _answered(context, config, rows)
    dataset = context.inputs["dataset"]
    head: dict[str, Any] = {
        "split": config.split,
        "n": len(lines),
        "subject": {role: context.inputs[role].digest for role in ("model", "prompt") if role in context.inputs},
        "dataset": {"ref": dataset.ref, "digest": dataset.digest},
    }
    report = head | score.report(score.Rows.of(lines), config.classes, config.resamples, config.seed)
    context.metrics({name: value["value"] for name, value in report["metrics"].items()})
    folder = context.scratch / "report"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "report.json").write_text(json.dumps(report, ensure_ascii=False, indent=1), "utf-8")
    with (folder / "predictions.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    context.put("report", context.name, folder, head | {k: report[k] for k in ("metrics", "slices")})


def _rows(context: Context, config: Config) -> list[dict[str, Any]]:
    """The split's rows with an output; of `messages` the last one is the output."""
    given = context.inputs["dataset"]
    query = parse_qs(given.uri.partition("?")[2])
    options: dict[str, Any] = {"version": int(query["version"][0])} if "version" in query else {}
    rows: list[dict[str, Any]] = []
    for record in load("reader", "lance").read(context.path("dataset"), options):
        row = record.row
        if row.get("split") != config.split:
            continue
        if row.get("messages"):
            row["output"] = row["messages"][-1]["content"]
        if row.get("output") is not None:
            rows.append(row)
        if len(rows) == config.limit:
            break
    if not rows:
        raise Error(
            "invalid",
            f"{given.ref} has no row with an output in its split {config.split!r}",
            f"give another split: evaluations: {{{context.name}: {{split: validation}}}}",
        )
    return rows


def _answered(context: Context, config: Config, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A line of predictions.jsonl for each row."""
    system = json.loads(context.path("prompt").read_text("utf-8"))["system"] if "prompt" in context.inputs else ""
    options = {"system": system, "max_tokens": config.max_tokens, "threads": context.cpus, **config.options}
    predictions = load("trainer", config.trainer).predict(context.path("model"), rows, options)
    lines: list[dict[str, Any]] = []
    for row, prediction in zip(rows, predictions, strict=True):
        slices = {name: _slice(row, name) for name in config.slices}
        lines.append({"row": row["_rowid"], "target": row["output"], **prediction._asdict(), "slices": slices})
        if len(lines) % 500 == 0 or len(lines) == len(rows):
            context.progress(len(lines), len(rows), "rows")
    return lines


def _slice(row: Mapping[str, Any], column: str) -> str:
    if column == "language" and column not in row:
        return language(row.get("input") or " ".join(m["content"] for m in row.get("messages") or []))
    return str(row.get(column))
