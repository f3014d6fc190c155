"""Object stores: a real S3 server on this machine, and any file system of fsspec."""

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from longrein.core.errors import Error
from longrein.data import remote, source
from longrein.data.source import Source

fsspec = pytest.importorskip("fsspec")
pytest.importorskip("s3fs")


def lines(*texts: str) -> bytes:
    return "".join(json.dumps({"text": t}, ensure_ascii=False) + "\n" for t in texts).encode()


class Bucket:
    def __init__(self, client: Any, url: str) -> None:
        self.client, self.url = client, url
        self.name = f"b{time.time_ns()}"
        client.create_bucket(Bucket=self.name)

    def put(self, key: str, body: bytes) -> None:
        self.client.put_object(Bucket=self.name, Key=key, Body=body)

    def find(self, root: Path, key: str, fetch: bool = True) -> list[source.File]:
        return source.find([f"s3://{self.name}/{key}"], root, fetch=fetch)


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    """A client of a real server, in this process: what it is asked can be counted."""
    boto3, server = pytest.importorskip("boto3"), pytest.importorskip("moto.server")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "who")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "s3cret-k3y")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        running = server.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        running.start()
        host, port = running.get_host_and_port()
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        yield boto3.client("s3")
        running.stop()


@pytest.fixture
def bucket(s3: Any) -> Bucket:
    return Bucket(s3, s3.meta.endpoint_url)


def texts(files: list[source.File]) -> list[str]:
    return [r.row["text"] for f in files for r in source.records(f)]


def test_only_what_changed_is_fetched(bucket, tmp_path, monkeypatch):
    for name in ("b", "a", "deep/c"):
        bucket.put(f"logs/{name}.jsonl", lines(name))
    bucket.put("logs/.hidden.jsonl", lines("hidden"))
    bucket.put("logs/other.csv", b"text\nx\n")
    planned = bucket.find(tmp_path, "logs/**/*.jsonl", fetch=False)
    found = bucket.find(tmp_path, "logs/**/*.jsonl")
    assert [f.name for f in found] == [f"s3://{bucket.name}/logs/{n}.jsonl" for n in ("a", "b", "deep/c")]
    assert texts(found) == ["a", "b", "deep/c"]
    assert bucket.find(tmp_path, "logs/**/*.jsonl", fetch=False) == planned
    bucket.put("logs/b.jsonl", lines("new"))
    fetched: list[tuple[int, int, int]] = []
    again = source.find(
        [f"s3://{bucket.name}/logs/**/*.jsonl"], tmp_path, fetch=True, told=lambda *n: fetched.append(n)
    )
    assert texts(again) == ["a", "new", "deep/c"] and fetched == [(1, len(lines("new")), len(lines("new")))]
    now = bucket.find(tmp_path, "logs/**/*.jsonl", fetch=False)
    assert [f.digest == g.digest for f, g in zip(planned, now, strict=True)] == [True, False, True]


def test_large_objects_and_packed_ones(bucket, tmp_path, monkeypatch):
    from longrein.plugins.source import fsspec as plugin

    monkeypatch.setattr(plugin, "BLOCK_BYTES", 100_000)
    many = [f"第 {i} 行" for i in range(20_000)]
    bucket.put("large.jsonl", lines(*many))
    bucket.put("packed.jsonl.gz", gzip.compress(lines("a")))
    assert texts(bucket.find(tmp_path, "large.jsonl")) == many
    assert texts(bucket.find(tmp_path, "packed.jsonl.gz")) == ["a"]


def test_chinese_and_strange_keys(bucket, tmp_path):
    for key in ("数据/客户 一.jsonl", "数据/a%2Fb+c&d.jsonl", "数据/" + "长" * 200 + ".jsonl"):
        bucket.put(key, lines(key[:8]))
    found = bucket.find(tmp_path, "数据/*.jsonl")
    assert sorted(texts(found)) == sorted(["数据/客户 一.j"[:8], "数据/a%2Fb", "数据/" + "长" * 5])
    assert texts(bucket.find(tmp_path, "数据/客户 一.jsonl")) == ["数据/客户 一.j"[:8]]


@pytest.mark.parametrize("key", ["nothing/*.jsonl", "nothing.jsonl", "logs", "logs/"])
def test_what_is_not_there(bucket, tmp_path, key):
    bucket.put("logs/a.jsonl", lines("a"))
    with pytest.raises(Error) as raised:
        bucket.find(tmp_path, key, fetch=False)
    assert raised.value.code in ("invalid", "not_found") and raised.value.hint
    with pytest.raises(Error) as raised:
        source.find(["s3://no-such-bucket-here/*.jsonl"], tmp_path)
    assert raised.value.code in ("invalid", "not_found")


def test_gone_or_changed_since_it_was_listed(bucket, tmp_path, monkeypatch):
    from longrein.plugins.source import fsspec as plugin

    bucket.put("a.jsonl", lines("a"))
    scan = plugin.Fsspec.scan

    def late(self: Any, known: Any) -> Any:
        yield from [*scan(self, known)]
        change()

    monkeypatch.setattr(plugin.Fsspec, "scan", late)
    change = lambda: bucket.put("a.jsonl", lines("b"))  # noqa: E731
    with pytest.raises(Error) as raised:
        bucket.find(tmp_path, "*.jsonl")
    assert raised.value.code == "conflict"
    change = lambda: bucket.client.delete_object(Bucket=bucket.name, Key="a.jsonl")  # noqa: E731
    with pytest.raises(Error) as raised:
        bucket.find(tmp_path, "*.jsonl")
    assert raised.value.code == "not_found"
    assert not list((tmp_path / remote.FOLDER / "objects").rglob("*.jsonl"))


