"""What every reader plugin keeps; found by itself, run over each (see longrein.core.ports.Reader)."""

import csv
import io
import json
import random
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from longrein.core import plugins
from longrein.core.errors import Error
from longrein.core.ports import Reader, Record

ROWS = [{"text": 'hello, "you"', "label": "a"}, {"text": "你好", "label": "b"}, {"text": "last", "label": ""}]


def _csv(delimiter: str) -> bytes:
    file = io.StringIO()
    writer = csv.DictWriter(file, ["text", "label"], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(ROWS)
    return file.getvalue().encode()


def _parquet() -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(ROWS), sink)
    return sink.getvalue()


def _arrow() -> bytes:
    sink = io.BytesIO()
    table = pa.Table.from_pylist(ROWS)
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def _tar() -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as file:
        for number, row in enumerate(ROWS):
            data = json.dumps(row).encode()
            member = tarfile.TarInfo(f"{number:03}.json")
            member.size = len(data)
            file.addfile(member, io.BytesIO(data))
    return sink.getvalue()


def _warc(text: str) -> bytes:
    http = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n" + text.encode()
    head = f"WARC/1.0\r\nWARC-Type: response\r\nContent-Type: application/http\r\nContent-Length: {len(http)}\r\n\r\n"
    return head.encode() + http + b"\r\n\r\n"


# How the same three rows look in a format; a new format's line here makes it more than garbage-proof.
SAMPLES: dict[str, Callable[[], bytes]] = {
    ".jsonl": lambda: "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in ROWS).encode(),
    ".json": lambda: json.dumps(ROWS).encode(),
    ".csv": lambda: _csv(","),
    ".tsv": lambda: _csv("\t"),
    ".parquet": _parquet,
    ".arrow": _arrow,
    ".tar": _tar,
    ".txt": lambda: "\n".join(r["text"] for r in ROWS).encode(),
    ".warc": lambda: b"".join(_warc(r["text"]) for r in ROWS),
}
GARBAGE = {
    "empty": b"",
    "zeros": bytes(5000),
    "random": random.Random(0).randbytes(20_000),
    "random lines": b"\n".join(random.Random(i).randbytes(40) for i in range(200)),
    "quotes": b'a,b\n"' * 300,
    "brackets": b"[" * 100_000,
    "no end": b"x" * 50_000,
    "utf-16": "text\nhello\n".encode("utf-16"),
    "not utf-8": b"text\nfine\n\xff\xfe\xff\nfine again\n",
}


@pytest.fixture(params=plugins.names("reader"))
def reader(request: pytest.FixtureRequest) -> Reader:
    try:
        found: Reader = plugins.load("reader", request.param)
    except Error as error:
        if error.code != "missing_package":
            raise
        pytest.skip(error.message)
    return found


def read(reader: Reader, tmp_path: Path, content: bytes, suffix: str = "", **options: Any) -> list[Record]:
    path = tmp_path / f"file{suffix or reader.suffixes[0]}"
    path.write_bytes(content)
    records = list(reader.read(path, options))
    assert sum(r.bytes for r in records) <= max(len(content), 1) * 2  # UTF-16 is counted as the UTF-8 it becomes
    return records


def test_suffixes_and_version(reader, request):
    name = request.node.callspec.params["reader"]
    assert reader.suffixes and all(s.startswith(".") and s == s.lower() for s in reader.suffixes)
    assert plugins.version("reader", name)
    others = {s for n in plugins.names("reader") if n != name for s in plugins.load("reader", n).suffixes}
    assert not others & set(reader.suffixes)


def test_rows_as_they_were_written(reader, tmp_path):
    for suffix in reader.suffixes:
        if suffix in SAMPLES:
            records = read(reader, tmp_path, SAMPLES[suffix](), suffix)
            assert [r.row["text"] for r in records if r.row] == [r["text"] for r in ROWS]
            assert [r.line for r in records] == sorted({r.line for r in records}) and records[0].line >= 1


class Stream(io.RawIOBase):
    """A blob that is no file and cannot seek: what lies in an archive, or comes over a wire."""

    def __init__(self, name: str, content: bytes) -> None:
        self.name, self.content = name, content

    def open(self, mode: str) -> io.BufferedReader:
        stream = Stream(self.name, self.content)
        stream.left = io.BytesIO(self.content)
        return io.BufferedReader(stream, 100)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self.left.readinto(buffer)


def test_the_same_from_a_stream(reader, tmp_path):
    for suffix in reader.suffixes:
        if suffix in SAMPLES:
            content = SAMPLES[suffix]()
            assert list(reader.read(Stream(f"file{suffix}", content), {})) == read(reader, tmp_path, content, suffix)


@pytest.mark.parametrize("kind", GARBAGE)
def test_garbage_ends_in_records_or_one_clear_error(reader, tmp_path, kind):
    try:
        records = read(reader, tmp_path, GARBAGE[kind])
    except Error as error:
        assert error.code == "invalid" and error.message
        return
    for record in records:
        assert (record.row is None) == bool(record.reason)
        assert record.row is not None or (record.reason.replace("_", "").islower() and record.detail)
        json.dumps([record.raw, record.row]).encode()  # what is kept of it is text
    assert [r.line for r in records] == sorted(r.line for r in records)


def test_an_unknown_option_is_refused(reader, tmp_path):
    with pytest.raises((msgspec.ValidationError, Error), match="colour"):
        read(reader, tmp_path, SAMPLES.get(reader.suffixes[0], lambda: b"")(), colour="red")


def test_a_missing_file_and_a_folder(reader, tmp_path):
    for path in (tmp_path / "none.x", tmp_path):
        with pytest.raises((OSError, Error)):
            list(reader.read(path, {}))
