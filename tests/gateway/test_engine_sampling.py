"""The chosen tokens follow exactly the distribution that transformers' warpers describe."""

from collections import Counter
from typing import Any

import pytest
import torch
from transformers import MinPLogitsWarper, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from longrein.core.generation import Request
from longrein.plugins.engine._torch.sampling import _top_p, choice, choose

VOCABULARY, DRAWS = 50, 20_000


class Grid:
    """Instead of random numbers the middle of each of DRAWS equal parts, so that counts are shares."""

    def __init__(self) -> None:
        self.next = 0

    def random(self) -> float:
        self.next += 1
        return (self.next - 0.5) / DRAWS


def logits() -> torch.Tensor:
    return torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(4)) * 2


def shares(**fields: Any) -> torch.Tensor:
    chosen = choice(Request(prompt=[0], **fields), [0], [], VOCABULARY, torch.device("cpu"))
    chosen.random = Grid()  # type: ignore[assignment]
    rows = logits().expand(1000, -1)
    found = Counter(token for _ in range(DRAWS // 1000) for token in choose(rows, [chosen] * 1000))
    return torch.tensor([found[i] / DRAWS for i in range(VOCABULARY)])


CASES: dict[str, tuple[dict[str, Any], list[Any]]] = {
    "plain": ({}, []),
    "temperature": ({"temperature": 0.5}, [TemperatureLogitsWarper(0.5)]),
    "top-k": ({"top_k": 7}, [TopKLogitsWarper(7)]),
    "top-k beyond": ({"top_k": 1000}, []),
    "top-p": ({"top_p": 0.6}, [TopPLogitsWarper(0.6)]),
    "tiny top-p": ({"top_p": 1e-6}, [TopPLogitsWarper(1e-6)]),
    "min-p": ({"min_p": 0.1}, [MinPLogitsWarper(0.1)]),
    "all": (
        {"temperature": 1.5, "top_k": 20, "top_p": 0.8, "min_p": 0.05},
        [TemperatureLogitsWarper(1.5), TopKLogitsWarper(20), TopPLogitsWarper(0.8), MinPLogitsWarper(0.05)],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_shares(case: str) -> None:
    fields, warpers = CASES[case]
    scores = logits()[None]
    for warper in warpers:
        scores = warper(torch.tensor([[0]]), scores)
    expected = scores.softmax(-1)[0]
    got = shares(**fields)
    assert (got - expected).abs().max() < 2 / DRAWS
    assert ((got > 0) <= (expected > 0)).all()


@pytest.mark.parametrize("top_p", [0.05, 0.9, 0.999])
def test_top_p_over_a_large_vocabulary(top_p: float) -> None:
    """One row whose nucleus is small and one where it is most of the vocabulary."""
    rows = torch.randn(2, 3000, generator=torch.Generator().manual_seed(0)) * torch.tensor([[4.0], [0.1]])
    expected = TopPLogitsWarper(top_p)(torch.tensor([[0], [0]]), rows)
    got = _top_p(rows, torch.tensor([[top_p], [top_p]]))
    assert (got.isinf() != expected.isinf()).sum() <= (1 if top_p > 0.99 else 0)  # one at the edge, by rounding
    assert (got[1].isfinite().sum() > 256) == (top_p > 0.5)


def test_each_row_by_its_own_settings() -> None:
    """A greedy row, a sure one and a free one in one batch."""
    rows = logits().repeat(3, 1)
    best = int(rows[0].argmax())
    fields: list[dict[str, Any]] = [{"temperature": 0}, {"top_k": 1, "seed": 1}, {"temperature": 2, "seed": 1}]
    chosen = [choice(Request(prompt=[0], **f), [0], [], VOCABULARY, torch.device("cpu")) for f in fields]
    got = [choose(rows, chosen) for _ in range(50)]
    assert {g[0] for g in got} == {g[1] for g in got} == {best}
    assert len({g[2] for g in got}) > 10


def test_presence_and_frequency_penalties() -> None:
    """OpenAI's: logit - count * frequency - (count > 0) * presence, over what was generated, not the prompt."""
    row = torch.zeros(1, 5)
    row[0] = torch.tensor([3.0, 2.9, 1.65, 0.0, -1.0])
    request = Request(prompt=[0], temperature=0, presence_penalty=1.0, frequency_penalty=0.2)
    chosen = [choice(request, [0], [], 5, torch.device("cpu"))]
    # 0 at 3, 1 at 2.9, 0 at 3 - .2 - 1 = 1.8, 1 at 1.7, 2 at 1.65, 0 at 3 - .4 - 1 = 1.6
    assert [choose(row, chosen)[0] for _ in range(6)] == [0, 1, 0, 1, 2, 0]
    assert row[0].tolist() == pytest.approx([3.0, 2.9, 1.65, 0.0, -1.0])  # the caller's logits are left alone


def test_minus_infinity_is_never_chosen() -> None:
    row = torch.full((1, 9), -torch.inf)
    row[0, 4] = 0.0
    for seed in range(20):
        chosen = [choice(Request(prompt=[0], seed=seed), [0], [], 9, torch.device("cpu"))]
        assert choose(row, chosen) == [4]


class Rising:
    """Each token is greater than the one before."""

    def __init__(self) -> None:
        self.last = -1

    def allowed(self) -> torch.Tensor:
        return torch.arange(VOCABULARY) > self.last

    def accept(self, token: int) -> None:
        self.last = token


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_constraint(temperature: float) -> None:
    request = Request(prompt=[0], temperature=temperature, seed=1)
    bound, free = (choice(request, [0], [], VOCABULARY, torch.device("cpu")) for _ in range(2))
    bound.constraint = Rising()
    got = [choose(logits().repeat(2, 1), [bound, free]) for _ in range(3)]
    assert [g[0] for g in got] == sorted({g[0] for g in got})
    if not temperature:
        assert {g[1] for g in got} == {int(logits().argmax())} == {got[0][0]}
