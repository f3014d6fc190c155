"""Muon for matrices, AdamW for the rest, and the learning rate's warm-up and decay."""

import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Optimizer
from transformers import PreTrainedModel

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # Jordan's quintic: steep at zero, singular values end in about 0.7 … 1.2
ROUNDS = 5
ADAMW_RMS = 0.2  # of an AdamW update; with it both optimizers share one learning rate (Liu et al. 2025)


class Muon(Optimizer):
    """Momentum orthogonalised by Newton–Schulz (Jordan et al. 2024), scaled as in "Muon is Scalable" (Liu et al. 2025).

    Unlike torch.optim.Muon, matrices of one shape go through one batched product: few large operations instead of
    fifteen small ones for each matrix.
    """

    def __init__(
        self, params: list[nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            alike: dict[tuple[int, ...], list[torch.Tensor]] = defaultdict(list)
            for param in group["params"]:
                if param.grad is not None:
                    alike[tuple(sorted(param.shape))].append(param)
            for params in alike.values():
                self._update(params, group)

    def _update(self, params: list[torch.Tensor], group: dict[str, Any]) -> None:
        for param in params:
            if not self.state[param]:
                self.state[param]["momentum"] = torch.zeros_like(param)
        buffers, grads = [self.state[p]["momentum"] for p in params], [p.grad for p in params if p.grad is not None]
        torch._foreach_lerp_(buffers, grads, 1 - group["momentum"])
        nesterov = torch._foreach_lerp(grads, buffers, group["momentum"])
        wide = torch.stack([n if n.shape[0] <= n.shape[1] else n.T for n in nesterov])
        updates = orthogonalize(wide).unbind()
        scale = group["lr"] * ADAMW_RMS * math.sqrt(max(params[0].shape))
        if group["weight_decay"]:
            torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
        for param, update in zip(params, updates, strict=True):
            param.add_(update if param.shape[0] <= param.shape[1] else update.T, alpha=-scale)


def orthogonalize(matrices: torch.Tensor) -> torch.Tensor:
    """The nearest semi-orthogonal matrices, roughly, of [n, rows, columns] with rows <= columns."""
    a, b, c = NEWTON_SCHULZ
    x = matrices.bfloat16() if matrices.is_cuda else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(ROUNDS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.to(matrices.dtype)


def optimizers_for(model: PreTrainedModel, kind: str, lr: float, weight_decay: float) -> list[Optimizer]:
    """AdamW alone, or Muon for the matrices inside the layers and AdamW for the rest. Only matrices decay."""
    trained = [p for p in model.parameters() if p.requires_grad]
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    head = model.get_output_embeddings()
    tables |= {id(head.weight)} if head is not None else set()
    inner = [p for p in trained if kind == "muon" and p.ndim == 2 and id(p) not in tables]
    muon = {id(p) for p in inner}
    groups = [
        {"params": [p for p in trained if p.ndim > 1 and id(p) not in muon], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim == 1], "weight_decay": 0.0},
    ]
    made: list[Optimizer] = [Muon(inner, lr, weight_decay=weight_decay)] if inner else []
    groups = [group for group in groups if group["params"]]
    return [*made, AdamW(groups, lr, betas=(0.9, 0.95), fused=True)] if groups else made


def rate(step: int, steps: int, warmup: float) -> float:
    """The share of the peak learning rate at a step: linear up over the warm-up, then a cosine down to zero."""
    rising = max(1, round(steps * warmup))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising + 1) / max(1, steps - rising)))
