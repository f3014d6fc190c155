"""`longrein cost` over a log of requests, as people call it."""

import csv
import io
import time

import msgspec
import pytest

from longrein.core import meter
from longrein.core.ledger import Ledger
from longrein.core.meter import Engine, Hour
from longrein.core.record import Record, Segment

FILE = """
project: shop
endpoints:
  support: {upstream: {urls: ["http://localhost:1/v1"], model: m}, approval: manual, value: {resolved: 2.5}}
  search: {upstream: {urls: ["http://localhost:1/v1"], model: m}, approval: manual}
costs:
  machine: {usd_per_hour: 3.6}
"""


@pytest.fixture
def project(tmp_path):
    """An hour of an engine at $3.6, of which 1,200 seconds went into 120 answers; 3 more cost nobody knows what."""
    (tmp_path / "longrein.yaml").write_text(FILE)
    home, now = tmp_path / ".longrein", time.time_ns() // 1_000_000
    home.mkdir()
    with_costs = {"machine": {"usd_per_hour": 3.6}}
    upstream = {"upstream": {"urls": ["http://localhost:1/v1"], "model": "m"}, "approval": "manual"}
    wanted = {"support": {**upstream, "value": {"resolved": 2.5}}, "search": upstream}
    ledger = Ledger(f"sqlite:///{home}/ledger.db")
    ledger.work.want({"project": "shop", "endpoints": wanted, "costs": with_costs}, actor="test")
    segment, at = Segment(home / "requests", "w"), now - 1_800_000
    for i in range(123):
        id = f"chatcmpl-{at + i:012x}{i:012x}"
        cost = {"prefill_ms": 2500.0, "decode_ms": 7500.0, "cost_usd": 0.01} if i < 120 else {}
        record = Record(
            id=id, ts_ms=at + i, endpoint="support" if i % 4 else "search", status=200, prompt_tokens=10,
            completion_tokens=5, tags=[f"customer=客户{i % 3}", "feature==cmd()"], input_digest=str(i // 2), **cost,
        )  # fmt: skip
        segment.append(msgspec.json.encode(record) + b"\n")
        if i % 8 == 1:
            said = [("resolved", 1.0, "")]
            ledger.feedback.put(id, said, source="crm", endpoint="support", release="")
            ledger.feedback.put(id, said, source="crm", endpoint="support", release="")
    segment.close()
    ledger.close()
    folder = home / meter.FOLDER
    folder.mkdir()
    day = now // meter.DAY_MS * meter.DAY_MS
    engine = Engine("of release:support@1", 0, [Hour(now, now, 3600.0, 1200.0)])
    (folder / f"{day:013d}-0-1.json").write_bytes(msgspec.json.encode(engine))
    return tmp_path


def test_what_answers_cost_and_bring(call, project):
    shown = call("cost", "-C", project)
    assert shown.code == 0 and "support" in shown.out and "3 unknown" not in shown.out.splitlines()[0]
    report = call("cost", "-C", project, "--json").data
    lines = {line["group"]: line for line in report["lines"]}
    assert lines["support"]["value_usd"] == 40.0 and lines["support"]["margin_usd"] == pytest.approx(40 - 0.9)
    assert report["bill_usd"] == pytest.approx(3.6) and report["total"]["unknown"] == 3
    [idle] = report["rest"]
    assert report["total"]["cost_usd"] + idle["usd"] == pytest.approx(3.6)
    assert len(report["notes"]) == 2 and "usd_per_hour" in report["notes"][0]
    bearing = call("cost", "-C", project, "--with", "idle", "--by", "customer", "--json").data
    assert {line["group"] for line in bearing["lines"]} == {"客户0", "客户1", "客户2"}
    assert sum(line["cost_usd"] for line in bearing["lines"]) == pytest.approx(3.6) and bearing["rest"] == []
    assert len(call("cost", "-C", project, "--by", "customer", "--top", "1", "--json").data["lines"]) == 2


def test_csv_and_focus(call, project):
    rows = list(csv.DictReader(io.StringIO(call("cost", "-C", project, "--by", "feature", "--csv").out)))
    assert sum(float(row["cost_usd"]) for row in rows) == pytest.approx(3.6)
    assert rows[0]["group"].startswith("'=")  # a spreadsheet must not run what a client wrote
    focus = list(csv.DictReader(io.StringIO(call("cost", "-C", project, "--by", "feature", "--focus").out)))
    assert sum(float(row["BilledCost"]) for row in focus) == pytest.approx(3.6)
    assert {row["BillingAccountId"] for row in focus} == {"shop"}


def test_what_if(call, project):
    found = call("cost", "what-if", "support", "-C", project, "--usd-per-hour", 1.8, "--price", "1,4", "--json").data
    per_1k = {one["what"]: one["usd_per_1k"] for one in found}
    assert per_1k["now"] == pytest.approx(1000 * 3.6 * 0.75 / 92, rel=1e-3)
    assert per_1k["a machine at $1.8 an hour"] == pytest.approx(per_1k["now"] / 2, rel=1e-3)
    assert "fuller engines" in per_1k and per_1k["a cache"] <= per_1k["now"]
    assert "measured" in call("cost", "what-if", "support", "-C", project).out
    for wrong in (
        ["--price", "a,b"],
        ["--price", "-1,2"],
        ["--option", "x"],
        ["--usd-per-hour", "-1"],
        ["--speed", "0"],
    ):
        assert call("cost", "what-if", "support", "-C", project, *wrong).code == 2, wrong
    nowhere = call("cost", "what-if", "suport", "-C", project)
    assert nowhere.code != 0 and "support" in nowhere.err


def test_nothing_was_asked(call, tmp_path):
    (tmp_path / "longrein.yaml").write_text("project: shop\n")
    assert "longrein apply" in call("cost", "-C", tmp_path).err
    Ledger(f"sqlite:///{tmp_path}/.longrein/ledger.db").work.want({"project": "shop"}, actor="test")
    assert "nothing was asked" in call("cost", "-C", tmp_path).out
    assert call("cost", "-C", tmp_path, "--since", "yesterday").code == 2
