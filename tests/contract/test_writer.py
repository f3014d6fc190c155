"""What every writer plugin keeps; found by itself, run over each (see longrein.core.ports.Writer)."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import tiny

from longrein.core import plugins
from longrein.core.errors import Error
from longrein.core.ports import Shard

NAMES = plugins.names("writer")
TALK = [{"role": "user", "content": "问 {}"}, {"role": "assistant", "content": "答 {}"}]
NEEDED = {"pretrain": {"tokenizer": "model"}, "sft": {"tokenizer": "model"}}  # options without which they do little


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("project")
    tiny._tokenizer().save_pretrained(root / "model")
    return root


def row(i: int) -> dict[str, Any]:
    talk = [m | {"content": m["content"].format(i) + " and so on" * (i % 9)} for m in TALK]
    kinds: list[dict[str, Any]] = [{"messages": talk}, {"messages": None}]
    texts = {"input": talk[0]["content"], "output": talk[1]["content"], "rejected": f"no {i}", "row_id": f"{i:032x}"}
    return texts | kinds[i % 2]


def rows(start: int, stop: int = 300) -> Iterator[dict[str, Any]]:
    return (row(i) for i in range(start, stop))


def made(name: str, project: Path, **options: Any) -> Any:
    return plugins.load("writer", name)(NEEDED.get(name, {}) | options, project)


def content(folder: Path) -> dict[str, str]:
    files = [p for p in folder.rglob("*") if p.is_file()]
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.mark.parametrize("name", NAMES)
def test_shards_tell_their_files_and_all_rows(name: str, project: Path, tmp_path: Path) -> None:
    shards = list(made(name, project, shard_bytes=2000).write(rows, tmp_path, "train", None, 0))
    files = [file for shard in shards for file in shard.files]
    assert len(shards) > 2 and len(set(files)) == len(files) and sorted(content(tmp_path)) == sorted(files)
    ends = [shard.rows for shard in shards]
    assert ends == sorted(ends) and ends[-1] == 300 and shards[-1].carry == 0
    assert all(shard.counts for shard in shards) and plugins.version("writer", name)


@pytest.mark.parametrize("name", NAMES)
def test_from_any_shard_on_come_the_same_bytes(name: str, project: Path, tmp_path: Path) -> None:
    writer, whole = made(name, project, shard_bytes=2000), tmp_path / "whole"
    whole.mkdir()
    shards = list(writer.write(rows, whole, "train", None, 0))
    for number in (1, len(shards) // 2, len(shards)):
        folder = tmp_path / str(number)
        folder.mkdir()
        last: Shard = shards[number - 1]
        assert list(made(name, project, shard_bytes=2000).write(rows, folder, "train", last, number)) == shards[number:]
        assert content(folder).items() <= content(whole).items()


@pytest.mark.parametrize("name", NAMES)
def test_no_rows(name: str, project: Path, tmp_path: Path) -> None:
    assert list(made(name, project).write(lambda _: iter(()), tmp_path, "train", None, 0)) == []
    assert content(tmp_path) == {}


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_option_is_refused(name: str, project: Path) -> None:
    with pytest.raises((msgspec.ValidationError, Error), match="colour"):
        made(name, project, colour="red")
