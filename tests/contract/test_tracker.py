"""The contract of the port "tracker", over every plugin: a run is written out whole, and twice is harmless."""

import math
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from longrein.core import plugins
from longrein.core.errors import Error
from longrein.core.ledger import Ledger
from longrein.models.track.mirror import mirror, whole

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
Read = Callable[[], dict[str, Any]]  # what stands at the other end: name, params, history, status


@pytest.fixture(scope="module")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """MLflow's own server in this process, over its file store, which keeps a point logged twice twice."""
    folder = tmp_path_factory.mktemp("mlflow")
    patch = pytest.MonkeyPatch()
    patch.setenv("_MLFLOW_SERVER_FILE_STORE", str(folder / "files"))
    patch.setenv("_MLFLOW_SERVER_ARTIFACT_ROOT", str(folder / "artifacts"))
    patch.setenv("MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE", "true")
    patch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    from mlflow.server import app
    from werkzeug.serving import make_server

    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.port}"
    server.shutdown()
    thread.join()
    patch.undo()


@pytest.fixture(params=plugins.names("tracker"))
def end(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, dict[str, Any], Read]:
    """(plugin, its options, how to read what it wrote). A new plugin needs a line here."""
    if request.param == "mlflow":
        uri = request.getfixturevalue("mlflow_server")
        return "mlflow", {"uri": uri}, lambda: _read_mlflow(uri)
    if request.param == "wandb":
        pytest.importorskip("wandb")
        return "wandb", {"mode": "offline", "dir": str(tmp_path)}, lambda: _read_wandb(tmp_path)
    if request.param == "openlineage":
        return "openlineage", {"dir": str(tmp_path / "events")}, lambda: _read_openlineage(tmp_path / "events")
    pytest.fail(f"say how to test the tracker {request.param!r}")


@pytest.fixture
def run(tmp_path: Path) -> Iterator[tuple[Ledger, str]]:
    """A run with a bit of everything, half of its life lived."""
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db")
    run = ledger.runs.start(
        capability="models.train", name="train 客服", experiment=f"mirror {tmp_path.name}", actor="me"
    )
    data = ledger.assets.put("dataset", "tickets", "ab" * 32)
    ledger.assets.link(run, data.id, "in", "dataset")
    points = [("loss", 2.0 - i / 10, i, 1_700_000_000_000 + i) for i in range(5)] + [
        ("odd", math.nan, 2, 1_700_000_000_002)
    ]
    ledger.runs.log(run, points, parameters={"size": "tiny", "空": ""}, labels={"team": "nlp 🎉"})
    yield ledger, run
    ledger.close()


def test_a_run_is_mirrored_whole_and_twice_is_harmless(run, end):
    (ledger, id), (name, options, read) = run, end
    mirror(ledger, id, name, options)
    first = read()
    assert first["params"]["size"] == "tiny" and first["name"] == "train 客服"
    assert first["history"]["loss"] == [(i, pytest.approx(2.0 - i / 10)) for i in range(5)]
    assert [(s, math.isnan(v)) for s, v in first["history"]["odd"]] == [(2, True)]
    assert "dataset:tickets@1" in first["lineage"]
    mirror(ledger, id, name, options)
    assert read()["history"]["loss"] == first["history"]["loss"]

    ledger.runs.log(id, [("loss", 0.5, 5, 1_700_000_000_005)])
    ledger.runs.finish(id)
    mirror(ledger, id, name, options)
    last = read()
    assert last["history"]["loss"][-1] == (5, 0.5) and len(last["history"]["loss"]) == 6
    assert last["status"] == "FINISHED"


def test_what_a_tracker_is_given(run):
    ledger, id = run
    found = whole(ledger, id)
    assert (found["id"], found["status"], found["inputs"], found["outputs"]) == (
        id,
        "RUNNING",
        ["dataset:tickets@1"],
        [],
    )
    assert [m["step"] for m in found["metrics"]] == [0, 1, 2, 2, 3, 4]


def test_a_server_that_is_not_there(run):
    ledger, id = run
    for uri, code in (("http://127.0.0.1:9", "unavailable"), ("sqlite:///x.db", "invalid")):
        with pytest.raises(Error) as error:
            mirror(ledger, id, "mlflow", {"uri": uri})
        assert error.value.code == code


def test_wandb_does_not_stop_and_ask_for_a_key(run, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    with pytest.raises(Error, match="WANDB_API_KEY is not set"):
        mirror(*run, "wandb", {})


def _read_mlflow(uri: str) -> dict[str, Any]:
    from mlflow import MlflowClient

    client = MlflowClient(uri, uri)
    newest = max(client.search_experiments(filter_string="name LIKE 'mirror %'"), key=lambda e: int(e.experiment_id))
    (run,) = client.search_runs([newest.experiment_id])
    assert run.data.tags["team"] == "nlp 🎉" and run.info.user_id == "me" and run.data.params["空"] == ""
    history = {k: [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, k)] for k in run.data.metrics}
    return {
        "name": run.info.run_name, "params": run.data.params, "history": history, "status": run.info.status,
        "lineage": run.data.tags["longrein.inputs"],
    }  # fmt: skip


def _read_openlineage(folder: Path) -> dict[str, Any]:
    import json

    (file,) = folder.glob("*.jsonl")
    event = [json.loads(line) for line in file.read_text("utf-8").splitlines()][-1]
    facet = event["run"]["facets"]["longrein_run"]
    history: dict[str, list[tuple[int, float]]] = {}
    for point in facet["metrics"]:
        history.setdefault(point["key"], []).append((point["step"], float(point["value"])))
    return {
        "name": facet["name"], "params": facet["params"], "history": history,
        "status": {"COMPLETE": "FINISHED"}.get(event["eventType"], event["eventType"]),
        "lineage": [f"{i['name']}@{i['facets']['version']['datasetVersion']}" for i in event["inputs"]],
    }  # fmt: skip


def _read_wandb(folder: Path) -> dict[str, Any]:
    """What `wandb sync` would send."""
    import json

    from wandb.proto import wandb_internal_pb2 as pb

    (file,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    found, history, exit_code = None, {}, None
    for data in _leveldb_log(file.read_bytes()):
        record = pb.Record()
        record.ParseFromString(data)
        if record.HasField("run"):
            found = record.run
        if record.HasField("exit"):
            exit_code = record.exit.exit_code
        if record.HasField("history"):
            row = {i.key or ".".join(i.nested_key): json.loads(i.value_json) for i in record.history.item}
            for key in ("loss", "odd"):
                if key in row:
                    history.setdefault(key, []).append((row["_step"], float(row[key])))
    assert found is not None
    config = {i.key or i.nested_key[0]: json.loads(i.value_json) for i in found.config.update}
    return {
        "name": found.display_name, "params": config["params"], "history": history,
        "status": "FINISHED" if exit_code == 0 else "FAILED", "lineage": config["longrein"]["inputs"],
    }  # fmt: skip


def _leveldb_log(data: bytes) -> Iterator[bytes]:
    """The records of a `.wandb` file: 7 bytes of header, then LevelDB's log format in blocks of 32 KiB."""
    at, parts = 7, b""
    while at + 7 <= len(data):
        if 32_768 - at % 32_768 < 7:  # a block's end too short for a record
            at += 32_768 - at % 32_768
            continue
        size, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        parts, at = parts + data[at + 7 : at + 7 + size], at + 7 + size
        if kind in (1, 4):  # whole, or the last piece
            yield parts
            parts = b""
