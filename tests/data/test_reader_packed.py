"""Compressed files and archives, the hostile ones among them; and files that cannot be read to their end."""

import bz2
import gzip
import io
import json
import lzma
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from longrein.core.errors import Error
from longrein.core.ports import Record
from longrein.data import source, unpack
from longrein.data.source import File

ROWS = [{"text": f"第 {i} 行", "n": i} for i in range(50)]
JSONL = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in ROWS).encode()


def read(path: Path, content: bytes | None = None, reader: str = "", **options: Any) -> list[Record]:
    if content is not None:
        path.write_bytes(content)
    return list(source.records(File(path, path.name, reader, options)))


def told(records: list[Record]) -> list[tuple[Any, int, str]]:
    return [(r.reason or r.row, r.line, r.member) for r in records]


def parquet() -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(ROWS), sink)
    return sink.getvalue()


def arrow(codec: str) -> Callable[[bytes], bytes]:
    def compress(data: bytes) -> bytes:
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, codec) as out:
            out.write(data)
        return bytes(sink.getvalue())

    return compress


def zipped(members: dict[str, bytes]) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return sink.getvalue()


def tarred(members: dict[str, bytes], mode: str = "w") -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode=mode) as file:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return sink.getvalue()


CODECS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lambda data: lzma.compress(data, preset=0),
    ".zst": arrow("zstd"),
    ".lz4": arrow("lz4"),
}


@pytest.mark.parametrize("suffix", CODECS)
def test_compressed_files_of_every_format(tmp_path, suffix):
    compress = CODECS[suffix]
    records = read(tmp_path / f"a.jsonl{suffix}", compress(JSONL))
    assert [r.row for r in records] == ROWS and [r.line for r in records] == [*range(1, 51)]
    assert 0 < sum(r.bytes for r in records) <= (tmp_path / f"a.jsonl{suffix}").stat().st_size  # progress
    assert [r.row for r in read(tmp_path / f"b.parquet{suffix}", compress(parquet()))] == ROWS  # needs to seek
    assert [r.row for r in read(tmp_path / f"c.JSONL{suffix.upper()}", compress(JSONL) * 2)] == ROWS * 2
    assert [r.row for r in read(tmp_path / f"log{suffix}", compress(JSONL), reader="jsonl")] == ROWS
    with pytest.raises(Error, match=r"no reader knows files like 'd\.exe'"):
        read(tmp_path / f"d.exe{suffix}", compress(JSONL))


