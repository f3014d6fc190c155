"""The result: a standard Hugging Face folder that transformers and vLLM load unchanged."""

import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from longrein.core import digest
from longrein.core.errors import Error
from longrein.core.step import Context, Output

CARD = """---
library_name: transformers
pipeline_tag: text-generation
tags: [longrein]
---
# {name}

{architecture}, {parameters:,} parameters, vocabulary {vocabulary:,}. Trained by Longrein on `{dataset}`: {rows:,} rows,
{tokens:,} tokens, {steps:,} steps, {epochs} epochs; the weights are those of epoch {best_epoch}.

| loss on a token | value |
|---|---|
| train, last epoch | {train_loss:.4f} |
| validation, answer only, kept epoch | {validation} |

Trained on `digest:{digest}`. What it was trained for is in that dataset; nothing beyond it has been tested.

```python
from transformers import pipeline

ask = pipeline("text-generation", "PATH/OF/THIS/FOLDER")
ask([{{"role": "user", "content": "…"}}], return_full_text=False)
```
"""


def export(
    context: Context, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, meta: dict[str, Any], system: str
) -> Output:
    """Write the folder and put it into the store, its own digests added to `meta`."""
    folder = context.scratch / "model"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        _save(folder, model, tokenizer)
    except SafetensorError as error:
        shutil.rmtree(folder, ignore_errors=True)
        if "os error 28" in str(error):
            raise Error("no_space", "the disk is full", "free some space and run it again: it resumes") from error
        raise
    tokenizer_files = {p.name: digest.of_file(p) for p in sorted(folder.glob("*token*"))}
    meta |= {
        "tokenizer": digest.of_json(tokenizer_files),
        "chat_template": digest.of_json(tokenizer.chat_template),
        "system": digest.of_json(system) if system else None,
        "max_length": model.config.max_position_embeddings,
    }
    (folder / "README.md").write_text(_card(context.name, meta), "utf-8")
    return context.put("model", context.name, folder, meta)


def _save(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    if hasattr(model, "merge_and_unload"):  # LoRA: the adapter is kept beside the merged weights
        model.save_pretrained(folder / "adapter")
        (folder / "adapter" / "README.md").unlink(missing_ok=True)
        model = model.merge_and_unload()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    settings = folder / "tokenizer_config.json"
    text = settings.read_text("utf-8")  # the name that transformers 4, and servers built on it, know it by
    settings.write_text(text.replace('"TokenizersBackend"', '"PreTrainedTokenizerFast"'), "utf-8")


def _card(name: str, meta: dict[str, Any]) -> str:
    loss = meta["validation_loss"]
    return CARD.format(
        name=name,
        validation="–" if loss is None else f"{loss:.4f}",
        **{k: v for k, v in meta.items() if k != "dataset"},
        dataset=meta["dataset"]["ref"],
        digest=meta["dataset"]["digest"],
    )
