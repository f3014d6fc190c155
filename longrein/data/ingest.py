"""2.1 data.ingest: files of many kinds become one clean, split, versioned table, and every row is accounted for."""

from pathlib import Path
from typing import Any

import msgspec

from longrein.core import digest, plugins
from longrein.core.errors import Error
from longrein.core.step import Context
from longrein.data import near, source, split
from longrein.data.layout import Layout
from longrein.data.mix import Config as Mix
from longrein.data.source import Source

VERSION = 3  # raised when the same sources and config give other rows


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A dataset in longrein.yaml."""

    sources: list[str | Source] = []  # globs below the project, URLs, or {path, reader, options, remote}
    mix: Mix | None = None  # in place of sources: other datasets, by weight
    input: str = ""  # the column that is asked
    output: str = ""  # the column that is answered; none for plain text
    messages: str = ""  # or: the column that holds a conversation, [{role, content}]
    rejected: str = ""  # of preference pairs: the column of the answer that is liked less; `output` is the chosen one
    format: Layout = ""  # in place of columns: a layout known by its name
    keep: list[str] = []  # other columns to keep, as JSON in the column `extra`
    transforms: list[str | dict[str, dict[str, Any]]] = []  # in order; a name or {name: options}
    split: dict[str, float | str] = msgspec.field(default_factory=split.default)  # shares, or {column: name}
    seed: int = 0  # of the split


def sources_digest(config: Config, project: Path, cache: Path | None = None) -> dict[str, str]:
    """sha256 of each source file by name, and of the files that transforms' options name; light, see
    longrein.data.source. Errors: `invalid` when none matches."""
    files = [f for _, options in transforms(config) for named in source.named(options, project).values() for f in named]
    return source.digests([*source.find(config.sources, project), *files], cache)


def versions(config: Config) -> list[str]:
    """Dataset versions that its transforms compare with, "dataset:tickets@3"."""
    return [ref for _, options in transforms(config) for ref in near.versions(options)]


def version(config: Config) -> str:
    """What stands for the code of this step in its key: raised by hand here, and every plugin that may take part.

    A plugin at its first version adds nothing, so that a new reader, which these sources may not even need, rebuilds
    no dataset.
    """
    readers = {s.reader for s in config.sources if isinstance(s, Source)} - {""}
    if any(isinstance(s, str) or not s.reader for s in config.sources):
        readers |= set(plugins.names("reader"))
    used = [("reader", name) for name in sorted(readers)] + [("transform", name) for name, _ in transforms(config)]
    used += [("source", name) for name in sorted({source.plugin_of(s) for s in config.sources} - {""})]
    parts = [(port, name, plugins.version(port, name)) for port, name in used]
    return digest.of_json([VERSION, *(part for part in parts if part[2] != "1")])[:16]


def transforms(config: Config) -> list[tuple[str, dict[str, Any]]]:
    """Names and options, in order. Errors: `invalid` when an entry is not one name with its options."""
    listed = [(t, {}) if isinstance(t, str) else next(iter(t.items()), ("", {})) for t in config.transforms]
    for entry in config.transforms:
        if isinstance(entry, dict) and len(entry) != 1:
            raise Error("invalid", f"a transform is one name with its options, not {sorted(entry)}")
    return listed


def run(context: Context) -> None:
    """Reads, cleans, splits; puts one output of kind "dataset". Nothing is visible before the last row is through.

    Killed, it goes on from the parts that are finished; run again, it makes those of new and changed files only.
    """
    from longrein.data.pipeline import Pipeline  # pyarrow and lance, which `plan` does without

    config = msgspec.convert(context.config, Config)
    Pipeline(context, config, transforms(config), VERSION).run()
