"""Rules, scrapes and alerts for Prometheus and Alertmanager: the objectives of longrein.yaml, as Longrein judges them.

An alert fires here by the same burn rates over the same two windows as in longrein.ops.monitor.objective, and past the
same bound for chance; Prometheus extrapolates at the edges of its windows, and knows a time only by the buckets of
/metrics: between two of them it is taken to be spread evenly.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from longrein.core.ledger.alerts import SEVERITIES
from longrein.core.objective import Config, Objective, objectives
from longrein.ops.monitor.catalogue import TRAFFIC
from longrein.ops.monitor.objective import CHANCE, DAY_MS, HOUR_MS, MINUTE_MS, RATIO, SPENT, Rule, reachable

TEST_H, STEP_M = 7, 4  # how long tests of rules last, and what lies between two readings: two are in any window
EVENTS, BAD_EVENTS, BURN = "longrein:slo_events:increase", "longrein:slo_bad:increase", "longrein:slo_burn:rate"
BUDGET, EVIDENCE = "longrein:slo_budget", "longrein:slo_evidence:"
RULES, TESTS = "longrein.rules.yml", "longrein.rules.test.yml"
TIMES = {"latency_ms": "longrein_request_seconds", "ttft_ms": "longrein_first_token_seconds",
         "token_ms": "longrein_token_seconds"}  # fmt: skip
OCTAVES = {metric.name: metric.octaves for metric in TRAFFIC}
BAD = {  # of requests: (metric, which of them)
    "errors": ("longrein_requests_total", 'status=~"5.."'),
    "refused": ("longrein_requests_total", 'status="429"'),
    "refusals": ("longrein_refusals_total", ""),
    "guarded": ("longrein_guarded_total", ""),
}
TEXTS = {
    "en": {
        "burning": "{endpoint}: {objective} burns its error budget {rate:g} times as fast as it may ({long}, {short})",
        "spending": "{endpoint}: costs {rate:g} times as much as it may ({long}, {short})",
        "down": "Prometheus cannot reach the gateway at {{ $labels.instance }}",
        "endpoint": "{{ $labels.endpoint }} does not answer",
        "ledger": "the gateway at {{ $labels.instance }} cannot read the ledger",
        "restarts": "the engine of {{ $labels.endpoint }} ended unexpectedly",
        "lost": "records of requests are lost: the disk is slow or full",
        "own": "{{ $labels.subject }}: {{ $labels.kind }}; longrein alerts says more",
    },
    "zh": {
        "burning": "{endpoint}：{objective} 的错误预算消耗速度达到允许值的 {rate:g} 倍（{long}、{short}）",
        "spending": "{endpoint}：成本达到允许值的 {rate:g} 倍（{long}、{short}）",
        "down": "Prometheus 无法访问 {{ $labels.instance }} 上的网关",
        "endpoint": "{{ $labels.endpoint }} 不应答",
        "ledger": "{{ $labels.instance }} 上的网关读不到账本",
        "restarts": "{{ $labels.endpoint }} 的引擎意外退出",
        "lost": "请求记录丢失：磁盘太慢或已满",
        "own": "{{ $labels.subject }}：{{ $labels.kind }}；详见 longrein alerts",
    },
}
OTHERS = (  # (alert, severity, for, expression, text)
    ("LongreinDown", "critical", "1m", 'up{job="longrein"} == 0', "down"),
    ("LongreinEndpointDown", "critical", "1m", "longrein_endpoint_up == 0", "endpoint"),
    ("LongreinLedgerAway", "warning", "5m", "longrein_ledger_up == 0", "ledger"),
    ("LongreinEngineRestarted", "warning", "0s", "increase(longrein_engine_restarts_total[10m]) > 0", "restarts"),
    ("LongreinRecordsLost", "warning", "0s", "increase(longrein_log_dropped_total[10m]) > 0", "lost"),
)


class Indicator(NamedTuple):
    """How Prometheus measures an objective of an endpoint."""

    endpoint: str
    objective: Objective

    @property
    def labels(self) -> dict[str, str]:
        return {"endpoint": self.endpoint, "objective": self.objective.name}

    @property
    def rules(self) -> tuple[Rule, ...]:
        return SPENT if self.objective.usd_per_day else RATIO

    def grew(self, metric: str, window: str, more: str = "") -> str:
        """What a counter grew by; a series that is not there yet counts as 0."""
        where = f"endpoint={quoted(self.endpoint)}" + (f",{more}" if more else "")
        return f"(sum(increase({metric}{{{where}}}[{window}])) or vector(0))"

    def counts(self, window: str) -> tuple[str, str]:
        """(all events, the bad ones) in a window. See longrein.ops.monitor.objective.measure."""
        of = self.objective
        if of.kind == "feedback_low":
            metric = f"metric={quoted(of.metric)}"
            all = self.grew("longrein_score_count", window, metric)
            return all, f"({all} - {self.grew('longrein_score_sum', window, metric)})"
        if name := TIMES.get(of.metric):
            all = self.grew(f"{name}_count", window)
            return all, f"({all} - {self._within(name, of.limit_ms / 1000, window)})"
        metric, which = BAD[of.metric]
        return self.grew("longrein_requests_total", window), self.grew(metric, window, which)

    def records(self, window_ms: int) -> Iterator[tuple[str, str]]:
        """(what it is called, its expression) of what must be known of a window."""
        window = duration(window_ms)
        if usd := self.objective.usd_per_day:
            yield (
                f"{BURN}{window}",
                f"{self.grew('longrein_cost_usd_total', window)} / {number(usd * window_ms / DAY_MS)}",
            )
            return
        all, bad = self.counts(window)
        yield f"{EVENTS}{window}", all
        yield f"{BAD_EVENTS}{window}", bad

    def _within(self, metric: str, limit: float, window: str) -> str:
        """How many took a time at most."""
        low, high = between(limit, *OCTAVES[metric])
        buckets = [self.grew(f"{metric}_bucket", window, f'le="{bound}"') for bound in (low, high)]
        if low == high:
            return buckets[0]
        part = (limit - float(low)) / (float(high) - float(low))
        return f"({number(1 - part)} * {buckets[0]} + {number(part)} * {buckets[1]})"


def indicators(promised: Mapping[str, Config]) -> list[Indicator]:
    """promised: {endpoint: its objectives}. What lies past the last bucket /metrics cannot tell: it is left out."""
    return [one for one in _all(promised) if one.objective.limit_ms / 1000 <= _longest(one.objective.metric)]


def rules(promised: Mapping[str, Config], lang: str) -> dict[str, Any]:
    """A rule file. lang: "en" or "zh", of what alerts say."""
    known = indicators(promised)
    records = [rule for indicator in known for rule in _records(indicator)] + [*_judged(known)]
    alerts = [rule for indicator in known for rule in _alerts(indicator, TEXTS[lang])]
    others = [*_others(TEXTS[lang]), *_own(TEXTS[lang], _kinds(known) - _kinds(set(_all(promised)) - set(known)))]
    groups = [{"name": "longrein_others", "rules": others}]
    if known:
        groups += [{"name": "longrein_burn_rates", "rules": records}, {"name": "longrein_objectives", "rules": alerts}]
    return {"groups": groups}


def tests(promised: Mapping[str, Config], lang: str) -> dict[str, Any]:
    """What `promtool test rules` runs: nothing fires while all is good, and everything once all is bad."""
    known = indicators(promised)
    cases = [case for indicator in known for case in _cases(indicator, TEXTS[lang])]
    order = [group["name"] for group in rules(promised, lang)["groups"]]  # of which there is none otherwise
    return {"rule_files": [RULES], "evaluation_interval": "1h", "group_eval_order": order, "tests": cases}


def scrape(targets: Iterable[str], alertmanager: str, interval: str) -> dict[str, Any]:
    """prometheus.yml, whole. targets: host:port of each gateway."""
    return {
        "global": {"scrape_interval": interval, "evaluation_interval": interval},
        "rule_files": [RULES],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [alertmanager]}]}]},
        "scrape_configs": [{"job_name": "longrein", "static_configs": [{"targets": list(targets)}]}],
    }


def alertmanager(webhook: str) -> dict[str, Any]:
    """alertmanager.yml, whole: one message for each endpoint and what is wrong; a warning is silent while the same is
    critical. webhook: who is told, or "" for nobody yet."""
    receiver: dict[str, Any] = {"name": "longrein"}
    if webhook:
        receiver["webhook_configs"] = [{"url": webhook, "send_resolved": True}]
    silence = {
        "source_matchers": ['severity="critical"'], "target_matchers": ['severity=~"warning|info"'],
        "equal": ["alertname", "endpoint", "objective", "subject"],
    }  # fmt: skip
    route = {"receiver": "longrein", "group_by": ["alertname", "endpoint"], "group_wait": "10s",
             "group_interval": "1m", "repeat_interval": "4h"}  # fmt: skip
    return {"route": route, "receivers": [receiver], "inhibit_rules": [silence]}


def between(limit: float, lowest: int, highest: int) -> tuple[str, str]:
    """The bounds of the buckets around a limit, as they stand in /metrics; twice the same where it is one."""
    exponent = math.log2(limit)
    low, high = (max(lowest, min(end, highest)) for end in (math.floor(exponent), math.ceil(exponent)))
    return number(2.0**low), number(2.0**high)


def _longest(metric: str) -> float:
    return 2.0 ** OCTAVES[TIMES[metric]][1] if metric in TIMES else 0.0


def duration(ms: int) -> str:
    """Prometheus' word for it."""
    for unit, length in (("d", DAY_MS), ("h", HOUR_MS), ("m", MINUTE_MS)):
        if ms % length == 0:
            return f"{ms // length}{unit}"
    return f"{ms}ms"


