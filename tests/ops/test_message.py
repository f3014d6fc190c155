"""Messages of alerts, in both languages, on little room."""

import re
from typing import Any

import pytest

from longrein.core.ledger import Alert
from longrein.ops.monitor.message import BAD, SENTENCES, WORDS, length, message, sentence

NOW = 1_800_000_000_000
RATIO = {
    "objective": "latency", "budget": 0.05, "limit_s": 2.0, "days": 28, "window_s": 3600, "burn_rate": 14.444,
    "events": 12345, "bad": 9000, "budget_left": 0.42,
}  # fmt: skip


def alert(**changes: Any) -> Alert:
    values = {
        "id": 7, "kind": "slo_burning", "subject": "endpoint:客服", "name": "latency", "severity": "warning",
        "summary": "slow", "evidence": {}, "since_ms": NOW - 90_000, "fired_ms": NOW, "updated_ms": NOW,
        "resolved_ms": None,
    }  # fmt: skip
    return Alert(**{**values, **changes})


def test_both_languages_say_the_same_things() -> None:
    for table in (WORDS, BAD, SENTENCES):
        english, chinese = table["en"], table["zh"]
        assert english.keys() == chinese.keys()
        for key in english:
            assert set(re.findall(r"{(\w+)}", english[key])) == set(re.findall(r"{(\w+)}", chinese[key])), key


DRIFT: dict[str, Any] = {
    "watch": "input", "about": "endpoint:客服", "share": 0.31, "count": 1635,
    "kinds": [{"words": ["退款"]}, {"words": ["card"]}, {"words": ["third"]}],
    "features": [{"name": "correct", "before": 0.9, "after": 0.5231}],
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "evidence", "english", "chinese"),
    [
        (
            "slo_burning", RATIO,
            "72.9 % of 12,345 requests in 1 h took more than 2 s: 14.4 times what is allowed (5 %); "
            "42 % of the budget of 28 days is left",
            "1 小时内 12,345 个请求中 72.9 % 用时超过 2 s，是允许值（5 %）的 14.4 倍；28 天的误差预算还剩 42 %",
        ),
        (
            "slo_burning", {**RATIO, "objective": "availability", "burn_rate": 1000, "budget_left": -999},
            "72.9 % of 12,345 requests in 1 h failed: 1,000 times what is allowed (5 %); "
            "the budget of 28 days is used up",
            "1 小时内 12,345 个请求中 72.9 % 失败，是允许值（5 %）的 1,000 倍；28 天的误差预算已用完",
        ),
        (
            "feedback_low", {**RATIO, "objective": "feedback.有用", "budget": 0.2, "events": 10, "bad": 5},
            "the mean of 有用 over 10 answers in 1 h is 0.5, and should be 0.8 or more; "
            "42 % of the budget of 28 days is left",
            "1 小时内 10 个回答的 有用 均值为 0.5，目标不低于 0.8；28 天的误差预算还剩 42 %",
        ),
        (
            "cost_exceeded",
            {**RATIO, "objective": "cost", "usd_per_day": 5, "bad": 6.1, "window_s": 86400, "burn_rate": 1.22},
            "$6.10 in 1 d: 1.22 times what is allowed ($5.00 a day)",
            "1 天内花费 $6.10，是允许值（每天 $5.00）的 1.22 倍",
        ),
        (
            "degraded", {"rollout": 3, "release": "release:客服@2", "reason": "latency"},
            "release:客服@2 did worse and was rolled back: latency",
            "release:客服@2 表现更差，已自动回滚：latency",
        ),
        (
            "drifted", DRIFT,
            "what endpoint:客服 is asked has changed: about 31% of the last 1,635 requests are unlike any before "
            "(退款, card)",
            "endpoint:客服 收到的请求变了：最近 1,635 个请求中约 31% 与以往的都不同（退款, card）",
        ),
        (
            "drifted", {**DRIFT, "watch": "feedback", "about": "release:客服@2", "share": 0.0},
            "what is said of the answers of release:客服@2 has changed: correct went from 0.9 to 0.523, "
            "over 1,635 requests",
            "对 release:客服@2 的回答的反馈变了：correct 从 0.9 变为 0.523，共 1,635 个请求",
        ),
        ("drifted", {"score": 3}, "", ""),
        ("drifted", {**DRIFT, "share": 0, "features": []}, "", ""),
        ("slo_burning", {"objective": "of somebody else's"}, "", ""),
        ("degraded", {"release": None}, "", ""),
    ],
)  # fmt: skip
def test_sentences(kind: str, evidence: dict[str, Any], english: str, chinese: str) -> None:
    assert (sentence(kind, evidence), sentence(kind, evidence, "zh")) == (english, chinese)


def test_one_alert() -> None:
    made = message("1", [alert(evidence={**RATIO, "requests": ["a", "b", "c", "d"]})], "zh", NOW)
    assert made.title == "【警告】endpoint:客服 latency: 误差预算消耗过快" and made.severity == "warning"
    assert made.lines[0].startswith("警告 endpoint:客服 latency: 1 小时内 12,345 个请求中")
    assert made.lines[1].startswith("  始于 2027-") and made.lines[2] == "  例如 a, b, c"
    over = message("1", [alert(resolved_ms=NOW + 30_000)], "en", NOW)
    assert over.title == "[RESOLVED] endpoint:客服 latency: error budget burns" and over.severity == ""
    assert list(over.lines) == ["RESOLVED endpoint:客服 latency: slow", "  over after 2 min"]


def test_many_alerts_the_worst_first_and_no_longer_than_a_screen() -> None:
    some = [alert(id=i, name=f"n{i}", resolved_ms=NOW if i % 2 else None) for i in range(99)] + [
        alert(id=100, subject="endpoint:b", severity="critical", summary="two\nlines\r\n\x00")
    ]
    made = message("x", some, "en", NOW)
    assert made.title == "[CRITICAL] 100 alerts: endpoint:b, endpoint:客服" and made.severity == "critical"
    assert made.lines[0] == "CRITICAL endpoint:b latency: two lines \x00"
    assert made.lines[-1] == "and 80 more: longrein alerts" and len(made.lines) == 41 and len(made.alerts) == 100
    assert made.alerts[0]["state"] == "firing" and "\n" not in made.title


def test_an_unknown_kind_is_called_by_its_name() -> None:
    assert message("1", [alert(kind="没见过", name="")], "zh", NOW).title == "【警告】endpoint:客服: 没见过"


@pytest.mark.parametrize("kind", ["slo_burning", "feedback_low", "cost_exceeded", "degraded", "drifted", "x"])
@pytest.mark.parametrize("value", [None, 0, -1, "text", [], {}, [1], float("nan"), {"a": {}}])
def test_any_evidence_makes_a_message(kind: str, value: Any) -> None:
    """Alerts may be raised by anybody: none may keep a channel from telling the others."""
    for names in (RATIO, ["objective"], ["requests"], [], ["watch", "share", "release", "rollout", "features"]):
        evidence = {**(RATIO if names is RATIO else {}), **dict.fromkeys(names, value)}
        for objective in ("cost", "feedback.x", "latency", value):
            made = message("1", [alert(kind=kind, evidence={**evidence, "objective": objective})], "zh", NOW)
            assert made.lines and made.title


def test_lengths() -> None:
    assert [length(s) for s in (0, 59, 300, 3600, 86400, 259200)] == ["0 s", "59 s", "5 min", "1 h", "1 d", "3 d"]
    assert length(5400, "zh") == "1.5 小时"
