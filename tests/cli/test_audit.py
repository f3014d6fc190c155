"""The audit trail and its signed checkpoints: what is tampered with is found."""

import json
import sqlite3
from pathlib import Path

import pytest

from .conftest import Call


@pytest.fixture
def trail(call: Call, words: Path) -> Path:
    assert call("apply", "-C", words).code == 0
    return words


def tamper(project: Path, statement: str) -> None:
    with sqlite3.connect(project / ".longrein" / "ledger.db") as database:
        database.execute(statement)


def test_verify_and_log(call: Call, trail: Path) -> None:
    assert "4 events, unbroken" in call("audit", "verify", "-C", trail).out
    log = call("audit", "log", "-C", trail).out
    assert "asset.made" in log and "prompt:greet@1" in log
    assert len(call("audit", "log", "--subject", "prompt:greet@1", "--json", "-C", trail).data) == 1


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("UPDATE events SET actor = 'somebody' WHERE seq = 2", "event 2 (run.started"),
        ("UPDATE events SET data = '{}' WHERE seq = 3", "event 3 (asset.made"),
        ("DELETE FROM events WHERE seq = 2", "event 2 is missing"),
        (
            "INSERT INTO events SELECT 9, ts_ms, actor, kind, subject, data, prev, hash FROM events WHERE seq = 4",
            "5 is missing",
        ),
    ],
)
def test_tampering_is_named(call: Call, trail: Path, statement: str, told: str) -> None:
    tamper(trail, statement)
    done = call("audit", "verify", "-C", trail)
    assert done.code == 9 and told in done.err
    assert call("doctor", "-C", trail).code == 1
    assert call("audit", "checkpoint", "-C", trail).code == 9  # nothing is signed over a broken trail


def test_a_checkpoint_finds_a_rewritten_tail(call: Call, trail: Path, tmp_path: Path) -> None:
    taken = tmp_path / "checkpoint.json"
    done = call("audit", "checkpoint", "--to", taken, "--json", "-C", trail)
    signer = done.data["signer"]
    key = trail / ".longrein" / "audit.key"
    assert key.stat().st_mode & 0o777 == 0o600 and key.read_text().strip() not in taken.read_text() + done.err
    assert call("audit", "verify", "--checkpoint", taken, "--key", signer, "-C", trail).code == 0
    tamper(trail, "DELETE FROM events WHERE seq = 4")  # the chain itself is unbroken now
    assert call("audit", "verify", "-C", trail).code == 0
    done = call("audit", "verify", "--checkpoint", taken, "-C", trail)
    assert done.code == 9 and "shorter than the checkpoint" in done.err


def test_more_events_after_a_checkpoint_are_fine(call: Call, trail: Path, tmp_path: Path) -> None:
    taken = tmp_path / "checkpoint.json"
    call("audit", "checkpoint", "--to", taken, "-C", trail)
    call("key", "create", "app", "-C", trail)
    assert "the checkpoint at event 4 agrees" in call("audit", "verify", "--checkpoint", taken, "-C", trail).out


@pytest.mark.parametrize("part", ["seq", "hash", "project", "public_key", "signature"])
def test_a_forged_checkpoint(call: Call, trail: Path, tmp_path: Path, part: str) -> None:
    taken = call("audit", "checkpoint", "-C", trail).data
    taken[part] = taken[part] + 1 if part == "seq" else "A" + taken[part][1:-1] + "B"
    forged = tmp_path / "forged.json"
    forged.write_text(json.dumps(taken))
    assert call("audit", "verify", "--checkpoint", forged, "-C", trail).code == 9


def test_signed_by_another_key(call: Call, trail: Path, tmp_path: Path) -> None:
    taken = tmp_path / "checkpoint.json"
    signer = call("audit", "checkpoint", "--to", taken, "--json", "-C", trail).data["signer"]
    call("audit", "checkpoint", "--key", tmp_path / "other.key", "--to", taken, "-C", trail)
    done = call("audit", "verify", "--checkpoint", taken, "--key", signer, "-C", trail)
    assert done.code == 9 and "signed by another key" in done.err


@pytest.mark.parametrize(("content", "code"), [("", 2), ("[]", 2), ("{}", 2), ('{"format": "x"}', 2), (None, 3)])
def test_what_is_no_checkpoint(call: Call, trail: Path, tmp_path: Path, content: str | None, code: int) -> None:
    file = tmp_path / "file.json"
    if content is not None:
        file.write_text(content)
    assert call("audit", "verify", "--checkpoint", file, "-C", trail).code == code


def test_a_damaged_signing_key(call: Call, trail: Path) -> None:
    (trail / ".longrein" / "audit.key").write_text("no key")
    assert call("audit", "checkpoint", "-C", trail).code == 9


def test_keys(call: Call, words: Path, tmp_path: Path) -> None:
    secret = call("key", "create", "应用", "--scope", "infer", "--scope", "track", "-C", words).out.strip()
    assert secret.startswith("lr-")
    listed = call("key", "list", "-C", words)
    assert "应用" in listed.out and "infer track" in listed.out and secret not in listed.out
    id = call("ls", "keys", "--json", "-C", words).data[0]["id"]
    assert call("key", "revoke", id, "-C", words).code == 0
    assert call("key", "revoke", id, "-C", words).code == 3
    assert "revoked" in call("key", "list", "-C", words).out
    file = tmp_path / "secrets" / "key"
    done = call("key", "create", "b", "--to", file, "-C", words)
    assert file.stat().st_mode & 0o777 == 0o600 and file.read_text().strip() not in done.out + done.err
    assert call("key", "create", "b", "--to", file, "-C", words).code == 4
    wrong = call("key", "create", "c", "--scope", "root", "-C", words)
    assert wrong.code == 2 and "valid: admin, infer, track" in wrong.err
    assert "lr-" not in call("audit", "log", "-C", words).out