def number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)


def quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def selector(labels: Mapping[str, str]) -> str:
    return "{" + ",".join(f"{name}={quoted(value)}" for name, value in labels.items()) + "}"


def _records(of: Indicator) -> Iterator[dict[str, Any]]:
    if of.objective.budget:
        yield {"record": BUDGET, "expr": f"vector({number(of.objective.budget)})", "labels": of.labels}
    for window_ms in sorted({ms for rule in of.rules for ms in (rule.short_ms, rule.long_ms)}):
        for name, expr in of.records(window_ms):
            yield {"record": name, "expr": expr, "labels": of.labels}


def _judged(known: Iterable[Indicator]) -> Iterator[dict[str, Any]]:
    """Burn rates of all objectives that have an error budget, and how little they are a matter of chance: Chernoff's
    exponent n KL(bad / n, budget), in nats."""
    rules = {rule for one in known if one.objective.budget for rule in one.rules}
    for window_ms in sorted({ms for rule in rules for ms in (rule.short_ms, rule.long_ms)}):
        window = duration(window_ms)
        yield {"record": f"{BURN}{window}", "expr": f"{BAD_EVENTS}{window} / ({EVENTS}{window} > 0) / {BUDGET}"}
    for window in (duration(ms) for ms in sorted({rule.long_ms for rule in rules})):
        p = f"clamp({BURN}{window} * {BUDGET}, 1e-9, 1 - 1e-9)"
        divergence = f"{p} * ln({p} / {BUDGET}) + (1 - {p}) * ln((1 - {p}) / (1 - {BUDGET}))"
        yield {"record": f"{EVIDENCE}{window}", "expr": f"{EVENTS}{window} * ({divergence})"}


