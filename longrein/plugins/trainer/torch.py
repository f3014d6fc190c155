"""Trains on one device in plain torch: a small Llama or Qwen3 from scratch, or a local folder, whole or by LoRA."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple
from urllib.parse import parse_qs

import msgspec
import torch
from msgspec import Meta, Struct
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from longrein.core import digest
from longrein.core.errors import Error
from longrein.core.plugins import load
from longrein.core.step import Context
from longrein.core.training import Prediction, Recipe
from longrein.plugins.trainer._torch import model as models
from longrein.plugins.trainer._torch.answer import Answerer
from longrein.plugins.trainer._torch.checkpoint import Checkpoints
from longrein.plugins.trainer._torch.export import export
from longrein.plugins.trainer._torch.loop import Loop
from longrein.plugins.trainer._torch.optimizer import optimizers_for
from longrein.plugins.trainer._torch.rows import Rows, encode
from longrein.plugins.trainer._torch.text import conversation, load_tokenizer, tokenizer_for

VERSION = 2
disable_progress_bar()  # progress is the context's


class Options(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`options:` of a model with the trainer torch."""

    device: str = "auto"  # cuda where there is one, else cpu
    weight_decay: Annotated[float, Meta(ge=0)] | None = None  # of matrices
    clip: Annotated[float, Meta(gt=0)] = 1.0  # of the gradient's norm
    lora_rank: Annotated[int, Meta(ge=1)] = 16
    lora_alpha: Annotated[int, Meta(ge=1)] = 32


class Chosen(NamedTuple):
    """What stands for the recipe's `None`."""

    optimizer: str
    learning_rate: float  # the peak
    weight_decay: float

    @classmethod
    def of(cls, recipe: Recipe, options: Options) -> "Chosen":
        if recipe.base is None:  # a small model from scratch on little data wants much decay: examples/clinc150
            default = cls("muon", models.SIZES[recipe.size].learning_rate, 0.4)
        else:
            default = cls("adamw", {"full": 2e-5, "lora": 2e-4}[recipe.method], 0.01)
        decay = default.weight_decay if options.weight_decay is None else options.weight_decay
        return cls(recipe.optimizer or default.optimizer, recipe.learning_rate or default.learning_rate, decay)


class TorchTrainer:
    def train(self, context: Context, recipe: Recipe) -> None:
        options = _options(recipe)
        torch.set_num_threads(context.cpus)
        table, system = Table(context), system_message(context)
        vocabulary = models.SIZES[recipe.size].vocabulary
        tokenizer = tokenizer_for(recipe, context.project, table.texts("train"), vocabulary)
        data = _encode(context, table, tokenizer, recipe, system)
        device = models.device_for(options.device)
        model = _model(context, recipe, options, tokenizer).to(device)
        chosen = Chosen.of(recipe, options)
        loop = Loop(
            model,
            optimizers_for(model, *chosen),
            data,
            recipe,
            context,
            Checkpoints(context.scratch / "checkpoints", _owner(context)),
            models.autocast_for(recipe.precision, device, model.config.hidden_size),
            pad=tokenizer.pad_token_id,
            clip=options.clip,
        )
        counts = {
            "parameters": sum(p.numel() for p in model.parameters()),
            "trained_parameters": sum(p.numel() for p in loop.trainable.values()),
        }
        given = {k: v for k, v in msgspec.structs.asdict(recipe).items() if v is not None and k != "options"}
        context.params(given | recipe.options | chosen._asdict() | counts | {"device": device, "steps": loop.steps})
        state = loop.run()
        meta = counts | {
            "architecture": model.config.architectures[0],
            "vocabulary": len(tokenizer),
            "epochs": state.epoch,
            "best_epoch": state.best_epoch or state.epoch,
            "steps": state.step,
            "tokens": state.tokens,
            "rows": len(data[0]),
            "train_loss": state.train_loss,
            "validation_loss": state.validation_loss if len(data[1]) else None,
            "dataset": {"ref": context.inputs["dataset"].ref, "digest": context.inputs["dataset"].digest},
        }
        export(context, model, tokenizer, meta, system)

    def predict(
        self, model: Path, rows: Iterable[Mapping[str, Any]], options: Mapping[str, Any]
    ) -> Iterator[Prediction]:
        torch.set_num_threads(int(options.get("threads", torch.get_num_threads())))
        device = models.device_for(str(options.get("device", "auto")))
        answerer = Answerer(models.from_folder(model).to(device), load_tokenizer(model), options.get("max_tokens"))
        return answerer.answers(rows, str(options.get("system", "")))


