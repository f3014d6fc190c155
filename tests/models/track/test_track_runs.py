"""Experiments and runs through the real MLflow client, on both databases."""

import math

import pytest
from mlflow.entities import Metric, Param, RunTag, ViewType
from mlflow.exceptions import MlflowException


def test_default_experiment_is_there_from_the_start(fresh):
    assert [(e.experiment_id, e.name) for e in fresh.client.search_experiments()] == [("0", "Default")]


def test_experiment_life(world):
    client = world.client
    id = client.create_experiment("我的实验 🧪", tags={"key1": "val1", "multi line": "a\nb"})
    found = client.get_experiment(id)
    assert (found.name, found.tags) == ("我的实验 🧪", {"key1": "val1", "multi line": "a\nb"})
    assert found.artifact_location == f"mlflow-artifacts:/{id}" and found.lifecycle_stage == "active"
    assert client.get_experiment_by_name("我的实验 🧪").experiment_id == id
    assert client.get_experiment_by_name("nobody made this") is None
    client.set_experiment_tag(id, "key1", "")
    client.delete_experiment_tag(id, "multi line")
    client.rename_experiment(id, "renamed")
    found = client.get_experiment(id)
    assert (found.name, found.tags) == ("renamed", {"key1": ""})
    assert found.last_update_time >= found.creation_time > 0
    with pytest.raises(MlflowException, match=r"already exists") as refused:
        client.create_experiment("renamed")
    assert refused.value.error_code == "RESOURCE_ALREADY_EXISTS"
    with pytest.raises(MlflowException, match="No tag with name"):
        client.delete_experiment_tag(id, "multi line")


def test_deleting_an_experiment_takes_its_runs_along_and_restoring_brings_them_back(world):
    client, id = world.client, world.experiment("short-lived")
    run = world.run(id)
    client.delete_experiment(id)
    assert client.get_experiment(id).lifecycle_stage == client.get_run(run).info.lifecycle_stage == "deleted"
    assert id not in {e.experiment_id for e in client.search_experiments()}
    assert id in {e.experiment_id for e in client.search_experiments(view_type=ViewType.DELETED_ONLY)}
    with pytest.raises(MlflowException, match="must be in the 'active' state"):
        client.create_run(id)
    with pytest.raises(MlflowException, match="non-active"):
        client.rename_experiment(id, "other")
    with pytest.raises(MlflowException, match="No Experiment"):
        client.delete_experiment(id)
    client.restore_experiment(id)
    assert client.get_experiment(id).lifecycle_stage == client.get_run(run).info.lifecycle_stage == "active"
    for missing in ("987654", "no number", "٣"):
        with pytest.raises(MlflowException, match=r"No Experiment|Invalid experiment ID"):
            client.get_experiment(missing)


def test_search_experiments(world):
    client = world.client
    ids = [
        world.experiment(name, **tags) for name, tags in (("sx a", {"k": "v"}), ("sx ab", {"k": "V"}), ("sx Abc", {}))
    ]

    def names(filter="", **more):
        return [e.name for e in client.search_experiments(filter_string=f"name ILIKE 'sx%' {filter}", **more)]

    assert names() == ["sx Abc", "sx ab", "sx a"]  # the youngest first
    assert names(order_by=["name DESC"]) == ["sx ab", "sx a", "sx Abc"]
    assert names("AND name LIKE 'sx a%'") == ["sx ab", "sx a"]
    assert names("AND tags.k = 'v'") == ["sx a"]
    assert names("AND tag.k != 'v'") == ["sx ab"]
    assert names("AND tags.k ILIKE 'v'") == ["sx ab", "sx a"]
    assert names("AND tags.k IS NULL") == ["sx Abc"]
    assert names(f"AND experiment_id IN ('{ids[0]}', '{ids[2]}')") == ["sx Abc", "sx a"]
    assert names(f"AND creation_time >= {client.get_experiment(ids[1]).creation_time}")[:2] == ["sx Abc", "sx ab"]
    page = client.search_experiments(filter_string="name ILIKE 'sx%'", max_results=2)
    assert [e.name for e in page] == ["sx Abc", "sx ab"] and page.token
    page = client.search_experiments(filter_string="name ILIKE 'sx%'", max_results=2, page_token=page.token)
    assert [e.name for e in page] == ["sx a"] and not page.token


