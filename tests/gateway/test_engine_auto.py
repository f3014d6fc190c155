"""engine: auto chooses what answers right on this machine, tries it once a model, and says what it chose."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import tiny
import torch

from longrein.core import plugins
from longrein.core.generation import Request
from longrein.plugins.engine import auto
from longrein.plugins.engine._auto import same
from longrein.plugins.engine.torch import Config

pytest.importorskip("openvino", reason="pip install 'longrein[openvino]'")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "longrein" / "engine"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.make(tmp_path_factory.mktemp("auto") / "model")


def start(folder, **options):
    return plugins.load("engine", "auto")(folder, options)


def test_openvino_where_it_is_torchs_equal_and_tried_once(folder, cache):
    engine = start(folder, max_batch=3)
    assert (engine.info["engine"], engine.info["max_batch"]) == ("openvino", 3)
    assert engine.info["why"] == "8 of 8 greedy answers of openvino are torch's"
    engine.submit(Request(id="a", prompt=[5], max_tokens=2))
    while engine.pending():
        engine.step()
    [kept] = cache.iterdir()
    kept.write_text(json.dumps(["torch", "as was found"]))
    assert start(folder).info["why"] == "as was found"
    kept.write_text("{")  # cut off
    assert start(folder).info["engine"] == "openvino"


def test_another_model_is_tried_again(folder, cache, tmp_path):
    start(folder)
    start(tiny.make(tmp_path / "other", seed=1))
    assert len(list(cache.iterdir())) == 2


def test_torch_where_openvino_answers_otherwise(folder, monkeypatch):
    """A machine whose kernels are wrong: openvino is given other weights."""
    other = tiny.make(Path(os.environ["XDG_CACHE_HOME"]).parent / "other", seed=3)
    answers = same._answers
    monkeypatch.setattr(
        same, "_answers", lambda name, model, o: answers(name, other if name == "openvino" else model, o)
    )
    engine = start(folder)
    assert engine.info["engine"] == "torch" and engine.info["why"].startswith("0 of 8")


def test_torch_where_openvino_is_not_there_or_cannot(folder, monkeypatch):
    with monkeypatch.context() as patch:
        patch.delitem(sys.modules, "longrein.plugins.engine.openvino", raising=False)
        patch.delitem(sys.modules, "longrein.plugins.engine._openvino.model", raising=False)
        patch.delitem(sys.modules, "longrein.plugins.engine._openvino.graph", raising=False)
        patch.setitem(sys.modules, "openvino", None)
        engine = start(folder)
        assert engine.info["engine"] == "torch" and "'openvino', which is not installed" in engine.info["why"]


def test_a_gpu_is_vllms_if_it_is_there(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert auto.choose(folder, Config())[0] == "torch"
    (tmp_path / "vllm").write_text("#!/bin/sh\n")
    (tmp_path / "vllm").chmod(0o755)
    assert auto.choose(folder, Config()) == ("vllm", f"{tmp_path / 'vllm'} on a GPU")
    assert auto.choose(folder, Config(dtype="int8"))[0] == "torch"
    assert auto.choose(folder, Config(device="cuda:1"))[0] == "torch"


def test_the_request_log_says_what_was_chosen(world, folder):
    model = shutil.copytree(folder, world.folder / "model")
    world.promote(world.release("support", model, engine="auto", threads=1))
    with world.serve() as gateway, world.client(gateway) as client:
        message = {"role": "user", "content": "hi"}
        answer = client.chat.completions.create(model="support", messages=[message], max_tokens=3)
        gateway.recorder.flush()
        row = world.requests.get(answer.id)
    assert (row["engine"], row["completion_tokens"]) == ("openvino", 3)
