"""`longrein logs` over requests, `longrein why` over feedback, and keys with teams and limits."""

import json
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from longrein import workspace
from longrein.core.record import Record, Segment

NOW = time.time_ns() // 1_000_000


def record(i: int, **more: Any) -> Record:
    at = NOW - i * 60_000
    return Record(**{"id": f"chatcmpl-{at:012x}{i:012x}", "ts_ms": at, "endpoint": "support", "status": 200, **more})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "longrein.yaml").write_text("project: test\n")
    segment = Segment(tmp_path / ".longrein" / "requests", "w")
    for one in (
        record(0, input="wo ist 卡", output="hier", user="ann", prompt_tokens=3),
        record(1, status=503, error="unavailable"),
        record(200, status=429, key_id="k1", session="s"),
        record(300, erased=True),
    ):
        segment.append(msgspec.json.encode(one) + b"\n")
    segment.close()
    return tmp_path


def test_requests_are_listed_and_chosen(call: Any, folder: Path) -> None:
    def found(*options: str) -> list[int]:
        return [round((NOW - r["ts_ms"]) / 60_000) for r in call("logs", *options, "--json", "-C", folder).data]

    assert found() == [0, 1, 200, 300] and found("-n", "2") == [0, 1]
    assert found("--status", "5xx") == [1] and found("--since", "2h") == [0, 1]
    assert found("--text", "卡") == found("--user", "ann") == [0]
    assert found("--key", "k1") == found("--session", "s") == found("--status", "429") == [200]
    assert found("--endpoint", "none") == []
    text = call("logs", "-C", folder).out
    assert "wo ist 卡" in text and "(erased)" in text and "3 + 0" in text


@pytest.mark.parametrize("options", [("--since", "2 weeks"), ("--status", "bad"), ("model:x", "--status", "200")])
def test_what_cannot_be_chosen(call: Any, folder: Path, options: tuple[str, ...]) -> None:
    done = call("logs", *options, "-C", folder)
    assert done.code == 2 and "hint:" in done.err


def test_why_tells_what_was_said(call: Any, folder: Path) -> None:
    ledger = workspace.open(folder).ledger
    where = {"source": "k", "endpoint": "support", "release": ""}
    ledger.feedback.put(record(0).id, [("helpful", 1.0, "danke 卡"), ("", None, "words")], **where)
    told = call("why", record(0).id, "-C", folder).out
    assert "helpful 1" in told and "danke 卡" in told and "a comment" in told
    assert call("why", "chatcmpl-" + "0" * 24, "-C", folder).code == 3


def test_a_key_with_a_team_and_limits(call: Any, folder: Path) -> None:
    limits = ("--limit", "tokens_per_day=1000", "--limit", "usd_per_month=2.5")
    assert call("key", "create", "app", "--team", "blue", *limits, "-C", folder).code == 0
    (key,) = json.loads(call("key", "list", "--json", "-C", folder).out)
    assert key["team"] == "blue" and key["limits"] == {"tokens_per_day": 1000, "usd_per_month": 2.5}
    shown = call("key", "list", "-C", folder).out
    assert "blue" in shown and "tokens_per_day=1000" in shown
    refused = call("key", "create", "app", "--limit", "token_per_day=5", "-C", folder)
    assert refused.code == 2 and "tokens_per_day" in refused.err
