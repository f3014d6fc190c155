"""Tells of runs as OpenLineage events (https://openlineage.io/spec), to an HTTP endpoint or into files."""

import json
import math
import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec

from longrein.core.errors import Error

VERSION = 1
PRODUCER = "https://github.com/longrein/longrein"
SPEC = "https://openlineage.io/spec"
ENDS = {"FINISHED": "COMPLETE", "FAILED": "FAIL", "KILLED": "ABORT"}
TYPES = {"line": "int64", "messages": "list<struct<role: string, content: string>>"}  # of columns that are no text


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options. A key comes from the environment, as OpenLineage's own clients have it: OPENLINEAGE_API_KEY."""

    url: str = ""  # http://host:5000; else OPENLINEAGE_URL
    endpoint: str = "api/v1/lineage"
    dir: str = ""  # or: a folder, in which each run gets a file of JSON lines
    namespace: str = "longrein"
    timeout_s: float = 30


class OpenLineage:
    def __init__(self, options: Mapping[str, Any]) -> None:
        self.config = msgspec.convert(dict(options), Config)
        self.url = "" if self.config.dir else self.config.url or os.environ.get("OPENLINEAGE_URL", "")
        if not self.config.dir and not self.url.startswith(("http://", "https://")):
            raise Error("invalid", f"{self.url!r} is no address for OpenLineage events", "set url: http://…, or dir: …")

    def mirror(self, run: Mapping[str, Any]) -> None:
        """Errors: `unavailable` when the server does not answer, `invalid` when it refuses."""
        events = self.events(run)
        if self.config.dir:
            folder = Path(self.config.dir)
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"{run['id']}.jsonl"
            staged = path.with_suffix(".tmp")
            staged.write_text("".join(json.dumps(e, ensure_ascii=False) + "\n" for e in events), "utf-8")
            os.replace(staged, path)
            return
        for event in events:
            self._post(event)

    def events(self, run: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The run's start and, once it ended, its end; each with what it read, and the end with what it made."""
        kind = run["capability"] or "run"
        job_type = _facet(
            "JobTypeJobFacet", "2-0-4", processingType="BATCH", integration="LONGREIN", jobType=kind.upper()
        )
        read = [a for a in run["assets"] if a["direction"] == "in"]
        made = [a for a in run["assets"] if a["direction"] == "out"]
        files = [s for a in made for s in a["meta"].get("sources", []) if isinstance(s, dict)]
        event = {
            "producer": PRODUCER, "schemaURL": f"{SPEC}/2-0-2/OpenLineage.json#/$defs/RunEvent",
            "job": {
                "namespace": self.config.namespace, "name": f"{kind}.{run['name'] or run['experiment']}",
                "facets": {"jobType": job_type},
            },
            "run": {"runId": str(UUID(run["id"])), "facets": _run_facets(run)},
            "inputs": [self._file(s, run["params"]) for s in files] + [self._input(a) for a in read],
        }  # fmt: skip
        events = [event | {"eventType": "START", "eventTime": _time(run["started_ms"]), "outputs": []}]
        if run["status"] in ENDS:
            when = _time(run["ended_ms"] or run["started_ms"])
            outputs = [self._output(a, files, run["params"]) for a in made]
            events.append(event | {"eventType": ENDS[run["status"]], "eventTime": when, "outputs": outputs})
        return events

    def _file(self, source: Mapping[str, Any], params: Mapping[str, str]) -> dict[str, Any]:
        """A source file as an input."""
        quality = _known(bytes=source.get("bytes"), rowCount=source.get("rows"), columnMetrics={})
        fields = [{"name": column} for column in _columns(params).values()]
        schema = _facet("SchemaDatasetFacet", "1-2-0", fields=fields)
        return {
            "namespace": "file", "name": source["path"],
            "facets": {"version": _version(source["digest"]), "schema": schema},
            "inputFacets": {"dataQualityMetrics": _facet("DataQualityMetricsInputDatasetFacet", "1-0-3", **quality)},
        }  # fmt: skip

    def _input(self, asset: Mapping[str, Any]) -> dict[str, Any]:
        quality = _known(rowCount=asset["meta"].get("rows"), bytes=asset["bytes"], columnMetrics={})
        facet = _facet("DataQualityMetricsInputDatasetFacet", "1-0-3", **quality)
        return self._dataset(asset) | {"inputFacets": {"dataQualityMetrics": facet}}

    def _output(
        self, asset: Mapping[str, Any], files: list[dict[str, Any]], params: Mapping[str, str]
    ) -> dict[str, Any]:
        found, meta = self._dataset(asset), asset["meta"]
        if files:
            lineage = {
                ours: {"inputFields": [{"namespace": "file", "name": f["path"], "field": theirs} for f in files]}
                for ours, theirs in _columns(params).items()
            }
            found["facets"]["columnLineage"] = _facet("ColumnLineageDatasetFacet", "1-2-0", fields=lineage)
        if told := {k: meta[k] for k in ("rows_in", "dropped", "splits", "languages") if k in meta}:
            found["facets"]["longrein_rows"] = _facet("DatasetFacet", "", **told)
        quality = _known(rowCount=meta.get("rows"), bytes=asset["bytes"], columnMetrics={})
        found["facets"]["dataQualityMetrics"] = _facet("DataQualityMetricsDatasetFacet", "1-0-0", **quality)
        size = _facet(
            "OutputStatisticsOutputDatasetFacet", "1-0-2", **_known(rowCount=meta.get("rows"), size=asset["bytes"])
        )
        return found | {"outputFacets": {"outputStatistics": size}}

    def _dataset(self, asset: Mapping[str, Any]) -> dict[str, Any]:
        """An asset, of whatever kind, as OpenLineage's dataset."""
        name, _, version = asset["ref"].partition("@")
        facets: dict[str, Any] = {"version": _version(version, digest=asset["digest"])}
        if columns := asset["meta"].get("columns"):
            fields = [{"name": c, "type": TYPES.get(c, "string")} for c in columns]
            facets["schema"] = _facet("SchemaDatasetFacet", "1-2-0", fields=fields)
        return {"namespace": self.config.namespace, "name": name, "facets": facets}

    def _post(self, event: dict[str, Any]) -> None:
        request = urllib.request.Request(
            f"{self.url.rstrip('/')}/{self.config.endpoint}",
            json.dumps(event).encode(),
            {"Content-Type": "application/json"},
        )
        if key := os.environ.get("OPENLINEAGE_API_KEY"):
            request.add_header("Authorization", f"Bearer {key}")
        try:
            with urllib.request.urlopen(request, timeout=self.config.timeout_s):
                pass
        except urllib.error.HTTPError as error:
            text = error.read().decode(errors="replace")
            raise Error(
                "unavailable" if error.code >= 500 else "invalid", f"{self.url} refused: {text[:500]}"
            ) from error
        except OSError as error:
            raise Error("unavailable", f"{self.url} does not answer: {error}", "is it up?") from error


def _run_facets(run: Mapping[str, Any]) -> dict[str, Any]:
    """What is said of the run itself; its params and metrics stand in a facet of our own."""
    points = [{**m, "value": str(m["value"]) if not math.isfinite(m["value"]) else m["value"]} for m in run["metrics"]]
    ours = {k: run[k] for k in ("name", "experiment", "actor", "params", "tags")} | {"metrics": points}
    facets = {"longrein_run": _facet("RunFacet", "", **ours)}
    if error := run.get("error"):
        told = {"message": error["message"], "programmingLanguage": "Python"}
        facets["errorMessage"] = _facet("ErrorMessageRunFacet", "1-0-1", **told)
    return facets


def _facet(name: str, version: str, /, **fields: Any) -> dict[str, Any]:
    """A facet of the standard's with its version, or one of our own upon the standard's base."""
    file = f"facets/{version}/{name}" if version else "2-0-2/OpenLineage"
    return {"_producer": PRODUCER, "_schemaURL": f"{SPEC}/{file}.json#/$defs/{name}", **fields}


def _known(**fields: Any) -> dict[str, Any]:
    return {k: v for k, v in fields.items() if v is not None}


def _version(version: str, /, **fields: Any) -> dict[str, Any]:
    return _facet("DatasetVersionDatasetFacet", "1-0-1", datasetVersion=version, **fields)


def _columns(params: Mapping[str, str]) -> dict[str, str]:
    """Our columns that are a source's own, as the config of data.ingest names them."""
    return {ours: params[ours] for ours in ("input", "output", "messages") if params.get(ours)}


def _time(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


plugin = OpenLineage
