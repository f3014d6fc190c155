"""Artifacts: up, down, listed and deleted, streamed; and what must not get in or out."""

import http.client
import os
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException

FILES = "/api/2.0/mlflow-artifacts/artifacts"


def test_round_trip(fresh, tmp_path):
    client, run = fresh.client, fresh.run()
    source = tmp_path / "source"
    (source / "deep" / "空 格").mkdir(parents=True)
    (source / "a.txt").write_text("a")
    (source / "deep" / "空 格" / "表 &+.bin").write_bytes(bytes(range(256)))
    (source / "empty").touch()
    client.log_artifacts(run, str(source), "up")
    client.log_artifact(run, str(source / "a.txt"))
    client.log_text(run, "值", "d.json")
    assert [(f.path, f.is_dir, f.file_size) for f in client.list_artifacts(run)] == [
        ("a.txt", False, 1), ("d.json", False, 3), ("up", True, None),
    ]  # fmt: skip
    assert [f.path for f in client.list_artifacts(run, "up")] == ["up/a.txt", "up/deep", "up/empty"]
    assert client.list_artifacts(run, "nothing") == [] == client.list_artifacts(run, "a.txt")
    fetched = Path(client.download_artifacts(run, "up", str(tmp_path)))
    for file in ("a.txt", "empty", "deep/空 格/表 &+.bin"):
        assert (fetched / file).read_bytes() == (source / file).read_bytes()
    status, listed = fresh.ask("GET", f"/api/2.0/mlflow/artifacts/list?run_id={run}&path=up")
    assert status == 200 and listed["root_uri"].endswith(f"/{run}/artifacts")
    assert [f["path"] for f in listed["files"]] == ["up/a.txt", "up/deep", "up/empty"]
    client._tracking_client._get_artifact_repo(run).delete_artifacts("up/deep")
    assert [f.path for f in client.list_artifacts(run, "up")] == ["up/a.txt", "up/empty"]


def test_a_file_replaced_is_wholly_the_new_one(fresh):
    path = f"{FILES}/0/run/artifacts/x"
    for text in (b"old and longer", b"new"):
        assert fresh.ask("PUT", path, text) == (200, {})
    status, got = fresh.ask("GET", path)
    assert (status, got["bytes"]) == (200, b"new")
    assert got["headers"]["content-type"] == "application/octet-stream"  # nothing uploaded runs as a page
    assert got["headers"]["content-disposition"].startswith("attachment")
    assert fresh.ask("GET", path, Range="bytes=1-")[1]["bytes"] == b"ew"
    assert fresh.ask("DELETE", path)[0] == fresh.ask("DELETE", path)[0] == 200
    assert fresh.ask("GET", path)[0] == 404


@pytest.mark.parametrize(
    "path",
    [
        "../secret", "a/../../secret", "%2e%2e/secret", "..%2fsecret", "a/%2e%2e/%2e%2e/secret", "a//b", "./a", "a/.",
        "a%00b", "..%5csecret", "a/..", "store/sha256/ab/x", "store/../../ledger.db",
    ],
)  # fmt: skip
def test_paths_that_lead_elsewhere(fresh, path):
    fresh.store.root.mkdir(exist_ok=True)
    (fresh.store.root / "secret").write_text("secret")
    for method in ("PUT", "DELETE", "GET"):
        status, answer = fresh.ask(method, f"{FILES}/{path}", b"x" if method == "PUT" else None)
        assert status in (400, 404) and "error_code" in answer, (method, status)
    assert (fresh.store.root / "secret").read_text() == "secret"
    run = fresh.run()
    for name in (f"/api/2.0/mlflow/artifacts/list?run_id={run}&path={path}", f"{FILES}?path={path}"):
        status, answer = fresh.ask("GET", name)
        assert status in (400, 404) or answer.get("files") == []


def test_a_link_leads_nowhere(fresh):
    root = fresh.store.root / "artifacts" / "0"
    root.mkdir(parents=True)
    os.symlink("/etc", root / "etc")
    assert fresh.ask("GET", f"{FILES}/0/etc/passwd")[0] == 400
    assert fresh.ask("PUT", f"{FILES}/0/etc/planted", b"x")[0] == 400


def test_a_file_in_the_way(fresh):
    assert fresh.ask("PUT", f"{FILES}/0/a", b"x")[0] == 200
    assert "in the way" in fresh.ask("PUT", f"{FILES}/0/a/b", b"x")[1]["message"]
    assert fresh.ask("PUT", f"{FILES}/0/d/e", b"x")[0] == 200
    assert "folder" in fresh.ask("PUT", f"{FILES}/0/d", b"x")[1]["message"]
    assert fresh.ask("PUT", f"{FILES}/", b"x")[0] == 400
    assert fresh.ask("POST", f"{FILES}/0/a", b"x") == (404, {
        "error_code": "ENDPOINT_NOT_FOUND", "message": "there is no endpoint 'POST 0/a' in MLflow's API here",
    })  # fmt: skip


def test_an_upload_that_breaks_off_leaves_nothing(fresh):
    connection = http.client.HTTPConnection("127.0.0.1", fresh.port)
    connection.putrequest("PUT", f"{FILES}/0/half")
    connection.putheader("Content-Length", str(10 << 20))
    connection.endheaders()
    connection.send(b"x" * (3 << 20))
    connection.close()
    assert fresh.ask("PUT", f"{FILES}/0/whole", b"x" * (5 << 20))[0] == 200
    fresh.close()  # waits for what is still under way
    assert [f.name for f in (fresh.store.root / "artifacts" / "0").iterdir()] == ["whole"]
    assert list((fresh.store.root / "staging").iterdir()) == []
    fresh.__init__(str(fresh.ledger.db.url), fresh.store.root.parent)


def test_multipart_upload_is_declined_as_the_client_expects(fresh):
    status, answer = fresh.ask("POST", "/api/2.0/mlflow-artifacts/mpu/create/0/x", {"path": "x", "num_parts": 2})
    assert status == 501 and answer["message"].startswith("Multipart upload is not supported")


def test_artifacts_elsewhere_are_not_served(fresh):
    id = fresh.client.create_experiment("far", artifact_location="s3://bucket/far")
    run = fresh.client.create_run(id)
    assert run.info.artifact_uri == f"s3://bucket/far/{run.info.run_id}/artifacts"
    status, answer = fresh.ask("GET", f"/api/2.0/mlflow/artifacts/list?run_id={run.info.run_id}")
    assert status == 400 and "s3://bucket/far" in answer["message"]
    with pytest.raises(MlflowException, match="runs:/"):
        fresh.client.create_experiment("loop", artifact_location="runs:/x")