@pytest.mark.parametrize("suffix", CODECS)
def test_a_compressed_file_that_breaks_off_keeps_what_could_be_read(tmp_path, suffix):
    rows = [{"n": i, "text": os.urandom(60).hex()} for i in range(20_000)]
    data = CODECS[suffix]("".join(json.dumps(r) + "\n" for r in rows).encode())
    records = read(tmp_path / f"a.jsonl{suffix}", data[: len(data) // 2])
    good = [r.row for r in records if r.row]
    assert good == rows[: len(good)] and len(good) > 4000
    assert [r.reason for r in records[len(good) :]] == ["unreadable"]
    assert records[-1].line == len(good) + 1 and "breaks off" in records[-1].detail and "a.jsonl" in records[-1].detail
    for wrong in (b"not compressed at all", b"", data[:3]):
        records = read(tmp_path / f"b.jsonl{suffix}", wrong)
        assert [r.reason for r in records] in (["unreadable"], [])


@pytest.mark.parametrize("pack", [zipped, tarred, lambda m: tarred(m, "w:gz"), lambda m: CODECS[".zst"](tarred(m))])
def test_archives_of_many_formats(tmp_path, pack):
    content = pack(
        {
            "train/a.jsonl": JSONL,
            "b.parquet": parquet(),
            "c.csv.gz": gzip.compress(b"text,n\nhi,1\n"),
            "数据/d.txt": "你好\n".encode("gb18030") * 5,
            "__MACOSX/x.txt": b"no",
            ".DS_Store": b"no",
            "e.exe": b"MZ",
            "broken.parquet": b"PAR1 no",
        }
    )
    suffix = ".zip" if content[:2] == b"PK" else ".tgz" if content[:2] == b"\x1f\x8b" else ".tar.zst"
    if content[257:262] == b"ustar":
        suffix = ".tar"
    records = read(tmp_path / f"x{suffix}", content)
    good = [(r.row, r.line, r.member) for r in records if r.row]
    assert good == [
        *((row, i + 1, "train/a.jsonl") for i, row in enumerate(ROWS)),
        *((row, i + 1, "b.parquet") for i, row in enumerate(ROWS)),
        ({"text": "hi", "n": "1"}, 2, "c.csv.gz"),
        *(({"text": "你好"}, i + 1, "数据/d.txt") for i in range(5)),
    ]
    assert [(r.reason, r.member) for r in records if r.reason] == [
        ("unknown_format", "e.exe"),
        ("unreadable", "broken.parquet"),
    ]


def test_archives_in_archives(tmp_path):
    inner = zipped({"a.jsonl": b'{"n": 1}\n'})
    content = zipped({"in.tar.gz": tarred({"deep/er.zip": inner}, "w:gz"), "b.jsonl": b'{"n": 2}\n'})
    assert told(read(tmp_path / "x.zip", content)) == [
        ({"n": 1}, 1, "in.tar.gz!deep/er.zip!a.jsonl"),
        ({"n": 2}, 1, "b.jsonl"),
    ]
    for _ in range(6):
        inner = zipped({"x.zip": inner})
    assert [r.reason for r in read(tmp_path / "deep.zip", inner)] == ["nested_too_deep"]


def test_a_tar_of_samples_is_a_shard_and_a_tar_of_files_is_not(tmp_path):
    samples = {"1.txt": b"one", "1.cls": b"a", "2.txt": b"two", "2.cls": b"b"}
    rows = [{"__key__": "1", "txt": "one", "cls": "a"}, {"__key__": "2", "txt": "two", "cls": "b"}]
    assert [r.row for r in read(tmp_path / "a.tar", tarred(samples))] == rows
    assert [r.row for r in read(tmp_path / "a.tar.gz", tarred(samples, "w:gz"))] == rows
    files = {"1.txt": b"one\n", "2.txt": b"two\n"}
    assert told(read(tmp_path / "b.tar.gz", tarred(files, "w:gz"))) == [
        ({"text": "one"}, 1, "1.txt"),
        ({"text": "two"}, 1, "2.txt"),
    ]
    shards = read(tmp_path / "b.tar.gz", None, reader="webdataset")
    assert [r.row for r in shards] == [{"__key__": "1", "txt": "one\n"}, {"__key__": "2", "txt": "two\n"}]


@pytest.mark.parametrize("suffix", [".zip", ".jsonl.gz", ".jsonl.zst", ".jsonl.xz"])
def test_a_bomb_is_rejected_before_it_goes_off(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(unpack, "FREE_BYTES", 1 << 20)
    zeros = b"0" * (30 << 20)
    in_zip = suffix == ".zip"
    content = zipped({"ok.jsonl": JSONL, "a.jsonl": zeros}) if in_zip else CODECS["." + suffix.split(".")[2]](zeros)
    records = read(tmp_path / f"a{suffix}", content, max_line_bytes=1 << 20)
    assert [r.row for r in records if r.row] == (ROWS if in_zip else [])
    assert records[-1].reason == "too_large" and "unpacks to more than" in records[-1].detail


def test_an_archive_that_contains_itself_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(unpack, "FREE_BYTES", 1 << 20)
    content = zipped({"a.txt": b"x" * 300_000})
    for _ in range(3):  # 16 copies in each of 16 copies …
        content = zipped({f"{i}.zip": content for i in range(16)})
    records = read(tmp_path / "x.zip", content)
    assert records[-1].reason == "too_large" and len(records) < 100


def test_names_that_lead_out_are_names_only(tmp_path):
    names = ["../../escape.txt", "/etc/escape.txt", "a\nb\x1b[31m.txt", "C:\\escape.txt"]
    before = sorted(tmp_path.parent.rglob("*"))
    members = {r.member for r in read(tmp_path / "x.tar", tarred({"a.jsonl": JSONL} | dict.fromkeys(names, b"hi\n")))}
    assert {"../../escape.txt", "/etc/escape.txt", "a\\nb\\x1b[31m.txt"} <= members
    assert sorted(tmp_path.parent.rglob("*")) == sorted([*before, tmp_path / "x.tar"])


def test_links_devices_and_sparse_files_in_a_tar(tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as file:
        for name, kind in (("a.txt", tarfile.SYMTYPE), ("b.txt", tarfile.LNKTYPE), ("c.txt", tarfile.CHRTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, str(secret)
            file.addfile(info)
    assert read(tmp_path / "x.tar", sink.getvalue(), reader="text") == []


def test_names_in_a_zip_made_on_chinese_windows(tmp_path):
    data = zipped({"XXXX/YYYYYYYY.txt": b"hi\n"})
    data = data.replace(b"XXXX", "数据".encode("gbk")).replace(b"YYYYYYYY", "用户信息".encode("gbk"))
    assert [r.member for r in read(tmp_path / "x.zip", data)] == ["数据/用户信息.txt"]


def test_an_encrypted_member_is_told_apart(tmp_path):
    data = bytearray(zipped({"a.txt": b"hello\n", "b.txt": b"hello\n"}))
    at = data.index(b"PK\x01\x02")
    data[at + 8] |= 1
    assert told(read(tmp_path / "x.zip", bytes(data))) == [("encrypted", 1, "a.txt"), ({"text": "hello"}, 1, "b.txt")]


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz"])
def test_an_archive_that_breaks_off(tmp_path, name):
    members = {f"{i:03}.jsonl": b'{"t": "%s"}\n' % os.urandom(5000).hex().encode() for i in range(100)}
    whole = zipped(members) if name == "a.zip" else tarred(members, "w:gz" if name.endswith("gz") else "w")
    records = read(tmp_path / name, whole[: len(whole) // 2])
    assert records[-1].reason == "unreadable"
    assert len([r for r in records if r.row]) > (0 if name == "a.zip" else 40) - 1  # a ZIP's index is at its end
    for wrong in (b"", b"garbage" * 500, whole[:10]):
        assert {r.reason for r in read(tmp_path / name, wrong)} <= {"unreadable"}


def test_one_damaged_member_does_not_end_the_archive(tmp_path):
    data = bytearray(zipped({"a.jsonl": os.urandom(3000).hex().encode(), "b.jsonl": JSONL}))
    data[200:400] = bytes(200)
    records = read(tmp_path / "x.zip", bytes(data))
    assert [r.row for r in records if r.row] == ROWS
    assert ("unreadable", "a.jsonl") in [(r.reason, r.member) for r in records]


def test_a_bad_file_is_a_rejected_record_with_its_reason(tmp_path):
    for name in ("a.parquet", "a.arrow", "a.json", "a.tar"):
        records = read(tmp_path / name, b"\x00\x01garbage" * 100)
        assert [(r.reason, r.line) for r in records] == [("unreadable", 1)] and records[0].detail
    with pytest.raises(Error, match=r"options of the source a\.csv.*not one character"):
        read(tmp_path / "a.csv", b"a,b\n", delimiter="::")
    with pytest.raises(Error, match="unknown encoding 'utf-99'"):
        read(tmp_path / "a.txt", b"a\n", encoding="utf-99")


def test_a_full_disk_is_no_bad_file(tmp_path):
    def full() -> Any:
        yield Record({}, 1)
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        list(unpack.guarded(full()))


def test_empty_files_and_files_with_only_a_mark(tmp_path):
    for name in ("a.jsonl", "a.csv", "a.txt", "a.json"):
        for content in (b"", b"\xef\xbb\xbf", b"\xff\xfe", b"\xff\xfe\x00\x00"):
            assert read(tmp_path / name, content) == [], (name, content)
