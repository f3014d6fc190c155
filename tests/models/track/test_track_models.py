"""Logged models, registered models and what of them our lineage and gates see, through the real MLflow client."""

import json
from pathlib import Path

import pytest
from mlflow.entities import LoggedModelStatus, Metric
from mlflow.exceptions import MlflowException

from longrein.core import digest

pytestmark = pytest.mark.filterwarnings(
    "ignore::FutureWarning", "ignore::DeprecationWarning"
)  # stages are MLflow's past


@pytest.fixture(scope="module")
def line():
    from sklearn.linear_model import LinearRegression

    return LinearRegression().fit([[1.0], [2.0]], [1.0, 2.0])


def files(world, run_id, text="weights"):
    """A logged model with one file, ready."""
    client = world.client
    model = client.create_logged_model("0", "tiny", source_run_id=run_id, model_type="test", params={"a": "1"})
    path = Path(model.artifact_location.removeprefix("mlflow-artifacts:/"))
    assert world.ask("PUT", f"/api/2.0/mlflow-artifacts/artifacts/{path}/model.bin", text.encode())[0] == 200
    return client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)


def test_a_logged_model_is_an_asset_with_its_run_and_data_in_its_lineage(world, mlflow, line, tmp_path):
    import pandas as pd

    data = mlflow.data.from_pandas(pd.DataFrame({"x": [1.0, 2.0]}), name="org/tickets")
    with mlflow.start_run() as run:
        mlflow.log_input(data, context="training", tags={"k": "v"})
        info = mlflow.sklearn.log_model(
            line, name="line", pip_requirements=["scikit-learn"], step=5, serialization_format="cloudpickle"
        )  # the default, skops, imports all of scikit-learn and torch
        mlflow.log_metric("acc", 0.9, model_id=info.model_id, dataset=data)
    found = mlflow.get_logged_model(info.model_id)
    assert (found.name, found.status, found.source_run_id) == ("line", LoggedModelStatus.READY, run.info.run_id)
    assert [(m.key, m.value, m.dataset_name) for m in found.metrics] == [("acc", 0.9, "org/tickets")]
    seen = world.client.get_run(run.info.run_id)
    assert [(o.model_id, o.step) for o in seen.outputs.model_outputs] == [(info.model_id, 5)]
    (read,) = seen.inputs.dataset_inputs
    assert (read.dataset.name, read.dataset.digest) == ("org/tickets", data.digest)
    assert {t.key: t.value for t in read.tags} == {"mlflow.data.context": "training", "k": "v"}

    asset = world.ledger.assets.get(f"model:{info.model_id}")
    fetched = mlflow.artifacts.download_artifacts(info.model_uri, dst_path=str(tmp_path))
    assert asset.digest == digest.of_tree(world.store.path(asset.uri)) and asset.run_id == run.info.run_id
    assert (Path(fetched) / "MLmodel").read_bytes() == (world.store.path(asset.uri) / "MLmodel").read_bytes()
    lineage = world.ledger.assets.lineage(asset)
    assert [a.ref for a in lineage.assets] == [asset.ref, "dataset:org-tickets@1"] and lineage.runs == [run.info.run_id]
    assert mlflow.sklearn.load_model(info.model_uri).predict([[3.0]]) == pytest.approx([3.0])
    query = (
        f"datasets.name = 'org/tickets' AND dataset.context = 'training' AND dataset.digest LIKE '{data.digest[:4]}%'"
    )
    assert [r.info.run_id for r in world.client.search_runs(["0"], query)] == [run.info.run_id]