def test_run_with_everything(world):
    client, id = world.client, world.experiment("everything")
    tags = {"mlflow.user": "user", "mlflow.source.name": "Hello", "mlflow.parentRunId": "7", "my": "tag"}
    made = client.create_run(id, start_time=456, run_name="my name", tags=tags)
    for run in (made, client.get_run(made.info.run_id)):
        info = run.info
        assert (info.experiment_id, info.user_id, info.start_time, info.run_name) == (id, "user", 456, "my name")
        assert (info.status, info.end_time, info.lifecycle_stage) == ("RUNNING", None, "active")
        assert info.artifact_uri == f"mlflow-artifacts:/{id}/{info.run_id}/artifacts"
        assert run.data.tags == tags | {"mlflow.runName": "my name"}
    client.update_run(made.info.run_id, status="FAILED", name="new name")
    run = client.get_run(made.info.run_id)
    assert (run.info.status, run.info.run_name, run.data.tags["mlflow.runName"]) == ("FAILED", "new name", "new name")
    client.set_tag(made.info.run_id, "mlflow.runName", "by tag")
    assert client.get_run(made.info.run_id).info.run_name == "by tag"
    client.set_terminated(made.info.run_id, "KILLED", end_time=789)
    assert (client.get_run(made.info.run_id).info.status, client.get_run(made.info.run_id).info.end_time) == (
        "KILLED",
        789,
    )
    assert client.get_run(world.run(id)).info.run_name  # a run that nobody named has a name
    with pytest.raises(MlflowException, match="Both 'run_name' argument and"):
        client._tracking_client.store.create_run(id, "u", 1, [RunTag("mlflow.runName", "a")], "b")
    with pytest.raises(MlflowException, match=r"Run .+ not found"):
        client.get_run("0" * 32)


def test_runs_are_in_the_ledger(world):
    run = world.run(run_name="seen from inside")
    world.client.log_batch(run, [Metric("loss", 0.5, 1, 2)], [Param("lr", "1")], [RunTag("t", "v")])
    world.client.set_terminated(run)
    assert world.ledger.runs.get(run).name == "seen from inside"
    assert world.ledger.runs.metrics(run) == {"loss": 0.5}
    assert world.ledger.runs.history(run, "loss") == [(2, 1, 0.5)]
    assert world.ledger.runs.params(run) == {"lr": "1"}
    kinds = [e.kind for e in world.ledger.events.recent(f"run:{run}")]
    assert kinds == ["run.finished", "run.started"]


def test_our_own_runs_are_seen_by_mlflow(world):
    run = world.ledger.runs.start(capability="models.train", name="train support", experiment="support")
    world.ledger.runs.log(run, [("loss", 2.0, 1, 1)], parameters={"size": "tiny"})
    data = world.ledger.assets.put("dataset", "tickets", "ab" * 32, uri="lance/tickets.lance?version=1")
    world.ledger.assets.link(run, data.id, "in", "dataset")
    experiment = world.client.get_experiment_by_name("support")
    (found,) = world.client.search_runs([experiment.experiment_id], "metrics.loss > 1 AND dataset.name = 'tickets'")
    assert found.info.run_id == run and found.data.params == {"size": "tiny"}
    assert found.inputs.dataset_inputs[0].dataset.digest == "ab" * 32
    assert world.client.list_artifacts(run) == []