class Table:
    """The dataset version that the step was given, read split by split."""

    def __init__(self, context: Context) -> None:
        given = context.inputs["dataset"]
        self.path, query = context.path("dataset"), parse_qs(given.uri.partition("?")[2])
        self.options = {"version": int(query["version"][0])} if "version" in query else {}
        self.name = given.ref
        first = next(load("reader", "lance").read(self.path, self.options), None)
        if first is None:
            raise Error("invalid", f"{self.name} has no rows", "look at what was dropped: longrein show " + self.name)
        columns = set(first.row)
        missing = {"split"} - columns if "messages" in columns else {"input", "output", "split"} - columns
        if missing:
            raise Error(
                "invalid",
                f"{self.name} has no column {' and no column '.join(map(repr, sorted(missing)))}",
                "a dataset to train on has the columns input, output (or messages) and split",
            )

    def rows(self, split: str) -> Iterator[dict[str, Any]]:
        """The rows of a split that have something to answer and an answer."""
        columns = ["input", "output", "messages"]
        options = {**self.options, "columns": columns, "filter": f"split = '{split}'"}
        for record in load("reader", "lance").read(self.path, options):
            row = record.row
            if row.get("messages") or (row.get("input") is not None and row.get("output") is not None):
                yield row

    def texts(self, split: str) -> Iterator[str]:
        for row in self.rows(split):
            for message in conversation(row, ""):
                yield message["content"]


def system_message(context: Context) -> str:
    """The system message of inputs["prompt"], or ""."""
    if "prompt" not in context.inputs:
        return ""
    return str(json.loads(context.path("prompt").read_text("utf-8")).get("system", ""))


def _encode(
    context: Context, table: Table, tokenizer: PreTrainedTokenizerBase, recipe: Recipe, system: str
) -> tuple[Rows, Rows]:
    train, validation = (encode(table.rows(s), tokenizer, system, recipe.max_length) for s in ("train", "validation"))
    if train.skipped:
        context.note(f"{train.skipped} rows are longer than max_length = {recipe.max_length} tokens: left out")
    if len(train) < 2:
        what = "no row" if not len(train) else "one row only"
        raise Error(
            "invalid",
            f"{table.name} has {what} to train on (split train"
            + (f", {train.skipped} longer than max_length = {recipe.max_length})" if train.skipped else ")"),
            "raise max_length" if train.skipped else "check the dataset's split and what was dropped",
        )
    if not len(validation):
        context.note("there is no validation row: the last epoch is kept, and early stopping is off")
    return train, validation


def _model(context: Context, recipe: Recipe, options: Options, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    if recipe.base is None:
        return models.from_scratch(recipe, tokenizer)
    lora = recipe.method == "lora"
    model = models.from_folder(context.project / recipe.base, "auto" if lora else torch.float32)
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(len(tokenizer))
    return models.with_lora(model, options.lora_rank, options.lora_alpha, recipe.seed) if lora else model


def _options(recipe: Recipe) -> Options:
    if recipe.method == "lora" and recipe.base is None:
        raise Error("invalid", "method: lora needs a base model to adapt", "give base: a local Hugging Face folder")
    try:
        return msgspec.convert(recipe.options, Options)
    except msgspec.ValidationError as error:
        known = ", ".join(Options.__struct_fields__)
        raise Error("invalid", f"options of the trainer torch: {error}", f"it knows {known}") from error


def _owner(context: Context) -> str:
    """Whose checkpoints these are: another config or another input's are not gone on with."""
    inputs = {role: given.digest for role, given in context.inputs.items()}
    return digest.of_json({"config": context.config, "inputs": inputs, "version": VERSION})


plugin = TorchTrainer()