def test_registering_keeps_the_very_bytes(world, mlflow):
    run = world.run()
    made = files(world, run, "v1")
    world.client.create_registered_model("keeper")
    version = mlflow.register_model(f"models:/{made.model_id}", "keeper")
    one, two = (world.ledger.assets.get(r) for r in (f"model:{made.model_id}", "model:keeper@1"))
    assert (version.version, one.digest, two.run_id) == ("1", two.digest, run)
    path = made.artifact_location.removeprefix("mlflow-artifacts:/")
    world.ask("PUT", f"/api/2.0/mlflow-artifacts/artifacts/{path}/model.bin", b"changed afterwards")
    folder = mlflow.artifacts.download_artifacts("models:/keeper/1")
    assert (Path(folder) / "model.bin").read_bytes() == b"v1"
    tag = mlflow.get_logged_model(made.model_id).tags["mlflow.modelVersions"]
    assert {"name": "keeper", "version": "1"} in json.loads(tag)
    copy = world.client.create_model_version("keeper", "models:/keeper/1", run)
    assert (copy.version, world.ledger.assets.get("model:keeper@2").digest) == ("2", one.digest)
    # what only happens to lie on some server is known by its place
    far = world.client.create_model_version("keeper", "s3://bucket/model", run)
    assert world.client.get_model_version_download_uri("keeper", far.version) == "s3://bucket/model"
    with pytest.raises(MlflowException, match="not found"):
        world.client.create_model_version("keeper", "models:/m-" + "0" * 32, run)
    with pytest.raises(MlflowException, match=r"Registered Model with name=nobody not found"):
        world.client.create_model_version("nobody", "s3://bucket/model", run)


