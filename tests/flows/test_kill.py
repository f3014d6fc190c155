"""Killed at any moment and run again: nothing is lost, nothing is done twice, and the audit trail is whole."""

import signal
from pathlib import Path

import lifecycle
import pytest
from lifecycle import Driver

STEPS = ["data.ingest", "models.prompt", "models.train", "models.evaluate", "models.deploy"]
POINTS = [
    "while claiming", "progress dataset:tickets", "before recording", "after recording", "while recording",
    "progress model:意图", "before recording", "after claiming", "done report:意图", "while judging",
]  # fmt: skip


def check(root: Path) -> set[str]:
    """One asset and one finished run a step, each serving; returns the digest of the dataset."""
    workspace = lifecycle.open(root)
    ledger = workspace.ledger
    assert workspace.plan().changes == 0 and workspace.asset("release:shop@prod").version == 1
    assert [(a.kind, a.version) for a in sorted(ledger.assets.recent(), key=lambda a: a.kind)] == [
        (kind, 1) for kind in ("dataset", "model", "prompt", "release", "report")
    ]
    for capability in [*STEPS, "models.gate"]:
        assert [r.status for r in ledger.runs.recent(capability)] == ["FINISHED"], capability
    assert len(ledger.aliases.verdicts(workspace.asset("release:shop").digest)) == 1
    trained = ledger.runs.recent("models.train")[0].id
    assert [step for step, _, _ in ledger.runs.history(trained, "loss")] == [1, 2, 3]
    made = [e.subject for e in ledger.events.recent(kind="asset.made")]
    assert len(made) == len(set(made)) == 5
    assert len(ledger.events.recent(kind="alias.moved")) == 1
    ledger.events.verify()
    assert len(list(workspace.dataset("tickets"))) == 80
    assert not list((root / ".longrein" / "store").glob("staging/*"))
    digests = {workspace.asset("dataset:tickets").digest}
    ledger.close()
    return digests


@pytest.fixture(scope="module")
def digests() -> set[str]:
    """The same bytes and config give the same digest in every test here."""
    return set()


def test_killed_again_and_again(drive: Driver, ledger_url: str, tmp_path: Path, digests: set[str]) -> None:
    root = lifecycle.create(tmp_path / "shop")
    for point in POINTS if ledger_url.startswith("sqlite") else POINTS[4:7]:
        process = drive(root, point)
        process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL, f"{point} was never reached"
    end = drive(root)
    out, _ = end.communicate(timeout=60)
    assert end.returncode == 0 and "promoted release:shop" in out
    digests |= check(root)
    assert len(digests) == 1
    again = drive(root)
    assert again.communicate(timeout=60)[0] == ""


def test_two_loops_at_once_do_every_step_once(drive: Driver, tmp_path: Path, digests: set[str]) -> None:
    root = lifecycle.create(tmp_path / "shop")
    processes = [drive(root), drive(root)]
    done = [line for p in processes for line in p.communicate(timeout=120)[0].splitlines() if "waiting" not in line]
    assert [p.returncode for p in processes] == [0, 0]
    steps = ["dataset:tickets", "prompt:polite", "model:意图", "report:意图", "release:shop"]
    assert sorted(done) == sorted(
        [*(f"done {step}" for step in steps), "judged release:shop@1", "promoted release:shop"]
    )
    digests |= check(root)
    assert len(digests) == 1


def test_a_survivor_takes_over_from_a_killed_loop(drive: Driver, tmp_path: Path) -> None:
    root = lifecycle.create(tmp_path / "shop")
    victim = drive(root, "progress dataset:tickets")
    while not list(root.glob(".longrein/work/*/job.json")):  # until it has claimed its first step
        assert victim.poll() is None
    survivor = drive(root)
    victim.communicate(timeout=60)
    out, _ = survivor.communicate(timeout=120)
    assert survivor.returncode == 0 and "promoted release:shop" in out
    check(root)
