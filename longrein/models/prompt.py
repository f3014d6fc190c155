"""Prompts as assets: a change of words alone is a new version, and so a new release."""

import msgspec

from longrein.core.digest import canonical
from longrein.core.step import Context

VERSION = 1


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A prompt in longrein.yaml."""

    system: str


def run(context: Context) -> None:
    """Output: a prompt, one JSON file {"system": …}."""
    config = msgspec.convert(context.config, Config)
    path = context.scratch / "prompt.json"
    path.write_bytes(canonical({"system": config.system}))
    context.put("prompt", context.name, path, {"system": config.system[:200]})