def test_models_we_trained_load_through_mlflow(world, mlflow, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    stored = world.store.put(folder)
    asset = world.ledger.assets.put("model", "ours", stored.digest, uri=stored.uri, bytes=stored.bytes)
    assert "ours" in {m.name for m in world.client.search_registered_models()}
    fetched = mlflow.artifacts.download_artifacts(f"models:/ours/{asset.version}")
    assert (Path(fetched) / "config.json").read_text() == "{}"


def test_logged_models_hide_from_the_registry_and_can_be_searched(world):
    client, id = world.client, world.experiment("logged")
    run = world.run(id)
    made = [
        client.create_logged_model(id, f"m{i}", source_run_id=run, params={"i": str(i)}, tags={"t": "x"})
        for i in range(4)
    ]
    for i, model in enumerate(made):
        metric = {"run_id": run, "key": "acc", "value": i / 4, "timestamp": 1, "model_id": model.model_id}
        assert world.post("runs/log-metric", metric | {"dataset_name": "d", "dataset_digest": str(i)})[0] == 200

    def names(filter="", **more):
        return [m.name for m in client.search_logged_models([id], filter, **more)]

    assert not any(m.name.startswith("m-") for m in client.search_registered_models(max_results=1000))
    assert names("metrics.acc >= 0.5", order_by=[{"field_name": "metrics.acc", "ascending": False}]) == ["m3", "m2"]
    assert names("params.i IN ('0', '3')", order_by=[{"field_name": "name"}]) == ["m0", "m3"]
    assert names("name LIKE 'm%' AND tags.t = 'x' AND status = 'PENDING'", order_by=[{"field_name": "name"}])[:1] == [
        "m0"
    ]
    assert names("metrics.acc >= 0", datasets=[{"dataset_name": "d", "dataset_digest": "2"}]) == ["m2"]
    assert names(datasets=[{"dataset_name": "other"}]) == []
    page = client.search_logged_models([id], max_results=3, order_by=[{"field_name": "creation_time"}])
    rest = client.search_logged_models(
        [id], max_results=3, order_by=[{"field_name": "creation_time"}], page_token=page.token
    )
    assert (len(page), len(rest), rest.token) == (3, 1, None)
    client.set_logged_model_tags(made[0].model_id, {"new": "值"})
    client.delete_logged_model_tag(made[0].model_id, "t")
    assert client.get_logged_model(made[0].model_id).tags == {"new": "值"}
    client.log_model_params(made[0].model_id, {"b": "2"})
    assert client.get_logged_model(made[0].model_id).params == {"i": "0", "b": "2"}
    client.delete_logged_model(made[0].model_id)
    for attempt in (
        lambda: client.get_logged_model(made[0].model_id),
        lambda: client.delete_logged_model_tag(made[1].model_id, "nope"),
        lambda: client.log_batch(run, [Metric("m", 1, 1, 1, model_id="m-nobody")]),
        lambda: client.create_logged_model(id, "a/b"),
    ):
        with pytest.raises(MlflowException, match=r"not found|No tag|Invalid model name"):
            attempt()
    failed = client.finalize_logged_model(made[1].model_id, LoggedModelStatus.FAILED)
    assert failed.status == LoggedModelStatus.FAILED


def test_registered_model_life(world):
    client = world.client
    made = client.create_registered_model("意图 intent", {"k": "v"}, "what it is for")
    assert (made.name, made.tags, made.description, made.latest_versions) == (
        "意图 intent",
        {"k": "v"},
        "what it is for",
        [],
    )
    with pytest.raises(MlflowException, match="already exists") as refused:
        client.create_registered_model("意图 intent")
    assert refused.value.error_code == "RESOURCE_ALREADY_EXISTS"
    client.set_registered_model_tag("意图 intent", "n", "1")
    client.delete_registered_model_tag("意图 intent", "k")
    client.update_registered_model("意图 intent", "other")
    version = client.create_model_version("意图 intent", "s3://b/1", tags={"t": "x"}, description="first")
    client.set_registered_model_alias("意图 intent", "champion", version.version)
    client.rename_registered_model("意图 intent", "intent2")
    renamed = client.get_registered_model("intent2")
    assert (renamed.tags, renamed.description, renamed.aliases) == ({"n": "1"}, "other", {"champion": "1"})
    assert client.get_model_version_by_alias("intent2", "champion").tags == {"t": "x"}
    with pytest.raises(MlflowException, match="Registered Model with name=意图 intent not found"):
        client.get_registered_model("意图 intent")
    client.delete_registered_model("intent2")
    for gone in (lambda: client.get_registered_model("intent2"), lambda: client.get_model_version("intent2", "1")):
        with pytest.raises(MlflowException, match="not found"):
            gone()
    client.create_registered_model("intent2")
    again = client.create_model_version("intent2", "s3://b/2")
    assert again.version == "2"  # a number that once meant other bytes is not used again
    for bad in ("", "  ", "a/b", "a:b", "..", "a@b", "n" * 300):
        world.refused("registered-models/create", {"name": bad})


def test_model_versions(world):
    client = world.client
    client.create_registered_model("vs")
    run = world.run()
    one, _, three = (
        client.create_model_version("vs", f"s3://b/{i}", run if i else None, tags={"i": str(i)}) for i in range(3)
    )
    assert (one.version, one.current_stage, one.status, three.run_id) == ("1", "None", "READY", run)
    client.update_model_version("vs", "1", "改好了")
    client.set_model_version_tag("vs", "1", "q", "")
    client.delete_model_version_tag("vs", "1", "i")
    found = client.get_model_version("vs", "1")
    assert (found.description, found.tags) == ("改好了", {"q": ""})
    assert found.last_updated_timestamp >= found.creation_timestamp

    def versions(filter="", **more):
        return [v.version for v in client.search_model_versions(f"name = 'vs' {filter}", **more)]

    assert versions(order_by=["version_number ASC"]) == ["1", "2", "3"]
    assert versions(f"AND run_id = '{run}'", order_by=["version_number DESC"]) == ["3", "2"]
    assert versions("AND source_path LIKE '%/0'") == ["1"] and versions("AND tags.i != '2'") == ["2"]
    assert versions("AND version_number > 1 AND version_number <= 2") == ["2"]
    client.transition_model_version_stage("vs", "1", "production")
    client.transition_model_version_stage("vs", "2", "Staging")
    client.transition_model_version_stage("vs", "2", "Production", archive_existing_versions=True)
    assert client.get_model_version("vs", "1").current_stage == "Archived"
    assert {v.current_stage: v.version for v in client.get_latest_versions("vs")} == {
        "Archived": "1",
        "Production": "2",
        "None": "3",
    }
    assert [v.version for v in client.get_latest_versions("vs", ["production"])] == ["2"]
    client.delete_model_version("vs", "3")
    assert client.create_model_version("vs", "s3://b/3").version == "4"
    for bad in (
        lambda: client.get_model_version("vs", "3"),
        lambda: client.get_model_version("vs", "one"),
        lambda: client.transition_model_version_stage("vs", "1", "nowhere"),
        lambda: client.search_model_versions("size > 1"),
    ):
        with pytest.raises(MlflowException, match=r"not found|integer|Invalid"):
            bad()


def test_search_registered_models(world):
    client = world.client
    for i in range(12):
        client.create_registered_model(f"SRM{i:02}", {"even": str(i % 2 == 0)})
    names = [m.name for m in client.search_registered_models("name ILIKE 'srm%'")]
    assert names == sorted(names) and len(names) == 12
    assert [m.name for m in client.search_registered_models("name LIKE 'srm%'")] == []
    assert [m.name for m in client.search_registered_models("name LIKE '%M_1' AND tags.even = 'False'")] == [
        "SRM01",
        "SRM11",
    ]
    page = client.search_registered_models("name LIKE 'SRM%'", max_results=5, order_by=["name DESC"])
    rest = client.search_registered_models(
        "name LIKE 'SRM%'", max_results=50, order_by=["name DESC"], page_token=page.token
    )
    assert [m.name for m in [*page, *rest]] == names[::-1]


def test_aliases(world):
    client = world.client
    client.create_registered_model("al")
    for i in range(2):
        client.create_model_version("al", f"s3://b/{i}")
    client.set_registered_model_alias("al", "champion", "1")
    client.set_registered_model_alias("al", "champion", "2")
    client.set_registered_model_alias("al", "other", "2")
    assert client.get_registered_model("al").aliases == {"champion": "2", "other": "2"}
    assert client.get_model_version("al", "2").aliases == ["champion", "other"]
    assert world.ledger.assets.get("model:al@champion").version == 2
    client.delete_registered_model_alias("al", "other")
    client.delete_registered_model_alias("al", "never_was")
    client.delete_model_version("al", "2")
    with pytest.raises(MlflowException, match="alias champion not found"):
        client.get_model_version_by_alias("al", "champion")
    for bad in ("latest", "Latest", "v1", "a b", "", "x" * 256, "7"):
        with pytest.raises(MlflowException, match=r"alias|Missing"):
            client.set_registered_model_alias("al", bad, "1")


def test_a_gate_blocks_mlflow_too(world):
    client, aliases = world.client, world.ledger.aliases
    client.create_registered_model("gated")
    for i in range(2):
        client.create_model_version("gated", f"s3://b/{i}")
    aliases.guard("model", "gated", "prod", {"quality": "d1"}, actor="test")
    aliases.guard("model", "gated", "production", {"quality": "d1"}, actor="test")
    for attempt in (
        lambda: client.set_registered_model_alias("gated", "prod", "1"),
        lambda: client.transition_model_version_stage("gated", "1", "Production"),
        lambda: client.delete_registered_model_alias("gated", "prod"),
        lambda: client.rename_registered_model("gated", "free"),
        lambda: client.delete_registered_model("gated"),
    ):
        with pytest.raises(MlflowException, match=r"gate") as refused:
            attempt()
        assert refused.value.error_code == "RESOURCE_CONFLICT" and refused.value.get_http_status_code() == 409
    assert client.get_registered_model("gated").aliases == {}
    one = world.ledger.assets.get("model:gated@1")
    aliases.judge("quality", "d1", [one], True, [], actor="test")
    client.set_registered_model_alias("gated", "prod", "1")
    client.transition_model_version_stage("gated", "1", "Production")
    with pytest.raises(MlflowException, match="gate"):  # the verdict was on other bytes
        client.set_registered_model_alias("gated", "prod", "2")
    with pytest.raises(MlflowException, match="gate"):
        client.delete_model_version("gated", "1")
    assert client.get_model_version_by_alias("gated", "prod").version == "1"


def test_a_dataset_of_ours_is_recognised(world):
    ours = world.ledger.assets.put("dataset", "support", "cd" * 32, uri="lance/support.lance?version=1")
    run = world.run()

    def read(name, value):
        data = {"dataset": {"name": name, "digest": value, "source_type": "local", "source": "x"}}
        return world.post("runs/log-inputs", {"run_id": run, "datasets": [data]})

    assert read("support", "cd" * 18) == read("support", "cd" * 32) == (200, {})
    assert [a.ref for _, a in world.ledger.assets.of_run(run)] == [ours.ref]
    assert read("support", "another") == (200, {})  # shares only its name: it must not become the next version of ours
    assert world.ledger.assets.get("dataset:support@latest").id == ours.id
    for bad in (("", "d"), ("n", ""), ("n" * 501, "d"), ("n", "d" * 37)):
        assert read(*bad)[0] == 400
