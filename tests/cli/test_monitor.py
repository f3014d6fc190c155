"""`longrein monitor` and `longrein top` over a ledger with traffic in it."""

import csv
import io

import pytest

from longrein.core.histogram import Histogram
from longrein.core.ledger import Block, Ledger, now_ms
from longrein.core.ledger.traffic import BLOCK_MS


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "longrein.yaml").write_text("project: demo\n")
    (tmp_path / ".longrein").mkdir()
    ledger = Ledger(f"sqlite:///{tmp_path}/.longrein/ledger.db")
    release = ledger.assets.put("release", "客服", "d1" * 32, meta={"engine": "torch"}, actor="test")
    ledger.aliases.move("release", "客服", "prod", release, actor="test")
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
        (["--since", "400d", "--step", "10s"], "more than 10,000 steps"),
    ],
)  # fmt: skip
def test_what_cannot_be_asked_is_said(call, folder, arguments, part):
    done = call("monitor", *arguments, "-C", folder)
    assert done.code != 0 and part in done.err and "hint:" in done.err


def test_nothing_asked_is_said(call, folder):
    done = call("monitor", "idle", "-C", folder)
    assert done.code == 0 and "nothing was asked in that time" in done.out
