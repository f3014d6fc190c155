"""Trains a model on a dataset version: hands the recipe to a plugin of the port "trainer"."""

import msgspec

from longrein.core.errors import Error
from longrein.core.plugins import load
from longrein.core.step import Context
from longrein.core.training import Recipe


class Config(Recipe, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model in longrein.yaml."""

    dataset: str
    prompt: str | None = None  # its system message stands before every row
    trainer: str = "torch"


def run(context: Context) -> None:
    """Inputs: "dataset", and "prompt" where the config names one. Output: a model, a Hugging Face folder."""
    try:
        config = msgspec.convert(context.config, Config)
    except msgspec.ValidationError as error:
        raise Error("invalid", f"model {context.name!r}: {error}", "see `longrein schema` for its fields") from error
    load("trainer", config.trainer).train(context, config)
