"""The torch engine in this process: equal to transformers, exact text, fair sampling, clear refusals."""

import json
import random
import shutil
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from longrein.core.errors import Error
from longrein.core.generation import Event, Request
from longrein.plugins.engine._torch.text import Text
from longrein.plugins.engine.torch import Torch

LLAMA3 = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0} | {
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "llama": {},
    "untied, biased, multi-head": {
        "tie_word_embeddings": False,
        "attention_bias": True,
        "mlp_bias": True,
        "num_key_value_heads": 4,
    },
    "llama 3 rope": {"rope_parameters": LLAMA3},
    "linear rope": {"rope_parameters": {"rope_type": "linear", "rope_theta": 500.0, "factor": 2.0}},
    "qwen3": {"kind": "qwen3"},
    "qwen3, biased, one kv head": {"kind": "qwen3", "attention_bias": True, "head_dim": 32, "num_key_value_heads": 1},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make(tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """A copy of the folder, to be spoilt."""
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def finish(engine: Torch) -> dict[str, list[Event]]:
    """Step until nothing is left: the events of each request."""
    events: dict[str, list[Event]] = {}
    while engine.pending():
        for event in engine.step():
            events.setdefault(event.id, []).append(event)
    return events


def answer(engine: Torch, **fields: Any) -> list[Event]:
    engine.submit(Request(id="one", **fields))
    return finish(engine)["one"]


def ids(events: Iterable[Event]) -> list[int]:
    return [id for event in events for id in event.token_ids]


def text(events: Iterable[Event]) -> str:
    return "".join(event.text for event in events)


def some_prompts(count: int, longest: int = 60) -> list[list[int]]:
    draw = random.Random(count)
    return [[draw.randrange(3, 320) for _ in range(draw.randrange(1, longest))] for _ in range(count)]


def reference(model: Any, prompt: list[int], tokens: int, **options: Any) -> list[int]:
    """transformers' own greedy answer."""
    given = torch.tensor([prompt])
    mask = torch.ones_like(given)
    out = model.generate(given, attention_mask=mask, max_new_tokens=tokens, do_sample=False, **options)
    found: list[int] = out[0, len(prompt) :].tolist()
    return found


# equal to transformers


@pytest.mark.parametrize("variant", VARIANTS)
def test_equals_generate_whenever_requests_join(variant: str, tmp_path: Path) -> None:
    """30 prompts of 1 to 60 tokens for 1 to 40 more, submitted at random moments into 5 slots."""
    path = tiny.make(tmp_path, **VARIANTS[variant])
    engine, model = Torch(path, {"max_batch": 5}), AutoModelForCausalLM.from_pretrained(path).eval()
    draw, prompts, got = random.Random(1), some_prompts(30), [[] for _ in range(30)]
    lengths = [draw.randrange(1, 40) for _ in prompts]
    coming = list(range(len(prompts)))
    while coming or engine.pending():
        for _ in range(draw.choice([0, 0, 1, 3]) if engine.pending() else 1):
            if coming:
                i = coming.pop(0)
                engine.submit(Request(id=str(i), prompt=prompts[i], max_tokens=lengths[i], temperature=0))
        for event in engine.step():
            got[int(event.id)] += event.token_ids
    assert got == [reference(model, p, n) for p, n in zip(prompts, lengths, strict=True)]
    assert len({tuple(g) for g in got}) > 20  # it was no model that always says the same


def test_cancelling_leaves_the_others_as_they_were(folder: Path) -> None:
    engine, prompts = Torch(folder, {"max_batch": 6}), some_prompts(6)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    for i, prompt in enumerate(prompts):
        engine.submit(Request(id=str(i), prompt=prompt, max_tokens=30, temperature=0))
    got: dict[str, list[int]] = {str(i): [] for i in range(6)}
    for step in range(40):
        for event in engine.step():
            got[event.id] += event.token_ids
        if step in (3, 5, 8):
            used = engine.stats()["slots_used"]
            engine.cancel(str(step - 3))
            assert engine.stats()["slots_used"] == used - 1
    for left in ("1", "3", "4"):
        assert got[left] == reference(model, prompts[int(left)], 30)
    engine.cancel("never was")
    assert engine.pending() == 0


def test_repetition_penalty_and_min_tokens_equal_generate(folder: Path) -> None:
    engine, model = Torch(folder, {}), AutoModelForCausalLM.from_pretrained(folder).eval()
    for prompt in some_prompts(4):
        fields: dict[str, Any] = {"prompt": prompt, "max_tokens": 30, "temperature": 0}
        got = answer(engine, **fields, repetition_penalty=1.3)
        assert ids(got) == reference(model, prompt, 30, repetition_penalty=1.3)
        got = answer(engine, **fields, min_tokens=25)
        assert ids(got) == reference(model, prompt, 30, min_new_tokens=25)


def test_log_probabilities(folder: Path) -> None:
    engine, model = Torch(folder, {}), AutoModelForCausalLM.from_pretrained(folder).eval()
    prompt = some_prompts(1)[0]
    events = answer(engine, prompt=prompt, max_tokens=12, temperature=1, seed=3, logprobs=3)
    generated = ids(events)
    logits = model(torch.tensor([prompt + generated])).logits[0, len(prompt) - 1 : -1]
    expected = logits.log_softmax(-1)
    for event, token, row in zip(events, generated, expected, strict=True):
        assert event.logprobs is not None
        [found] = event.logprobs
        assert found.logprob == pytest.approx(row[token].item(), abs=1e-4)
        assert [p for _, p in found.top] == pytest.approx(row.topk(3).values.tolist(), abs=1e-4)
        assert found.token == engine.text.tokenizer.decode([token], skip_special_tokens=False)


def test_bfloat16_runs(folder: Path) -> None:
    assert len(ids(answer(Torch(folder, {"dtype": "bfloat16"}), prompt=[5, 6], max_tokens=4, ignore_eos=True))) == 4


# prompts


def test_chat_template_and_tokens_are_those_of_transformers(folder: Path) -> None:
    ours, theirs = Text(folder), AutoTokenizer.from_pretrained(folder)
    chat = [
        {"role": "system", "content": "你好"},
        {"role": "user", "content": "{{ 7*7 }} <b>&</b> {% raw %}"},
        {"role": "assistant", "content": "ok\n"},
        {"role": "user", "content": "🙂"},
    ]
    expected = theirs.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    assert ours.encode(Request(messages=chat), 1000) == expected
    parts = [{"type": "text", "text": "{{ 7*7 }} <b>&</b> "}, {"type": "text", "text": "{% raw %}"}]
    chat[1] = {"role": "user", "content": parts}  # type: ignore[dict-item]
    assert ours.encode(Request(messages=chat), 1000) == expected
    for prompt in (*tiny.SENTENCES, "  two  spaces\t\n"):
        assert ours.encode(Request(prompt=prompt), 1000) == theirs(prompt).input_ids


def test_a_template_cannot_reach_out_of_its_sandbox(copy: Path) -> None:
    (copy / "chat_template.jinja").write_text("{{ ''.__class__.__mro__[1].__subclasses__() }}")
    with pytest.raises(Error, match="chat template refused") as caught:
        Text(copy).render([{"role": "user", "content": "x"}])
    assert caught.value.code == "invalid"


def test_a_template_may_refuse(copy: Path) -> None:
    (copy / "chat_template.jinja").write_text("{{ raise_exception('roles must alternate') }}")
    with pytest.raises(Error, match="roles must alternate"):
        Text(copy).render([{"role": "user", "content": "x"}])


BAD = {
    "empty text": ({"prompt": ""}, "empty"),
    "no token": ({"prompt": []}, "empty"),
    "negative token": ({"prompt": [3, -1]}, "vocabulary"),
    "token beyond": ({"prompt": [3, 10**6]}, "vocabulary"),
    "nothing": ({}, "either messages or a prompt"),
    "both": ({"prompt": "x", "messages": []}, "either messages or a prompt"),
    "no message": ({"messages": []}, "empty"),
    "no role": ({"messages": [{"content": "x"}]}, "role"),
    "an image": ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "text parts"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_prompts(folder: Path, case: str) -> None:
    fields, message = BAD[case]
    engine = Torch(folder, {"max_batch": 1})
    with pytest.raises(Error, match=message) as caught:
        engine.submit(Request(**fields))
    assert caught.value.code == "invalid" and caught.value.details["param"] in ("prompt", "messages")
    assert engine.pending() == 0


@pytest.mark.parametrize("prompt", [[5] * 256, "漢" * 200, "x" * 50_000_000])
def test_a_prompt_that_fills_the_context(folder: Path, prompt: Any) -> None:
    with pytest.raises(Error, match="context is 256 tokens") as caught:
        Torch(folder, {"max_batch": 1}).submit(Request(prompt=prompt))
    assert caught.value.details["openai_code"] == "context_length_exceeded"


def test_the_answer_ends_where_the_context_does(folder: Path) -> None:
    engine = Torch(folder, {"context": 50})
    for fields in ({}, {"max_tokens": 1000}):
        last = answer(engine, prompt=[7] * 40, ignore_eos=True, **fields)[-1]
        assert last.finish_reason == "length" and last.usage is not None
        assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (40, 10)
    assert len(ids(answer(engine, prompt=[7] * 49))) == 1


# sampling


def test_the_seed_alone_decides(folder: Path) -> None:
    """Alone, or among others of every kind that come and go."""
    engine = Torch(folder, {"max_batch": 8})
    prompt = some_prompts(1)[0]
    wanted = Request(id="x", prompt=prompt, max_tokens=40, seed=11, top_p=0.9, top_k=50, min_p=0.01, ignore_eos=True)
    engine.submit(wanted)
    alone = ids(finish(engine)["x"])
    for i, other in enumerate(some_prompts(12)):
        penalty = 1.2 if i % 3 == 0 else 1.0
        engine.submit(
            Request(id=str(i), prompt=other, temperature=i % 3 / 2, repetition_penalty=penalty, max_tokens=20)
        )
        if i == 4:
            engine.submit(wanted)
    assert ids(finish(engine)["x"]) == alone
    engine.submit(Request(id="x", prompt=prompt, max_tokens=40, seed=12, ignore_eos=True))
    assert ids(finish(engine)["x"]) != alone
    unseeded = {tuple(ids(answer(engine, prompt=prompt, max_tokens=20, ignore_eos=True))) for _ in range(3)}
    assert len(unseeded) == 3


# limits


def test_a_full_queue_is_refused_with_a_time(folder: Path) -> None:
    engine = Torch(folder, {"max_batch": 1, "max_queue": 2})
    for i in range(2):
        engine.submit(Request(id=str(i), prompt=[5]))
    with pytest.raises(Error, match="waiting") as caught:
        engine.submit(Request(id="2", prompt=[5]))
    assert caught.value.code == "overloaded" and caught.value.details["retry_after_s"] >= 1
    engine.cancel("0")  # from the queue
    engine.submit(Request(id="2", prompt=[5]))
    assert set(finish(engine)) == {"1", "2"}


def test_a_step_computes_no_more_of_prompts_than_its_limit(folder: Path) -> None:
    """Those who run already get a token every step meanwhile."""
    engine = Torch(folder, {"max_batch": 8, "prefill_tokens": 100})
    for i, size in enumerate([40, 2, 60, 200, 3]):
        engine.submit(Request(id=str(i), prompt=[i + 7] * size, max_tokens=50, ignore_eos=True))
    first = []
    for _ in range(4):
        first.append("".join(event.id for event in engine.step() if event.token_ids))
        assert engine.work and engine.work.prefill_tokens <= 100
    assert [sorted(ids) for ids in first] == [["0", "1"], ["0", "1", "2"], ["0", "1", "2"], sorted("01234")]


def test_stats(folder: Path) -> None:
    engine = Torch(folder, {"max_batch": 4})
    for i in range(6):
        engine.submit(Request(id=str(i), prompt=[5, 6, 7], max_tokens=5, ignore_eos=True))
    engine.step()
    stats = engine.stats()
    assert (stats["running"], stats["waiting"], stats["slots_used"], stats["slots_total"]) == (4, 2, 4, 4)
    finish(engine)
    stats = engine.stats()
    assert (stats["tokens_in_total"], stats["tokens_out_total"]) == (18, 30)
    assert sum(stats["batch_sizes"].values()) == stats["steps_total"] and stats["step_s"] > 0
    assert json.loads(json.dumps(stats)) == stats


# refusals


def spoil_pickle(folder: Path) -> None:
    torch.save({"w": torch.zeros(2)}, folder / "pytorch_model.bin")


def spoil_disguise(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"w": torch.zeros(2)}, folder / "model.safetensors", _use_new_zipfile_serialization=False)


def spoil_zip(folder: Path) -> None:
    (folder / "extra").mkdir()
    with zipfile.ZipFile(folder / "extra" / "notes.txt", "w") as archive:
        archive.writestr("archive/data.pkl", b"cos\nsystem\n")


def spoil_name(folder: Path) -> None:
    (folder / "weights.pkl").write_bytes(b"cos\nsystem\n(S'true'\ntR.")  # protocol 0 has no magic


def spoil_truncated(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def spoil_garbage(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\xff" * 5000)


def spoil_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def edit(name: str, **changes: Any) -> Any:
    def spoil(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return spoil


def overwrite(name: str, content: bytes) -> Any:
    return lambda folder: (folder / name).write_bytes(content)


SPOILT = {
    "pickle": (spoil_pickle, "invalid", "pytorch_model.bin.* only safetensors"),
    "pickle by content": (spoil_disguise, "invalid", "model.safetensors.* only safetensors"),
    "pickle in a zip": (spoil_zip, "invalid", "extra/notes.txt.* only safetensors"),
    "old pickle": (spoil_name, "invalid", "only safetensors"),
    "truncated": (spoil_truncated, "corrupt", "model.safetensors is damaged"),
    "garbage": (spoil_garbage, "corrupt", "model.safetensors is damaged"),
    "no weights": (spoil_weights, "not_found", "no .*safetensors"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "not_found", "no tokenizer.json"),
    "no config": (lambda f: (f / "config.json").unlink(), "not_found", "no config.json"),
    "config not JSON": (overwrite("config.json", b"{\xff"), "corrupt", "config.json"),
    "tokenizer not JSON": (overwrite("tokenizer.json", b"{}"), "corrupt", "tokenizer.json"),
    "template broken": (overwrite("chat_template.jinja", b"{% for %}"), "corrupt", "does not parse"),
    "other architecture": (
        edit("config.json", architectures=["GPT2LMHeadModel"]),
        "invalid",
        "GPT2LMHeadModel",
    ),
    "no architecture": (edit("config.json", architectures=[]), "invalid", "names no architecture"),
    "code": (edit("config.json", auto_map={"AutoModel": "x.Y"}), "invalid", "auto_map"),
    "tokenizer code": (edit("tokenizer_config.json", auto_map={"AutoTokenizer": "x.Y"}), "invalid", "auto_map"),
    "yarn": (edit("config.json", rope_parameters={"rope_type": "yarn", "factor": 2.0}), "invalid", "yarn"),
    "no factor": (edit("config.json", rope_parameters={"rope_type": "linear"}), "invalid", "without factor"),
    "gelu": (edit("config.json", hidden_act="gelu"), "invalid", "gelu"),
    "shapes": (edit("config.json", intermediate_size=97), "corrupt", "do not fit config.json: .*shape"),
    "layers": (edit("config.json", num_hidden_layers=4), "corrupt", "layers.3.* is missing"),
    "types": (edit("config.json", hidden_size="64"), "corrupt", "hidden_size"),
}


@pytest.mark.parametrize("case", SPOILT)
def test_spoilt_folders(copy: Path, case: str) -> None:
    spoil, code, message = SPOILT[case]
    spoil(copy)
    with pytest.raises(Error, match=message) as caught:
        Torch(copy, {})
    assert caught.value.code == code


def test_the_hint_names_what_it_runs(copy: Path) -> None:
    edit("config.json", architectures=["GPT2LMHeadModel"])(copy)
    with pytest.raises(Error) as caught:
        Torch(copy, {})
    assert "LlamaForCausalLM and Qwen3ForCausalLM" in caught.value.hint


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_batches": 3}, "max_batches"),
        ({"max_batch": 0}, "max_batch"),
        ({"context": 257}, "256 positions"),
        ({"max_batch": 10**8}, "GiB"),
    ],
)
def test_bad_options(folder: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(Error, match=message) as caught:
        Torch(folder, options)
    assert caught.value.code == "invalid" and caught.value.hint


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(Error, match="no model folder") as caught:
        Torch(tmp_path / "missing", {})
    assert caught.value.code == "not_found"


def test_without_a_chat_template(copy: Path) -> None:
    (copy / "chat_template.jinja").unlink()
    engine = Torch(copy, {})
    assert engine.info["chat"] is False
    with pytest.raises(Error, match="no chat template"):
        engine.submit(Request(messages=[{"role": "user", "content": "x"}]))
