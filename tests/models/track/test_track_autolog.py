"""Training code written for MLflow, unchanged: transformers' Trainer and scikit-learn under autolog."""

import os
import warnings

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture
def world(fresh):
    return fresh


@pytest.fixture
def tiny():
    """A random Llama of a few thousand weights, and eight rows to train it on."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=64, max_position_embeddings=32, **shape))
    ids = torch.randint(0, 64, (8, 12))
    return model, [{"input_ids": row, "labels": row} for row in ids]


def test_transformers_autolog(world, mlflow, tiny, tmp_path):
    from transformers import Trainer, TrainingArguments

    model, rows = tiny
    mlflow.set_experiment("trainer")
    mlflow.transformers.autolog(log_models=False)
    try:
        arguments = TrainingArguments(
            str(tmp_path), max_steps=3, logging_steps=1, per_device_train_batch_size=2, report_to="mlflow",
            run_name="tiny llama", use_cpu=True, save_strategy="no", disable_tqdm=True,
        )  # fmt: skip
        Trainer(model, arguments, train_dataset=rows).train()
    finally:
        mlflow.end_run()
        mlflow.transformers.autolog(disable=True)
    (run,) = mlflow.search_runs(search_all_experiments=True, output_format="list")
    assert (run.info.run_name, run.info.status) == ("tiny llama", "FINISHED")
    history = world.client.get_metric_history(run.info.run_id, "loss")
    assert [p.step for p in history] == [1, 2, 3] and all(p.value > 0 for p in history)
    params = world.ledger.runs.params(run.info.run_id)
    assert params["max_steps"] == "3" and params["hidden_size"] == "16"


def test_a_transformers_model_logged_is_the_same_model_loaded(world, mlflow, tiny, tmp_path):
    import torch
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    model, rows = tiny
    vocabulary = {f"t{i}": i for i in range(64)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="t0"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="t0", pad_token="t1")
    with mlflow.start_run() as run:
        info = mlflow.transformers.log_model(
            {"model": model, "tokenizer": tokenizer}, "llama", task="text-generation", pip_requirements=["transformers"]
        )
    back = mlflow.transformers.load_model(info.model_uri, return_type="components")["model"]
    batch = rows[0]["input_ids"][None]
    assert torch.equal(back(batch).logits, model.eval()(batch).logits)
    asset = world.ledger.assets.get(f"model:{info.model_id}")
    assert asset.run_id == run.info.run_id and (world.store.path(asset.uri) / "MLmodel").is_file()


def test_sklearn_autolog(world, mlflow):
    import numpy as np
    from sklearn.linear_model import LogisticRegression

    mlflow.sklearn.autolog(log_datasets=True, log_models=False, silent=True)
    try:
        with mlflow.start_run() as run, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            LogisticRegression(C=0.5).fit(np.array([[0.0], [1.0], [2.0], [3.0]]), np.array([0, 0, 1, 1]))
    finally:
        mlflow.sklearn.autolog(disable=True)
    found = world.client.get_run(run.info.run_id)
    assert found.data.params["C"] == "0.5" and found.data.metrics["training_score"] == 1.0
    assert [i.dataset.name for i in found.inputs.dataset_inputs] == ["dataset"]
    assert [a.kind for _, a in world.ledger.assets.of_run(run.info.run_id)] == ["dataset"]
