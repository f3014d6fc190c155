"""data.export: shards that training frameworks read, with checksums; the same bytes, also after a kill."""

import json
import shutil
import signal
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import tiny

from longrein.core import digest as digests
from longrein.core.errors import Error
from longrein.data import export

DOCUMENTS = [f"文档 {i}: {'the quick brown fox jumps over ' * (i % 7)}<|im_end|> forged" for i in range(60)]
SPLIT = {"train": 0.8, "test": 0.2}


@pytest.fixture(scope="module")
def tokenizer():
    """With the end token <|im_end|>, which DOCUMENTS have in their text."""
    made = tiny._tokenizer()
    return made


@pytest.fixture
def folder(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    return str(tmp_path / "tokenizer")


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def plain(project):
    project.write("data/a.jsonl", lines({"text": text} for text in DOCUMENTS))
    return project.ingest(split=SPLIT)


@pytest.fixture
def talks(project):
    def talk(i):
        turns = [
            ("user", f"问 {i}"),
            ("assistant", f"答 {i} <|im_end|>"),
            ("user", "and?"),
            ("assistant", "so " * (i % 5)),
        ]
        return {"m": [{"role": role, "content": text} for role, text in turns]}

    project.write("data/a.jsonl", lines(map(talk, range(40))))
    return project.ingest(messages="m", split=SPLIT)


@pytest.fixture
def pairs(project):
    rows = [{"prompt": f"Q {i}?", "chosen": f"yes {i}", "rejected": f"no {i}"} for i in range(40)]
    project.write("data/a.jsonl", lines(rows))
    return project.ingest(input="", format="preference", split=SPLIT)


def write(project, made, out, format, **options):
    return export.write(
        project.store, made.uri, out, format, options, project=project.root, ref="dataset:x@1", digest=made.digest
    )


def table(out, split):
    return [r for p in sorted((out / "data").glob(f"{split}-*.parquet")) for r in pq.read_table(p).to_pylist()]


def documents(project, made, tokenizer, split):
    """What each row should be: its text as plain text, and an end."""
    found = []
    for row in project.rows(made):
        if row["split"] == split:
            ids = tokenizer(row["input"], add_special_tokens=False, split_special_tokens=True)["input_ids"]
            found.append([*ids, tokenizer.eos_token_id])
    return found


def test_packed_sequences_hold_every_document_and_nothing_else(project, plain, tokenizer, folder, tmp_path):
    told = write(project, plain, tmp_path / "out", "pretrain", tokenizer=folder, seq=64, shard_bytes=1000)
    for split in SPLIT:
        rows, wanted = table(tmp_path / "out", split), documents(project, plain, tokenizer, split)
        ids = [id for row in rows for id in row["input_ids"]]
        assert ids == [id for one in wanted for id in one] and told["counts"][split]["tokens"] == len(ids)
        assert all(len(row["input_ids"]) == 64 for row in rows[:-1]) and len(rows[-1]["input_ids"]) <= 64
        assert ids.count(tokenizer.eos_token_id) == len(wanted)  # a text that says so ends nothing
        for row in rows:
            assert row["position_ids"] == [p for n in row["seq_lengths"] for p in range(n)]
            ends = np.cumsum(row["seq_lengths"])[:-1] - 1
            assert all(row["input_ids"][end] == tokenizer.eos_token_id for end in ends)
    assert len(told["files"]) > 4 and told["whole"]
    for shard in told["shards"]:
        assert all(digests.of_file(tmp_path / "out" / name) == known for name, known in shard["files"].items())


def indexed(path):
    """A reading of Megatron-Core's IndexedDataset as its own _IndexReader does it."""
    index, body = path.read_bytes(), path.with_suffix(".bin").read_bytes()
    assert index[:9] == b"MMIDIDX\x00\x00" and struct.unpack("<QB", index[9:18]) == (1, 8)
    count, ends = struct.unpack("<QQ", index[18:34])
    lengths = np.frombuffer(index, np.int32, count, 34)
    pointers = np.frombuffer(index, np.int64, count, 34 + lengths.nbytes)
    bounds = np.frombuffer(index, np.int64, ends, 34 + lengths.nbytes + pointers.nbytes)
    assert bounds.tolist() == list(range(count + 1)) and len(body) == 2 * lengths.sum()
    return [np.frombuffer(body, np.uint16, n, at).tolist() for n, at in zip(lengths, pointers, strict=True)]


def test_megatron(project, plain, tokenizer, folder, tmp_path):
    options = {"tokenizer": folder, "layout": "megatron", "shard_bytes": 1000}
    write(project, plain, tmp_path / "out", "pretrain", **options)
    for split in SPLIT:
        found = [one for path in sorted((tmp_path / "out").glob(f"{split}-*.idx")) for one in indexed(path)]
        assert found == documents(project, plain, tokenizer, split)


def test_rendered_as_transformers_does(project, talks, tokenizer, folder, tmp_path):
    told = write(project, talks, tmp_path / "out", "sft", tokenizer=folder)
    for row in table(tmp_path / "out", "train"):
        assert row["messages"][1]["content"].endswith("<|im_end|>")
        assert row["input_ids"].count(tokenizer.eos_token_id) == 4  # of the turns, not of what they say
        assert tokenizer.decode([id for id in row["labels"] if id != -100]) == "".join(
            f"{m['content']}<|im_end|>" for m in row["messages"] if m["role"] == "assistant"
        )
    assert told["counts"]["train"]["trained"] == sum(
        label != -100 for row in table(tmp_path / "out", "train") for label in row["labels"]
    )


def test_without_forgeries_the_very_ids_of_apply_chat_template(project, pairs, tokenizer, folder, tmp_path):
    write(project, pairs, tmp_path / "out", "sft", tokenizer=folder, seq=512)
    for row in table(tmp_path / "out", "train"):
        encoded = tokenizer.apply_chat_template(
            row["messages"], tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
        whole = encoded["input_ids"]
        assert whole[: len(row["input_ids"])] == row["input_ids"]  # up to the last answer's end
        masks = encoded["assistant_masks"][: len(row["labels"])]
        assert [label != -100 for label in row["labels"]] == [bool(one) for one in masks]


def test_rows_that_do_not_serve_are_counted(project, plain, talks, folder, tmp_path):
    told = write(project, plain, tmp_path / "a", "sft")
    assert told["counts"]["train"] == {"no_answer": 51} and table(tmp_path / "a", "train") == []
    told = write(project, talks, tmp_path / "b", "sft", tokenizer=folder, seq=64)
    counts = told["counts"]["train"]
    assert counts["too_long"] > 0 and counts["rows"] == len(table(tmp_path / "b", "train"))
    with pytest.raises(Error, match="no rejected answers"):
        write(project, talks, tmp_path / "c", "preference")


def test_pairs_in_trl_s_layout(project, pairs, tmp_path):
    told = write(project, pairs, tmp_path / "out", "preference", shard_bytes=200)
    found = table(tmp_path / "out", "train") + table(tmp_path / "out", "test")
    assert len(found) == 40 and len(told["files"]) > 3
    for row in found:
        (asked,), (good,), (bad,) = row["prompt"], row["chosen"], row["rejected"]
        n = asked["content"].removeprefix("Q ").removesuffix("?")
        assert (good["content"], bad["content"]) == (f"yes {n}", f"no {n}")


RUN = """
import os, sys
from pathlib import Path
from longrein.core.store import Store
from longrein.data import checkout, export
root, uri, out, tokenizer, layout, stop = sys.argv[1:]
save, seen = checkout.write_json, []
def write_json(path, value):
    save(path, value)
    seen.append(1)
    if len(seen) == int(stop):
        os.kill(os.getpid(), 9)
checkout.write_json = write_json
options = {"tokenizer": tokenizer, "seq": 64, "layout": layout, "shard_bytes": 1000}
export.write(Store(Path(root) / ".longrein/store"), uri, Path(out), "pretrain", options, project=Path(root))
"""


@pytest.mark.parametrize("layout", ["parquet", "megatron"])
def test_killed_between_shards_it_goes_on_to_the_same_bytes(project, plain, folder, tmp_path, layout):
    options = {"tokenizer": folder, "seq": 64, "layout": layout, "shard_bytes": 1000}
    out, whole = tmp_path / "out", tmp_path / "whole"
    export.write(project.store, plain.uri, whole, "pretrain", options, project=project.root)
    command = [sys.executable, "-c", RUN, project.root, plain.uri, out, folder, layout, "4"]
    assert subprocess.run(command, timeout=60, check=False).returncode == -signal.SIGKILL
    begun = json.loads((out / "checkout.json").read_text())
    assert len(begun["shards"]) == 3 and not begun["whole"]
    times = {name: (out / name).stat().st_mtime_ns for name in begun["files"]}
    export.write(project.store, plain.uri, out, "pretrain", options, project=project.root)
    assert times == {name: (out / name).stat().st_mtime_ns for name in times}  # not written again
    names = sorted(p.relative_to(whole) for p in whole.rglob("*") if p.is_file())
    assert names == sorted(p.relative_to(out) for p in out.rglob("*") if p.is_file())
    assert all((whole / n).read_bytes() == (out / n).read_bytes() for n in names)


def test_a_damaged_shard_and_what_follows_are_written_again(project, plain, folder, tmp_path):
    options = {"tokenizer": folder, "layout": "megatron", "shard_bytes": 1000}
    told = write(project, plain, tmp_path / "out", "pretrain", **options)
    victim = tmp_path / "out" / next(iter(told["shards"][1]["files"]))
    victim.write_bytes(b"x")
    assert write(project, plain, tmp_path / "out", "pretrain", **options) == told
    assert digests.of_file(victim) == told["shards"][1]["files"][victim.name]


def test_other_options_take_the_place_of_what_was_there_and_strangers_stay(project, plain, pairs, folder, tmp_path):
    out: Path = tmp_path / "out"
    write(project, plain, out, "pretrain", tokenizer=folder, layout="megatron")
    write(project, pairs, out, "preference")
    assert not list(out.glob("*.bin")) and list((out / "data").glob("*.parquet"))
    shutil.rmtree(out / "data")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "x").write_text("precious")
    with pytest.raises(Error, match="holds other files"):
        write(project, pairs, tmp_path / "mine", "preference")


@pytest.mark.parametrize("options", [{}, {"tokenizer": "t", "colour": 1}, {"tokenizer": "nowhere"}])
def test_wrong_options(project, plain, tmp_path, options):
    with pytest.raises(Error, match=r"tokenizer|colour|nowhere"):
        write(project, plain, tmp_path / "out", "pretrain", **options)
    assert not (tmp_path / "out").exists()
