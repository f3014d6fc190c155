"""The engine openvino answers as torch does: the same batching over other kernels (tests/contract has the rest)."""

import asyncio
import csv
import json
import random
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from longrein.core import plugins
from longrein.core.errors import Error
from longrein.core.generation import Event, Limits, Request
from longrein.gateway.engine import EngineProcess
from longrein.plugins.engine._torch.model import Span
from longrein.plugins.engine.torch import Torch

pytest.importorskip("openvino", reason="pip install 'longrein[openvino]'")
from longrein.plugins.engine.openvino import Openvino

VARIANTS: dict[str, dict[str, Any]] = {
    "llama": {},
    "untied, biased, multi-head": {
        "tie_word_embeddings": False,
        "attention_bias": True,
        "mlp_bias": True,
        "num_key_value_heads": 4,
    },
    "linear rope": {"rope_parameters": {"rope_type": "linear", "rope_theta": 500.0, "factor": 2.0}},
    "qwen3, biased, one kv head": {"kind": "qwen3", "attention_bias": True, "head_dim": 32, "num_key_value_heads": 1},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make(tmp_path_factory.mktemp("models") / "llama")


def finish(engine: Torch, *requests: Request) -> dict[str, list[Event]]:
    events: dict[str, list[Event]] = {request.id: [] for request in requests}
    for request in requests:
        engine.submit(request)
    while engine.pending():
        for event in engine.step():
            events[event.id].append(event)
    return events


def ids(events: list[Event]) -> list[int]:
    return [id for event in events for id in event.token_ids]


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_are_torchs_over_pieces_blocks_and_slots(variant: str, tmp_path: Path) -> None:
    folder = tiny.make(tmp_path / "model", **VARIANTS[variant])
    pair = [engine(folder, {"max_batch": 3}).model for engine in (Torch, Openvino)]
    draw = random.Random(1)
    text = [draw.randrange(400) for _ in range(120)]
    steps = [
        [Span(0, 0, text[:33], True)],
        [Span(0, 33, [5], True), Span(1, 0, text[:64], False), Span(2, 0, text[7:19], True)],
        [Span(2, 12, [9], True), Span(0, 34, text[40:110], True), Span(1, 64, [8, 7], True)],
        [Span(0, 104, [3], True), Span(1, 66, [1], True), Span(2, 13, [2], True)],
    ]
    with torch.inference_mode():
        for spans in steps:
            ours, theirs = (model.forward(spans) for model in pair)
            torch.testing.assert_close(theirs, ours, atol=1e-4, rtol=1e-4)
        for model in pair:
            model.copy(0, 3, 50)
            model.clear(1)
        spans = [Span(3, 50, [4], True), Span(1, 0, [6], True)]
        ours, theirs = (model.forward(spans) for model in pair)
        torch.testing.assert_close(theirs, ours, atol=1e-4, rtol=1e-4)


def test_greedy_answers_to_real_prompts_are_torchs(folder: Path, data: Path) -> None:
    asked = [text for text, _ in json.loads((data / "clinc150" / "data_full.json").read_text())["test"][::75]]
    with (data / "cold" / "test.csv").open(encoding="utf-8") as file:
        lines = [row["TEXT"] for row, _ in zip(csv.DictReader(file), range(40), strict=False)] + asked
    requests = [
        Request(id=str(i), messages=[{"role": "user", "content": line[:60]}], max_tokens=24, temperature=0)
        for i, line in enumerate(lines)
    ]
    ours, theirs = (finish(engine(folder, {}), *requests) for engine in (Torch, Openvino))
    same = sum(ids(ours[id]) == ids(theirs[id]) for id in ours)
    assert same >= 0.95 * len(requests), f"{same} of {len(requests)}"


def test_seeds_penalties_logprobs_and_stops_are_torchs(folder: Path) -> None:
    draw = random.Random(2)
    requests = [
        Request(
            id=str(i),
            prompt=[draw.randrange(400) for _ in range(draw.randint(1, 70))],
            max_tokens=30,
            seed=i,
            top_p=0.9,
            repetition_penalty=1.2,
            stop=["e"] if i % 2 else [],
            logprobs=3,
            priority=i % 3,
        )
        for i in range(12)
    ]
    engines = [engine(folder, {"max_batch": 4, "threads": 1}) for engine in (Torch, Openvino)]
    for engine in engines:
        engine.limits = Limits(batch=4, prefill_tokens=23, offline=2)
    ours, theirs = (finish(engine, *requests) for engine in engines)
    for id in ours:
        assert ids(ours[id]) == ids(theirs[id])
        assert "".join(e.text for e in ours[id]) == "".join(e.text for e in theirs[id])
        for a, b in zip(ours[id], theirs[id], strict=True):
            assert a.logprobs and b.logprobs and a.logprobs[0].logprob == pytest.approx(b.logprobs[0].logprob, abs=1e-3)


def test_a_prompt_that_begins_alike_computes_only_what_is_new(folder: Path) -> None:
    engine = Openvino(folder, {})
    shared = [7 + i % 300 for i in range(90)]
    [first] = finish(engine, Request(id="a", prompt=[*shared, 5], max_tokens=9, temperature=0)).values()
    prompt = [*shared, 5, *ids(first), 8]
    [again] = finish(engine, Request(id="b", prompt=prompt, max_tokens=9, temperature=0)).values()
    [alone] = finish(Openvino(folder, {}), Request(id="b", prompt=prompt, max_tokens=9, temperature=0)).values()
    assert again[-1].usage and again[-1].usage.cached_tokens >= 98 and ids(again) == ids(alone)


@pytest.mark.parametrize(("dtype", "error"), [("bfloat16", 0.05), ("int8", 0.06)])
def test_smaller_types_come_close(folder: Path, dtype: str, error: float) -> None:
    exact, narrow = Openvino(folder, {}), Openvino(folder, {"dtype": dtype})
    assert narrow.info["dtype"] == dtype
    spans = [Span(0, 0, list(range(5, 60)), True), Span(1, 0, list(range(90, 99)), True)]
    with torch.inference_mode():
        wanted, found = exact.model.forward(spans), narrow.model.forward(spans)
    assert 0 < float((found - wanted).norm() / wanted.norm()) < error


def test_in_a_process_of_its_own(folder: Path) -> None:
    async def run() -> list[int]:
        engine = await EngineProcess.start("openvino", folder, {"threads": 1})
        events = [e async for e in engine.generate(Request(prompt=[5, 6], max_tokens=7, temperature=0))]
        await engine.stop()
        return ids(events)

    [expected] = finish(Torch(folder, {}), Request(id="a", prompt=[5, 6], max_tokens=7, temperature=0)).values()
    assert asyncio.run(run()) == ids(expected)


def test_it_refuses_a_gpu(folder: Path) -> None:
    with pytest.raises(Error, match="runs on a CPU"):
        plugins.load("engine", "openvino")(folder, {"device": "cuda"})
