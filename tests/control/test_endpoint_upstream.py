"""Endpoints whose model is served elsewhere: their releases, and what their config refuses."""

from pathlib import Path
from typing import Any

import lifecycle
import pytest
from lifecycle import SPEC, apply, declare, endpoint

from longrein.core.errors import Error

UPSTREAM = {"urls": ["http://127.0.0.1:9/v1"], "model": "qwen"}


def release(root: Path, name: str) -> dict[str, Any]:
    workspace = lifecycle.open(root)
    meta = workspace.ledger.assets.get(f"release:{name}@prod").meta
    workspace.ledger.close()
    return dict(meta)


def test_a_release_without_a_model_of_ours(project: Path) -> None:
    both = {**SPEC["endpoints"], "gpt": {"upstream": UPSTREAM, "prompt": "polite"}}
    declare(project, endpoints=both)
    assert apply(project) == ["done release:gpt", "promoted release:gpt"]
    meta = release(project, "gpt")
    assert meta["model"] is None and meta["prompt"]["ref"] == "prompt:polite@1" and meta["engine"] == "openai"
    assert meta["options"]["urls"] == UPSTREAM["urls"]
    declare(project, endpoints=both | {"gpt": {"upstream": UPSTREAM, "prompt": "polite", "log_text": True}})
    assert apply(project) == []
    declare(project, endpoints=both | {"gpt": {"upstream": UPSTREAM | {"model": "qwen-2"}, "prompt": "polite"}})
    assert apply(project) == ["done release:gpt", "promoted release:gpt"]


def test_a_model_of_ours_served_elsewhere_keeps_its_gates_and_lineage(project: Path) -> None:
    declare(project, endpoints=endpoint(upstream=UPSTREAM))
    assert apply(project) == ["done release:shop", "judged release:shop@2", "promoted release:shop"]
    meta = release(project, "shop")
    assert meta["model"]["ref"] == "model:意图@1" and meta["engine"] == "openai"


@pytest.mark.parametrize(
    ("config", "part"),
    [
        ({}, "needs a model, or an upstream"),
        ({"upstream": UPSTREAM, "engine": "vllm"}, "has no engine and no options"),
        ({"upstream": UPSTREAM, "gates": ["quality"]}, "gates judge a report of a model"),
        ({"upstream": UPSTREAM | {"urls": []}}, "length >= 1"),
        ({"upstream": UPSTREAM | {"urls": ["ftp://x/v1"]}}, "is not the base URL"),
        ({"upstream": UPSTREAM | {"urls": ["http://me:secret@x/v1"]}}, "use key_env"),
        ({"upstream": UPSTREAM | {"urls": ["http://x/v1?key=1"]}}, "is not the base URL"),
        ({"upstream": UPSTREAM | {"api_key": "sk-1"}}, "api_key"),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_line(project: Path, config: dict[str, Any], part: str) -> None:
    declare(project, endpoints={**SPEC["endpoints"], "gpt": config})
    with pytest.raises(Error, match=part) as refused:
        apply(project)
    assert refused.value.code == "invalid" and "secret" not in refused.value.message
