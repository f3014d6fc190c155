"""A dataset mixed from others, evenly spread; each row tells which one it was taken from."""

from pathlib import Path

import msgspec

from longrein.core.step import Context
from longrein.data import source
from longrein.data.share import Config, check

__all__ = ["VERSION", "Config", "check", "run", "sources_digest"]

VERSION = 1  # raised when the same datasets and config give other rows


def sources_digest(config: Config, project: Path, cache: Path | None = None) -> dict[str, str]:
    """sha256 of the tokenizer by its name. Errors: `invalid` when it is not there."""
    files = source.named({"tokenizer": config.tokenizer}, project)
    return source.digests(files.get("tokenizer", []), cache)


def run(context: Context) -> None:
    """Mixes its inputs, the datasets by name; puts one output of kind "dataset"."""
    from longrein.data.blend import Blend  # pyarrow and lance, which `plan` does without

    config = msgspec.convert(context.config, Config)
    check(config)
    Blend(context, config).run()
