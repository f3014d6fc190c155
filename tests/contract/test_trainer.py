"""What every trainer must do. A new plugin of the port is covered by itself."""

import json

import lance
import msgspec
import pyarrow as pa
import pytest

from longrein.core import plugins
from longrein.core.step import Context, Input, Job
from longrein.core.training import Prediction, Recipe

ROWS = [
    {"input": f"{'你好' if i % 2 else 'goodbye'} {i}", "output": "hello" if i % 2 else "bye", "split": "train"}
    for i in range(60)
]


@pytest.fixture(scope="module", params=plugins.names("trainer"))
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Context]:
    """(plugin's name, the context after it trained)."""
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "store/lance").mkdir(parents=True)
    rows = [row | {"split": "validation" if i % 10 == 0 else "train"} for i, row in enumerate(ROWS)]
    lance.write_dataset(pa.Table.from_pylist(rows), str(folder / "store/lance/d.lance"), enable_stable_row_ids=True)
    dataset = Input("dataset:d@1", "d" * 64, "lance/d.lance?version=1")
    recipe = Recipe(size="nano", vocabulary=300, epochs=12, learning_rate=0.03, batch_tokens=256)
    job = Job("", "greeter", msgspec.to_builtins(recipe), {"dataset": dataset}, str(folder / "store"), str(folder))
    context = Context(job, folder / "work")
    plugins.load("trainer", request.param).train(context, recipe)
    return request.param, context


def test_it_puts_one_hugging_face_folder(made: tuple[str, Context]) -> None:
    _, context = made
    (output,) = context.outputs
    assert (output.kind, output.name) == ("model", "greeter")
    folder = context.store.verify(output.uri, output.digest)
    names = {p.name for p in folder.iterdir()}
    assert {"config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json", "README.md"} <= names
    assert list(folder.glob("*.safetensors")) and not list(folder.glob("*.bin"))
    assert {"parameters", "architecture", "train_loss", "validation_loss", "dataset"} <= set(output.meta)
    json.dumps(output.meta, allow_nan=False)


def test_it_tells_how_it_goes(made: tuple[str, Context]) -> None:
    _, context = made
    lines = (context.scratch / "events.jsonl").read_text("utf-8").splitlines()
    events = [json.loads(line) for line in lines if line]
    assert {"progress", "metrics", "params"} <= {e["type"] for e in events}
    last = [e for e in events if e["type"] == "progress"][-1]
    assert last["done"] == last["total"] > 0


def test_its_model_answers_in_order(made: tuple[str, Context]) -> None:
    name, context = made
    folder = context.store.path(context.outputs[0].uri)
    rows = [ROWS[i] | {"input": ROWS[i]["input"] + "!" * (i % 5)} for i in (1, 2, 3, 10, 12, 13)]
    said = list(plugins.load("trainer", name).predict(folder, rows, {"threads": 1}))
    assert all(isinstance(p, Prediction) for p in said)
    assert [p.answer for p in said] == [row["output"] for row in rows]
    assert all(0 < p.confidence <= 1 and p.target_logprob <= 0 < p.target_tokens for p in said)


def test_it_answers_nothing_to_nobody(made: tuple[str, Context]) -> None:
    name, context = made
    folder = context.store.path(context.outputs[0].uri)
    assert list(plugins.load("trainer", name).predict(folder, [], {})) == []
