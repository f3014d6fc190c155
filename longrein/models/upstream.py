"""An upstream: an OpenAI-compatible server elsewhere (vLLM, SGLang, a cloud) in place of an engine of ours."""

from typing import Annotated
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

Seconds = Annotated[float, Meta(gt=0, le=86400)]


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the model is served, and how patiently to ask. It is part of the release: nothing else is known of it."""

    urls: Annotated[list[str], Meta(min_length=1, max_length=64)]  # http://host:8000/v1; several serve the same model
    model: Annotated[str, Meta(min_length=1)]  # its name there
    key_env: str | None = None  # the environment variable that holds the API key
    connect_s: Seconds = 3.0
    first_byte_s: Seconds = 120.0  # from the request to the answer's first byte
    idle_s: Seconds = 60.0  # between two bytes of an answer
    total_s: Seconds = 600.0  # everything, retries included
    retries: Annotated[int, Meta(ge=0, le=10)] = 2  # before the first byte of an answer; beside the first try
    max_connections: Annotated[int, Meta(ge=1, le=65536)] = 512  # to each url; further requests wait for connect_s

    def __post_init__(self) -> None:
        for url in self.urls:
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
                raise ValueError(f"{url[:200]!r} is not the base URL of an API, like http://host:8000/v1")
            if parts.username or parts.password:
                raise ValueError("A URL here may not hold a password: use key_env")
