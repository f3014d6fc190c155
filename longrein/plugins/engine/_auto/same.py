"""Whether openvino answers as torch does, tried once for each model, and kept."""

import gc
import hashlib
import json
import os
import uuid
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from longrein.core import digest, plugins
from longrein.core.errors import Error
from longrein.core.generation import Request
from longrein.plugins.engine._torch.options import Config

SAMPLE = (
    "How do I change the card on my account?",
    "我的卡丢了，请帮我冻结账户。",
    "Please refund order 4711: it never arrived. I paid 38.50 € on 3 March.",
    "def fibonacci(n):\n    return n if n < 2 else",
    "The capital of France is",
    "Translate into German: Where is the station?",
    "今天天气很好，我们去",
    '{"name": "Ada", "born": 1815, "works": [',
)
TOKENS = 24  # of each answer
ENOUGH = 0.95  # of the answers, equal to the last token: where two tokens are all but equally likely, rounding decides


def same(model: Path, config: Config) -> tuple[str, str]:
    """("openvino" | "torch", why), of greedy answers in float32."""
    path = _cache() / f"{_key(model)}.json"
    try:
        name, why = json.loads(path.read_bytes())
    except (OSError, ValueError):
        name, why = _compare(model, config)
        _keep(path, [name, why])
    return name, why


def _compare(model: Path, config: Config) -> tuple[str, str]:
    few = {"max_batch": len(SAMPLE), "kept": 0, "context": None, "dtype": "float32", "threads": config.threads}
    expected = _answers("torch", model, few)
    try:
        found = _answers("openvino", model, few)
    except (RuntimeError, Error) as error:  # RuntimeError: an operation, or a machine, that OpenVINO does not know
        return "torch", f"openvino cannot run this model here: {str(error)[:500]}"
    equal = sum(a == b for a, b in zip(expected, found, strict=True))
    why = f"{equal} of {len(SAMPLE)} greedy answers of openvino are torch's"
    return ("openvino" if equal >= ENOUGH * len(SAMPLE) else "torch"), why


def _answers(name: str, model: Path, options: Mapping[str, Any]) -> list[list[int]]:
    engine = plugins.load("engine", name)(model, {**options, "device": "cpu"})
    answers: dict[str, list[int]] = {text: [] for text in SAMPLE}
    room = engine.info["context"] // 2
    for text in SAMPLE:
        ids = engine.text.tokenizer.encode(text).ids[:room]
        engine.submit(Request(id=text, prompt=ids, max_tokens=TOKENS, temperature=0, ignore_eos=True))
    while engine.pending():
        for event in engine.step():
            answers[event.id] += event.token_ids
    del engine
    gc.collect()
    return list(answers.values())


def _key(model: Path) -> str:
    """Of all that may change the outcome: the model's bytes, both engines, OpenVINO, and the sample."""
    engines = [plugins.version("engine", name) for name in ("torch", "openvino")]
    said = [digest.of_tree(model, follow=True), *engines, version("openvino"), version("torch"), SAMPLE, TOKENS]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:32]


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "longrein" / "engine"


def _keep(path: Path, value: list[str]) -> None:
    """Whole or not at all. A folder that cannot be written costs the comparison again, nothing else."""
    staged = path.with_suffix(f".{uuid.uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        staged.write_text(json.dumps(value), "utf-8")
        os.replace(staged, path)
    except OSError:
        pass
