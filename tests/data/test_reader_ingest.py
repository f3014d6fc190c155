"""Archives and documents through a whole ingestion: every row and every bad file can be told by its name."""

import gzip
import io
import json
import zipfile

import pytest

from longrein.core.errors import Error


def packed(**members: bytes) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members.items():
            file.writestr(name.replace("__", "/").replace("_", "."), data)
    return sink.getvalue()


def test_rows_of_an_archive_are_called_after_its_members(project):
    lines = b'{"text": "one"}\n{"text": \n{"text": "two"}\n'
    path = project.write("data/x.zip", packed(train__a_jsonl=lines, b_md="# 标题\n\n正文".encode(), c_exe=b"MZ"))
    made = project.ingest()
    assert [(r["input"], r["source"], r["line"]) for r in project.rows(made)] == [
        ("one", "data/x.zip!train/a.jsonl", 1),
        ("two", "data/x.zip!train/a.jsonl", 3),
        ("# 标题\n\n正文", "data/x.zip!b.md", 1),
    ]
    assert project.reasons(made) == [
        ("malformed", "data/x.zip!train/a.jsonl", 2),
        ("unknown_format", "data/x.zip!c.exe", 1),
    ]
    assert len({r["source_digest"] for r in project.rows(made)}) == 1  # of the archive
    assert made.meta["sources"][0]["path"] == "data/x.zip" and path.exists()


def test_one_bad_file_does_not_end_the_run(project):
    project.write("data/a.jsonl", json.dumps({"text": "fine"}) + "\n")
    project.write("data/b.parquet", b"PAR1 is all there is")
    whole = gzip.compress(b"".join(b'{"text": "%d"}\n' % n for n in range(30_000)), 1)
    project.write("data/c.jsonl.gz", whole[: len(whole) // 2])
    project.write("data/d.jsonl", b"")
    made = project.ingest()
    unreadable = [r for r in project.rejected(made) if r["reason"] == "unreadable"]
    assert [r["source"] for r in unreadable] == ["data/b.parquet", "data/c.jsonl.gz"]
    assert "Parquet" in unreadable[0]["detail"] and "breaks off" in unreadable[1]["detail"]
    kept = [int(r["input"]) for r in project.rows(made) if r["source"] == "data/c.jsonl.gz"]
    assert len(kept) > 1000 and kept == list(range(len(kept))) and unreadable[1]["line"] == len(kept) + 1


def test_only_bad_files_end_it_and_say_why(project):
    project.write("data/b.parquet", b"PAR1 is all there is")
    with pytest.raises(Error, match="1 unreadable") as caught:
        project.ingest()
    assert caught.value.code == "invalid"
