"""Alerts as messages for people, in English or Chinese, short enough for a phone."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from longrein.core.ledger.alerts import SEVERITIES, Alert
from longrein.core.ports import Message

MOST = 20  # alerts told one by one
UNLIKE = 0.05  # share of requests that is worth telling
WORDS = {
    "en": {
        "slo_burning": "error budget burns", "feedback_low": "feedback is bad", "guard_spike": "guards act often",
        "cost_exceeded": "costs too much", "degraded": "a release did worse", "drifted": "requests have changed",
        "rule": "a rule acts",
        "info": "INFO", "warning": "WARNING", "critical": "CRITICAL", "resolved": "RESOLVED",
        "many": "{n} alerts", "more": "and {n} more: longrein alerts", "since": "since {when}",
        "over": "over after {length}", "examples": "for example {ids}", "test": "This is a test of the channel {name}.",
    },
    "zh": {
        "slo_burning": "误差预算消耗过快", "feedback_low": "反馈变差", "guard_spike": "护栏触发过多",
        "cost_exceeded": "费用超限", "degraded": "新版本变差", "drifted": "请求发生漂移",
        "rule": "规则执行",
        "info": "提示", "warning": "警告", "critical": "严重", "resolved": "已恢复",
        "many": "{n} 条告警", "more": "还有 {n} 条：longrein alerts", "since": "始于 {when}",
        "over": "持续 {length} 后恢复", "examples": "例如 {ids}", "test": "这是对通道 {name} 的测试。",
    },
}  # fmt: skip
BAD = {  # how answers were bad, by objective
    "en": {
        "availability": "failed", "throttled": "were turned away", "latency": "took more than {limit}",
        "ttft": "began after more than {limit}", "tpot": "took more than {limit} a token", "refusals": "were refusals",
        "guard": "made a guard act",
    },
    "zh": {
        "availability": "失败", "throttled": "被拒绝（429）", "latency": "用时超过 {limit}",
        "ttft": "首个 token 晚于 {limit}", "tpot": "每个 token 超过 {limit}", "refusals": "是拒答",
        "guard": "触发了护栏",
    },
}  # fmt: skip
SENTENCES = {
    "en": {
        "ratio": "{share} of {n} requests in {window} {bad}: {rate} times what is allowed ({budget})",
        "feedback": "the mean of {metric} over {n} answers in {window} is {mean}, and should be {target} or more",
        "cost": "{usd} in {window}: {rate} times what is allowed ({allowed} a day)",
        "left": "; {left} of the budget of {days} days is left",
        "gone": "; the budget of {days} days is used up",
        "degraded": "{release} did worse and was rolled back: {reason}",
        "input": "what {about} is asked has changed: {how}",
        "output": "what {about} answers has changed: {how}",
        "said": "what is said of the answers of {about} has changed: {how}",
        "unlike": "about {share} of the last {n} requests are unlike any before",
        "words": " ({words})",
        "moved": "{name} went from {before} to {after}, over {n} requests",
    },
    "zh": {
        "ratio": "{window}内 {n} 个请求中 {share} {bad}，是允许值（{budget}）的 {rate} 倍",
        "feedback": "{window}内 {n} 个回答的 {metric} 均值为 {mean}，目标不低于 {target}",
        "cost": "{window}内花费 {usd}，是允许值（每天 {allowed}）的 {rate} 倍",
        "left": "；{days} 天的误差预算还剩 {left}",
        "gone": "；{days} 天的误差预算已用完",
        "degraded": "{release} 表现更差，已自动回滚：{reason}",
        "input": "{about} 收到的请求变了：{how}",
        "output": "{about} 的回答变了：{how}",
        "said": "对 {about} 的回答的反馈变了：{how}",
        "unlike": "最近 {n} 个请求中约 {share} 与以往的都不同",
        "words": "（{words}）",
        "moved": "{name} 从 {before} 变为 {after}，共 {n} 个请求",
    },
}
UNITS = {"en": ((86400, "{} d"), (3600, "{} h"), (60, "{} min"), (1, "{} s")),
         "zh": ((86400, "{} 天"), (3600, "{} 小时"), (60, "{} 分钟"), (1, "{} 秒"))}  # fmt: skip


def message(id: str, alerts: Sequence[Alert], language: str, now: int) -> Message:
    """One message of alerts, those that fire first, the most severe before others."""
    words = WORDS[language]
    told = sorted(alerts, key=lambda a: (not a.firing, -SEVERITIES.index(a.severity), a.fired_ms))
    firing = [a for a in told if a.firing]
    head = words[firing[0].severity if firing else "resolved"]
    what = f"{_place(told[0])}: {words.get(told[0].kind, told[0].kind)}" if len(told) == 1 else _counted(told, words)
    title = f"【{head}】{what}" if language == "zh" else f"[{head}] {what}"
    lines = [line for alert in told[:MOST] for line in _lines(alert, language, now)]
    if len(told) > MOST:
        lines.append(words["more"].format(n=len(told) - MOST))
    return Message(
        id, _one_line(title), lines, firing[0].severity if firing else "", language, list(map(as_data, told))
    )


def trial(name: str, language: str, now: int) -> Message:
    """A message that only shows that a channel works."""
    text = WORDS[language]["test"].format(name=name)
    return Message(f"test-{now}", f"Longrein: {text}", [text], "info", language, [])


def as_data(alert: Alert) -> dict[str, Any]:
    return {**asdict(alert), "state": "firing" if alert.firing else "resolved"}


def sentence(kind: str, evidence: Mapping[str, Any], language: str = "en") -> str:
    """What an alert of ours says, from its evidence; "" for others."""
    try:
        if kind == "degraded":
            return SENTENCES[language]["degraded"].format(release=evidence["release"], reason=evidence["reason"])
        if kind == "drifted":
            return _of_drift(evidence, language)
        if "objective" in evidence:
            return _of_objective(evidence, language)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError):
        pass  # raised by somebody else, who keeps other things there
    return ""


def _of_objective(e: Mapping[str, Any], language: str) -> str:
    sentences, window = SENTENCES[language], length(e["window_s"], language)
    common = {"window": window, "rate": times(e["burn_rate"]), "n": f"{e['events']:,.0f}"}
    if e["objective"] == "cost":
        return sentences["cost"].format(**common, usd=f"${e['bad']:,.2f}", allowed=f"${e['usd_per_day']:,.2f}")
    rest = sentences["left" if e["budget_left"] > 0 else "gone"]
    left = rest.format(left=percent(e["budget_left"]), days=f"{e['days']:g}")
    if e["objective"].startswith("feedback."):
        mean, target = 1 - e["bad"] / e["events"], 1 - e["budget"]
        own = {"metric": e["objective"].partition(".")[2], "mean": f"{mean:.3g}", "target": f"{target:.3g}"}
        return sentences["feedback"].format(**common, **own) + left
    bad = BAD[language][e["objective"]].format(limit=f"{e.get('limit_s', 0):g} s")
    share = percent(e["bad"] / e["events"])
    return sentences["ratio"].format(**common, share=share, bad=bad, budget=percent(e["budget"])) + left


def _of_drift(e: Mapping[str, Any], language: str) -> str:
    sentences, n = SENTENCES[language], f"{e['count']:,}"
    if e["share"] >= UNLIKE:
        words = ", ".join(word for kind in e["kinds"][:2] for word in kind["words"][:3])
        how = sentences["unlike"].format(share=f"{e['share']:.0%}", n=n)
        how += sentences["words"].format(words=words) if words else ""
    else:
        most = e["features"][0]
        before, after = f"{most['before']:.3g}", f"{most['after']:.3g}"
        how = sentences["moved"].format(name=most["name"], before=before, after=after, n=n)
    return sentences["said" if e["watch"] == "feedback" else e["watch"]].format(about=e["about"], how=how)


def length(seconds: float, language: str = "en") -> str:
    """5 min, 1 h, 3 d."""
    for unit, text in UNITS[language]:
        if seconds >= unit:
            return text.format(f"{seconds / unit:.3g}")
    return UNITS[language][-1][1].format(0)


def percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def times(rate: float) -> str:
    """A rate without noise: 0.52, 14.4, 1,000."""
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


def _lines(alert: Alert, language: str, now: int) -> list[str]:
    words = WORDS[language]
    # what was said in English when it ended stays as it is: its evidence is of when it fired
    own = sentence(alert.kind, alert.evidence, language)
    state = words[alert.severity] if alert.firing else words["resolved"]
    lines = [f"{state} {_place(alert)}: {_one_line(own or alert.summary)}"]
    if alert.resolved_ms is not None:
        over = length((alert.resolved_ms - alert.since_ms) / 1000, language)
        return [lines[0], "  " + words["over"].format(length=over)]
    lines.append(
        "  " + words["since"].format(when=time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(alert.since_ms / 1000)))
    )
    if isinstance(ids := alert.evidence.get("requests"), list) and ids:
        lines.append("  " + words["examples"].format(ids=", ".join(map(str, ids[:3]))))
    return lines


def _place(alert: Alert) -> str:
    return f"{alert.subject} {alert.name}".rstrip()


def _counted(told: Sequence[Alert], words: Mapping[str, str]) -> str:
    places = list(dict.fromkeys(a.subject for a in told))
    return f"{words['many'].format(n=len(told))}: {', '.join(places[:3])}{', …' if len(places) > 3 else ''}"


def _one_line(text: str) -> str:
    return " ".join(text.split())
