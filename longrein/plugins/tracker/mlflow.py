"""Mirrors runs to an MLflow server, over its REST API and nothing but the standard library."""

import base64
import itertools
import json
import math
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from longrein.core.errors import Error

VERSION = 1
OURS = "longrein.run_id"  # the tag by which a run mirrored before is found again
METRICS, PAIRS, PARAM, TAG = 1000, 100, 6000, 8000  # MLflow's limits of a batch, a param and a tag


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options. Who we are comes from the environment, as MLflow's own clients have it: MLFLOW_TRACKING_TOKEN, or
    MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD."""

    uri: str = ""  # http://host:port; else MLFLOW_TRACKING_URI
    timeout_s: float = 30


class MLflow:
    def __init__(self, options: Mapping[str, Any]) -> None:
        self.config = msgspec.convert(dict(options), Config)
        self.uri = (self.config.uri or os.environ.get("MLFLOW_TRACKING_URI", "")).rstrip("/")
        if not self.uri.startswith(("http://", "https://")):
            raise Error("invalid", f"{self.uri!r} is not the address of an MLflow server", "set uri: http://host:port")

    def mirror(self, run: Mapping[str, Any]) -> None:
        """Errors: `unavailable` when the server does not answer, `invalid` with its own words when it refuses."""
        experiment = self._experiment(run["experiment"])
        found = self._post("runs/search", {"experiment_ids": [experiment], "filter": f"tags.`{OURS}` = '{run['id']}'"})
        known = found.get("runs", [])
        remote = known[0] if known else self._create(experiment, run)
        remote_id = remote["info"]["run_id"]
        done = self._done(remote_id, {m["key"] for m in run["metrics"]}) if known else set()
        points = [p for m in run["metrics"] if (p := _point(m)) not in done]
        for batch in _batches(points, METRICS):
            self._post("runs/log-batch", {"run_id": remote_id, "metrics": [_metric(p) for p in batch]})
        there = {p["key"] for p in remote.get("data", {}).get("params", [])}
        params = [_pair(k, v, PARAM) for k, v in run["params"].items() if k not in there]
        tags = [_pair(k, v, TAG) for k, v in _tags(run).items()]
        for batch in _batches(params, PAIRS):
            self._post("runs/log-batch", {"run_id": remote_id, "params": batch})
        for batch in _batches(tags, PAIRS):
            self._post("runs/log-batch", {"run_id": remote_id, "tags": batch})
        end = {"end_time": run["ended_ms"]} if run["ended_ms"] is not None else {}
        self._post("runs/update", {"run_id": remote_id, "status": run["status"], **end})

    def _experiment(self, name: str) -> str:
        try:
            found = self._get("experiments/get-by-name", experiment_name=name)["experiment"]
            return str(found["experiment_id"])
        except Error as error:
            if error.details.get("error_code") != "RESOURCE_DOES_NOT_EXIST":
                raise
        return str(self._post("experiments/create", {"name": name})["experiment_id"])

    def _create(self, experiment: str, run: Mapping[str, Any]) -> dict[str, Any]:
        body = {
            "experiment_id": experiment, "run_name": run["name"], "start_time": run["started_ms"],
            "user_id": run["actor"], "tags": [{"key": OURS, "value": run["id"]}],
        }  # fmt: skip
        return dict(self._post("runs/create", body)["run"])

    def _done(self, remote_id: str, keys: set[str]) -> set[tuple[Any, ...]]:
        """The points that are there already: not every store of MLflow drops a point logged twice."""
        points = set()
        for key in keys:
            token: dict[str, str] = {}
            while True:
                page = self._get("metrics/get-history", run_id=remote_id, metric_key=key, max_results="25000", **token)
                points |= {
                    _point(
                        {**m, "value": float(m["value"]), "ts_ms": int(m["timestamp"]), "step": int(m.get("step", 0))}
                    )
                    for m in page.get("metrics", [])
                }
                if not page.get("next_page_token"):
                    break
                token = {"page_token": page["next_page_token"]}
        return points

    def _get(self, path: str, **query: str) -> dict[str, Any]:
        return self._call(urllib.request.Request(f"{self._url(path)}?{urllib.parse.urlencode(query)}"))

    def _post(self, path: str, body: Any) -> dict[str, Any]:
        data = json.dumps(body, allow_nan=False).encode()
        return self._call(urllib.request.Request(self._url(path), data, {"Content-Type": "application/json"}))

    def _url(self, path: str) -> str:
        return f"{self.uri}/api/2.0/mlflow/{path}"

    def _call(self, request: urllib.request.Request) -> dict[str, Any]:
        if token := os.environ.get("MLFLOW_TRACKING_TOKEN"):
            request.add_header("Authorization", f"Bearer {token}")
        elif user := os.environ.get("MLFLOW_TRACKING_USERNAME"):
            secret = f"{user}:{os.environ.get('MLFLOW_TRACKING_PASSWORD', '')}"
            request.add_header("Authorization", f"Basic {base64.b64encode(secret.encode()).decode()}")
        try:
            with urllib.request.urlopen(request, timeout=self.config.timeout_s) as answer:
                return dict(json.load(answer))
        except urllib.error.HTTPError as error:
            text = error.read().decode(errors="replace")
            code = "unavailable" if error.code >= 500 else "invalid"
            raise Error(code, f"MLflow at {self.uri} refused: {text[:500]}", error_code=_code(text)) from error
        except OSError as error:
            raise Error("unavailable", f"MLflow at {self.uri} does not answer: {error}", "is it up?") from error


def _tags(run: Mapping[str, Any]) -> dict[str, str]:
    lineage = {"longrein.inputs": " ".join(run["inputs"]), "longrein.outputs": " ".join(run["outputs"])}
    own = {"longrein.capability": run["capability"], "mlflow.runName": run["name"], "mlflow.user": run["actor"]}
    return {k: v for k, v in {**own, **lineage, **run["tags"]}.items() if v}


def _point(metric: Mapping[str, Any]) -> tuple[Any, ...]:
    """What makes a point itself; NaN equals NaN, and the infinities are the largest doubles."""
    largest = 1.7976931348623157e308
    value = "NaN" if math.isnan(metric["value"]) else max(-largest, min(largest, metric["value"]))
    return metric["key"], value, metric["step"], metric["ts_ms"]


def _metric(point: tuple[Any, ...]) -> dict[str, Any]:
    return dict(zip(("key", "value", "step", "timestamp"), point, strict=True))


def _pair(key: str, value: str, limit: int) -> dict[str, str]:
    return {"key": key, "value": value[:limit]}


def _batches(items: Sequence[Any], size: int) -> Iterator[list[Any]]:
    rest = iter(items)
    while batch := list(itertools.islice(rest, size)):
        yield batch


def _code(text: str) -> str:
    try:
        return str(json.loads(text).get("error_code", ""))
    except (ValueError, AttributeError):
        return ""


plugin = MLflow
