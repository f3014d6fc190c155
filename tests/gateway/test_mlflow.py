"""MLflow's client against the whole gateway: keys, scopes, and who is named in the audit trail."""

import os

import pytest

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


@pytest.fixture
def client(echo, monkeypatch):
    """A client set up by nothing but the environment, as training code has it."""
    from mlflow import MlflowClient

    world, gateway = echo
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", world.key)
    return MlflowClient(gateway.url, gateway.url)


def test_a_key_is_enough(echo, client, tmp_path):
    world, _ = echo
    run = client.create_run("0", run_name="with a key").info.run_id
    client.log_metric(run, "loss", 0.5)
    client.log_text(run, "hello", "a.txt")
    client.set_terminated(run)
    assert world.ledger.runs.metrics(run) == {"loss": 0.5}
    assert [f.path for f in client.list_artifacts(run)] == ["a.txt"]
    with open(client.download_artifacts(run, "a.txt", str(tmp_path))) as file:
        assert file.read() == "hello"
    assert {e.actor for e in world.ledger.events.recent(f"run:{run}")} == {f"test (key {_key_id(world)})"}


@pytest.mark.parametrize("token", ["", "wrong", "infer"])
def test_without_the_right_key_nothing_is_written(echo, client, monkeypatch, token):
    from mlflow.exceptions import MlflowException

    world, _ = echo
    secret = world.ledger.keys.create("chat only", ("infer",), actor="test") if token == "infer" else token
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", secret)
    before = world.ledger.events.head()
    with pytest.raises(MlflowException, match="API key"):
        client.create_run("0")
    with pytest.raises(Exception, match=r"40[13]|API key"):
        client.log_text("0" * 32, "x", "a.txt")
    assert world.ledger.events.head() == before


def _key_id(world) -> str:
    return next(key.id for key in world.ledger.keys.all() if key.label == "test")
