"""The whole cleaning pipeline against data-juicer's nearest recipe: same documents, same number of processes, one run.

    python benchmarks/pipeline.py --peers DIR [--zh DIR] [--docs 60000] [--processes 2] [--again]

DIR/data-juicer/bin/python is a virtual environment with py-data-juicer and ftfy, which it would install by itself at
run time. Documents are those of benchmarks/dedup.py: pieces of this machine's documentation and docstrings, Chinese
manuals below --zh, the comments of ../shared/data/cold; to one in ten an exact copy is added, to one in ten an edited
one. Both read the same JSON Lines and leave cleaned rows on disk; time is from the start of the process to its end.

Both: Unicode and white space made uniform, length, share of letters, repetition, e-mail and IP addresses masked, exact
and near-duplicates. Ours besides: the language of each row by a model, quality rules of Gopher, FineWeb and their like
for Chinese, phone numbers, IDs and cards, who duplicates whom, every rejected row with its reason, splits, a versioned
table. data-juicer's language filter would download a model and is left out. --again: ours once more, after one more
file; only that is read.
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from dedup import chinese, edited, english

# Of our rules those that data-juicer's filters have too, or that these documents, lists and manuals among them, pass.
OPEN = ("stop_words", "word_length", "alphabetic", "ended_lines", "short_lines", "line_breaks", "han", "punctuation")
LIMITS = {"words": [10, None], "line_length": [5, None], "repeated_characters": [None, 0.5], **dict.fromkeys(OPEN)}
OURS = [
    "normalize", "language", {"length": {"min": 50, "max": 200_000}}, "noise",
    {"quality": {"limits": LIMITS}}, "pii", "dedup", "near_dedup",
]  # fmt: skip
THEIRS = [
    {"fix_unicode_mapper": {"normalization": "NFC"}},
    {"whitespace_normalization_mapper": {}},
    {"text_length_filter": {"min_len": 50, "max_len": 200_000}},
    {"alphanumeric_filter": {"tokenization": False, "min_ratio": 0.2}},
    {"character_repetition_filter": {"rep_len": 10, "min_ratio": 0.0, "max_ratio": 0.5}},
    {"average_line_length_filter": {"min_len": 5}},
    {"maximum_line_length_filter": {"min_len": 10}},
    {"special_characters_filter": {"min_ratio": 0.0, "max_ratio": 0.6}},
    {"words_num_filter": {"tokenization": False, "min_num": 10}},
    {"word_repetition_filter": {"tokenization": False, "rep_len": 10, "max_ratio": 0.5}},
    {"clean_email_mapper": {"repl": "[EMAIL]"}},
    {"clean_ip_mapper": {"repl": "[IP]"}},
    {"document_deduplicator": {"lowercase": True}},
    {
        "document_minhash_deduplicator": {
            "tokenization": "space", "window_size": 5, "num_permutations": 112, "num_bands": 14,
            "num_rows_per_band": 8, "jaccard_threshold": 0.7,
        }
    },
]  # fmt: skip

# It wants torch only to ask for a GPU and to free its memory; this spares it the import.
TORCH = """
class Tensor: ...
class Generator: ...
class nn:
    class Module: ...
class cuda:
    is_available = staticmethod(lambda: False)
    device_count = staticmethod(lambda: 0)
    empty_cache = staticmethod(lambda: None)
"""


def documents(many: int, zh: Path | None) -> list[str]:
    draw = random.Random(1)
    texts = [*english(), *chinese(zh)]
    draw.shuffle(texts)
    texts = texts[: round(many / 1.2)]
    tenth = len(texts) // 10
    texts += [*draw.sample(texts, tenth), *(edited(t, draw) for t in draw.sample(texts, tenth))]
    draw.shuffle(texts)
    return texts


def write(texts: list[str], path: Path) -> int:
    lines = [json.dumps({"text": t}, ensure_ascii=False) for t in texts]
    return path.write_bytes("\n".join(lines).encode("utf-8", "replace") + b"\n")


def timed(command: list[Any], folder: Path, env: dict[str, str]) -> tuple[float, float]:
    """Wall and CPU seconds of a process and its children."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=os.environ | env, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter() - began, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def ours(folder: Path, processes: int) -> tuple[float, float, dict[str, Any]]:
    from longrein.core.step import Job

    config = {"sources": ["data/*.jsonl"], "input": "text", "transforms": OURS}
    scratch = folder / ".longrein/work/docs"
    Job("longrein.data.ingest:run", "docs", config, {}, str(folder / ".longrein/store"), str(folder), processes).write(
        scratch
    )
    taken = timed([sys.executable, "-m", "longrein.core.worker", scratch], folder, {"OMP_NUM_THREADS": "1"})
    return *taken, json.loads((scratch / "result.json").read_text())["outputs"][0]["meta"]


def theirs(folder: Path, processes: int, python: Path) -> tuple[float, float, int]:
    recipe = {
        "project_name": "docs", "dataset_path": str(folder / "data/docs.jsonl"), "np": processes,
        "export_path": str(folder / "out/docs.jsonl"), "use_cache": False, "ds_cache_dir": str(folder / "cache"),
        "work_dir": str(folder / "out"), "process": THEIRS,
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    (folder / "stub").mkdir()
    (folder / "stub/torch.py").write_text(TORCH)
    env = {"PIP_NO_INDEX": "1", "UV_OFFLINE": "1", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    env["PYTHONPATH"] = str(folder / "stub")
    taken = timed([python.parent / "dj-process", "--config", "recipe.yaml"], folder, env)
    with (folder / "out/docs.jsonl").open("rb") as made:
        return *taken, sum(1 for _ in made)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--peers", type=Path)
    parser.add_argument("--zh", type=Path)
    parser.add_argument("--docs", type=int, default=60_000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--again", action="store_true")
    asked = parser.parse_args()
    texts = documents(asked.docs, asked.zh)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "data").mkdir()
        size = write(texts, folder / "data/docs.jsonl")
        print(f"{len(texts):,} documents, {size / 1e6:.0f} MB, {asked.processes} processes\n")
        print("| | seconds | CPU seconds | documents/s | rows kept |\n|---|---|---|---|---|")
        wall, cpu, meta = ours(folder, asked.processes)
        print(f"| longrein | {wall:.1f} | {cpu:.1f} | {len(texts) / wall:,.0f} | {meta['rows']:,} |", flush=True)
        if asked.again:
            write(texts[:100], folder / "data/more.jsonl")
            wall_2, cpu_2, meta_2 = ours(folder, asked.processes)
            print(f"| longrein, 100 documents more | {wall_2:.1f} | {cpu_2:.1f} | – | {meta_2['rows']:,} |", flush=True)
            (folder / "data/more.jsonl").unlink()
        python = asked.peers / "data-juicer/bin/python" if asked.peers else None
        if python and python.exists():
            wall_3, cpu_3, kept = theirs(folder, asked.processes, python)
            print(f"| data-juicer | {wall_3:.1f} | {cpu_3:.1f} | {len(texts) / wall_3:,.0f} | {kept:,} |")
            print(f"\nratio of seconds: {wall_3 / wall:.1f}, of CPU seconds: {cpu_3 / cpu:.1f}")
        print(f"\ndropped: {meta['dropped']}\n\n| step | rows in | out | CPU seconds | MB/s |\n|---|---|---|---|---|")
        for step in meta["steps"]:
            told = (step["name"], f"{step['rows_in']:,}", f"{step['rows_out']:,}", step["cpu_s"], step["mb_s"])
            print("|", " | ".join(map(str, told)), "|")


if __name__ == "__main__":
    main()
