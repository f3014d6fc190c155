"""What a dashboard shows: rows of panels, each a few PromQL queries over metrics of the catalogue; in two languages.

$__rate_interval, $endpoint and $release are Grafana's to fill in.
"""

from typing import NamedTuple

HERE = 'endpoint=~"$endpoint",release=~"$release"'
SHARE, SECONDS, TOKENS, USD, BYTES, PER_SECOND = "percentunit", "s", "short", "currencyUSD", "bytes", "reqps"


class Query(NamedTuple):
    expr: str
    legend: str = ""  # {{label}} is filled in


class Panel(NamedTuple):
    title: str
    chinese: str
    unit: str  # of Grafana
    queries: list[Query]
    kind: str = "timeseries"
    quiet: bool = False  # may have nothing to show while all is well, or on a machine without such a thing


class Row(NamedTuple):
    title: str
    chinese: str
    panels: list[Panel]


def rate(metric: str, by: str = "", more: str = "") -> str:
    """What a counter grew by in a second, summed."""
    where = f"{HERE},{more}" if more else HERE
    return f"sum{f' by ({by})' if by else ''} (rate({metric}{{{where}}}[$__rate_interval]))"


def share(bad: str, all: str) -> str:
    """Of two rates without labels; nothing bad is 0."""
    return f"({bad} or vector(0)) / {all}"


def quantiles(metric: str, *qs: float) -> list[Query]:
    of = rate(f"{metric}_bucket", "le")
    return [Query(f"histogram_quantile({q}, {of})", f"p{q * 100:g}") for q in qs]


def gauge(metric: str, by: str = "endpoint") -> str:
    return f"sum by ({by}) ({metric}{{{HERE}}})"


