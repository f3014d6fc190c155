"""Prompts as assets."""

import json
from pathlib import Path

from longrein.core.step import Context, Job
from longrein.models import prompt


def test_a_prompt(tmp_path: Path) -> None:
    job = Job("", "polite", {"system": "你好\n" * 100}, {}, str(tmp_path / "store"), str(tmp_path))
    context = Context(job, tmp_path / "scratch")
    prompt.run(context)
    (made,) = context.outputs
    assert json.loads((tmp_path / "store" / made.uri).read_text("utf-8")) == {"system": "你好\n" * 100}
    assert (made.kind, made.name, len(made.meta["system"])) == ("prompt", "polite", 200)
