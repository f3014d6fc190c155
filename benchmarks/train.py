"""The training loop against TRL's SFTTrainer: CPU time per token, same model, rows, optimizer and threads, in one run.

    pip install trl==1.16.0 -c constraints.txt
    python benchmarks/train.py [--size tiny] [--threads 1] [--json result.json]

A Llama from scratch (tiny: 0.7 M parameters) learns to answer generated requests, loss on the answers only, fp32, fused
AdamW, two epochs; `packed` is ours with `packing: true`. Each side runs in a process of its own, in turn, and the best
of three rounds counts. TRL is measured as it comes and as fast as its settings make it (rows of like length together,
hardly any logging). Padding does no work anyone wants, so the tokens counted are those of the rows, the same for all.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROWS, EPOCHS, BATCH_TOKENS, LEARNING_RATE, ROUNDS = 4000, 2, 1024, 3e-3, 3
SIDES = ("longrein", "packed", "trl", "trl, tuned")
VERBS = ("change", "cancel", "track", "refund", "explain", "move", "check", "renew", "open", "close", "find", "pay")
NOUNS = ("order", "invoice", "parcel", "card", "password", "account", "booking", "alarm", "flight", "contract")
EXTRAS = ("please", "for me", "as soon as possible", "before noon on Monday", "if you can", "because I lost it")


def rows() -> list[dict[str, str]]:
    draw = random.Random(0)
    made = []
    for _ in range(ROWS):
        verb, noun = draw.choice(VERBS), draw.choice(NOUNS)
        extras = " ".join(draw.choice(EXTRAS) for _ in range(draw.randrange(4)))
        made.append(
            {"input": f"I want to {verb} my {noun} {extras} {draw.randrange(1000)}", "output": f"{verb} {noun}"}
        )
    return made


def prepared(size: str, packing: bool = False) -> tuple[Any, Any, Any, Any]:
    """(recipe, tokenizer, tokenised rows, model), the same on every side."""
    from longrein.core.training import Recipe
    from longrein.plugins.trainer._torch.model import SIZES, from_scratch
    from longrein.plugins.trainer._torch.rows import encode
    from longrein.plugins.trainer._torch.text import train_tokenizer

    recipe = Recipe(
        size=size,  # type: ignore[arg-type]
        epochs=EPOCHS,
        batch_tokens=BATCH_TOKENS,
        packing=packing,
        optimizer="adamw",
        learning_rate=LEARNING_RATE,
        checkpoint_s=3600,
    )
    texts = (text for row in rows() for text in row.values())
    tokenizer = train_tokenizer(texts, SIZES[size].vocabulary, recipe.max_length)
    return recipe, tokenizer, encode(rows(), tokenizer, "", recipe.max_length), from_scratch(recipe, tokenizer)


def train_longrein(size: str, folder: Path, packing: bool) -> dict[str, float]:
    import torch

    from longrein.core.step import Context, Job
    from longrein.plugins.trainer._torch.checkpoint import Checkpoints
    from longrein.plugins.trainer._torch.loop import Loop
    from longrein.plugins.trainer._torch.optimizer import optimizers_for
    from longrein.plugins.trainer._torch.rows import encode

    recipe, tokenizer, data, model = prepared(size, packing)
    context = Context(Job("", "benchmark", {}, {}, str(folder), str(folder)), folder / "work")
    off = torch.autocast("cpu", enabled=False)
    loop = Loop(
        model,
        optimizers_for(model, "adamw", LEARNING_RATE, 0.0),
        (data, encode([], tokenizer, "", recipe.max_length)),
        recipe,
        context,
        Checkpoints(folder / "checkpoints", ""),
        off,
        pad=tokenizer.pad_token_id,
        clip=1.0,
    )
    cpu, wall = time.process_time(), time.perf_counter()
    state = loop.run()
    lines = (folder / "work" / "events.jsonl").read_text("utf-8").splitlines()
    logged = [json.loads(line).get("values", {}) for line in lines if line]
    losses = [values["loss"] for values in logged if "loss" in values]
    return measured(cpu, wall, state.tokens, state.step, sum(losses) / len(losses))


def train_trl(size: str, folder: Path, tuned: bool) -> dict[str, float]:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    _, tokenizer, data, model = prepared(size)
    dataset = Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": row["input"]}],
                "completion": [{"role": "assistant", "content": row["output"]}],
            }
            for row in rows()
        ]
    )
    per_step = round(BATCH_TOKENS / data.lengths.mean())
    quick = {"train_sampling_strategy": "group_by_length", "logging_strategy": "no"} if tuned else {}
    settings = SFTConfig(
        output_dir=str(folder),
        num_train_epochs=EPOCHS,
        per_device_train_batch_size=per_step,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="cosine",
        warmup_steps=0.05,
        optim="adamw_torch_fused",
        completion_only_loss=True,
        max_length=512,
        bf16=False,
        use_cpu=True,
        gradient_checkpointing=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **quick,
    )
    trainer = SFTTrainer(model=model, args=settings, train_dataset=dataset, processing_class=tokenizer)
    cpu, wall = time.process_time(), time.perf_counter()
    result = trainer.train()
    return measured(cpu, wall, len(data.tokens) * EPOCHS, result.global_step, result.training_loss)


def measured(cpu: float, wall: float, tokens: int, steps: int, loss: float) -> dict[str, float]:
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return {
        "us_token": cpu / tokens * 1e6,
        "wall_s": wall,
        "cpu_s": cpu,
        "steps": steps,
        "tokens": tokens,
        "loss": loss,
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--size", default="tiny")
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--json", type=Path)
    options.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.side:
        import torch

        torch.set_num_threads(given.threads)
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            if given.side.startswith("trl"):
                run = train_trl(given.size, place, given.side == "trl, tuned")
            else:
                run = train_longrein(given.size, place, given.side == "packed")
            print(json.dumps(run))
        return
    env = os.environ | {"OMP_NUM_THREADS": str(given.threads), "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    env["PYTHONPATH"] = str(Path(__file__).parent.parent)
    best: dict[str, dict[str, float]] = {}
    for _ in range(ROUNDS):
        for side in SIDES:
            command = [sys.executable, __file__, "--side", side, "--size", given.size, "--threads", str(given.threads)]
            out = subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True).stdout
            run = json.loads(out.splitlines()[-1])
            best[side] = min(best.get(side, run), run, key=lambda r: r["us_token"])
    print(f"{'':12}{'CPU µs/token':>14}{'CPU s':>8}{'wall s':>8}{'steps':>7}{'tokens':>9}{'loss':>8}{'ratio':>7}")
    for side, run in best.items():
        ratio = run["us_token"] / best["longrein"]["us_token"]
        print(
            f"{side:12}{run['us_token']:14.1f}{run['cpu_s']:8.1f}{run['wall_s']:8.1f}{run['steps']:7.0f}"
            f"{run['tokens']:9.0f}{run['loss']:8.3f}{ratio:7.2f}"
        )
    if given.json:
        given.json.write_text(json.dumps({"size": given.size, "threads": given.threads, "best": best}, indent=1) + "\n")


if __name__ == "__main__":
    main()
