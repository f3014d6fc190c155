"""A disk that is really full: told in one sentence, nothing half-written, and the work goes on once there is room."""

from pathlib import Path

import lifecycle
import pytest

from longrein.control.loop import News
from longrein.core.errors import Error
from longrein.core.ledger import Ledger


def fill(disk: Path) -> Path:
    """Take all that is left."""
    path = disk / "filler"
    with path.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while file.write(b"x" * size) == size:
                    pass
            except OSError:
                continue
    return path


def test_apply_on_a_full_disk(disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ledger lies elsewhere, so that the step itself meets the full disk."""
    monkeypatch.setenv("LONGREIN_LEDGER", f"sqlite:///{tmp_path}/ledger.db")
    root = lifecycle.create(disk / "shop")
    filler = fill(disk)
    told: list[News] = []
    assert {"failed dataset:tickets", "failed prompt:polite"} <= set(lifecycle.apply(root, told.append))
    assert {n.data["code"] for n in told if n.what == "failed"} == {"no_space"}
    store = root / ".longrein" / "store"
    assert not list(store.glob("sha256/*/*")) and not list(store.glob("staging/*"))
    filler.unlink()
    assert lifecycle.apply(root)[-1] == "promoted release:shop"
    ledger = lifecycle.open(root).ledger
    assert [r.status for r in ledger.runs.recent("data.ingest")] == ["FINISHED", "FAILED"]
    assert ledger.events.verify() > 0


def test_a_ledger_on_a_full_disk(disk: Path) -> None:
    ledger = Ledger(f"sqlite:///{disk}/ledger.db")
    ledger.events.append("ann", "tested", "before")
    filler = fill(disk)
    with pytest.raises(Error) as caught:
        for _ in range(100):
            ledger.assets.put("model", "m", "aa", meta={"text": "x" * 100_000})
            ledger.assets.put("model", "m", "bb", meta={"text": "x" * 100_000})
            ledger.events.append("ann", "tested", "x" * 100_000)
    assert caught.value.code == "no_space"
    assert ledger.events.verify() >= 1  # reading goes on
    filler.unlink()
    before = ledger.events.head()[0]
    assert ledger.events.append("ann", "tested", "after") == before + 1 == ledger.events.verify()
