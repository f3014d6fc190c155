"""Datasets of remote sources: their lineage, and what a second run still has to do."""

import json
import sqlite3
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest

from longrein.control.watch import Watch
from longrein.core import plugins
from longrein.core.errors import Error
from longrein.core.ledger import Ledger
from longrein.data import ingest

fsspec = pytest.importorskip("fsspec")


def lines(*texts: str) -> bytes:
    return "".join(json.dumps({"text": t}) + "\n" for t in texts).encode()


@pytest.fixture
def shop(project) -> Any:
    project.root.mkdir(parents=True)
    connection = sqlite3.connect(project.root / "shop.db", isolation_level=None)
    connection.execute("CREATE TABLE tickets (id INTEGER PRIMARY KEY, body TEXT)")
    connection.executemany("INSERT INTO tickets VALUES (?, ?)", [(i, f"ticket {i}") for i in range(1, 21)])
    yield connection
    connection.close()


def reads(project: Any) -> dict[str, float]:
    events = (project.root / ".longrein/work/tickets/events.jsonl").read_text("utf-8").splitlines()
    found: list[dict[str, float]] = [
        e["values"] for e in map(json.loads, filter(None, events)) if e["type"] == "metrics"
    ]
    return found[-1]


TABLE = {"path": "sqlite:///shop.db", "remote": {"table": "tickets", "cursor": "id"}}


def test_a_table_grows(project, shop):
    first = project.ingest(sources=[TABLE], input="body")
    assert [(r["source"], r["line"]) for r in project.rows(first)][:2] == [
        ("sqlite:///shop.db/tickets#1", 1), ("sqlite:///shop.db/tickets#1", 2),
    ]  # fmt: skip
    shop.execute("INSERT INTO tickets VALUES (40, 'ticket 40')")
    second = project.ingest(sources=[TABLE], input="body")
    assert sorted(r["line"] for r in project.rows(second)) == [*range(1, 21), 40]
    told = reads(project)
    assert (told["parts"], told["parts_reused"]) == (2, 1)
    assert [s["rows"] for s in second.meta["sources"]] == [20, 1]


def test_the_plan_sees_it_and_reads_nothing(project, shop):
    config = msgspec.convert({"sources": [TABLE], "input": "body"}, ingest.Config)
    before = ingest.sources_digest(config, project.root)
    project.ingest(sources=[TABLE], input="body")
    assert ingest.sources_digest(config, project.root) == before
    shop.execute("INSERT INTO tickets VALUES (40, 'ticket 40')")
    after = ingest.sources_digest(config, project.root)
    assert after.items() > before.items()
    assert ingest.version(config) == ingest.version(msgspec.structs.replace(config, sources=["a.sqlrows"]))
    shop.execute("DROP TABLE tickets")
    with pytest.raises(Error, match="no table"):  # never: nothing is there, so build it anew
        ingest.sources_digest(config, project.root)


