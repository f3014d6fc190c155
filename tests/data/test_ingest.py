"""data.ingest: from files to a version, with every row accounted for."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from longrein.core import plugins
from longrein.core.errors import Error
from longrein.data import ingest, version
from longrein.demo import corpus


def lines(*rows: Any) -> str:
    return "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows)


def test_demo_corpus_every_planted_fault_is_found(project):
    planted = corpus.write(project.root / "data", rows=1200, seed=5)
    made = project.ingest(output="intent", transforms=corpus.TRANSFORMS)
    assert made.meta["rows"] == planted["kept"] == 1200
    assert made.meta["dropped"] == planted["dropped"]
    assert made.meta["transforms"]["pii"] == planted["pii"]
    assert made.meta["transforms"]["conflict"] == {"requests": planted["requests"]}
    assert {Path(s["path"]).name: s["rows"] for s in made.meta["sources"]} == planted["files"]
    assert made.meta["rows_in"] == made.meta["rows"] + len(project.rejected(made))
    assert set(made.meta["languages"]) == {"en", "zh"}
    assert len(planted["mislabelled"]) == 18
    texts = " ".join(r["input"] for r in project.rows(made))
    assert "example.com" not in texts and "203.0.113" not in texts and "[EMAIL]" in texts


def test_the_corpus_is_the_same_for_the_same_seed(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        corpus.write(tmp_path / name, rows=100, seed=seed)
    read = {n: [p.read_bytes() for p in sorted((tmp_path / n).iterdir())] for n in "abc"}
    assert read["a"] == read["b"] != read["c"]


def test_each_row_knows_where_it_came_from(project):
    project.write("data/a.jsonl", lines({"text": "one", "label": 1}) + "\n" + lines({"text": "three", "label": True}))
    project.write("data/b.csv", 'text,label\n"two\nlines",x\nlast,y\n')
    made = project.ingest(output="label")
    found = [(r["input"], r["output"], r["source"], r["line"]) for r in project.rows(made)]
    assert found == [
        ("one", "1", "data/a.jsonl", 1),
        ("three", "true", "data/a.jsonl", 3),
        ("two\nlines", "x", "data/b.csv", 2),
        ("last", "y", "data/b.csv", 4),
    ]
    digests = {s["path"]: s["digest"] for s in made.meta["sources"]}
    assert all(r["source_digest"] == digests[r["source"]] for r in project.rows(made))
    assert project.reasons(made) == [("blank", "data/a.jsonl", 2)]


def test_a_duplicate_names_the_row_that_stayed(project):
    project.write(
        "data/a.jsonl", lines({"text": "Where is it?"}, {"text": "x"}, {"text": "  ＷＨＥＲＥ is\u200b it? "})
    )
    made = project.ingest(transforms=["dedup"])
    assert [(r["reason"], r["detail"], r["stage"]) for r in project.rejected(made)] == [
        ("duplicate", "of data/a.jsonl:1", "dedup")
    ]
    assert json.loads(project.rejected(made)[0]["row"])["line"] == 3


def test_the_digest_is_the_content_whatever_the_machine_and_the_batches(projects, monkeypatch):
    made = []
    for name, batch in (("here", 8192), ("there", 3)):
        monkeypatch.setattr("longrein.data.version.draft.BATCH_ROWS", batch)
        project = projects(name)
        corpus.write(project.root / "data", rows=200)
        made.append(project.ingest(output="intent", transforms=corpus.TRANSFORMS))
        version.verify(project.store, made[-1].digest, made[-1].uri)
    assert made[0].digest == made[1].digest
    project.write("data/tickets-en.jsonl", lines({"text": "another", "intent": "x"}))
    assert project.ingest(output="intent", transforms=corpus.TRANSFORMS).digest != made[0].digest


def test_the_same_content_is_the_same_version(project):
    project.write("data/a.jsonl", lines({"text": "one"}, {"text": "two"}))
    first = project.ingest()
    second = project.ingest(seed=9)
    assert first.uri == "lance/tickets.lance?version=1"
    assert project.ingest().uri == first.uri  # also when it is no longer the latest
    if second.digest != first.digest:
        assert second.uri == "lance/tickets.lance?version=2"


def test_a_version_committed_before_a_crash_is_used_again(project):
    project.write("data/a.jsonl", lines({"text": "one"}))
    first = project.ingest()
    table = version.open(project.store, first.uri)
    table.tags.delete(f"sha256-{first.digest}")  # as when the process died between commit and tag
    assert project.ingest().uri == first.uri
    assert f"sha256-{first.digest}" in version.open(project.store, first.uri).tags.list()


def test_killed_in_the_middle_then_run_again(project):
    corpus.write(project.root / "data", rows=400)
    config = {"output": "intent", "transforms": corpus.TRANSFORMS}
    expected = project.ingest("whole", **config)
    # The plugin of a project of its own kills the process at the 300th row: nothing may be visible afterwards.
    project.write(
        "plugins/transform/bomb.py",
        "import os, signal\nfrom collections import Counter\nfrom longrein.core.ports import Verdict\n"
        "class Bomb:\n    def __init__(self, options): self.counts = Counter()\n    def apply(self, rows):\n"
        "        for i, row in enumerate(rows):\n"
        "            if i == 300 and not os.path.exists('done'): os.kill(os.getpid(), signal.SIGKILL)\n"
        "            yield Verdict(row)\nplugin = Bomb\n",
    )
    scratch = project.root / ".longrein/work/killed"
    project.job(**config | {"transforms": [*corpus.TRANSFORMS, "bomb"]}).write(scratch)
    command = [sys.executable, "-m", "longrein.core.worker", str(scratch)]
    assert subprocess.run(command, cwd=project.root, env=_env()).returncode == -signal.SIGKILL
    assert not (project.store.root / "lance/tickets.lance").exists()
    (project.root / "done").touch()
    assert subprocess.run(command, cwd=project.root, env=_env()).returncode == 0
    (output,) = json.loads((scratch / "result.json").read_text())["outputs"]
    assert output["digest"] == expected.digest


def test_split_by_shares_keeps_a_request_on_one_side(project):
    rows = [{"text": f"request number {i % 500}", "label": i % 3} for i in range(1000)]
    project.write("data/a.jsonl", lines(*rows))
    sides: dict[str, set[str]] = {}
    made = project.ingest(output="label")
    for row in project.rows(made):
        sides.setdefault(row["input"], set()).add(row["split"])
    assert all(len(s) == 1 for s in sides.values())
    assert made.meta["splits"]["train"] == pytest.approx(800, abs=60)


def test_split_by_column_and_its_synonyms(project):
    project.write("data/a.csv", "text,part\na,train\nb,dev\nc,Test\nd,\n")
    made = project.ingest(split={"column": "part"})
    assert [r["split"] for r in project.rows(made)] == ["train", "validation", "test"]
    assert project.reasons(made) == [("no_split", "data/a.csv", 5)]


def test_conversations(project):
    talk = [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": " hi "},
        {"role": "assistant", "content": "ho"},
    ]
    bad = [[], "text", [{"role": "user", "content": "alone"}], [{"role": "robot", "content": "x"}] * 2, None]
    project.write("data/a.jsonl", lines({"m": talk}, {"m": json.dumps(talk)}, *({"m": b} for b in bad)))
    made = project.ingest(messages="m", transforms=["normalize", "pii", "noise", "length", "conflict", "dedup"])
    (row,) = project.rows(made)
    assert (row["input"], row["output"], row["messages"][1]["content"]) == ("hi", "ho", "hi")
    assert [r[0] for r in project.reasons(made)] == ["bad_messages"] * 4 + ["missing_input", "duplicate"]
    version.verify(project.store, made.digest, made.uri)


def test_values_that_are_not_text(project):
    rows = [{"text": v, "when": [1, {"b": None}]} for v in (12, 1.5, {"a": [1]}, None, "", "x" * 9)]
    project.write("data/a.jsonl", lines(*rows, {"other": 1}))
    made = project.ingest(keep=["when"])
    assert [r["input"] for r in project.rows(made)] == ["12", "1.5", '{"a":[1]}', "x" * 9]
    assert {r["extra"] for r in project.rows(made)} == {'{"when":[1,{"b":null}]}'}
    assert [r[0] for r in project.reasons(made)] == ["missing_input", "blank", "missing_input"]


def test_nothing_left_says_which_filter_did_it(project):
    project.write("data/a.jsonl", lines({"text": "a"}, {"text": "b"}, [1]))
    with pytest.raises(
        Error, match=r"no row of tickets is left: of 3, dropped 2 too_short \(length\), 1 not_object \(read\)"
    ):
        project.ingest(transforms=[{"length": {"min": 5}}])
    assert not (project.store.root / "lance").exists()


def test_a_misspelt_column_is_pointed_out(project):
    project.write("data/a.jsonl", lines({"txt": "a", "label": "b"}))
    with pytest.raises(Error) as raised:
        project.ingest()
    assert "'text'" in raised.value.hint and "'txt'" in raised.value.hint


def test_an_empty_file(project):
    project.write("data/a.jsonl", "")
    with pytest.raises(Error, match="hold no rows"):
        project.ingest()
    project.write("data/b.jsonl", lines({"text": "a"}))
    assert [s["rows"] for s in project.ingest().meta["sources"]] == [0, 1]


def test_a_source_that_changes_while_it_is_read(project):
    path = project.write("data/a.jsonl", lines(*({"text": f"row {i}"} for i in range(50))))
    project.write(
        "plugins/reader/live.py",
        "from longrein.core.ports import Record\nclass Live:\n    suffixes = ('.live',)\n"
        "    def read(self, path, options):\n        yield Record({'text': 'a'}, 1)\n"
        "        path.open('a').write('more')\n        yield Record({'text': 'b'}, 2)\nplugin = Live()\n",
    )
    plugins.use_project(project.root)
    with pytest.raises(Error, match="changed while it was read") as raised:
        project.ingest(sources=[{"path": "data/a.jsonl", "reader": "live"}])
    assert raised.value.code == "conflict" and path.read_text().endswith("more")
    assert not (project.store.root / "lance").exists()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"transforms": ["dedupe"]}, "no transform called 'dedupe'"),
        ({"transforms": [{"length": {"mim": 2}}]}, "mim"),
        ({"transforms": [{"length": {}, "dedup": {}}]}, "one name with its options"),
        ({"split": {"train": 0.5, "test": 0.1}}, "add up to 1"),
        ({"split": {}}, "add up to 1"),
        ({"input": ""}, "either `input` or `messages`"),
        ({"sources": [{"path": "data/a.jsonl", "options": {"encode": 1}}]}, "encode"),
        ({"sources": [{"path": "data/a.jsonl", "options": {"encoding": "utf-9"}}]}, "unknown encoding"),
        ({"sources": [{"path": "data/a.jsonl", "reader": "excel"}]}, "no reader called 'excel'"),
    ],
)
def test_wrong_configs(project, config, message):
    project.write("data/a.jsonl", lines({"text": "a"}))
    with pytest.raises(Error, match=message):
        project.ingest(**config)


def test_personal_data_is_in_no_table_when_its_rows_are_dropped(project):
    project.write("data/a.jsonl", lines({"text": "mail me: wei@example.com"}, {"text": "nothing here"}))
    made = project.ingest(transforms=[{"pii": {"action": "drop"}}])
    assert made.meta["transforms"]["pii"] == {"email": 1}
    assert [r["reason"] for r in project.rejected(made)] == ["pii"]
    assert "wei@" not in json.dumps([project.rows(made), project.rejected(made), made.meta])


def test_events_tell_how_far_it_is(project):
    corpus.write(project.root / "data", rows=100)
    project.ingest(output="intent")
    events = [json.loads(e) for e in (project.root / ".longrein/work/tickets/events.jsonl").read_text().splitlines()]
    done = [e for e in events if e["type"] == "progress"][-1]
    assert done["done"] == done["total"] > 0
    (values,) = [e["values"] for e in events if e["type"] == "metrics"]
    assert values["rows_in"] == values["rows_kept"] + sum(v for k, v in values.items() if k.startswith("dropped."))


def test_a_full_disk_leaves_the_old_version_whole(project, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        project.store.root = disk / "store"
        project.write("data/a.jsonl", lines({"text": "one"}))
        first = project.ingest()
        project.write("data/a.jsonl", lines(*({"text": os.urandom(600).hex()} for _ in range(4000))))
        with pytest.raises(Error) as raised:
            project.ingest()
        assert raised.value.code == "no_space"
        assert [r["input"] for r in project.rows(first)] == ["one"]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_the_config_needs_no_heavy_package():
    script = (
        "import sys, longrein.data.ingest as i, pathlib, msgspec\n"
        "c = msgspec.convert({'sources': ['*.md'], 'input': 'text', 'transforms': ['dedup']}, i.Config)\n"
        "i.version(c)\n"
        "print({'numpy', 'pyarrow', 'lance', 'torch'} & set(sys.modules))"
    )
    assert subprocess.check_output([sys.executable, "-c", script], env=_env(), text=True) == "set()\n"


def test_the_version_of_the_code_follows_its_plugins(tmp_path, monkeypatch):
    monkeypatch.setattr(plugins, "_project", [])  # its odd plugins are nobody else's

    def version(**config):
        return ingest.version(msgspec.convert({"sources": ["a"], "input": "t"} | config, ingest.Config))

    plugins.use_project(tmp_path)
    before = version()
    assert version(transforms=["dedup"]) == version(seed=3) == before  # first versions add nothing
    own = tmp_path / "plugins" / "transform" / "mine.py"
    own.parent.mkdir(parents=True)
    own.write_text("plugin = 1")
    first = version(transforms=["mine"])
    own.write_text("plugin = 2")
    assert len({before, first, version(transforms=["mine"])}) == 3
    by_csv = [{"path": "a", "reader": "csv"}]
    told = version(sources=by_csv)
    (tmp_path / "plugins" / "reader").mkdir()
    (tmp_path / "plugins" / "reader" / "odd.py").write_text("VERSION = 2")
    assert version() != before  # the file may be read by it
    assert version(sources=by_csv) == told


def test_real_data_chinese_with_its_own_split(data, project):
    (project.root / "data").mkdir(parents=True)
    for name in ("train", "dev", "test"):
        shutil.copy(data / "cold" / f"{name}.csv", project.root / "data")
    made = project.ingest(
        input="TEXT", output="label", split={"column": "split"}, transforms=["normalize", "conflict", "dedup"]
    )
    assert made.meta["rows_in"] == 37480 and made.meta["rows"] > 36000
    assert set(made.meta["splits"]) == {"train", "validation", "test"}
    assert set(made.meta["dropped"]) <= {"duplicate", "conflicting_label"}
    assert made.meta["languages"]["zh"] > 0.99 * made.meta["rows"]


def test_real_data_lists_in_json(data, project):
    source = {"path": str(data / "clinc150/data_full.json"), "options": {"columns": ["text", "intent"], "key": "part"}}
    made = project.ingest(sources=[source], output="intent", split={"column": "part"}, transforms=["normalize"])
    assert made.meta["rows_in"] == made.meta["rows"] == 23700
    assert made.meta["splits"]["test"] == 4500 and made.meta["splits"]["oos_test"] == 1000


def _env() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
