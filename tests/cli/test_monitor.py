"""`longrein monitor` and `longrein top` over a ledger with traffic in it."""

import contextlib
import csv
import io
import json
import os
import pty
import signal
from itertools import pairwise

import pytest

from longrein.cli._text import width
from longrein.control.rollout import begin
from longrein.core.histogram import Histogram
from longrein.core.ledger import Block, Ledger, now_ms
from longrein.core.ledger.traffic import BLOCK_MS
from longrein.models.experiment.rollout import Canary

from .conftest import spawn


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "longrein.yaml").write_text("project: demo\n")
    (tmp_path / ".longrein").mkdir()
    ledger = Ledger(f"sqlite:///{tmp_path}/.longrein/ledger.db")
    release = ledger.assets.put("release", "客服", "d1" * 32, meta={"engine": "torch"}, actor="test")
    ledger.aliases.move("release", "客服", "prod", release, actor="test")
    ledger.assets.put("release", "idle", "d1" * 32, meta={"engine": "torch"}, actor="test")  # the same, elsewhere
    ledger.work.want({"endpoints": {"客服": {}, "idle": {}}}, actor="test")
    now = now_ms() // BLOCK_MS * BLOCK_MS
    blocks = []
    for i in range(6):
        counts = {"requests": 20, "errors": 1, "refusals": 2, "tokens_in": 100, "tokens_out": 400, "cost_usd": 0.01}
        counts["statuses"] = {"200": 19, "500": 1}
        made = Block("客服", release.digest, now - i * BLOCK_MS, team="甲" if i % 2 else "", **counts)
        for value in range(19):
            made.time("latency_ms", 100 + value)
            made.time("ttft_ms", 10)
            made.time("token_ms", 2)
            made.time("queue_ms", 1)
        made.score("helpful", 1)
        made.gauges = {"running": Histogram([3]), "waiting": Histogram([1]), "slots_used": Histogram([3]),
                       "slots_total": Histogram([16])}  # fmt: skip
        blocks.append(made)
    machine = Block("", "host-1", now)
    machine.gauges = {"cpu_share": Histogram([0.5]), "memory_bytes": Histogram([6e9])}
    ledger.traffic.put("w", [*blocks, machine])
    summary = "the words of requests are others \x1b[31m than before"
    ledger.alerts.fire("drifted", "endpoint:客服", "input", summary=summary, actor="test")
    return tmp_path


def test_a_table_and_the_same_as_json_and_csv(call, folder):
    done = call("monitor", "-C", folder)
    assert done.code == 0 and "REQUESTS" in done.out and "客服" in done.out and "idle" not in done.out
    row = next(line for line in done.out.splitlines() if line.startswith("客服"))
    for cell in ("120", "5 %", "10 %", "600 + 2,400", "$0.06", "helpful 1 (6)", "10", "2 / 2 / 2 ms"):
        assert cell in row, cell
    (found,) = call("monitor", "客服", "--json", "-C", folder).data
    assert (found["requests"], found["errors"], found["refusals"], found["tokens_out"]) == (120, 6, 12, 2400)
    assert found["latency_p95_ms"] == pytest.approx(118, rel=0.02)
    teams = call("monitor", "--by", "team,release", "--csv", "-C", folder)
    rows = list(csv.DictReader(io.StringIO(teams.out)))
    assert [(r["team"], r["release"], r["requests"]) for r in rows] == [
        ("", "release:客服@1", "60"), ("甲", "release:客服@1", "60")
    ]  # fmt: skip
    assert rows[0]["statuses.200"] == "57" and rows[0]["scores.helpful.mean"] == "1.0"


