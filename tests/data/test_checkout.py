"""data.checkout: what is written as files comes back as the same rows."""

import json
from pathlib import Path

import pytest

from longrein.core import digest as digests
from longrein.data import checkout, version


@pytest.fixture
def made(project):
    talks = [
        {"talk": [{"role": "user", "content": f"问 {i}\n\"quoted\", 'x'"}, {"role": "assistant", "content": f"答 {i}"}],
         "side": ["train", "test", "验 证"][i % 3], "n": i}
        for i in range(300)
    ]  # fmt: skip
    project.write("data/a.jsonl", "".join(json.dumps(t) + "\n" for t in talks))
    return project.ingest(messages="talk", keep=["n"], split={"column": "side"})


@pytest.mark.parametrize("format", checkout.READERS)
def test_the_rows_as_they_are(project, made, tmp_path, format):
    checkout.write(project.store, made.uri, tmp_path / "out", format, ref="dataset:tickets@1", digest=made.digest)
    schema = version.columns_of(version.open(project.store, made.uri))
    found = [{k: v for k, v in row.items() if k != "_line"} for row in checkout.read(tmp_path / "out", schema)]
    assert found == project.rows(made)
    metadata = json.loads((tmp_path / "out" / "croissant.json").read_text("utf-8"))
    (file,) = metadata["distribution"]
    assert file["sha256"] == digests.of_file(tmp_path / "out" / file["contentUrl"]) and metadata["version"] == "1.0.0"
    assert {"input", "split", "line"} <= {f["name"] for f in metadata["recordSet"][0]["field"]}


@pytest.mark.parametrize(("format", "pattern"), [("hf", "out/*/*.arrow"), ("webdataset", "out/*.tar")])
def test_handed_on_and_read_again(project, made, format, pattern):
    count, files = checkout.write(project.store, made.uri, project.root / "out", format)
    assert count == 300 and all(p.is_file() for p in files)
    again = project.ingest(name="again", sources=[pattern], messages="messages", split={"column": "split"})
    before, after = ({r["row_id"]: r["split"] for r in project.rows(o)} for o in (made, again))
    assert before == after


def test_twice_is_the_same_bytes(project, made, tmp_path):
    for name in ("a", "b"):
        checkout.write(project.store, made.uri, tmp_path / name, "webdataset")
    tars = [sorted((tmp_path / n).glob("*.tar")) for n in ("a", "b")]
    assert [digests.of_file(p) for p in tars[0]] == [digests.of_file(p) for p in tars[1]]


def test_a_hostile_mark_removes_nothing_outside(project, made, tmp_path):
    (tmp_path / "precious").write_text("x")
    out: Path = tmp_path / "out"
    checkout.write(project.store, made.uri, out)
    mark = json.loads((out / "checkout.json").read_text())
    (out / "checkout.json").write_text(json.dumps(mark | {"files": ["../precious", "rows.jsonl"]}))
    checkout.write(project.store, made.uri, out, "csv")
    assert (tmp_path / "precious").exists() and not (out / "rows.jsonl").exists()