def test_an_endpoint_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "who")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cret-k3y")
    quick = {"endpoint_url": "http://127.0.0.1:9", "config_kwargs": {"retries": {"max_attempts": 1}}}
    with pytest.raises(Error) as raised:
        source.find([Source(path="s3://bucket/*.jsonl", remote=quick)], tmp_path)
    assert raised.value.code == "unavailable" and "s3cret" not in str(raised.value.as_dict())


def test_options_and_what_is_missing(tmp_path, monkeypatch):
    with pytest.raises(Error, match="secret stands in"):
        source.find([Source(path="s3://bucket/a", remote={"key": "a", "secret": "b"})], tmp_path)
    with pytest.raises(Error, match="password stands in"):
        source.find(["ftp://me:pass@host/a"], tmp_path)
    with pytest.raises(Error) as raised:
        source.find(["nosuch://bucket/a"], tmp_path)
    assert raised.value.code == "invalid"
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(Error) as raised:
        source.find(["gs://bucket/a"], tmp_path)
    assert raised.value.code == "missing_package" and "gcsfs" in raised.value.hint


def test_any_file_system(tmp_path):
    files = fsspec.filesystem("memory")
    for name in ("x", "y"):
        files.pipe(f"/data/{name}.jsonl", lines(name))
    found = source.find(["memory://data/*.jsonl"], tmp_path, fetch=True)
    assert [f.name for f in found] == ["memory:///data/x.jsonl", "memory:///data/y.jsonl"] and texts(found) == [
        "x",
        "y",
    ]
    own = tmp_path / "own.jsonl"
    own.write_bytes(lines("own"))
    (file,) = source.find([f"file://{own}"], tmp_path)
    assert file.path == own and texts([file]) == ["own"]  # read where it lies


def test_a_hundred_thousand_objects(tmp_path):
    files = fsspec.filesystem("memory")
    files.pipe("/data/x.jsonl", lines("x"))
    for i in range(100_000):
        files.store[f"/many/{i:06}.jsonl"] = files.store["/data/x.jsonl"]
    found = source.find(["memory://many/*.jsonl"], tmp_path)
    for name in [n for n in files.store if n.startswith("/many/")]:
        del files.store[name]
    assert len(found) == len({f.digest for f in found}) == 100_000


def test_a_damaged_cache_is_made_good(bucket, tmp_path):
    bucket.put("a.jsonl", lines("a"))
    (file,) = bucket.find(tmp_path, "a.jsonl")
    file.path.chmod(0o644)
    file.path.write_bytes(lines("b"))
    assert texts(bucket.find(tmp_path, "a.jsonl")) == ["a"]
    file.path.unlink()
    assert texts(bucket.find(tmp_path, "a.jsonl")) == ["a"]
    for left in (tmp_path / remote.FOLDER).glob("index.db*"):
        left.unlink()
    (tmp_path / remote.FOLDER / "index.db").write_bytes(b"not a database " * 100)
    assert texts(bucket.find(tmp_path, "a.jsonl")) == ["a"]


def test_what_nobody_needs_goes(bucket, tmp_path, monkeypatch):
    for name in ("a", "b"):
        bucket.put(f"{name}.jsonl", lines(name))
    (old,) = bucket.find(tmp_path, "a.jsonl")
    monkeypatch.setattr(remote, "KEEP_BYTES", 1)
    (new,) = bucket.find(tmp_path, "b.jsonl")
    assert old.path.exists()  # somebody may be reading it
    monkeypatch.setattr(remote, "KEEP_S", 0.0)
    assert bucket.find(tmp_path, "b.jsonl") == [new]
    assert new.path.exists() and not old.path.exists()
    assert texts(bucket.find(tmp_path, "a.jsonl")) == ["a"]


KILLED = """
import os, signal, sys
from pathlib import Path
from longrein.data import source
from longrein.plugins.source import fsspec
fsspec.BLOCK_BYTES = 1000
blocks = []
files = __import__("s3fs").S3FileSystem
cat = files.cat_file
def killing(self, *a, **k):
    blocks.append(k.get("start"))
    if len(blocks) == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
    return cat(self, *a, **k)
files.cat_file = killing
found = source.find([sys.argv[2]], Path(sys.argv[1]), fetch=True)
print(blocks[0], sum(1 for f in found for _ in source.records(f)))
"""


def test_killed_while_fetching(bucket, tmp_path):
    body = lines(*(f"row {i}" for i in range(1000)))
    bucket.put("a.jsonl", body)

    def run(at: int) -> subprocess.CompletedProcess[str]:
        arguments = [sys.executable, "-c", KILLED, str(tmp_path), f"s3://{bucket.name}/a.jsonl", str(at)]
        return subprocess.run(arguments, capture_output=True, text=True, env=dict(os.environ))

    assert run(5).returncode == -signal.SIGKILL
    assert not list((tmp_path / remote.FOLDER / "objects").rglob("*.jsonl"))
    done = run(0)
    assert done.returncode == 0, done.stderr
    start, rows = done.stdout.split()
    assert int(rows) == 1000 and int(start) > 0  # it went on where it stopped