REQUESTS = "longrein_requests_total"
USUAL = (0.5, 0.95, 0.99)
ROWS: list[Row] = [
    Row("Traffic", "流量", [
        Panel("Requests", "请求数", PER_SECOND, [Query(rate(REQUESTS, "endpoint"), "{{endpoint}}")]),
        Panel("Requests by status", "按状态码的请求数", PER_SECOND, [Query(rate(REQUESTS, "status"), "{{status}}")]),
        Panel("Under way", "进行中", "short", [Query(gauge("longrein_inflight"), "{{endpoint}}")], quiet=True),
        Panel("Requests by team", "按团队的请求数", PER_SECOND, [Query(rate(REQUESTS, "team"), "{{team}}")]),
    ]),
    Row("Latency", "延迟", [
        Panel("Whole answer", "完整回答", SECONDS, quantiles("longrein_request_seconds", *USUAL)),
        Panel("Time to first token", "首个 token 的时间", SECONDS, quantiles("longrein_first_token_seconds", *USUAL)),
        Panel("Time per token", "每个 token 的时间", SECONDS, quantiles("longrein_token_seconds", *USUAL)),
        Panel("Wait for a slot", "排队等待", SECONDS, quantiles("longrein_queue_seconds", *USUAL), quiet=True),
    ]),
    Row("Tokens", "Token", [
        Panel("Tokens per second", "每秒 token 数", TOKENS,
              [Query(rate("longrein_tokens_total", "direction"), "{{direction}}")]),
        Panel("Read from the prompt cache", "来自提示缓存的占比", SHARE, [Query(share(
            rate("longrein_cached_tokens_total"), rate("longrein_tokens_total", more='direction="in"')))]),
        Panel("Answers from the cache", "来自回答缓存的占比", SHARE, [Query(share(
            rate("longrein_cache_hits_total"), rate(REQUESTS)))]),
    ]),
    Row("Errors", "错误", [
        Panel("Failed (5xx)", "失败（5xx）", SHARE,
              [Query(share(rate(REQUESTS, more='status=~"5.."'), rate(REQUESTS)))]),
        Panel("Turned away (429)", "被拒（429）", SHARE,
              [Query(share(rate(REQUESTS, more='status="429"'), rate(REQUESTS)))]),
        Panel("How answers ended", "回答如何结束", PER_SECOND,
              [Query(rate("longrein_finish_reasons_total", "reason"), "{{reason}}")]),
        Panel("The model declined", "模型拒答", SHARE, [Query(share(rate("longrein_refusals_total"), rate(REQUESTS)))]),
        Panel("A guard acted", "护栏介入", SHARE, [Query(share(rate("longrein_guarded_total"), rate(REQUESTS)))]),
        Panel("Without the right key", "密钥不对", PER_SECOND,
              [Query("sum by (status) (rate(longrein_refused_total[$__rate_interval]))", "{{status}}")], quiet=True),
        Panel("Records lost", "丢失的记录", "short",
              [Query("sum (rate(longrein_log_dropped_total[$__rate_interval]))")], quiet=True),
    ]),
    Row("Cost", "成本", [
        Panel("Per hour", "每小时", USD,
              [Query(f"3600 * {rate('longrein_cost_usd_total', 'endpoint')}", "{{endpoint}}")]),
        Panel("Per 1,000 requests", "每千次请求", USD,
              [Query(f"1000 * {rate('longrein_cost_usd_total')} / {rate(REQUESTS)}")]),
        Panel("Per hour, by team", "每小时，按团队", USD,
              [Query(f"3600 * {rate('longrein_cost_usd_total', 'team')}", "{{team}}")]),
    ]),
    Row("Engines", "引擎", [
        Panel("Running and waiting", "运行与等待", "short", [
            Query(gauge("longrein_engine_running"), "{{endpoint}} running"),
            Query(gauge("longrein_engine_waiting"), "{{endpoint}} waiting"),
        ]),
        Panel("Batch", "批大小", "short", [Query(
            f"{rate('longrein_engine_batch_sum', 'endpoint')} / {rate('longrein_engine_batch_count', 'endpoint')}",
            "{{endpoint}}")], quiet=True),
        Panel("Slots in use", "槽位占用", SHARE, [Query(
            f"{gauge('longrein_engine_slots_used')} / {gauge('longrein_engine_slots_total')}", "{{endpoint}}")],
              quiet=True),
        Panel("Key-value cache in use", "KV 缓存占用", SHARE, [
            Query(f"{gauge('longrein_engine_kv_tokens')} / {gauge('longrein_engine_kv_tokens_room')}", "{{endpoint}}"),
            Query(f"max by (endpoint) (longrein_engine_kv_share{{{HERE}}})", "{{endpoint}}"),
        ], quiet=True),
        Panel("Step", "单步耗时", SECONDS,
              [Query(f"max by (endpoint) (longrein_engine_step_s{{{HERE}}})", "{{endpoint}}")], quiet=True),
        Panel("Busy", "忙碌占比", SHARE, [Query(rate("longrein_engine_busy_s_total", "endpoint"), "{{endpoint}}")],
              quiet=True),
        Panel("Put back to make room", "被抢占", "short",
              [Query(rate("longrein_engine_preemptions_total", "endpoint"), "{{endpoint}}")], quiet=True),
        Panel("Started again", "重新启动", "short",
              [Query("sum by (endpoint) (increase(longrein_engine_restarts_total[1h]))", "{{endpoint}}")], quiet=True),
        Panel("Upstreams", "上游", "short", [
            Query(gauge("longrein_engine_replicas_up"), "{{endpoint}} up"),
            Query(rate("longrein_engine_retries_total", "endpoint"), "{{endpoint}} retries"),
            Query(rate("longrein_engine_failures_total", "endpoint"), "{{endpoint}} failures"),
        ], quiet=True),
    ]),
    Row("Rollouts", "发布", [
        Panel("Traffic by release", "按版本的流量", PER_SECOND,
              [Query(rate(REQUESTS, "endpoint, release"), "{{endpoint}} {{release}}")]),
        Panel("Failures by release", "按版本的失败", PER_SECOND, [Query(
            rate(REQUESTS, "endpoint, release", 'status=~"5.."'), "{{endpoint}} {{release}}")], quiet=True),
        Panel("95 % of answers, by release", "按版本的 p95 延迟", SECONDS, [Query(
            f"histogram_quantile(0.95, {rate('longrein_request_seconds_bucket', 'le, release')})", "{{release}}")]),
        Panel("Feedback by release", "按版本的反馈", "short", [Query(
            f"{rate('longrein_score_sum', 'release, metric')} / {rate('longrein_score_count', 'release, metric')}",
            "{{metric}} {{release}}")], quiet=True),
    ]),
    Row("Objectives, drift and alerts", "目标、漂移与告警", [
        Panel("Alerts that fire", "正在触发的告警", "short",
              [Query("sum by (kind, subject, severity) (longrein_alerts_firing)", "{{kind}} {{subject}}")], quiet=True),
        Panel("Error budget: how fast it burns over an hour", "错误预算：一小时的燃烧速率", "short",
              [Query('longrein:slo_burn:rate1h{endpoint=~"$endpoint"}', "{{endpoint}} {{objective}}")], quiet=True),
        Panel("Evidence of drift (1 is an alarm)", "漂移的证据（1 即报警）", "short", [Query(
            'longrein_drift_evidence{endpoint=~"$endpoint"} / longrein_drift_needed', "{{endpoint}} {{watch}}")],
              quiet=True),
        Panel("Limits used", "限额用量", SHARE,
              [Query("longrein_limit_used / longrein_limit_most", "{{subject}} {{limit}}")], quiet=True),
    ]),
    Row("Machine", "机器", [
        Panel("Processors", "处理器", SHARE, [Query("longrein_machine_cpu_share", "{{host}}")]),
        Panel("Memory", "内存", SHARE,
              [Query("longrein_machine_memory_bytes / longrein_machine_memory_total_bytes", "{{host}}")]),
        Panel("Disk", "磁盘", SHARE,
              [Query("longrein_machine_disk_bytes / longrein_machine_disk_total_bytes", "{{host}}")]),
        Panel("Accelerators", "加速器", SHARE, [
            Query("longrein_machine_accelerator_share", "{{host}}"),
            Query("longrein_machine_accelerator_memory_bytes / longrein_machine_accelerator_memory_total_bytes",
                  "{{host}} memory"),
        ], quiet=True),
        Panel("Gateway and ledger", "网关与账本", "short",
              [Query("longrein_endpoint_up", "{{endpoint}}"), Query("longrein_ledger_up", "ledger")]),
    ]),
]  # fmt: skip
