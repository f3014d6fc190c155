"""Training: a standard folder comes out, it learns, and a killed run goes on to the very same model."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import small
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from longrein.core import plugins
from longrein.core.errors import Error
from longrein.core.step import Context, Input, Output
from longrein.models import train

STARTED_OVER = -1  # what a context says where nothing could be gone on with
LAST_STEP = 10  # of a killed run, in its second epoch
KILLED = """
import os, signal, sys
from pathlib import Path
from longrein.core.step import Context, Job
from longrein.models import train

class Deadly(Context):
    def metrics(self, values, step=0):
        super().metrics(values, step)
        if step == int(sys.argv[2]) and "loss" in values:
            os.kill(os.getpid(), signal.SIGKILL)

scratch = Path(sys.argv[1])
train.run(Deadly(Job.read(scratch), scratch))
"""


def fit(folder: Path, dataset: Input, scratch: str = "work", **config: Any) -> tuple[Context, Output]:
    context = small.context(folder, small.QUICK | config, scratch, dataset=dataset)
    train.run(context)
    return context, context.outputs[0]


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("project")


@pytest.fixture(scope="session")
def dataset(project: Path) -> Input:
    return small.write(project, small.requests())


@pytest.fixture(scope="session")
def trained(project: Path, dataset: Input) -> tuple[Context, Output]:
    return fit(project, dataset, "reference", checkpoint_s=3600)


def folder_of(project: Path, output: Output) -> Path:
    return project / "store" / output.uri


def test_the_result_is_a_standard_folder(project: Path, trained: tuple[Context, Output]) -> None:
    context, output = trained
    folder = folder_of(project, output)
    assert {p.name for p in folder.iterdir()} == {
        "README.md",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": "我要退款"}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    said = model.generate(**asked, max_new_tokens=8)[0, asked["input_ids"].shape[1] :]
    assert said[-1] == tokenizer.eos_token_id  # it learnt to end
    assert tokenizer.decode(said, skip_special_tokens=True) == "refund"
    assert json.loads((folder / "tokenizer_config.json").read_text())["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert output.meta["dataset"]["ref"] == context.inputs["dataset"].ref
    assert output.meta["parameters"] == sum(p.numel() for p in model.parameters())
    assert output.meta["vocabulary"] == len(tokenizer) == model.config.vocab_size
    assert "support" in (folder / "README.md").read_text()


def test_it_learns_and_says_so(trained: tuple[Context, Output]) -> None:
    context, output = trained
    losses = [v["loss"] for _, v in small.curve(context.scratch) if "loss" in v]
    assert len(losses) == output.meta["steps"]
    assert losses[-1] < 0.2 * losses[0]
    assert output.meta["validation_loss"] < 0.5
    last = small.events(context.scratch, "progress")[-1]
    assert (last["done"], last["total"]) == (output.meta["steps"], output.meta["steps"])
    assert {"loss", "tokens_s", "left_s"} <= set(last["fields"])
    assert small.events(context.scratch, "params")[0]["values"]["size"] == "nano"


def test_the_seed_decides_everything(project: Path, dataset: Input, trained: tuple[Context, Output]) -> None:
    _, again = fit(project, dataset, "again")
    _, other = fit(project, dataset, "seed", seed=1)
    assert again.digest == trained[1].digest != other.digest


@pytest.fixture(scope="session")
def killed(project: Path, dataset: Input, trained: tuple[Context, Output]) -> Path:
    """The scratch folder of a run that a real SIGKILL ended in its second epoch."""
    scratch = project / "killed"
    small.job(project, small.QUICK | {"checkpoint_s": 0}, dataset=dataset).write(scratch)
    child = subprocess.run([sys.executable, "-c", KILLED, str(scratch), str(LAST_STEP)], capture_output=True)
    assert child.returncode == -9, child.stderr.decode()
    return scratch


@pytest.mark.parametrize(
    ("damaged", "went_on"),
    [(0, [LAST_STEP - 1]), (1, [LAST_STEP - 2]), (2, [STARTED_OVER])],
    ids=["none", "newest", "all"],
)
def test_killed_it_goes_on_to_the_same_model(
    project: Path, dataset: Input, trained: tuple[Context, Output], killed: Path, damaged: int, went_on: list[int]
) -> None:
    """The loss curve and the model are those of the uninterrupted run, bit for bit."""
    reference, output = trained
    scratch = Path(shutil.copytree(killed, project / f"killed-{damaged}"))
    checkpoints = sorted((scratch / "checkpoints").iterdir(), reverse=True)
    assert len(checkpoints) == 2
    for file in checkpoints[:damaged]:
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
    _, resumed = fit(project, dataset, scratch.name, checkpoint_s=0)
    assert resumed.digest == output.digest
    assert [e["step"] for e in small.events(scratch, "resumed")] == went_on
    assert " ".join(e["text"] for e in small.events(scratch, "note")).count("is damaged") == damaged
    assert small.curve(scratch) == small.curve(reference.scratch)


def test_checkpoints_of_another_config_are_not_gone_on_with(project: Path, dataset: Input, killed: Path) -> None:
    scratch = Path(shutil.copytree(killed, project / "killed-other"))
    _, output = fit(project, dataset, scratch.name, seed=1)
    assert output.digest == fit(project, dataset, "other", seed=1)[1].digest
    assert [e["step"] for e in small.events(scratch, "resumed")] == [STARTED_OVER]


def test_accumulated_gradients_train_as_one_large_batch(
    project: Path, dataset: Input, trained: tuple[Context, Output]
) -> None:
    parts, large = {"accumulate": 4, "batch_tokens": small.QUICK["batch_tokens"] // 4}, small.curve(trained[0].scratch)
    context, output = fit(project, dataset, "accumulated", **parts)
    curve = small.curve(context.scratch)
    assert [step for step, _ in curve] == [step for step, _ in large]
    for (_, ours), (_, theirs) in zip(curve, large, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-4)
    assert output.meta["tokens"] == trained[1].meta["tokens"]


class Cut(Context):
    """A run that ends in the middle of its second epoch, as by Ctrl-C."""

    def metrics(self, values: dict[str, float], step: int = 0) -> None:
        super().metrics(values, step)
        if step == 7 and "loss" in values:
            raise KeyboardInterrupt


def test_packed_and_accumulated_it_goes_on_to_the_same_model(project: Path, dataset: Input) -> None:
    config = {"packing": True, "accumulate": 3, "batch_tokens": 256, "max_length": 128, "checkpoint_s": 0}
    context, whole = fit(project, dataset, "packed", **config)
    job = small.job(project, small.QUICK | config, dataset=dataset)
    with pytest.raises(KeyboardInterrupt):
        train.run(Cut(job, project / "packed-cut"))
    resumed, output = fit(project, dataset, "packed-cut", **config)
    assert [e["step"] for e in small.events(resumed.scratch, "resumed")] == [6]
    assert output.digest == whole.digest and small.curve(resumed.scratch) == small.curve(context.scratch)
    assert whole.meta["validation_loss"] < 2 and whole.meta["tokens"] > 0


def test_the_best_epoch_is_kept_and_patience_ends_it(project: Path, dataset: Input) -> None:
    context, output = fit(project, dataset, "patience", epochs=12, patience=2, learning_rate=0.2)
    losses = [v["validation_loss"] for _, v in small.curve(context.scratch) if "validation_loss" in v]
    assert len(losses) < 12 and min(losses) == output.meta["validation_loss"]
    assert losses.index(min(losses)) + 1 == output.meta["best_epoch"] == len(losses) - 2
    rows = [r for r in small.requests() if r["split"] == "validation"]
    said = list(plugins.load("trainer", "torch").predict(folder_of(project, output), rows, {}))
    loss = -sum(p.target_logprob for p in said) / sum(p.target_tokens for p in said)
    assert loss == pytest.approx(output.meta["validation_loss"], rel=1e-4)


@pytest.mark.parametrize("config", [{"architecture": "qwen3"}, {"optimizer": "adamw", "learning_rate": 0.01}])
def test_other_architectures_and_optimizers(project: Path, dataset: Input, config: dict[str, Any]) -> None:
    _, output = fit(project, dataset, "variant-" + "-".join(config), **config)
    model = AutoModelForCausalLM.from_pretrained(folder_of(project, output))
    assert model.config.model_type == config.get("architecture", "llama")
    assert output.meta["validation_loss"] < 0.8  # 5.8 at the start


def test_a_base_is_adapted_by_lora_and_merged(project: Path, dataset: Input, trained: tuple[Context, Output]) -> None:
    pytest.importorskip("peft")
    base = folder_of(project, trained[1])
    _, output = fit(project, dataset, "lora", base=str(base), method="lora", epochs=1, options={"lora_rank": 4})
    folder = folder_of(project, output)
    assert output.meta["trained_parameters"] < output.meta["parameters"] / 4
    merged, old = AutoModelForCausalLM.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(base)
    from peft import PeftModel

    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder / "adapter")
    tokens = torch.tensor([[5, 9, 17, 33]])
    with torch.no_grad():
        torch.testing.assert_close(merged(tokens).logits, adapted(tokens).logits, rtol=1e-4, atol=1e-4)
        assert (merged(tokens).logits - old(tokens).logits).abs().max() > 1e-3
    torch.testing.assert_close(merged.get_input_embeddings().weight, old.get_input_embeddings().weight)
    assert (folder / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()


def test_a_base_is_trained_whole(project: Path, dataset: Input, trained: tuple[Context, Output]) -> None:
    base = folder_of(project, trained[1])
    context, output = fit(project, dataset, "full", base=str(base), epochs=1)
    first = next(v["loss"] for _, v in small.curve(context.scratch))
    assert first < 0.5  # it starts where the base had got to
    assert output.meta["architecture"] == "LlamaForCausalLM"


def test_conversations_are_learnt_turn_by_turn(tmp_path: Path) -> None:
    talk = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "hi"},
        {"role": "user", "content": "再见"},
        {"role": "assistant", "content": "bye"},
    ]
    rows = [{"messages": talk, "split": "train"}] * 8 + [{"messages": talk, "split": "validation"}]
    _, output = fit(tmp_path, small.write(tmp_path, rows), epochs=30)
    said = next(plugins.load("trainer", "torch").predict(folder_of(tmp_path, output), [{"messages": talk}], {}))
    assert said.answer == "bye" and said.confidence > 0.9


def test_a_prompt_stands_before_every_row(tmp_path: Path) -> None:
    dataset = small.write(tmp_path, small.requests(60))
    (tmp_path / "store" / "prompt.json").write_text(json.dumps({"system": "answer with one word"}))
    prompt = Input("prompt:support@1", "e" * 64, "prompt.json")
    context = small.context(tmp_path, small.QUICK | {"max_steps": 2}, dataset=dataset, prompt=prompt)
    train.run(context)
    plain = small.context(tmp_path, small.QUICK | {"max_steps": 2}, "plain", dataset=dataset)
    train.run(plain)
    assert context.outputs[0].meta["system"] and not plain.outputs[0].meta["system"]
    assert context.outputs[0].meta["tokens"] > plain.outputs[0].meta["tokens"]


def test_without_validation_rows_the_last_epoch_is_kept(tmp_path: Path) -> None:
    rows = [r | {"split": "train"} for r in small.requests(40)]
    context, output = fit(tmp_path, small.write(tmp_path, rows), epochs=2)
    assert output.meta["validation_loss"] is None and output.meta["best_epoch"] == 2
    assert any("no validation row" in e["text"] for e in small.events(context.scratch, "note"))


SCHEMA = pa.schema([(name, pa.string()) for name in ("input", "output", "split")])


@pytest.mark.parametrize(
    ("rows", "config", "message"),
    [
        ([], {}, "has no rows"),
        ([{"input": "a", "output": "b", "split": "test"}] * 9, {}, "no row to train on"),
        ([{"input": "a", "output": "b", "split": "train"}], {}, "one row only"),
        ([{"input": "a", "output": None, "split": "train"}] * 9, {}, "no row to train on"),
        (
            [{"input": " ".join(map(str, range(999))), "output": "b", "split": "train"}] * 9,
            {"max_length": 16},
            "9 longer than max_length",
        ),
        ([{"text": "a", "split": "train"}] * 9, {}, "no column 'input' and no column 'output'"),
        ([{"input": "a", "output": "b", "split": "train"}] * 9, {"method": "lora"}, "lora needs a base"),
        ([{"input": "a", "output": "b", "split": "train"}] * 9, {"options": {"rank": 1}}, "unknown field `rank`"),
        ([{"input": "a", "output": "b", "split": "train"}] * 9, {"epochs": 0}, "epochs"),
        ([{"input": "a", "output": "b", "split": "train"}] * 9, {"base": "nowhere"}, "no model folder"),
    ],
)
def test_bad_input_gets_one_sentence_and_a_hint(
    tmp_path: Path, rows: list[dict[str, Any]], config: dict[str, Any], message: str
) -> None:
    dataset = small.write(tmp_path, rows, SCHEMA if (rows and "text" not in rows[0]) or not rows else None)
    with pytest.raises(Error, match=message) as caught:
        fit(tmp_path, dataset, **config)
    assert caught.value.hint and "\n" not in caught.value.message


def test_a_diverging_run_says_so(tmp_path: Path) -> None:
    dataset = small.write(tmp_path, small.requests(60))
    with pytest.raises(Error, match="the loss became") as caught:
        fit(tmp_path, dataset, learning_rate=1e30, optimizer="adamw")
    assert "learning_rate" in caught.value.hint


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("needs the right to mount a small file system")
    try:
        dataset = small.write(tmp_path, small.requests(60))
        context = Context(small.job(tmp_path, small.QUICK | {"checkpoint_s": 0}, dataset=dataset), disk / "work")
        with pytest.raises(OSError, match="No space left") as caught:
            train.run(context)
        assert caught.value.errno == 28
        assert not list(disk.rglob("*.tmp")) and not context.outputs
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