def test_delete_and_restore_run(world):
    client, id = world.client, world.experiment("delete runs")
    run = world.run(id)
    client.set_tag(run, "t", "v")
    client.delete_run(run)
    assert client.get_run(run).info.lifecycle_stage == "deleted"
    assert client.search_runs([id]) == []
    assert len(client.search_runs([id], run_view_type=ViewType.DELETED_ONLY)) == 1
    assert len(client.search_runs([id], run_view_type=ViewType.ALL)) == 1
    for attempt in (
        lambda: client.log_metric(run, "m", 1),
        lambda: client.log_param(run, "p", 1),
        lambda: client.set_tag(run, "t", 1),
        lambda: client.delete_tag(run, "t"),
        lambda: client.log_batch(run, tags=[RunTag("t", "w")]),
    ):
        with pytest.raises(MlflowException, match=f"The run {run} must be in the 'active' state"):
            attempt()
    client.restore_run(run)
    client.log_metric(run, "m", 1)
    assert client.get_run(run).data.tags["t"] == "v"


def test_metrics_params_tags(world):
    client, run = world.client, world.run()
    client.log_metric(run, "metric", 123.456, timestamp=789, step=2)
    client.log_metric(run, "nan", math.nan)
    client.log_metric(run, "inf", math.inf)
    client.log_metric(run, "-inf", -math.inf)
    client.log_metric(run, "stepless", 987.654, timestamp=321)
    client.log_metric(run, "验证/损失", 1.5)
    client.log_param(run, "param", "值 🎉")
    client.log_param(run, "empty", "")
    client.set_tag(run, "tag", "do-dah")
    client.set_tag(run, "empty", "")
    data = client.get_run(run).data
    assert math.isnan(data.metrics["nan"])
    assert data.metrics["inf"] >= 1.7976931348623157e308 and data.metrics["-inf"] <= -1.7976931348623157e308
    assert (data.metrics["metric"], data.metrics["stepless"], data.metrics["验证/损失"]) == (123.456, 987.654, 1.5)
    assert data.params == {"param": "值 🎉", "empty": ""} and data.tags["empty"] == ""
    (point,) = client.get_metric_history(run, "metric")
    assert (point.key, point.value, point.timestamp, point.step) == ("metric", 123.456, 789, 2)
    assert client.get_metric_history(run, "stepless")[0].step == 0
    assert client.get_metric_history(run, "never logged") == []
    client.delete_tag(run, "tag")
    assert "tag" not in client.get_run(run).data.tags
    with pytest.raises(MlflowException, match="No tag with name: tag"):
        client.delete_tag(run, "tag")


def test_the_latest_metric_is_of_the_highest_step_then_time_then_value(world):
    client, run = world.client, world.run()
    for step, time, value in ((1, 5, 1.0), (3, 5, 3.0), (3, 5, 2.0), (2, 9, 9.0), (-1, 99, 7.0)):
        client.log_metric(run, "a", value, timestamp=time, step=step)
    client.log_batch(run, [Metric("b", v, t, s) for s, t, v in ((1, 5, 1.0), (3, 5, 3.0), (3, 5, 2.0), (2, 9, 9.0))])
    assert client.get_run(run).data.metrics == {"a": 3.0, "b": 3.0}
    client.log_metric(run, "a", 3.0, timestamp=5, step=3)  # a retry: the same point again
    assert len(client.get_metric_history(run, "a")) == 5


def test_history_pages(world):
    client, run = world.client, world.run()
    client.log_batch(run, [Metric("m", i, i, i) for i in range(1000)])
    client.log_batch(run, [Metric("m", i, i, i) for i in range(1000, 1500)])
    assert [m.value for m in client.get_metric_history(run, "m")] == list(range(1500))
    store = client._tracking_client.store
    page = store.get_metric_history(run, "m", max_results=1200)
    rest = store.get_metric_history(run, "m", max_results=1200, page_token=page.token)
    assert (len(page), len(rest), rest.token or None) == (1200, 300, None)
    other = world.run()
    client.log_metric(other, "m", 5, timestamp=1)
    path = "/api/2.0/mlflow/metrics/get-history-bulk"
    _, bulk = world.ask("GET", f"{path}?run_id={run}&run_id={other}&metric_key=m&max_results=3")
    assert [m["step"] for m in bulk["metrics"]] == [0, 1, 2] and bulk["metrics"][0]["run_id"] == run
    path += f"-interval?run_ids={run}&run_ids={other}&metric_key=m&start_step=0&end_step=1000&max_results=5"
    _, thin = world.ask("GET", path)
    assert [m["step"] for m in thin["metrics"]] == [0, 250, 500, 750, 1000, 0]


