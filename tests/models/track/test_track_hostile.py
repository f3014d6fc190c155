"""Malformed, huge, hostile, concurrent and interrupted: one clear answer each, and nothing lost."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException

POINT = {"run_id": "r", "key": "m", "value": 1, "timestamp": 1}


@pytest.mark.parametrize(
    ("path", "body", "says"),
    [
        ("runs/log-metric", b"", "Missing value for required parameter"),
        ("runs/log-metric", b"{", "not JSON"),
        ("runs/log-metric", b"[]", "must be a JSON object"),
        ("runs/log-metric", b"\xff\xfe\x00", "not JSON"),
        ("runs/log-metric", b'{"run_id": "\\ud800"}', "not JSON"),
        ("runs/log-metric", POINT | {"run_id": 31}, "Invalid value 31 for parameter 'run_id'"),
        ("runs/log-metric", POINT | {"run_id": None}, "Missing value for required parameter 'run_id'"),
        ("runs/log-metric", {"run_id": "r", "value": 1, "timestamp": 1}, "Missing value for required parameter 'key'"),
        ("runs/log-metric", POINT | {"value": "x"}, "for parameter 'value'"),
        ("runs/log-metric", POINT | {"timestamp": "x"}, 'Invalid value "x" for parameter'),
        ("runs/log-metric", POINT | {"timestamp": -1}, "for parameter 'timestamp'"),
        ("runs/log-metric", POINT | {"timestamp": 10**30}, "for parameter 'timestamp'"),
        ("runs/log-metric", POINT | {"step": 2**63}, "for parameter 'step'"),
        ("runs/log-metric", POINT | {"run_id": "../x"}, "for parameter 'run_id'"),
        ("runs/log-batch", {"run_id": "r", "metrics": "foo"}, 'Invalid value "foo" for parameter'),
        ("runs/log-batch", {"run_id": "r", "metrics": [{"key": "mae", "value": 2.5}]}, 'Invalid value [{"key": "mae"'),
        ("runs/set-tag", {"run_id": "r", "key": "k", "value": "a\0b"}, "NUL"),
        ("runs/update", {"run_id": "r", "status": "DANCING"}, "Invalid status"),
        ("runs/log-model", {"run_id": "r", "model_json": "[]"}, "Malformed model info"),
        ("runs/log-model", {"run_id": "r", "model_json": "{}"}, "missing mandatory fields"),
        ("runs/search", {"experiment_ids": ["0"], "run_view_type": "SOME"}, "Invalid view type"),
        ("experiments/create", {}, "Missing value for required parameter 'name'"),
        ("experiments/create", {"name": 123}, "Invalid value 123 for parameter 'name'"),
        ("experiments/create", {"name": "n" * 501}, "exceeds the maximum length"),
        ("experiments/create", {"name": ""}, "Invalid experiment name"),
        ("experiments/create", {"name": "x", "tags": "5"}, 'Invalid value "5" for parameter'),
        ("registered-models/create", {"name": "m", "tags": [{"key": "k" * 251}]}, "exceeds the maximum length"),
    ],
)  # fmt: skip
def test_bad_requests(world, path, body, says):
    assert says in world.refused(path, body)


def test_numbers_as_text_and_older_field_names(world):
    run = world.run()
    body = {"run_uuid": run, "key": "m", "value": "NaN", "timestamp": "17", "step": "3", "from_the_future": {}}
    assert world.post("runs/log-metric", body) == (200, {})  # protobuf's JSON, as the Java client writes it
    (point,) = world.client.get_metric_history(run, "m")
    assert (point.timestamp, point.step, point.value != point.value) == (17, 3, True)
    status, found = world.ask("GET", f"/api/2.0/mlflow/runs/get?run_uuid={run}")
    assert status == 200 and found["run"]["data"]["metrics"][0]["value"] == "NaN"


def test_unknown_and_unsupported(world):
    assert world.refused("no/such", {}, "ENDPOINT_NOT_FOUND", 404)
    assert world.ask("PUT", "/api/2.0/mlflow/runs/create", {})[0] == 404
    assert "traces" in world.refused("traces", {}, "NOT_IMPLEMENTED", 501)
    assert world.ask("POST", "/api/3.0/mlflow/traces", {})[0] == 501
    assert world.ask("GET", "/api/3.0/mlflow/server-info")[1]["workspaces_enabled"] is False
    with pytest.raises(MlflowException, match="not part of this server"):
        world.client.search_traces(locations=["0"])


def test_a_body_too_large(world):
    assert "must be at most" in world.refused("runs/set-tag", b'{"run_id": "' + b"r" * (33 << 20) + b'"}')


def test_one_bad_write_does_not_hurt_those_beside_it(world):
    """Writes that share a transaction: each stands or falls alone."""
    run, answers = world.run(), []

    def write(i):
        key = "p" if i % 2 else f"p{i}"
        answers.append((i, world.post("runs/log-parameter", {"run_id": run, "key": key, "value": str(i)})[0]))

    threads = [threading.Thread(target=write, args=(i,)) for i in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    odd = [status for i, status in answers if i % 2]
    assert all(status == 200 for i, status in answers if not i % 2)
    assert sorted(odd) == [200] + [400] * 19
    assert len(world.client.get_run(run).data.params) == 21


def test_eight_writers(world):
    run, failures = world.run(), []

    def write(k):
        try:
            for i in range(25):
                world.client.log_metric(run, f"m{k}", i, timestamp=i, step=i)
            points = [Metric("shared", k, i, i) for i in range(100)]
            world.client.log_batch(run, points, [Param(f"p{k}", str(k))], [RunTag("last", str(k))])
        except Exception as error:  # noqa: BLE001 - a thread's failure is the test's
            failures.append(error)

    threads = [threading.Thread(target=write, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    data = world.client.get_run(run).data
    assert data.metrics == {f"m{k}": 24.0 for k in range(8)} | {"shared": 7.0}
    assert len(world.client.get_metric_history(run, "shared")) == 800 and len(data.params) == 8


def test_names_are_taken_once(world):
    answers = []

    def create():
        answers.append(world.post("experiments/create", {"name": "the only one"})[0])

    threads = [threading.Thread(target=create) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [200] + [400] * 7


SERVER = """
import sys, uvicorn
from pathlib import Path
from starlette.applications import Starlette
from longrein.core.ledger import Ledger
from longrein.core.store import Store
from longrein.gateway.mlflow import routes
folder = Path(sys.argv[1])
app = Starlette(routes=routes(Ledger(f"sqlite:///{folder}/ledger.db"), Store(folder / "store")))
import socket
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False)).run([listener])
"""


def test_what_was_acknowledged_survives_kill_9(tmp_path):
    import http.client

    from longrein.core.ledger import Ledger

    root = Path(__file__).resolve().parents[3]
    env = os.environ | {"PYTHONPATH": str(root)}
    server = subprocess.Popen([sys.executable, "-c", SERVER, str(tmp_path)], stdout=subprocess.PIPE, env=env, text=True)
    port = int(server.stdout.readline())

    def post(connection, path, body):
        connection.request("POST", f"/api/2.0/mlflow/{path}", json.dumps(body), {"Content-Type": "application/json"})
        return json.loads(connection.getresponse().read())

    run = post(http.client.HTTPConnection("127.0.0.1", port), "runs/create", {"experiment_id": "0"})["run"]["info"][
        "run_id"
    ]
    acknowledged, enough = [], threading.Event()

    def write(k):
        connection = http.client.HTTPConnection("127.0.0.1", port)
        try:
            for i in range(100_000):
                answer = post(
                    connection,
                    "runs/log-metric",
                    {"run_id": run, "key": f"m{k}", "value": i, "timestamp": 1, "step": i},
                )
                assert answer == {}
                acknowledged.append((f"m{k}", i))
                if len(acknowledged) >= 400:
                    enough.set()
        except (OSError, http.client.HTTPException, ValueError):
            enough.set()  # the server is gone

    threads = [threading.Thread(target=write, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    assert enough.wait(60)
    server.send_signal(signal.SIGKILL)
    server.wait()
    for thread in threads:
        thread.join()
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db")
    kept = {(f"m{k}", step) for k in range(4) for step, _, _ in ledger.runs.history(run, f"m{k}")}
    latest = ledger.runs.metrics(run)
    ledger.close()
    assert len(acknowledged) >= 400 and kept >= set(acknowledged)
    assert all(latest[key] == max(step for k, step in kept if k == key) for key in latest)
