"""A Grafana dashboard, as the JSON that Grafana 11 and later import: the rows of `panels`, by endpoint and release."""

from typing import Any

from longrein.core.digest import of_json
from longrein.ops.monitor.panels import ROWS, Panel

SCHEMA_VERSION = 39  # of Grafana 11; later ones migrate it
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
ACROSS, HEIGHT, WIDE = 3, 8, 24  # panels in a row, and the grid's units
CHINESE = "zh"


def dashboard(project: str, lang: str) -> dict[str, Any]:
    """Plain JSON, the same for the same project. lang: "en" or "zh"."""
    panels: list[dict[str, Any]] = []
    y = 0
    for row in ROWS:
        head = {"type": "row", "title": row.chinese if lang == CHINESE else row.title, "collapsed": False, "panels": []}
        panels.append({**head, "gridPos": {"h": 1, "w": WIDE, "x": 0, "y": y}, "id": len(panels) + 1})
        y += 1
        for i, panel in enumerate(row.panels):
            place = {
                "h": HEIGHT,
                "w": WIDE // ACROSS,
                "x": i % ACROSS * (WIDE // ACROSS),
                "y": y + i // ACROSS * HEIGHT,
            }
            panels.append({**_panel(panel, lang), "gridPos": place, "id": len(panels) + 1})
        y += -(-len(row.panels) // ACROSS) * HEIGHT
    return {
        "title": f"Longrein: {project}", "uid": f"longrein-{of_json(project)[:16]}", "tags": ["longrein"],
        "editable": True,
        "schemaVersion": SCHEMA_VERSION, "version": 1, "refresh": "10s", "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser", "graphTooltip": 1, "fiscalYearStartMonth": 0, "links": [], "panels": panels,
        "annotations": {"list": []}, "templating": {"list": _variables(lang)},
    }  # fmt: skip


def _panel(panel: Panel, lang: str) -> dict[str, Any]:
    targets = [
        {"datasource": SOURCE, "expr": query.expr, "legendFormat": query.legend or "__auto", "refId": chr(65 + i),
         "range": True, "editorMode": "code"}
        for i, query in enumerate(panel.queries)
    ]  # fmt: skip
    custom = {"drawStyle": "line", "lineWidth": 1, "fillOpacity": 10, "showPoints": "never", "spanNulls": False}
    bounds = {"min": 0, "max": 1} if panel.unit == "percentunit" else {"min": 0}
    defaults = {"unit": panel.unit, "custom": custom, **bounds}
    return {
        "type": panel.kind, "title": panel.chinese if lang == CHINESE else panel.title, "datasource": SOURCE,
        "targets": targets, "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
    }  # fmt: skip


def _variables(lang: str) -> list[dict[str, Any]]:
    names = (
        {"endpoint": "端点", "release": "版本"} if lang == CHINESE else {"endpoint": "Endpoint", "release": "Release"}
    )
    queries = {
        "endpoint": "label_values(longrein_requests_total, endpoint)",
        "release": 'label_values(longrein_requests_total{endpoint=~"$endpoint"}, release)',
    }
    source = {"name": "datasource", "type": "datasource", "query": "prometheus", "current": {}, "hide": 0}
    return [source] + [
        {
            "name": name, "label": label, "type": "query", "datasource": SOURCE, "definition": queries[name],
            "query": {"qryType": 1, "query": queries[name], "refId": "PrometheusVariableQueryEditor-VariableQuery"},
            "refresh": 2, "multi": True, "includeAll": True, "allValue": ".*", "sort": 1,
            "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        }
        for name, label in names.items()
    ]  # fmt: skip
