"""Worlds of releases, and a real server over one of them."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from world import World

from longrein.gateway.server import Gateway


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.ledger.close()


@pytest.fixture(scope="session")
def new_world() -> Callable[[Path, str], World]:
    return World


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, Gateway]]:
    """A server with one endpoint, `support`, that serves the echo engine; for tests that leave it as it is."""
    world = World(tmp_path_factory.mktemp("echo"))
    world.promote(world.release("support", "v1", context=50), log_text=True)
    with world.serve(why=lambda ledger, store, id: {"request": world.requests.get(id)}) as gateway:
        yield world, gateway
    world.ledger.close()
