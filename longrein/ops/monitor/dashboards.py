"""Files for Prometheus, Alertmanager and Grafana, made from longrein.yaml: the same bytes for the same file."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from longrein.core.objective import Config
from longrein.ops.monitor import grafana, prometheus

MADE = "# Made by `longrein dashboards` from longrein.yaml: change it there.\n"
LANGUAGES = tuple(prometheus.TEXTS)


def files(
    project: str, promised: Mapping[str, Config], *, lang: str = "en", targets: Sequence[str] = ("127.0.0.1:8000",),
    alertmanager: str = "127.0.0.1:9093", interval: str = "15s", webhook: str = "",
) -> dict[str, str]:  # fmt: skip
    """{file name: its text}. promised: {endpoint: its objectives}. targets: host:port of the gateways."""
    made = {
        "prometheus.yml": prometheus.scrape(targets, alertmanager, interval),
        prometheus.RULES: prometheus.rules(promised, lang),
        prometheus.TESTS: prometheus.tests(promised, lang),
        "alertmanager.yml": prometheus.alertmanager(webhook),
    }
    board = json.dumps(grafana.dashboard(project, lang), ensure_ascii=False, indent=2)
    return {name: MADE + _yaml(value) for name, value in made.items()} | {"longrein.json": board + "\n"}


def _yaml(value: Any) -> str:
    return str(yaml.dump(value, Dumper=_Plain, sort_keys=False, allow_unicode=True, width=1000))


class _Plain(yaml.SafeDumper):
    """Without anchors: what stands twice is written twice."""

    def ignore_aliases(self, data: Any) -> bool:
        return True
