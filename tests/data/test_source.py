"""Which files a dataset is made from."""

import os
from pathlib import Path

import msgspec
import pytest

from longrein.core.errors import Error
from longrein.data import ingest, source
from longrein.data.source import Source


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("data/b.jsonl", "data/a.jsonl", "data/deep/c.jsonl", "data/.hidden.jsonl", "data/d.csv", "x.jsonl"):
        path = tmp_path / "project" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('{"text": "a"}\n')
    (tmp_path / "outside.jsonl").write_text("{}\n")
    return tmp_path / "project"


def names(root: Path, *sources: str | Source) -> list[str]:
    return [f.name for f in source.find(sources, root)]


def test_globs_sorted_each_file_once(root):
    assert names(root, "data/*.jsonl", "data/a.jsonl") == ["data/a.jsonl", "data/b.jsonl"]
    assert names(root, "x.jsonl", "**/*.jsonl") == ["x.jsonl", "data/a.jsonl", "data/b.jsonl", "data/deep/c.jsonl"]
    assert names(root, "data/*") == ["data/a.jsonl", "data/b.jsonl", "data/d.csv"]
    assert names(root, "data/.hidden.jsonl") == ["data/.hidden.jsonl"]


def test_an_absolute_path_is_meant(root):
    outside = root.parent / "outside.jsonl"
    assert names(root, str(outside)) == [outside.as_posix()]
    assert names(root, str(root / "data" / "a*")) == ["data/a.jsonl"]
    (root / "data" / "link.jsonl").symlink_to(outside)
    assert len(names(root, str(root / "data" / "link.jsonl"))) == 1


@pytest.mark.parametrize(
    ("pattern", "message", "hint"),
    [
        ("../outside.jsonl", "leaves the project", "absolute path"),
        ("data/../../outside.jsonl", "leaves the project", "absolute path"),
        ("data/*.parquet", "no file matches", "relative sources start at"),
        ("data", "no file matches", "is a folder"),
        ("missing.jsonl", "no file matches", "relative sources start at"),
    ],
)
def test_refused(root, pattern, message, hint):
    with pytest.raises(Error, match=message) as raised:
        names(root, pattern)
    assert raised.value.code == "invalid" and hint in raised.value.hint


def test_links_that_lead_out_are_refused(root):
    (root / "data" / "link.jsonl").symlink_to(root.parent / "outside.jsonl")
    with pytest.raises(Error, match="outside the project"):
        names(root, "data/*.jsonl")
    (root / "data" / "link.jsonl").unlink()
    (root / "folder").symlink_to(root.parent)
    with pytest.raises(Error, match="outside the project"):
        names(root, "folder/outside.jsonl")


def test_links_within_the_project_are_fine(root):
    (root / "y.jsonl").symlink_to(root / "x.jsonl")
    assert names(root, "?.jsonl") == ["x.jsonl"]


def test_unhashed_when_unchanged(root, monkeypatch):
    cache = root / ".longrein" / "sources.json"
    config = msgspec.convert({"sources": ["data/*.jsonl"], "input": "text"}, ingest.Config)
    for path in (root / "data").iterdir():
        os.utime(path, (1_000_000_000, 1_000_000_000))
    first = ingest.sources_digest(config, root, cache)
    assert list(first) == ["data/a.jsonl", "data/b.jsonl"]
    hashed: list[Path] = []
    monkeypatch.setattr(source.digest, "of_file", lambda p: hashed.append(p) or "new")
    assert ingest.sources_digest(config, root, cache) == first and not hashed
    os.utime(root / "data" / "a.jsonl", (1_000_000_001, 1_000_000_001))
    assert ingest.sources_digest(config, root, cache) == first | {"data/a.jsonl": "new"}


def test_a_file_just_written_is_not_trusted(root):
    cache = root / ".longrein" / "sources.json"
    before = source.digests(source.find(["x.jsonl"], root), cache)
    at = (root / "x.jsonl").stat()
    (root / "x.jsonl").write_text('{"text": "b"}\n')  # the same size, within the clock's grain
    os.utime(root / "x.jsonl", ns=(at.st_atime_ns, at.st_mtime_ns))
    assert source.digests(source.find(["x.jsonl"], root), cache) != before


def test_a_damaged_cache_only_costs_time(root):
    cache = root / "cache.json"
    expected = source.digests(source.find(["x.jsonl"], root))
    for content in ("{", "[]", "null", '{"a": 1}'):
        cache.write_text(content)
        assert source.digests(source.find(["x.jsonl"], root), cache) == expected


def test_readers_by_suffix_and_by_name(root):
    (root / "A.JSONL").write_text("")
    (root / "notes.xyz").write_text("")
    (upper,) = source.find(["A.JSONL"], root)
    assert source.reader_of(upper).suffixes[0] == ".jsonl"
    (named,) = source.find([Source(path="notes.xyz", reader="text")], root)
    assert source.reader_of(named).suffixes[0] == ".txt"
    with pytest.raises(Error, match="no reader knows files"):
        source.reader_of(source.find(["notes.xyz"], root)[0])


def test_links_in_a_circle_end(root):
    (root / "data" / "deep" / "up").symlink_to(root / "data")
    assert names(root, "data/**/*.jsonl") == ["data/a.jsonl", "data/b.jsonl", "data/deep/c.jsonl"]


def test_chinese_folders_and_names_that_are_no_utf_8(root):
    (root / "数据").mkdir()
    (root / "数据" / "客户 [1].jsonl").write_text('{"text": "好"}\n', "utf-8")
    (root / os.fsdecode("名字".encode("gbk") + b".jsonl")).write_text('{"text": "也好"}\n', "utf-8")
    found = source.find(["数据/*.jsonl", "*.jsonl"], root)
    assert [f.name for f in found] == ["数据/客户 [1].jsonl", "x.jsonl", "\\xc3\\xfb\\xd7\\xd6.jsonl"]
    assert [r.row["text"] for f in found for r in source.records(f)] == ["好", "a", "也好"]
    assert set(source.digests(found, root / "cache.json")) == {f.name for f in found}
    assert names(root, "数据/客户 [[]1].jsonl") == ["数据/客户 [1].jsonl"]
