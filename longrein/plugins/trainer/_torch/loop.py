"""The training loop: batches, loss, update, validation, checkpoints by time, and exact resume."""

import math
import time
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from longrein.core.errors import Error
from longrein.core.step import Context
from longrein.core.training import Recipe
from longrein.plugins.trainer._torch.checkpoint import Checkpoints
from longrein.plugins.trainer._torch.model import Scored
from longrein.plugins.trainer._torch.optimizer import rate
from longrein.plugins.trainer._torch.rows import Batch, Rows, batches, collate, plan

LOGGED = 2000  # points of the loss curve at most
REPORT_S = 0.2
VALIDATION_BATCH = 8  # times batch_tokens: nothing is kept for a backward pass


@dataclass
class State:
    """Where the training stands, as JSON in every checkpoint."""

    epoch: int = 0  # finished ones
    batch: int = 0  # steps done in this epoch
    step: int = 0
    tokens: int = 0
    loss: float = 0.0  # sum over this epoch's steps
    train_loss: float = math.nan  # mean over the last whole epoch
    validation_loss: float = math.inf  # the lowest
    best_epoch: int = 0
    stale: int = 0  # epochs since then
    done: bool = False


class Loop:
    """Trains `model` in place. Killed and made again over the same checkpoints it goes on, bit for bit."""

    def __init__(
        self,
        model: PreTrainedModel,
        optimizers: list[torch.optim.Optimizer],
        data: tuple[Rows, Rows],  # train, validation
        recipe: Recipe,
        context: Context,
        checkpoints: Checkpoints,
        autocast: torch.autocast,
        *,
        pad: int,
        clip: float,
    ) -> None:
        self.model, self.scored, self.optimizers = model, Scored(model), optimizers
        (self.train, self.validation), self.recipe, self.context = data, recipe, context
        self.checkpoints, self.autocast, self.pad, self.clip = checkpoints, autocast, pad, clip
        self.device = next(model.parameters()).device
        self.trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.peaks = [group["lr"] for optimizer in optimizers for group in optimizer.param_groups]
        self.best: dict[str, torch.Tensor] = {}
        self.state = State()
        steps = sum(len(plan(self.train.lengths, recipe, epoch)) for epoch in range(recipe.epochs))
        self.steps = min(steps, recipe.max_steps or steps)
        self.logged_every = max(1, math.ceil(self.steps / LOGGED))

    def run(self) -> State:
        self._restore()
        self._saved = self._reported = self._began = time.monotonic()
        self._began_tokens = self.state.tokens
        while not self.state.done:
            self._epoch()
            self._end_epoch()
            self._save()
        if self.best:
            self._load(self.best)
        return self.state

    def _epoch(self) -> None:
        state, steps = self.state, plan(self.train.lengths, self.recipe, self.state.epoch)
        while state.batch < len(steps) and state.step < self.steps:
            prompt_weight = self.recipe.prompt_loss_weight
            step = [collate(self.train, sequences, self.pad, prompt_weight) for sequences in steps[state.batch]]
            loss = self._update(step)
            if not math.isfinite(loss):
                raise Error("failed", f"the loss became {loss} at step {state.step}", "lower learning_rate")
            state.batch, state.step, state.loss = state.batch + 1, state.step + 1, state.loss + loss
            state.tokens += sum(batch.size for batch in step)
            if state.step % self.logged_every == 0 or state.step == self.steps:
                self.context.metrics({"loss": loss}, state.step)
            self._report(loss)
            ended = state.batch == len(steps) or state.step == self.steps  # the epoch: it is saved after its validation
            if not ended and time.monotonic() - self._saved >= self.recipe.checkpoint_s:
                self._save()

    def _update(self, step: list[Batch]) -> float:
        """One update by the gradient of the mean loss over all tokens of the step's batches."""
        self.model.train()
        share, at = rate(self.state.step, self.steps, self.recipe.warmup), 0
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"], at = share * self.peaks[at], at + 1
        weight, loss = sum(float(batch.weights.sum()) for batch in step), torch.zeros((), device=self.device)
        for batch in step:
            with self.autocast:
                total, _ = self.scored.loss(batch.to(self.device))
            part = total / weight
            part.backward()  # type: ignore[no-untyped-call]
            loss += part.detach()
        nn.utils.clip_grad_norm_(self.trainable.values(), self.clip)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        return loss.item()

    def _end_epoch(self) -> None:
        """Validate, remember the best weights, decide whether to go on."""
        state = self.state
        state.train_loss = state.loss / max(1, state.batch)
        state.epoch, state.batch, state.loss = state.epoch + 1, 0, 0.0
        values = {"train_loss": state.train_loss}
        if len(self.validation):
            loss = values["validation_loss"] = self._validate()
            state.stale += 1
            if loss < state.validation_loss:
                state.validation_loss, state.best_epoch, state.stale = loss, state.epoch, 0
                self.best = {name: p.detach().cpu().clone() for name, p in self.trainable.items()}
        self.context.metrics(values, state.step)
        impatient = self.recipe.patience is not None and state.stale >= self.recipe.patience
        if impatient:
            self.context.note(f"stopped early: {state.stale} epochs without a lower validation loss")
        state.done = impatient or state.step == self.steps or state.epoch == self.recipe.epochs

    @torch.inference_mode()
    def _validate(self) -> float:
        """Mean negative log-likelihood of an answer token."""
        self.model.eval()
        total = count = 0.0
        for index in batches(self.validation.lengths, VALIDATION_BATCH * self.recipe.batch_tokens, None):
            batch = collate(self.validation, index[:, None], self.pad, 0.0)
            with self.autocast:
                loss, weight = self.scored.loss(batch.to(self.device))
            total, count = total + loss.item(), count + weight.item()
        return total / count

    def _report(self, loss: float) -> None:
        now, state = time.monotonic(), self.state
        if now - self._reported < REPORT_S and state.step < self.steps:
            return
        self._reported = now
        tokens_s = (state.tokens - self._began_tokens) / max(now - self._began, 1e-9)
        left_s = (self.steps - state.step) * (state.tokens / state.step) / max(tokens_s, 1e-9)
        self.context.progress(
            state.step, self.steps, "steps", loss=round(loss, 4), tokens_s=round(tokens_s), left_s=round(left_s, 1)
        )

    def _save(self) -> None:
        tensors: dict[str, torch.Tensor] = {f"model.{name}": p for name, p in self.trainable.items()}
        tensors |= {f"best.{name}": p for name, p in self.best.items()}
        for k, optimizer in enumerate(self.optimizers):
            for i, values in optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer.{k}.{i}.{name}": torch.as_tensor(value) for name, value in values.items()}
        tensors["random.cpu"] = torch.get_rng_state()
        if self.device.type == "cuda":
            tensors["random.cuda"] = torch.cuda.get_rng_state(self.device)
        self.checkpoints.write(self.state.step, asdict(self.state), tensors)
        self._saved = time.monotonic()

    def _restore(self) -> None:
        found, notes = self.checkpoints.read()
        for note in notes:
            self.context.note(note)
        if found is None:
            return
        parts: dict[str, dict[str, torch.Tensor]] = {"model": {}, "best": {}, "optimizer": {}, "random": {}}
        for name, tensor in found.tensors.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = tensor
        self._load(parts["model"])
        self.best, self.state = parts["best"], State(**found.state)
        for k, optimizer in enumerate(self.optimizers):
            states: dict[int, dict[str, Any]] = {}
            for name, tensor in parts["optimizer"].items():
                at, i, key = name.split(".", 2)
                if int(at) == k:
                    states.setdefault(int(i), {})[key] = tensor
            optimizer.load_state_dict({**optimizer.state_dict(), "state": states})
        torch.set_rng_state(parts["random"]["cpu"])
        if "cuda" in parts["random"]:
            torch.cuda.set_rng_state(parts["random"]["cuda"], self.device)
        self.context.resumed(self.state.step)
        self.context.note(f"goes on from step {self.state.step} of {self.steps}")

    @torch.no_grad()
    def _load(self, tensors: dict[str, torch.Tensor]) -> None:
        for name, tensor in tensors.items():
            self.trainable[name].copy_(tensor)
