"""A project folder in which an ingestion can be run as the worker runs it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from longrein.core.step import Context, Job, Output
from longrein.core.store import Store
from longrein.data import ingest, version


class Project:
    def __init__(self, root: Path) -> None:
        self.root, self.store = root, Store(root / ".longrein" / "store")

    def write(self, name: str, content: bytes | str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def job(self, name: str = "tickets", **config: Any) -> Job:
        config = {"sources": ["data/*"], "input": "text"} | config
        if "messages" in config:
            del config["input"]
        return Job("longrein.data.ingest:run", name, config, {}, str(self.store.root), str(self.root))

    def ingest(self, name: str = "tickets", **config: Any) -> Output:
        context = Context(self.job(name, **config), self.root / ".longrein" / "work" / name)
        ingest.run(context)
        return context.outputs[0]

    def rows(self, output: Output) -> list[dict[str, Any]]:
        return list(version.rows(self.store, output.uri))

    def rejected(self, output: Output) -> list[dict[str, Any]]:
        return list(version.rows(self.store, output.meta["rejected"]))

    def reasons(self, output: Output) -> list[tuple[str, str, int]]:
        return [(r["reason"], r["source"], r["line"]) for r in self.rejected(output)]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path / "project")


@pytest.fixture
def projects(tmp_path: Path) -> Callable[[str], Project]:
    return lambda name: Project(tmp_path / name)
