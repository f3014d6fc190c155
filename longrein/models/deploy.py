"""Releases: model, tokenizer, prompt, engine and its settings bundled under one digest, which an endpoint serves."""

from typing import Any, Literal

import msgspec

from longrein.core.digest import canonical
from longrein.core.step import Context, Input

VERSION = 1
ALIAS = "prod"  # the alias of a release that its endpoint serves


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An endpoint in longrein.yaml."""

    model: str
    prompt: str | None = None
    engine: str = "torch"
    options: dict[str, Any] = {}  # the engine's
    gates: list[str] = []
    approval: Literal["auto", "manual"] = "auto"  # manual: a person promotes what the gates passed
    log_text: bool = False  # keep the text of requests and answers in the request log


def run(context: Context) -> None:
    """Inputs: "model", and "prompt" where there is one. Output: a release, one JSON file that names what is in it."""
    config = msgspec.convert(context.config, Config)
    model, prompt = context.inputs["model"], context.inputs.get("prompt")
    settings = {"engine": config.engine, "options": config.options}
    path = context.scratch / "release.json"
    # The digest is over what is served: digests and settings, not the version numbers this ledger gave them.
    path.write_bytes(canonical({"model": model.digest, "prompt": prompt.digest if prompt else None, **settings}))
    meta = {"model": _part(model), "prompt": _part(prompt) if prompt else None, **settings}
    tokenizer = model.meta.get("tokenizer_digest")
    context.put("release", context.name, path, meta | ({"tokenizer": tokenizer} if tokenizer else {}))


def served(config: Config) -> dict[str, Any]:
    """The part of an endpoint's config that the release holds: the rest may change without a new release."""
    return {"engine": config.engine, "options": config.options, "model": config.model}


def _part(value: Input) -> dict[str, str]:
    return {"ref": value.ref, "digest": value.digest, "uri": value.uri}
