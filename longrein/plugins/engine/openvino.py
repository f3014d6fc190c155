"""The embedded engine with OpenVINO's kernels in place of torch's: the fast one on a CPU.

Batching, sampling, stop strings, prefixes and priorities are those of the engine torch; only the logits are computed by
somebody else, from the same weights.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from longrein.core.errors import Error
from longrein.plugins.engine import torch
from longrein.plugins.engine._openvino.model import Model
from longrein.plugins.engine._torch.options import Config as Config

VERSION = 1


class Openvino(torch.Torch):
    """See longrein.core.ports.Engine and Steered."""

    forward_pass: ClassVar = Model

    def __init__(self, model: Path, given: Mapping[str, Any]) -> None:
        if given.get("device", "cpu") not in ("auto", "cpu"):
            raise Error("invalid", "the engine openvino runs on a CPU", "choose the engine torch or vllm for a GPU")
        super().__init__(model, {**given, "device": "cpu"})


plugin = Openvino
