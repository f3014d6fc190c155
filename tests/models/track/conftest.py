"""A real server on a free port, over SQLite and over PostgreSQL, and the real MLflow client pointed at it."""

import contextlib
import http.client
import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

import pytest
import sqlalchemy as sa
import uvicorn
from mlflow import MlflowClient
from starlette.applications import Starlette

from longrein.core.ledger import Ledger
from longrein.core.store import Store
from longrein.gateway.mlflow import routes


class _Server(uvicorn.Server):
    """Says when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = threading.Event()

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        self.listening.set()


class World:
    """A ledger, a store and a server over them."""

    def __init__(self, url: str, folder: Path) -> None:
        self.ledger, self.store = Ledger(url), Store(folder / "store")
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        app = Starlette(routes=routes(self.ledger, self.store))
        self.server = _Server(uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off"))
        self.thread = threading.Thread(target=self.server.run, args=([listener],))
        self.thread.start()
        assert self.server.listening.wait(20)
        self.client = MlflowClient(self.url, self.url)

    def close(self) -> None:
        self.server.should_exit = True
        self.thread.join()
        self.ledger.close()

    def experiment(self, name: str, **tags: str) -> str:
        return self.client.create_experiment(name, tags=tags)

    def run(self, experiment: str = "0", **more: Any) -> str:
        return self.client.create_run(experiment, **more).info.run_id

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, dict[str, Any]]:
        """(status, JSON) of a plain request; `body` is sent as it is when it is bytes."""
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)) as connection:
            data = body if isinstance(body, bytes) else json.dumps(body).encode() if body is not None else None
            connection.request(method, path, data, {"Content-Type": "application/json", **headers})
            answer = connection.getresponse()
            text = answer.read()
            kind = answer.getheader("content-type", "")
            return answer.status, json.loads(text) if "json" in kind else {"bytes": text, "headers": answer.headers}

    def post(self, path: str, body: Any) -> tuple[int, dict[str, Any]]:
        return self.ask("POST", f"/api/2.0/mlflow/{path}", body)

    def refused(self, path: str, body: Any, code: str = "INVALID_PARAMETER_VALUE", status: int = 400) -> str:
        """The message of a request that must be refused so."""
        found, answer = self.post(path, body)
        assert (found, answer["error_code"]) == (status, code), answer
        return answer["message"]


def _world(url: str, folder: Path) -> Iterator[World]:
    world = World(url, folder)
    yield world
    world.close()


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A server for tests of one file, which keep to experiments and names of their own."""
    folder = tmp_path_factory.mktemp("track")
    if request.param == "sqlite":
        yield from _world(f"sqlite:///{folder}/ledger.db", folder)
        return
    server = request.getfixturevalue("postgresql")
    name = f"track{abs(hash(str(folder)))}"
    with sa.create_engine(server, isolation_level="AUTOCOMMIT").connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    yield from _world(server.replace("/postgres?", f"/{name}?"), folder)


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[World]:
    """A server with nothing in it."""
    yield from _world(f"sqlite:///{tmp_path}/ledger.db", tmp_path)


@pytest.fixture
def mlflow(world: World) -> Iterator[Any]:
    """The mlflow package, set to the server as `MLFLOW_TRACKING_URI` sets it."""
    import mlflow

    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(world.url)
    mlflow.set_experiment("Default")
    yield mlflow
    while mlflow.active_run():
        mlflow.end_run()
    mlflow.set_tracking_uri(before)
