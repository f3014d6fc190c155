"""A project folder with a ledger, a store and releases in it, as `longrein apply` leaves it, and a server over it."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import openai

from longrein.core.ledger import Asset, Ledger
from longrein.core.store import Store
from longrein.data.requests import RequestLog
from longrein.gateway.server import Gateway

PLUGINS = Path(__file__).parent / "gateway" / "plugins"


class World:
    """A project folder as `longrein init` and `apply` leave it, with as much in it as serving needs."""

    def __init__(self, folder: Path, url: str = "") -> None:
        self.folder = folder
        self.store = Store(folder / ".longrein" / "store")
        self.ledger = Ledger(url or f"sqlite:///{folder}/.longrein/ledger.db")
        self.key = self.ledger.keys.create("test", ("infer", "track", "admin"), actor="test")
        self.requests = RequestLog(folder / ".longrein" / "requests")
        self.endpoints: dict[str, dict[str, Any]] = {}
        shutil.copytree(PLUGINS, folder / "plugins", ignore=shutil.ignore_patterns("__pycache__"))

    def put(self, kind: str, name: str, path: Path) -> Asset:
        stored = self.store.put(path)
        return self.ledger.assets.put(kind, name, stored.digest, uri=stored.uri, bytes=stored.bytes, actor="test")

    def voice(self, text: str) -> Path:
        """A model folder for the echo engine."""
        folder = self.folder / "model"
        folder.mkdir()
        (folder / "voice").write_text(text)
        return folder

    def release(
        self, endpoint: str, model: Path | str, system: str = "", engine: str = "echo", **options: Any
    ) -> Asset:
        """A release of a model folder, or of the echo engine with a voice."""
        part = self.put("model", endpoint, self.voice(model) if isinstance(model, str) else model)
        meta: dict[str, Any] = {"model": _part(part), "prompt": None, "engine": engine, "options": options}
        if system:
            (self.folder / "prompt.json").write_bytes(msgspec.json.encode({"system": system}))
            meta["prompt"] = _part(self.put("prompt", endpoint, self.folder / "prompt.json"))
        file = self.folder / "release.json"
        file.write_bytes(msgspec.json.encode(meta))
        stored = self.store.put(file)
        return self.ledger.assets.put("release", endpoint, stored.digest, uri=stored.uri, meta=meta, actor="test")

    def promote(self, release: Asset, **config: Any) -> Asset:
        """Make a release its endpoint's own, and the endpoint wanted."""
        name = release.name
        self.ledger.aliases.move("release", name, "prod", release, actor="test")
        self.want(name, **config)
        return release

    def want(self, name: str, **config: Any) -> None:
        self.endpoints[name] = {"model": name, "engine": "echo", **self.endpoints.get(name, {}), **config}
        self.ledger.work.want({"project": "test", "endpoints": self.endpoints}, actor="test")

    @contextlib.contextmanager
    def serve(self, **options: Any) -> Iterator[Gateway]:
        """A real server in a thread, once it has loaded what it can."""
        gateway = Gateway(self.ledger, self.store, self.folder, port=0, **options)
        gateway.start()
        try:
            gateway.settled(60)
            yield gateway
        finally:
            gateway.stop()

    def client(self, gateway: Gateway, key: str = "", **options: Any) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=key or self.key, max_retries=0, **options)


def _part(asset: Asset) -> dict[str, str]:
    return {"ref": asset.ref, "digest": asset.digest, "uri": asset.uri}
