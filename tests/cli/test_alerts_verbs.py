"""What is wrong, and who is told of it, by the command line."""

from pathlib import Path

import pytest
from receiver import receiver

from longrein.core.ledger import Ledger, now_ms

from .conftest import Call

YAML = """project: shop
channels:
  ops: {channel: webhook, url: "%s/hook", language: zh}
  chat: {channel: slack, url: "${CHAT_URL}"}
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "longrein.yaml").write_text(YAML % "http://127.0.0.1:9", "utf-8")
    return tmp_path


def ledger(project: Path) -> Ledger:
    return Ledger(f"sqlite:///{project}/.longrein/ledger.db")


def test_what_fires_and_what_is_over(call: Call, project: Path) -> None:
    assert call("alerts", "-C", project).out == "nothing fires\n"
    held = ledger(project)
    held.alerts.fire(
        "drifted", "endpoint:客服", "语言", summary="more \x1b[31mFrench", actor="eye", severity="critical"
    )
    old = held.alerts.fire("degraded", "endpoint:b", summary="慢", since_ms=now_ms() - 60_000, actor="eye")
    held.alerts.resolve("degraded", "endpoint:b", actor="eye")
    state = {"budget": 0.001, "days": 28, "budget_left": 0.25, "events": 1234, "complete": True,
             "burn_rates": {3600: 14.4, 21600: 6, 259200: 0.5}}  # fmt: skip
    money = {"usd_per_day": 5, "days": 28, "budget_left": 0.5, "events": 0, "complete": False,
             "burn_rates": {3600: 1, 21600: 1, 259200: 1}}  # fmt: skip
    held.objectives.put("客服", {"availability": state, "cost": money}, now_ms())
    text = call("alerts", "-C", project).out
    assert "CRITICAL 1: drifted endpoint:客服 语言, 0 s ago: more \\x1b[31mFrench" in text
    assert f"{old.id}     degraded  endpoint:b  1 min ago" in text
    rows = [line.split() for line in text.splitlines() if line.startswith("客服")]
    assert rows[0] == ["客服", "availability", "0.1", "%", "25.0", "%", "14.4x", "6x", "0.5x", "1,234"]
    assert rows[1][1:6] == ["cost", "$5", "a", "day", "50.0"]
    data = call("alerts", "--json", "-C", project).data
    assert [a["name"] for a in data["firing"]] == ["语言"] and [a["id"] for a in data["recent"]] == [old.id]
    assert data["objectives"]["客服"]["availability"]["events"] == 1234
    assert "CRITICAL 1: drifted endpoint:客服" in call("status", "-C", project).out


def test_a_silence_is_begun_shown_and_ended(call: Call, project: Path) -> None:
    held = ledger(project)
    alert = held.alerts.fire("slo_burning", "endpoint:客服", "latency", summary="x", actor="eye")
    assert "nothing is silenced" in call("silence", "-C", project).out
    made = call("silence", alert.id, "--for", "30m", "--reason", "known", "-C", project)
    assert made.out.startswith("silence 1: nobody is told of slo_burning endpoint:客服 latency until 20")
    assert "(silenced)" in call("alerts", "-C", project).out and "known" in call("silence", "-C", project).out
    for words, about in [
        (["endpoint:b"], "endpoint:b"), (["drifted"], "drifted"), (["x", "endpoint:b", "a", "b"], "x endpoint:b a b"),
        (["--all"], "all alerts"),
    ]:  # fmt: skip
        assert f"of {about} until" in call("silence", *words, "-C", project).out
    assert "has ended" in call("silence", "--end", "1", "-C", project).out
    assert len(call("silence", "--json", "-C", project).data) == 4
    for wrong, code in [
        (["99"], 3), (["--end", "1"], 3), (["a", "b"], 2), (["a", "--for", "soon"], 2), (["a", "--all"], 2),
        (["a", "--for", "999999d"], 2),
    ]:  # fmt: skip
        assert call("silence", *wrong, "-C", project).code == code
    assert [e.kind for e in held.events.recent("silence:1")] == ["silence.ended", "silence.began"]


def test_a_channel_is_tried(call: Call, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with receiver(b"ok") as server:
        (project / "longrein.yaml").write_text(YAML % server.url, "utf-8")
        assert "took the message" in call("alerts", "test", "ops", "-C", project).out
        monkeypatch.setenv("CHAT_URL", f"{server.url}/secret-hook")
        assert call("alerts", "test", "chat", "--json", "-C", project).data == {"channel": "chat", "sent": True}
        server.answer = lambda got: (404, {}, f"no {server.url}/secret-hook".encode())
        failed = call("alerts", "test", "chat", "-C", project)
        assert failed.code == 8 and "channel chat: the receiver answered 404: no ${CHAT_URL}" in failed.err
        paths = [got.path for got in server.got]
        assert paths == ["/hook", "/secret-hook", "/secret-hook"]
        assert "这是对通道 ops 的测试" in server.got[0].json["commonAnnotations"]["title"]
    monkeypatch.delenv("CHAT_URL")
    assert "CHAT_URL" in call("alerts", "test", "chat", "-C", project).err
    unknown = call("alerts", "test", "opps", "-C", project)
    assert unknown.code == 3 and "did you mean 'ops'" in unknown.err


@pytest.mark.parametrize(
    ("yaml", "said"),
    [
        ("channels: {ops: {channel: slack, url: https://hooks.slack.com/services/T/B/x}}", 'write "${NAME}"'),
        ("channels: {ops: {channel: webhok, url: x}}", "did you mean 'webhook'"),
        ("channels: {ops: {channel: webhook, url: x, endpoints: [nobody]}}", "there is no 'nobody' in endpoints"),
        ("channels: {ops: {channel: webhook, url: x, severity: loud}}", "loud"),
        ("channels: {ops: {channel: webhook, url: x, options: {colour: red}}}", "colour"),
        ("channels: {ops: {channel: email, url: x, options: {to: [a@b.c]}}}", "sender"),
        ("endpoints: {a: {model: m, objectives: {latency: {below: 2}}}}", "there is no such key"),
        ("endpoints: {a: {model: m, objectives: {availability: 99.9}}}", "< 1"),
    ],
)
def test_what_is_wrong_in_the_file_is_said_with_its_line(call: Call, tmp_path: Path, yaml: str, said: str) -> None:
    (tmp_path / "longrein.yaml").write_text(f"project: shop\n{yaml}\n", "utf-8")
    done = call("plan", "-C", tmp_path)
    assert done.code == 2 and "longrein.yaml:2" in done.err and said in done.err
