"""The parts of the trainer: safe folders, tokens, batches, optimizer, schedule."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from longrein.core.errors import Error
from longrein.core.training import Recipe
from longrein.plugins.trainer._torch.checkpoint import Checkpoints
from longrein.plugins.trainer._torch.model import Scored, from_scratch
from longrein.plugins.trainer._torch.optimizer import Muon, orthogonalize, rate
from longrein.plugins.trainer._torch.rows import Batch, Rows, batches, collate, encode, pack, plan
from longrein.plugins.trainer._torch.text import conversation, encode_talks, load_tokenizer, train_tokenizer

TEXTS = ["please send my money back", "你好，我要退款", "where is my parcel?", "快递到哪里了？", "naïve café 😀"] * 20


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, 400, 128)


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


def test_a_conversation_without_an_answer_is_no_row(tokenizer) -> None:
    rows = encode([{"messages": [{"role": "user", "content": "a"}]}, {"input": "a", "output": "b"}], tokenizer, "", 64)
    assert len(rows) == 1 and rows.skipped == 0


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
    batch = collate(rows, np.array([[0], [1]]), 0, 0.25)
    assert batch.positions is None
    assert batch.tokens.shape == batch.weights.shape and batch.size == rows.lengths.sum()
    assert (batch.weights[:, 0] == 0).all() and (batch.weights.sum(1) > 2).all()
    assert (batch.weights[0, rows.lengths[0] :] == 0).all()
    assert set(batch.weights.unique().tolist()) == {0.0, 0.25, 1.0}


@given(st.lists(st.integers(1, 60), min_size=1, max_size=300), st.integers(1, 100), st.integers(0, 5))
def test_every_row_is_packed_once_and_tightly(lengths: list[int], width: int, seed: int) -> None:
    sizes = np.array(lengths)
    packed = pack(sizes, width, 100, np.random.default_rng(seed))
    assert sorted(int(i) for rows in packed for i in rows) == list(range(len(sizes)))
    totals = sorted(sizes[rows].sum() for rows in packed)
    assert all(total <= width for rows in packed if len(rows) > 1 for total in [sizes[rows].sum()])
    if len(sizes) <= 100:  # one window: no two sequences could have been one
        assert len(totals) < 2 or totals[0] + totals[1] > width


@pytest.fixture(scope="module")
def uneven(tokenizer) -> Rows:
    said = [{"input": "parcel " * (1 + i * 7 % 11), "output": ["yes", "no way"][i % 2]} for i in range(40)]
    return encode(said, tokenizer, "", 128)


def gradients(model: torch.nn.Module, batches: list[Batch]) -> tuple[float, dict[str, torch.Tensor]]:
    """Of the mean loss over the tokens of all batches."""
    model.zero_grad()
    scored = Scored(model)  # type: ignore[arg-type]
    loss, weight = 0.0, sum(float(batch.weights.sum()) for batch in batches)
    for batch in batches:
        part = scored.loss(batch)[0] / weight
        part.backward()
        loss += part.item()
    return loss, {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
def test_packed_rows_see_themselves_alone(tokenizer, uneven: Rows, architecture: str) -> None:
    """The loss and its gradient are those of the same rows, each in a sequence of its own."""
    recipe = Recipe(size="nano", architecture=architecture, packing=True, max_length=128, batch_tokens=256)  # type: ignore[arg-type]
    model = from_scratch(recipe, tokenizer)
    made = [collate(uneven, part, 0, 0.3) for step in plan(uneven.lengths, recipe, 0) for part in step]
    assert sum(batch.size for batch in made) == len(uneven.tokens)
    assert len(made) < 10 and sum(batch.tokens.numel() for batch in made) < 1.1 * len(uneven.tokens)
    loss, packed = gradients(model, made)
    expected, alone = gradients(model, [collate(uneven, np.array([[i]]), 0, 0.3) for i in range(len(uneven))])
    assert loss == pytest.approx(expected, rel=1e-6)
    for name, gradient in alone.items():
        torch.testing.assert_close(packed[name], gradient, rtol=1e-4, atol=1e-5 * float(gradient.abs().max()))
    leaky, _ = gradients(model, [batch._replace(positions=None) for batch in made])
    assert abs(leaky - expected) > 1e-4


@pytest.mark.parametrize("packing", [False, True])
def test_a_step_is_the_same_rows_however_it_is_cut(uneven: Rows, packing: bool) -> None:
    def steps(batch_tokens: int, accumulate: int) -> list[list[int]]:
        recipe = Recipe(packing=packing, max_length=128, batch_tokens=batch_tokens, accumulate=accumulate)
        made = plan(uneven.lengths, recipe, 1)
        for step in made:
            for part in step:
                widest = max(uneven.lengths[rows].sum() for rows in part)
                assert len(part) == 1 or len(part) * widest <= batch_tokens
        assert accumulate == 1 or any(len(step) > 1 for step in made)
        return [[int(row) for part in step for rows in part for row in rows] for step in made]

    assert steps(256, 4) == steps(1024, 1)
    assert sorted(row for step in steps(256, 4) for row in step) == list(range(40))


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