def test_params_do_not_change(world):
    client, run = world.client, world.run()
    client.log_param(run, "p", "a")
    client.log_param(run, "p", "a")  # the same again is fine
    with pytest.raises(MlflowException, match="Changing param values is not allowed"):
        client.log_param(run, "p", "b")
    with pytest.raises(MlflowException, match="Changing param values is not allowed"):
        client.log_batch(run, [Metric("m", 1, 1, 1)], [Param("q", "1"), Param("p", "b")])
    data = client.get_run(run).data  # the refused batch left nothing behind
    assert (data.params, data.metrics) == ({"p": "a"}, {})
    message = world.refused(
        "runs/log-batch", {"run_id": run, "params": [{"key": "x", "value": "1"}, {"key": "x", "value": "2"}]}
    )
    assert "Duplicate parameter keys" in message


def test_limits_of_a_batch(world):
    run = world.run()
    point = {"key": "m", "value": 1, "timestamp": 1}
    many = [{"key": f"k{i}", "value": "v"} for i in range(101)]
    assert "at most 1000 metrics" in world.refused("runs/log-batch", {"run_id": run, "metrics": [point] * 1001})
    assert "at most 100 params" in world.refused("runs/log-batch", {"run_id": run, "params": many})
    assert "at most 100 tags" in world.refused("runs/log-batch", {"run_id": run, "tags": many})
    both = {"run_id": run, "metrics": [point] * 950, "params": many[:100]}
    assert "metrics, params, and tags" in world.refused("runs/log-batch", both)
    assert "1000000 bytes" in world.refused(
        "runs/log-batch", {"run_id": run, "tags": [{"key": "k", "value": "v" * 10**6}]}
    )
    assert world.post("runs/log-batch", {"run_id": run, "metrics": [point] * 1000}) == (200, {})
    assert world.post("runs/log-batch", {"run_id": run}) == (200, {})


@pytest.mark.parametrize(
    "key", ["", ".", "..", "../up", "/root", "a//b", "a/../b", "emoji 🎉", "semi;colon", "new\nline", "k" * 251]
)
def test_keys_that_mlflow_refuses(world, key):
    run = world.run()
    for path, body in (
        ("runs/log-metric", {"value": 1, "timestamp": 1}),
        ("runs/log-parameter", {"value": "v"}),
        ("runs/set-tag", {"value": "v"}),
    ):
        world.refused(path, {"run_id": run, "key": key, **body})


def test_long_values_are_cut_as_mlflow_cuts_them(world):
    client, run = world.client, world.run()
    client.log_param(run, "p", "x" * 7000)
    client.set_tag(run, "t", "y" * 9000)
    data = client.get_run(run).data
    assert (len(data.params["p"]), len(data.tags["t"])) == (6000, 8000)
    client.log_param(run, "k" * 250, "fits")


def test_nested_runs(world, mlflow):
    with mlflow.start_run(run_name="parent") as parent, mlflow.start_run(nested=True) as child:
        mlflow.log_metric("loss", 1.0)
    (found,) = mlflow.search_runs(
        filter_string=f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'",
        output_format="list",
        search_all_experiments=True,
    )
    assert found.info.run_id == child.info.run_id


def test_failing_code_marks_its_run_failed(world, mlflow):
    with pytest.raises(ZeroDivisionError), mlflow.start_run() as run:
        _ = 1 / 0
    assert world.client.get_run(run.info.run_id).info.status == "FAILED"
    assert world.ledger.events.recent(f"run:{run.info.run_id}")[0].kind == "run.failed"
