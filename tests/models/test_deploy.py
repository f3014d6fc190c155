"""Releases: one digest that covers all that is served, and nothing else."""

import json
from pathlib import Path
from typing import Any

from longrein.core.step import Context, Input, Job, Output
from longrein.models import deploy

MODEL = Input("model:意图@3", "m1", "sha256/m1/m1", {"tokenizer_digest": "t1"})
WORDS = Input("prompt:polite@1", "p1", "sha256/p1/p1")


def release(tmp_path: Path, model: Input = MODEL, words: Input | None = WORDS, **config: Any) -> Output:
    inputs = {"model": model} | ({"prompt": words} if words else {})
    given = {"model": "意图", "engine": "torch", "options": {}} | config
    context = Context(Job("", "shop", given, inputs, str(tmp_path / "store"), str(tmp_path)), tmp_path / "scratch")
    deploy.run(context)
    return context.outputs[0]


def test_a_release_names_what_is_in_it(tmp_path: Path) -> None:
    made = release(tmp_path, options={"max_batch": 4})
    assert (made.kind, made.name) == ("release", "shop")
    assert made.meta == {
        "model": {"ref": "model:意图@3", "digest": "m1", "uri": "sha256/m1/m1"},
        "prompt": {"ref": "prompt:polite@1", "digest": "p1", "uri": "sha256/p1/p1"},
        "engine": "torch", "options": {"max_batch": 4}, "tokenizer": "t1",
    }  # fmt: skip
    stored = json.loads((tmp_path / "store" / made.uri).read_text())
    assert stored == {"model": "m1", "prompt": "p1", "engine": "torch", "options": {"max_batch": 4}}


def test_a_release_is_another_when_anything_served_is(tmp_path: Path) -> None:
    digests = [
        made.digest
        for made in (
            release(tmp_path),
            release(tmp_path, Input("model:意图@4", "m2", "u")),
            release(tmp_path, words=None),
            release(tmp_path, words=Input("prompt:polite@2", "p2", "u")),
            release(tmp_path, engine="vllm"),
            release(tmp_path, options={"max_batch": 4}),
            release(tmp_path, options={"digest": "x", "max_batch": 4}),
            release(tmp_path, options={"digest": "x", "max_batch": 8}),
        )
    ]
    assert len(set(digests)) == len(digests)


def test_a_release_is_the_same_under_other_version_numbers(tmp_path: Path) -> None:
    """Another ledger numbers the same bytes otherwise."""
    renumbered = Input("model:意图@9", "m1", "elsewhere")
    assert release(tmp_path).digest == release(tmp_path, renumbered).digest


def test_settings_that_are_not_served_are_not_in_a_release() -> None:
    config = deploy.Config(model="m", gates=["q"], approval="manual", log_text=True, options={"a": 1})
    assert deploy.served(config) == {"model": "m", "engine": "torch", "options": {"a": 1}}
