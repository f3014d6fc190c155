"""A project that was applied once, to start from."""

from pathlib import Path

import lifecycle
import pytest


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = lifecycle.create(tmp_path_factory.mktemp("built") / "shop")
    assert lifecycle.apply(root)[-1] == "promoted release:shop"
    return root


@pytest.fixture
def project(built: Path, tmp_path: Path) -> Path:
    """A copy of it, in another place."""
    return lifecycle.copy(built, tmp_path / "shop")
