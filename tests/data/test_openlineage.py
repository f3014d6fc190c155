"""The tracker openlineage over a real ingestion: events with schema, column lineage and data quality."""

import json
import threading
import uuid
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from longrein import workspace as workspaces
from longrein.core.errors import Error
from longrein.plugins.tracker.openlineage import OpenLineage

LIFECYCLE = """project: notes
datasets:
  notes: {sources: [data/*.jsonl], input: text, output: label}
trackers:
  lineage: {tracker: openlineage, options: {dir: EVENTS}}
"""


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What a finished run and a failed one told."""
    folder = tmp_path_factory.mktemp("lineage")
    (folder / "data").mkdir()
    rows = [{"text": f"笔记 {i}", "label": "a"} for i in range(20)] + [{"text": ""}]
    (folder / "data/a.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), "utf-8")
    (folder / "longrein.yaml").write_text(LIFECYCLE.replace("EVENTS", str(folder / "events")), "utf-8")
    workspaces.open(folder).apply()
    (folder / "data/a.jsonl").write_text('{"text": ""}\n')
    workspaces.open(folder).apply()
    files = sorted((folder / "events").iterdir(), key=lambda p: p.name)
    return [json.loads(line) for file in files for line in file.read_text("utf-8").splitlines()]


def test_each_run_starts_and_ends(events):
    assert [e["eventType"] for e in events] == ["START", "COMPLETE", "START", "FAIL"]
    assert len({e["run"]["runId"] for e in events}) == 2 and all(uuid.UUID(e["run"]["runId"]) for e in events)
    assert {e["job"]["name"] for e in events} == {"data.ingest.notes"}
    assert "no row of notes is left" in events[-1]["run"]["facets"]["errorMessage"]["message"]


def test_schema_columns_and_quality(events):
    end = events[1]
    (source,) = end["inputs"]
    assert (source["namespace"], source["name"]) == ("file", "data/a.jsonl")
    assert source["inputFacets"]["dataQualityMetrics"]["rowCount"] == 21
    (made,) = end["outputs"]
    assert (made["name"], made["facets"]["version"]["datasetVersion"]) == ("dataset:notes", "1")
    types = {f["name"]: f["type"] for f in made["facets"]["schema"]["fields"]}
    assert types["input"] == "string" and types["line"] == "int64"
    lineage = made["facets"]["columnLineage"]["fields"]
    assert lineage["output"]["inputFields"] == [{"namespace": "file", "name": "data/a.jsonl", "field": "label"}]
    assert made["outputFacets"]["outputStatistics"]["rowCount"] == 20
    assert made["facets"]["dataQualityMetrics"]["rowCount"] == 20
    assert made["facets"]["longrein_rows"]["dropped"] == {"blank": 1}


def test_every_facet_says_what_it_is(events):
    def walk(value: Any, path: str = "") -> None:
        if isinstance(value, dict):
            for name, one in value.items():
                if path.endswith(("facets", "inputFacets", "outputFacets")):
                    assert one["_producer"].startswith("https://") and "openlineage.io/spec" in one["_schemaURL"], name
                walk(one, name)
        elif isinstance(value, list):
            for one in value:
                walk(one)

    walk(events)


RUN = {
    "id": "0" * 32, "name": "n", "experiment": "e", "capability": "c", "status": "FINISHED", "actor": "me",
    "started_ms": 0, "ended_ms": 1, "params": {}, "tags": {}, "metrics": [], "assets": [], "error": None,
}  # fmt: skip


class Collector(BaseHTTPRequestHandler):
    seen: ClassVar[list[tuple[str, str | None, dict[str, Any]]]] = []
    status = 201

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.seen.append((self.path, self.headers.get("Authorization"), body))
        self.send_response(self.status)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Any:
    server = HTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Collector.seen.clear()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_events_over_http(server, monkeypatch):
    monkeypatch.setenv("OPENLINEAGE_API_KEY", "secret")
    OpenLineage({"url": server}).mirror(RUN)
    assert [(p, a, b["eventType"]) for p, a, b in Collector.seen] == [
        ("/api/v1/lineage", "Bearer secret", "START"), ("/api/v1/lineage", "Bearer secret", "COMPLETE")
    ]  # fmt: skip
    for status, code in ((500, "unavailable"), (422, "invalid")):
        monkeypatch.setattr(Collector, "status", status)
        with pytest.raises(Error) as raised:
            OpenLineage({"url": server}).mirror(RUN)
        assert raised.value.code == code


def test_a_server_that_is_not_there(tmp_path: Path, monkeypatch):
    monkeypatch.delenv("OPENLINEAGE_URL", raising=False)
    with pytest.raises(Error, match="no address"):
        OpenLineage({})
    with pytest.raises(Error, match="does not answer"):
        OpenLineage({"url": "http://127.0.0.1:9"}).mirror(RUN)
