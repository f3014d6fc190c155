"""The engine that suits this machine: on a CPU openvino, where it answers as torch does; on a GPU vllm; else torch.

`engine: auto` is what the release says; what was chosen, and why, is in the engine's `info` and log.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from longrein.core import plugins
from longrein.core.errors import Error
from longrein.core.ports import Engine
from longrein.plugins.engine._auto.same import same
from longrein.plugins.engine._torch import options
from longrein.plugins.engine._torch.options import Config as Config
from longrein.plugins.engine._vllm.server import find

VERSION = 1
SHARED = ("max_batch", "max_queue", "context", "prefill_tokens", "dtype")  # options that mean the same to vllm


def auto(model: Path, given: Mapping[str, Any]) -> Engine:
    """The engine, as longrein.core.ports.Engine has it; its info says `engine` and `why`."""
    config = options.parse(given)
    name, why = choose(model, config)
    if name == "vllm" and (rest := sorted(given.keys() - {*SHARED})):
        print(f"auto: vllm has no {', '.join(rest)}", file=sys.stderr)
        given = {key: given[key] for key in given.keys() & {*SHARED}}
    print(f"auto: {name}, {why}", file=sys.stderr, flush=True)
    engine: Engine = plugins.load("engine", name)(model, given)
    engine.info |= {"engine": name, "why": why}
    return engine


def choose(model: Path, config: Config) -> tuple[str, str]:
    """The name of an engine, and the reason."""
    if config.device.startswith("cuda") or (config.device == "auto" and torch.cuda.is_available()):
        return _on_a_gpu(config)
    try:
        plugins.load("engine", "openvino")
    except Error as error:
        return "torch", error.message
    return same(model, config)


def _on_a_gpu(config: Config) -> tuple[str, str]:
    if config.slo or config.dtype == "int8" or config.device not in ("auto", "cuda"):
        return "torch", "an slo, int8 and a chosen device are not vllm's"
    try:
        return "vllm", f"{find()} on a GPU"
    except Error as error:
        return "torch", error.message


plugin = auto
