"""The readers, each with what real files of its format get wrong."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from longrein.core import plugins
from longrein.core.errors import Error
from longrein.core.ports import Record

Told = list[tuple[Any, int]]  # the row, or the reason why there is none; and its line


def read(path: Path, content: bytes | str, **options: Any) -> list[Record]:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    name = {".csv": "csv", ".tsv": "csv", ".jsonl": "jsonl", ".txt": "text", ".parquet": "parquet", ".json": "json"}[
        path.suffix
    ]
    return list(plugins.load("reader", name).read(path, options))


def told(records: list[Record]) -> Told:
    return [(r.reason or r.row, r.line) for r in records]


def test_json_lines_that_are_wrong(tmp_path):
    content = b'{"a": 1}\n{"a": \n[1]\n"x"\nnull\n\n{"a": NaN}\n{"a": "\\ud800"}\n' + b"[" * 5000 + b'\n{"a":2}'
    records = read(tmp_path / "a.jsonl", content)
    assert told(records) == [
        ({"a": 1}, 1), ("malformed", 2), ("not_object", 3), ("not_object", 4), ("not_object", 5), ("blank", 6),
        ("malformed", 7), ("malformed", 8), ("malformed", 9), ({"a": 2}, 10),
    ]  # fmt: skip
    assert records[1].raw == '{"a": ' and len(records[8].raw) == 2000
    assert sum(r.bytes for r in records) == len(content)


def test_nul_bytes_and_wrong_bytes(tmp_path):
    records = read(tmp_path / "a.jsonl", b'{"a": "\0"}\n{"a": "\xff\xfe"}\n{"a": "\xe4\xbd\xa0"}\n')
    assert told(records) == [("nul_byte", 1), ("bad_encoding", 2), ({"a": "你"}, 3)]
    assert "\\x00" in records[0].raw and "\\xff\\xfe" in records[1].raw


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030", "utf-16", "utf-16-le", "utf-32"])
@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".txt"])
def test_encodings(tmp_path, encoding, suffix):
    rows = [f"第{i}行，我的包裹到哪了？" for i in range(50)]
    content = {
        ".jsonl": "".join(f'{{"text": "{r}"}}\n' for r in rows),
        ".csv": "text\r\n" + "".join(f"{r}\r\n" for r in rows),
        ".txt": "\n".join(rows),
    }[suffix]
    marked = encoding not in ("utf-16-le", "utf-32")  # those cannot be told from their bytes alone: they are named
    records = read(tmp_path / f"a{suffix}", content.encode(encoding), **({} if marked else {"encoding": encoding}))
    assert [r.row["text"] for r in records if r.row] == rows


LANGUAGES = {
    "gb18030": "您好，请问我的订单什么时候发货？已经等了三天了。",
    "big5": "您好，請問我的訂單什麼時候發貨？已經等了三天了。",
    "cp932": "お問い合わせの件について、ご連絡いたします。",
    "euc_jp": "お問い合わせの件について、ご連絡いたします。",
    "cp949": "주문한 상품이 아직 도착하지 않았습니다.",
    "cp1252": "Où est mon colis ? J’ai été débité deux fois, à l’hôtel déjà.",
    "cp1250": "Gdzie jest moja paczka? Proszę o zwrot pieniędzy, zamówienie już opłaciłem.",
    "cp1251": "Где моя посылка? Деньги списали два раза.",
    "koi8_r": "Где моя посылка? Деньги списали два раза.",
}


@pytest.mark.parametrize("encoding", LANGUAGES)
def test_the_encodings_of_the_world_are_found_out(tmp_path, encoding):
    rows = [f"{i} {LANGUAGES[encoding]}" for i in range(20)]
    content = "".join(f'{{"text": "{r}"}}\n' for r in rows).encode(encoding)
    assert [r.row["text"] for r in read(tmp_path / "a.jsonl", content) if r.row] == rows


@pytest.mark.parametrize("encoding", ["gb18030", "big5", "cp932", "cp949", "cp1251"])
def test_a_line_of_another_encoding_is_read_in_its_own(tmp_path, encoding):
    lines = ["你好，世界"] * 5 + [LANGUAGES[encoding]] + ["再见"] * 5
    content = b"\n".join([line.encode(encoding if i == 5 else "utf-8") for i, line in enumerate(lines)])
    assert [r.row["text"] for r in read(tmp_path / "a.txt", content) if r.row] == lines
    told = read(tmp_path / "a.txt", content, encoding="utf-8")  # what a person said is not doubted
    assert [r.reason for r in told].count("bad_encoding") == 1


def test_a_damaged_line_does_not_hide_the_encoding_of_the_others(tmp_path):
    """Short lines, no one of which could be sure by itself, are read as the file is."""
    lines = ["麻烦问下，优惠码再哪里输入？", "满多少包邮", "订单吹风机有货", *[LANGUAGES["gb18030"]] * 3]
    content = b"\n".join([*(line.encode("gb18030") for line in lines), b"caf\xff\xfe"])
    records = read(tmp_path / "a.txt", content)
    assert [r.row and r.row["text"] for r in records] == [*lines, None]
    assert records[-1].reason == "bad_encoding"


def test_utf_8_in_a_file_of_another_encoding_is_no_nonsense(tmp_path):
    text = "订单已经发货"  # in UTF-8, these bytes are valid GB18030 too
    assert text.encode().decode("gb18030") != text
    content = (LANGUAGES["gb18030"].encode("gb18030") + b"\n") * 5 + text.encode()
    assert read(tmp_path / "a.txt", content)[5].row == {"text": text}


def test_a_line_in_doubt_is_rejected_not_guessed(tmp_path):
    records = read(tmp_path / "a.txt", b"fine\n" + b"\xc0\xe9\xff\n" + "好的\n".encode())
    assert told(records) == [({"text": "fine"}, 1), ("bad_encoding", 2), ({"text": "好的"}, 3)]


def test_utf_16_with_half_a_character_loses_that_line_only(tmp_path):
    content = "好\n\ud800\n坏\n".encode("utf-16", "surrogatepass")
    assert told(read(tmp_path / "a.txt", content)) == [({"text": "好"}, 1), ("bad_encoding", 2), ({"text": "坏"}, 3)]
    assert told(read(tmp_path / "b.txt", "plain english\nin two lines\n".encode("utf-16-le"))) == [
        ({"text": "plain english"}, 1),
        ({"text": "in two lines"}, 2),
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="reads a process's peak memory from /proc")
def test_a_line_too_long_is_skipped_in_bounded_memory(tmp_path):
    path = tmp_path / "a.jsonl"
    with path.open("wb") as file:
        file.write(b'{"a": 1}\n{"a": "')
        for _ in range(300):
            file.write(b"x" * (1 << 20))
        file.write(b'"}\n{"a": 2}\n')
    script = (
        "import sys, pathlib\nfrom longrein.core import plugins\n"
        "records = plugins.load('reader', 'jsonl').read(pathlib.Path(sys.argv[1]), {})\n"
        "print([(r.reason or r.row, r.line) for r in records])\n"
        "print(pathlib.Path('/proc/self/status').read_text())"
    )
    root = Path(__file__).parents[2]
    printed = subprocess.check_output([sys.executable, "-c", script, str(path)], cwd=root, text=True)
    rows, _, status = printed.partition("\n")
    assert rows == "[({'a': 1}, 1), ('line_too_long', 2), ({'a': 2}, 3)]"
    peak_kib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    assert peak_kib < 100 << 10


def test_csv_quotes_line_feeds_and_delimiters(tmp_path):
    for delimiter in ",;|\t":
        content = delimiter.join(["text", "n"]) + f'\n"a{delimiter}""b""\r\nc"{delimiter}1\n\nlast{delimiter}2'
        assert told(read(tmp_path / "a.csv", content)) == [
            ({"text": f'a{delimiter}"b"\nc', "n": "1"}, 2),
            ("blank", 4),
            ({"text": "last", "n": "2"}, 5),
        ]
    assert told(read(tmp_path / "a.csv", "a;b\n1;2", delimiter=",", header=["x"])) == [
        ({"x": "a;b"}, 1),
        ({"x": "1;2"}, 2),
    ]


def test_csv_rows_of_the_wrong_width(tmp_path):
    assert told(read(tmp_path / "a.csv", "a,b\n1\n1,2,3\n1,2\n,\n")) == [
        ("wrong_columns", 2), ("wrong_columns", 3), ({"a": "1", "b": "2"}, 4), ("blank", 5),
    ]  # fmt: skip


@pytest.mark.parametrize("damage", ['lost,"no end', 'two,"quotes" here', '"open,2'])
def test_a_lost_quote_costs_one_row(tmp_path, damage):
    rows = [f'{i},"text, {i}"' if i % 3 == 0 else f"{i},plain {i}" for i in range(200)]
    rows[50] = damage
    records = read(tmp_path / "a.csv", "n,text\n" + "\n".join(rows))
    assert [(r.reason, r.line) for r in records if r.reason] == [("malformed", 52)]
    assert len(records) == 200 and records[199].row == {"n": "199", "text": "plain 199"}


def test_quotes_lost_everywhere_stay_linear(tmp_path):
    content = "n,text\n" + '"x,1\n' * 20_001
    records = read(tmp_path / "a.csv", content)
    assert {r.reason for r in records} == {"malformed"} and sum(r.bytes for r in records) == len(content) - len(
        "n,text\n"
    )


def test_csv_header(tmp_path):
    with pytest.raises(Error, match="names the column 'a' twice"):
        read(tmp_path / "a.csv", "a,b,a\n1,2,3\n")
    assert told(read(tmp_path / "a.csv", "1,2\n", header=["a", "b"])) == [({"a": "1", "b": "2"}, 1)]
    assert told(read(tmp_path / "a.csv", "\ufeff a ,b\n1,2\n")) == [({"a": "1", "b": "2"}, 2)]
    assert read(tmp_path / "a.csv", "") == [] and read(tmp_path / "a.csv", "only,header\n") == []


def test_text_per_line_and_per_file(tmp_path):
    content = "one\r\n\n  \nfour\n"
    assert told(read(tmp_path / "a.txt", content)) == [
        ({"text": "one"}, 1),
        ("blank", 2),
        ("blank", 3),
        ({"text": "four"}, 4),
    ]
    assert told(read(tmp_path / "a.txt", content, per="file")) == [({"text": "one\n\n  \nfour"}, 1)]
    assert told(read(tmp_path / "a.txt", content, per="file", max_line_bytes=5)) == [("file_too_long", 1)]
    assert told(read(tmp_path / "a.txt", "a\0b", per="file")) == [("nul_byte", 1)]
    assert told(read(tmp_path / "a.txt", " \n", per="file")) == [("blank", 1)]


def test_json_lists_and_lists_of_lists(tmp_path):
    path = tmp_path / "a.json"
    assert told(read(path, '\ufeff[{"a": 1}, 2, {"a": 3}]')) == [({"a": 1}, 1), ("not_object", 2), ({"a": 3}, 3)]
    assert told(read(path, '{"a": 1, "b": []}')) == [({"a": 1, "b": []}, 1)]
    splits = '{"train": [["hi", "x"], ["short"]], "test": [["ho", "y"]]}'
    assert told(read(path, splits, columns=["text", "label"], key="split")) == [
        ({"text": "hi", "label": "x", "split": "train"}, 1),
        ("not_object", 2),
        ({"text": "ho", "label": "y", "split": "test"}, 3),
    ]
    for wrong in ("[1", '{"a": 1}\n{"a": 2}', "[" * 100_000):
        with pytest.raises(Error, match="is not JSON"):
            read(path, wrong)
    with pytest.raises(Error, match="read at once"):
        read(path, "[1, 2]", max_bytes=3)


def test_parquet_nested_values_and_a_broken_file(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"a": [1, None], "b": [[{"c": "x"}], []]}), path)
    content = path.read_bytes()
    assert told(read(path, content)) == [({"a": 1, "b": [{"c": "x"}]}, 1), ({"a": None, "b": []}, 2)]
    assert told(read(path, content, columns=["a"])) == [({"a": 1}, 1), ({"a": None}, 2)]
    for broken in (b"", b"PAR1" + b"x" * 50, content[:-20], content[: len(content) // 2]):
        with pytest.raises(Error, match="cannot be read as Parquet"):
            read(path, broken)