def _alerts(of: Indicator, texts: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    where = selector(of.labels)
    for rule in of.rules:
        long, short, least = duration(rule.long_ms), duration(rule.short_ms), number(reachable(of.objective, rule.rate))
        parts = [f"{BURN}{window}{where} >= {least}" for window in (short, long)]
        if not of.objective.usd_per_day:
            parts.append(f"{EVIDENCE}{long}{where} >= {number(-math.log(CHANCE))}")
        text = texts["spending" if of.objective.usd_per_day else "burning"]
        said = text.format(rate=rule.rate, long=long, short=short, **of.labels)
        labels = {**of.labels, "severity": rule.severity, "kind": of.objective.kind, "window": long}
        name = "Longrein" + of.objective.kind.title().replace("_", "")
        yield {"alert": name, "expr": " and ".join(parts), "labels": labels, "annotations": {"summary": said}}


def _others(texts: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    for alert, severity, wait, expr, text in OTHERS:
        yield {"alert": alert, "expr": expr, "for": wait, "labels": {"severity": severity},
               "annotations": {"summary": texts[text]}}  # fmt: skip


def _own(texts: Mapping[str, str], judged_here: set[str]) -> Iterator[dict[str, Any]]:
    """Longrein's own alerts, but for the kinds that Prometheus judges itself."""
    but = f',kind!~"{"|".join(sorted(judged_here))}"' if judged_here else ""
    for severity in SEVERITIES:
        where = f'severity="{severity}"{but}'
        yield {"alert": "LongreinAlert", "expr": f"longrein_alerts_firing{{{where}}} > 0", "for": "0s",
               "labels": {"severity": severity}, "annotations": {"summary": texts["own"]}}  # fmt: skip


def _all(promised: Mapping[str, Config]) -> list[Indicator]:
    return [Indicator(name, one) for name, config in promised.items() for one in objectives(config)]


def _kinds(of: Iterable[Indicator]) -> set[str]:
    return {one.objective.kind for one in of}


def _cases(of: Indicator, texts: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """Over a few hours: longer windows see as much of it."""
    alerts = list(_alerts(of, texts))
    name = alerts[0]["alert"]
    fired = [{"exp_labels": a["labels"], "exp_annotations": a["annotations"]} for a in alerts]
    for bad in (False, True):
        series = [
            {"series": series, "values": f"0+{step}x{TEST_H * 60 // STEP_M}"} for series, step in _series(of, bad)
        ]
        expected = {"eval_time": f"{TEST_H}h", "alertname": name, "exp_alerts": fired if bad else []}
        yield {"interval": f"{STEP_M}m", "input_series": series, "alert_rule_test": [expected]}


def _series(of: Indicator, bad: bool) -> Iterator[tuple[str, str]]:
    """What /metrics would tell, and by how much it grows, while all is good or all is bad."""
    objective, many = of.objective, 1000

    def one(name: str, step: float = many, **labels: str) -> tuple[str, str]:
        return f"{name}{selector({'endpoint': of.endpoint, 'release': 'a', **labels})}", number(step)

    if objective.usd_per_day:
        yield one("longrein_cost_usd_total", objective.usd_per_day / 24 / 60 * STEP_M * (10 if bad else 0.5))
    elif objective.kind == "feedback_low":
        yield one("longrein_score_count", metric=objective.metric)
        yield one("longrein_score_sum", 0 if bad else many, metric=objective.metric)
    elif name := TIMES.get(objective.metric):
        yield one(f"{name}_count")
        for bound in set(between(objective.limit_ms / 1000, *OCTAVES[name])):
            yield one(f"{name}_bucket", 0 if bad else many, le=bound)
    else:
        metric, which = BAD[objective.metric]
        status = {"errors": "503", "refused": "429"}.get(objective.metric, "200") if bad else "200"
        yield one("longrein_requests_total", status=status)
        if not which and bad:
            yield one(metric)
