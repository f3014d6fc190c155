"""The parts of the trainer: safe folders, tokens, batches, optimizer, schedule."""

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from longrein.core.errors import Error
from longrein.core.training import Recipe
from longrein.plugins.trainer._torch.checkpoint import Checkpoints
from longrein.plugins.trainer._torch.folder import check_folder
from longrein.plugins.trainer._torch.model import from_scratch
from longrein.plugins.trainer._torch.optimizer import Muon, orthogonalize, rate
from longrein.plugins.trainer._torch.rows import batches, collate, encode
from longrein.plugins.trainer._torch.text import conversation, encode_talks, load_tokenizer, train_tokenizer

TEXTS = ["please send my money back", "你好，我要退款", "where is my parcel?", "快递到哪里了？", "naïve café 😀"] * 20


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, 400, 128)


def pickled() -> bytes:
    return pickle.dumps({"weights": [1.0]})


def torch_zip() -> bytes:
    buffer = io.BytesIO()
    torch.save({"weights": torch.zeros(2)}, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "code", "message"),
    [
        ("pytorch_model.bin", b"", "invalid", "pickle"),
        ("innocent.json", pickled(), "invalid", "pickle"),
        ("model.safetensors", torch_zip(), "invalid", "pickle"),
        ("deep/er/optimizer.dat", torch_zip(), "invalid", "pickle"),
        ("config.json", b'{"auto_map": {"AutoModel": "evil.Model"}}', "invalid", "code of its own"),
        ("model.safetensors", b"\xff" * 64, "corrupt", "damaged"),
        ("model.safetensors", b"", "corrupt", "damaged"),
    ],
)
def test_unsafe_and_damaged_folders_are_refused(
    tmp_path: Path, name: str, content: bytes, code: str, message: str
) -> None:
    file = tmp_path / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    with pytest.raises(Error, match=message) as caught:
        check_folder(tmp_path)
    assert caught.value.code == code and caught.value.hint


def test_a_cut_off_safetensors_is_damaged_and_a_whole_one_is_not(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(100)}, tmp_path / "model.safetensors")
    check_folder(tmp_path)
    content = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(content[:-1])
    with pytest.raises(Error, match="cut off"):
        check_folder(tmp_path)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Error, match="holds no tokenizer"):
        load_tokenizer(tmp_path)


@given(st.text())
def test_the_tokenizer_loses_nothing(tokenizer, text: str) -> None:
    ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert tokenizer.decode(ids) == text


def test_the_tokenizer_is_the_same_every_time(tokenizer) -> None:
    assert train_tokenizer(TEXTS, 400, 128).backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()


@given(st.text(alphabet=st.sampled_from("<|enduserassistantsystempad> 你\n"), max_size=40))
def test_a_message_cannot_speak_for_another_role(tokenizer, text: str) -> None:
    row = {"input": text + "<|end|><|assistant|>", "output": "fine"}
    ((ids, answer),) = encode_talks([conversation(row, "<|user|>")], tokenizer)
    special = [tokenizer.decode([i]) for i in ids if i < 5]
    assert special == ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
    assert tokenizer.decode([i for i, a in zip(ids, answer, strict=True) if a]) == "fine<|end|>"


def test_only_answers_are_answers(tokenizer) -> None:
    talk = [
        {"role": r, "content": c} for r, c in (("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"))
    ]
    ((ids, answer),) = encode_talks([talk], tokenizer)
    assert tokenizer.decode(ids) == "<|user|>a<|assistant|>b<|end|><|user|>c<|assistant|>d<|end|>"
    assert [tokenizer.decode([i]) for i, a in zip(ids, answer, strict=True) if a] == ["b", "<|end|>", "d", "<|end|>"]


def test_an_unknown_role_is_refused(tokenizer) -> None:
    talk = [{"role": "root", "content": "a"}, {"role": "assistant", "content": "b"}]
    with pytest.raises(Error, match="root"):
        list(encode_talks([talk], tokenizer))


@given(st.lists(st.integers(1, 60), min_size=1, max_size=300), st.integers(1, 300), st.integers(0, 5))
def test_every_row_is_in_one_batch_within_the_budget(lengths: list[int], budget: int, seed: int) -> None:
    sizes = np.array(lengths)
    for rng in (None, np.random.default_rng(seed)):
        made = batches(sizes, budget, rng)
        assert sorted(int(i) for batch in made for i in batch) == list(range(len(sizes)))
        assert all(len(batch) == 1 or len(batch) * sizes[batch].max() <= budget for batch in made)


def test_weights_stand_on_the_answer(tokenizer) -> None:
    rows = encode([{"input": "a", "output": "b"}, {"input": "parcel parcel", "output": "b"}], tokenizer, "", 128)
    batch = collate(rows, np.array([0, 1]), 0, 0.25)
    assert batch.tokens.shape == batch.weights.shape and batch.size == rows.lengths.sum()
    assert (batch.weights[:, 0] == 0).all() and (batch.weights.sum(1) > 2).all()
    assert (batch.weights[0, rows.lengths[0] :] == 0).all()
    assert set(batch.weights.unique().tolist()) == {0.0, 0.25, 1.0}


def test_orthogonal_updates_agree_with_pytorch() -> None:
    torch.manual_seed(0)
    mine = [torch.nn.Parameter(torch.randn(24, 8)), torch.nn.Parameter(torch.randn(8, 24))]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in mine]
    ours = Muon(mine, lr=0.1)
    reference = torch.optim.Muon(theirs, lr=0.1, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        for a, b in zip(mine, theirs, strict=True):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
        ours.step()
        reference.step()
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0.0, atol=0.01)  # theirs rounds to bfloat16
    values = torch.linalg.svdvals(orthogonalize(torch.randn(5, 16, 40)))
    assert values.min() > 0.5 and values.max() < 1.3


@given(st.integers(1, 1000), st.floats(0, 1))
def test_the_rate_rises_to_one_and_falls(steps: int, warmup: float) -> None:
    rates = [rate(step, steps, warmup) for step in range(steps)]
    top = rates.index(max(rates))
    assert all(0 <= r <= 1 for r in rates) and max(rates) == 1.0
    assert rates[: top + 1] == sorted(rates[: top + 1]) and rates[top:] == sorted(rates[top:], reverse=True)


def test_checkpoints_of_another_owner_make_room(tmp_path: Path) -> None:
    Checkpoints(tmp_path, "me").write(9, {"a": 1}, {"w": torch.ones(3)})
    found, notes = Checkpoints(tmp_path, "me").read()
    assert found is not None and found.state == {"a": 1} and notes == []
    assert torch.equal(found.tensors["w"], torch.ones(3))
    other = Checkpoints(tmp_path, "somebody else")
    assert other.read() == (None, [])
    for step in (0, 1, 2):  # of theirs, the last two are kept
        other.write(step, {"step": step}, {})
    assert sorted(int(p.name[:9]) for p in tmp_path.iterdir()) == [1, 2]


def test_sizes_are_what_they_say(tokenizer) -> None:
    def parameters(size: str) -> int:
        return sum(p.numel() for p in from_scratch(Recipe(size=size), tokenizer).parameters())  # type: ignore[arg-type]

    sizes = [parameters(size) for size in ("nano", "tiny", "small")]
    assert sizes == sorted(sizes) and 100_000 < sizes[0] < 200_000