def test_steps_and_machines(call, folder):
    rows = call("monitor", "--step", "10s", "--json", "-C", folder).data
    assert sum(row["requests"] for row in rows) == 120 and len(rows) == 6
    assert "FROM" in call("monitor", "--step", "10s", "-C", folder).out
    machines = call("monitor", "--machine", "-C", folder).out
    assert "host-1" in machines and "50 %" in machines and "6.0 GB" in machines and "slots_used" in machines


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["nobody"], "there is no endpoint 'nobody'"), (["--since", "soon"], "--since cannot be 'soon'"),
        (["--step", "0s"], "--step cannot be '0s'"), (["--by", "colour"], "not told by 'colour'"),
    ],
)  # fmt: skip
def test_what_cannot_be_asked_is_said(call, folder, arguments, part):
    done = call("monitor", *arguments, "-C", folder)
    assert done.code != 0 and part in done.err and "hint:" in done.err


def test_nothing_asked_is_said(call, folder):
    done = call("monitor", "idle", "-C", folder)
    assert done.code == 0 and "nothing was asked in that time" in done.out


def test_a_frame_fits_its_terminal_and_shows_what_is_there(call, folder, monkeypatch):
    for columns in (40, 80, 200):
        monkeypatch.setenv("COLUMNS", str(columns))
        lines = call("top", "--once", "-C", folder).out.splitlines()
        assert all(width(line) <= columns for line in lines)
    text = "\n".join(lines)
    assert "! " in text and "drifted input: the words of requests are others \\x1b[31m than before" in text
    heads, row = next((a, b) for a, b in pairwise(lines) if a.startswith("ENDPOINT"))
    assert row.startswith("客服") and "5 %" in row and "█" in row
    assert width(row[: row.index("1 *")]) == heads.index("RELEASE")  # Chinese stands in its column
    assert "客服@1" in text and "[##      ] 19 % 16" in text and "host-1  cpu [####    ] 50 %" in text
    data = call("top", "--once", "--json", "-C", folder).data
    assert data["releases"][0]["now"]["requests"] == 120 and data["engines"][0]["gauges"]["running"]["mean"] == 3
    assert [(a["kind"], a["severity"]) for a in data["alerts"]] == [("drifted", "warning")]


def test_a_rollout_is_shown(call, folder):
    ledger = Ledger(f"sqlite:///{folder}/.longrein/ledger.db")
    stable = ledger.assets.get("release:客服@prod")
    candidate = ledger.assets.put("release", "客服", "d2" * 32, meta={"engine": "torch"}, actor="test")
    begin(ledger, stable, candidate, Canary(), actor="test")
    out = call("top", "--once", "-C", folder).out
    assert "endpoint 客服: canary of release:客服@2" in out and "5 %" in out


def test_nothing_at_all_is_shown_too(call, tmp_path):
    (tmp_path / "longrein.yaml").write_text("project: demo\n")
    (tmp_path / ".longrein").mkdir()
    done = call("top", "--once", "-C", tmp_path)
    assert done.code == 0 and "no gateway runs here" in done.out and "this machine  cpu [" in done.out


def test_piped_it_prints_frame_after_frame(folder):
    process = spawn("top", "--every", "0.2", "--json", "-C", folder)
    frames = [json.loads(process.stdout.readline()) for _ in range(2)]
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0 and process.stderr.read() == ""
    assert frames[1]["now_ms"] > frames[0]["now_ms"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_in_a_terminal_it_refreshes_and_leaves_it_as_it_was(folder, number):
    ours, theirs = pty.openpty()
    env = {"TERM": "xterm", "COLUMNS": "80", "LINES": "24"}
    process = spawn("top", "--every", "0.2", "-C", folder, env=env, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    seen = b""
    while seen.count("客服".encode()) < 3:
        seen += os.read(ours, 4096)
    process.send_signal(number)
    with contextlib.suppress(OSError):  # the end of a terminal
        while data := os.read(ours, 4096):
            seen += data
    os.close(ours)
    assert process.wait(20) == 0
    assert b"\x1b[?1049h" in seen and seen.rindex(b"\x1b[?1049l") > seen.rindex(b"\x1b[?1049h")
    assert seen.rindex(b"\x1b[?25h") > seen.rindex(b"\x1b[?25l") and b"Traceback" not in seen
