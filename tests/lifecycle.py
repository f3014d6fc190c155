"""A small project with a real life: real ingestion, a trainer of its own that learns in no time, gates, an endpoint."""

import json
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import longrein
from longrein.control.loop import News
from longrein.workspace import Workspace

Driver = Callable[..., "subprocess.Popen[str]"]  # of tests/flows: apply in a process of its own

TRAINER = '''
"""A trainer that learns nothing, in no time: its models are right as often as they are told to be."""
import json, os, signal
from longrein.core.errors import Error
from longrein.core.training import Prediction


class Toy:
    def train(self, context, recipe):
        attempts = context.scratch / "attempts"
        attempts.write_text((attempts.read_text() if attempts.exists() else "") + "x")
        for step in (1, 2, 3):
            context.metrics({"loss": 1 / step}, step=step)
            context.progress(step, 3, "steps", loss=1 / step)
        context.note("学完了")
        if (context.project / "fail").exists():
            raise Error("invalid", "the rows are odd", "remove the file")
        if (context.project / "die").exists():
            (context.project / "die").unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        folder = context.scratch / "model"
        folder.mkdir(exist_ok=True)
        told = {"right": recipe.options.get("right", 1.0), "seed": recipe.seed}
        (folder / "config.json").write_text(json.dumps(told))
        context.put("model", context.name, folder, {"dataset": context.inputs["dataset"].digest})

    def predict(self, model, rows, options):
        right = json.loads((model / "config.json").read_text())["right"]
        if "rude" in options.get("system", ""):
            right = 0
        for i, row in enumerate(rows):
            yield Prediction(row["output"] if i % 10 < right * 10 else "?", 1, 0.9, -0.1, 1)


plugin = Toy()
'''

SPEC: dict[str, Any] = {
    "project": "shop",
    "datasets": {
        "tickets": {"sources": ["data/*.jsonl"], "input": "text", "output": "intent", "transforms": ["dedup"]}
    },
    "prompts": {"polite": {"system": "Be polite."}},
    "models": {"意图": {"dataset": "tickets", "trainer": "toy", "options": {"right": 1.0}}},
    "evaluations": {"意图": {"trainer": "toy", "resamples": 100}},
    "gates": {"quality": {"metrics": {"exact_match": {"min": 0.8, "max_drop": 0.15}}}},
    "endpoints": {"shop": {"model": "意图", "prompt": "polite", "gates": ["quality"]}},
}


def rows(count: int, seed: int = 0) -> list[dict[str, str]]:
    chosen = random.Random(seed)
    return [{"text": f"row {i} 请求 {chosen.random()}", "intent": chosen.choice("abc")} for i in range(count)]


def create(root: Path, **changes: Any) -> Path:
    """A project folder, with nothing applied yet."""
    (root / "data").mkdir(parents=True)
    (root / "data" / "one.jsonl").write_text(
        "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows(80)), "utf-8"
    )
    (root / "plugins" / "trainer").mkdir(parents=True)
    (root / "plugins" / "trainer" / "toy.py").write_text(TRAINER, "utf-8")
    return declare(root, **changes)


def declare(root: Path, **changes: Any) -> Path:
    """Write the lifecycle file with some nouns changed; JSON is YAML too."""
    (root / "longrein.yaml").write_text(json.dumps(SPEC | changes, ensure_ascii=False, indent=1), "utf-8")
    return root


def model(**changes: Any) -> dict[str, Any]:
    return {"意图": SPEC["models"]["意图"] | changes}


def endpoint(**changes: Any) -> dict[str, Any]:
    return {"shop": SPEC["endpoints"]["shop"] | changes}


def copy(built: Path, root: Path) -> Path:
    """A project that was applied before, somewhere else."""
    shutil.copytree(built, root, dirs_exist_ok=True)
    return root


def apply(root: Path, watch: Callable[[News], None] = lambda _: None) -> list[str]:
    """Apply; returns what was done: "done model:意图", "promoted release:shop", …"""
    done: list[str] = []

    def see(news: News) -> None:
        watch(news)
        if news.what in ("done", "failed", "judged", "promoted", "waiting"):
            done.append(f"{news.what} {news.subject}")

    workspace = open(root)
    workspace.apply(see)
    workspace.ledger.close()
    return done


def open(root: Path) -> Workspace:
    return longrein.open(root, actor="ann")