def test_sources_of_all_kinds_in_one_dataset(project, shop):
    files = fsspec.filesystem("memory")
    files.pipe("/all/a.jsonl", lines("from a bucket"))
    served = project.root / "served"
    served.mkdir()
    (served / "b.jsonl").write_bytes(lines("from the web"))
    project.write("data/c.jsonl", lines("from a file"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(served)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/b.jsonl"
    query = {"query": "SELECT id, 'from a table' AS text FROM tickets WHERE id = 7", "key": "id"}
    table = {"path": "sqlite:///shop.db", "remote": query}
    try:
        made = project.ingest(sources=["data/*.jsonl", "memory://all/*", url, table])
    finally:
        server.shutdown()
        server.server_close()
    rows = {r["input"]: (r["source"].rpartition("-")[0] or r["source"], r["line"]) for r in project.rows(made)}
    assert rows == {
        "from a file": ("data/c.jsonl", 1),
        "from a bucket": ("memory:///all/a.jsonl", 1),
        "from the web": (url, 1),
        "from a table": ("sqlite:///shop.db/query", 7),
    }
    digests = {r["source_digest"] for r in project.rows(made)}
    assert digests == {s["digest"] for s in made.meta["sources"]}  # of the content


def test_what_was_touched_but_not_changed_is_not_read_again(project):
    files = fsspec.filesystem("memory")
    for name in ("a", "b"):
        files.pipe(f"/touched/{name}.jsonl", lines(name))
    first = project.ingest(sources=["memory://touched/*"])
    files.pipe("/touched/a.jsonl", lines("a"))
    second = project.ingest(sources=["memory://touched/*"])
    assert second.digest == first.digest and reads(project)["parts_reused"] == 2


def test_files_that_transforms_name(project):
    files = fsspec.filesystem("memory")
    files.pipe("/eval/bench.jsonl", lines(" ".join(f"word{i}" for i in range(20))))
    project.write("data/a.jsonl", lines("fine", " ".join(f"word{i}" for i in range(20))))
    against = {"decontaminate": {"against": ["memory://eval/*.jsonl"]}}
    made = project.ingest(transforms=[against])
    assert [r["input"] for r in project.rows(made)] == ["fine"]
    config = msgspec.convert({"sources": ["data/*"], "input": "text", "transforms": [against]}, ingest.Config)
    assert "memory:///eval/bench.jsonl" in ingest.sources_digest(config, project.root)


def test_a_project_reaches_a_source_of_its_own(project):
    project.write(
        "plugins/source/queue.py",
        '''"""One message."""
from longrein.core.ports import Object
VERSION = 2
class Queue:
    def __init__(self, url, options, project):
        self.url = url
    def scan(self, known):
        return [Object(self.url, "messages.jsonl", "1")]
    def fetch(self, object, path):
        path.write_text('{"text": "a message"}\\n')
plugin = Queue
''',
    )
    plugins.use_project(project.root)
    try:
        made = project.ingest(sources=["queue://orders/1"])
        assert [(r["input"], r["source"]) for r in project.rows(made)] == [("a message", "queue://orders/1")]
        config = msgspec.convert({"sources": ["queue://orders/1"], "input": "text"}, ingest.Config)
        local = msgspec.structs.replace(config, sources=["a.jsonl"])
        assert ingest.version(config) != ingest.version(local)
    finally:
        plugins._project.clear()


def test_watching_asks_no_server(tmp_path):
    file = tmp_path / "longrein.yaml"
    file.write_text("datasets: {a: {sources: ['http://127.0.0.1:9/a.jsonl'], input: text}}\n")
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db")
    watch = Watch(ledger, file)
    assert watch.moved() and "cannot be read" not in str(watch._seen)
    ledger.close()


def test_credentials_stand_nowhere(project, postgresql, monkeypatch):
    """In no file that a run leaves, and in no message."""
    secret, url = "hunter2-hunter2", postgresql.replace("lr@", "lr:${SHOP_PASSWORD}@")
    monkeypatch.setenv("SHOP_PASSWORD", secret)
    source_of = {"path": url, "remote": {"query": "SELECT 1 AS id, 'one' AS body", "key": "id"}}
    made = project.ingest(sources=[source_of], input="body")
    assert [(r["input"], r["line"]) for r in project.rows(made)] == [("one", 1)]
    written = [p for p in project.root.rglob("*") if p.is_file()]
    assert len(written) > 5 and not [p for p in written if secret.encode() in p.read_bytes()]
    assert secret not in str(made)
    wrong = {"path": url, "remote": {"query": "SELECT pg_sleep('" + "${SHOP_PASSWORD}" + "') AS body"}}
    with pytest.raises(Error) as raised:
        project.ingest(sources=[wrong], input="body")
    assert secret not in str(raised.value.as_dict())


def test_names_become_files(tmp_path):
    from longrein.data.remote import _file_name

    assert _file_name("../../etc/passwd") == "_.._etc_passwd"
    assert _file_name("") == _file_name("...") == "object"
    assert _file_name("长" * 300 + ".jsonl").endswith("长.jsonl")
    assert Path(_file_name("a\n\0b.csv")).name == "a__b.csv"
