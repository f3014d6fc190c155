"""Which columns of unknown files are asked, answered and tell the split: a guess, with its reasons, from a sample."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from longrein.core.errors import Error, nearest
from longrein.core.ports import Record
from longrein.core.text import TOKEN_BYTES
from longrein.data import layout, source
from longrein.data.layout import Layout
from longrein.data.source import File
from longrein.data.split import SYNONYMS

ROWS = 20_000  # looked at in each file
DISTINCT = 5_000  # values of a column that are told apart
LABEL_COLUMNS = 40  # a label is no longer than this, in characters, on average
# What such columns are called, the likeliest first.
INPUTS = [
    "text", "input", "prompt", "question", "query", "utterance", "message", "tweet", "comment", "content", "sentence",
    "body", "review", "instruction", "request", "description", "title", "document",
    "文本", "内容", "问题", "输入", "评论", "句子",
]  # fmt: skip
OUTPUTS = [
    "label", "intent", "class", "category", "sentiment", "output", "answer", "response", "completion", "target",
    "reply", "tag", "topic", "summary", "标签", "类别", "意图", "答案", "输出", "回答", "回复",
]  # fmt: skip
CONVERSATIONS = ["messages", "conversations", "conversation", "dialog", "dialogue"]
SPEAKERS = {"role", "from"}
SPLITS = {"train", "validation", "test"}
DOCUMENTS = (".html", ".htm", ".pdf", ".docx", ".md", ".markdown", ".warc", ".wet")  # text to read: nobody answers
MOST_SPLITS = 10  # others may stand beside those three


@dataclass
class Column:
    """What a sample says of one column."""

    name: str
    filled: int = 0
    characters: int = 0
    bytes: int = 0  # of its texts in UTF-8
    numbers: int = 0
    prose: int = 0  # values of several words, or not in ASCII
    conversations: int = 0
    turns: int = 0  # of them, spelled [{from, value}]
    values: Counter[str] = field(default_factory=Counter)
    more: bool = False  # than DISTINCT values

    def add(self, value: Any) -> None:
        if value is None or value == "":
            return
        self.filled += 1
        if isinstance(value, list) and value and all(isinstance(m, dict) and (m.keys() & SPEAKERS) for m in value):
            self.conversations += 1
            self.turns += "from" in value[0]
            self.bytes += sum(len(str(m.get("content", m.get("value"))).encode("utf-8", "replace")) for m in value)
            return
        text = value if isinstance(value, str) else str(value)
        self.characters += len(text)
        self.bytes += len(text.encode("utf-8", "replace"))
        self.numbers += _is_number(text)
        self.prose += " " in text or not text.isascii()
        if text in self.values or len(self.values) < DISTINCT:
            self.values[text] += 1
        else:
            self.more = True

    @property
    def length(self) -> float:
        return self.characters / max(1, self.filled)

    @property
    def is_id(self) -> bool:
        """A number or token of its own in every row."""
        return self.filled > 20 and (self.more or len(self.values) == self.filled) and self.prose < self.filled / 10

    @property
    def is_label(self) -> bool:
        """Few values, each often."""
        return not self.more and 2 <= len(self.values) <= max(2, self.filled // 5) and self.length <= LABEL_COLUMNS


@dataclass(frozen=True)
class Guess:
    rows: int  # looked at
    bad: int  # of them unreadable
    columns: list[str]
    input: str
    output: str
    messages: str
    split: str
    labels: list[tuple[str, float]]  # (answer, share), the commonest first; [] when answers are free text
    transforms: list[str]
    options: dict[str, Any]  # of the reader, for files whose rows have no names for their columns
    tokens: int  # of all rows, about: what an epoch would read
    reasons: dict[str, str]  # of each choice: "input" -> "its name, …"
    format: Layout = ""  # of all columns together, in place of input, output and messages


def guess(files: Sequence[Path], *, input: str = "", output: str = "") -> Guess:
    """Look at the first rows of each file. Errors: `invalid` when no column can be the input or the output."""
    options = _options(files[0])
    columns, rows, bad, whole = _sample(files, options)
    if not rows:
        raise Error("invalid", f"there are no readable rows in {files[0].name}", "check the file, and that it is UTF-8")
    named = {"input": input, "output": output}
    for what, name in named.items():
        if name and name not in columns:
            raise Error("invalid", f"no column is called {name!r} (--{what})", nearest(name, columns))
    reasons: dict[str, str] = {}
    format = "" if input or output else _layout(columns, reasons)
    messages = "" if input or format else _conversation(columns, reasons)
    split = _split(columns, whole > 1, reasons, {input, output})
    if not messages and not format:
        read = all(f.name.lower().endswith(DOCUMENTS) for f in files)
        output = output or ("" if read else _output(columns, {input, split}, reasons, rows))
        input = input or _input(columns, {output, split}, reasons)
    labels = _labels(columns.get(output)) if output else []
    transforms = ["normalize", "conflict", "dedup"] if labels else ["normalize", "dedup"]
    used = list(columns.values()) if format else [columns[c] for c in (input, output, messages) if c]
    tokens = int(sum(c.bytes for c in used) * whole / TOKEN_BYTES)
    return Guess(
        rows, bad, list(columns), input, output, messages, split, labels, transforms, options, tokens, reasons, format
    )


def _sample(files: Sequence[Path], options: dict[str, Any]) -> tuple[dict[str, Column], int, int, float]:
    """Columns, rows, bad rows, and how many times as large as the sample the files are."""
    columns: dict[str, Column] = {}
    rows = bad = seen_bytes = 0
    whole = True
    for file in files:
        for n, record in enumerate(_records(file, options)):
            if n >= ROWS:
                whole = False
                break
            seen_bytes += record.bytes
            if record.row is None:
                bad += 1
                continue
            rows += 1
            for name, value in record.row.items():
                columns.setdefault(name, Column(name)).add(value)
    size = sum(file.stat().st_size for file in files)
    return columns, rows, bad, max(1.0, size / seen_bytes) if seen_bytes and not whole else 1.0


def _options(path: Path) -> dict[str, Any]:
    """What makes rows of a JSON file's lists: names for their columns, and for the one that tells which list it was."""
    first = next(iter(_records(path, {})), None)
    if path.suffix.lower() != ".json" or first is None or first.reason != "not_object":
        return {}
    try:
        value = msgspec.json.decode(first.raw)
    except msgspec.DecodeError:  # a long one, shortened
        return {}
    return (
        {"columns": [f"column_{n + 1}" for n in range(len(value))], "key": "split"} if isinstance(value, list) else {}
    )


def _records(path: Path, options: dict[str, Any]) -> Iterator[Record]:
    try:
        yield from source.reader_of(File(path, path.name, "", options)).read(path, options)
    except FileNotFoundError as error:
        raise Error("not_found", f"there is no file {path}", "check the path") from error
    except OSError as error:
        raise Error("invalid", f"{path} cannot be read: {error.strerror or error}") from error


def _layout(columns: dict[str, Column], reasons: dict[str, str]) -> Layout:
    turns = any(c.turns > c.filled // 2 for c in columns.values())
    if found := layout.guess(set(columns), turns):
        reasons["format"] = f"rows have the columns {', '.join(columns)}"
    return found


def _conversation(columns: dict[str, Column], reasons: dict[str, str]) -> str:
    found = [c for c in columns.values() if c.conversations > c.filled // 2]
    found.sort(key=lambda c: CONVERSATIONS.index(c.name) if c.name in CONVERSATIONS else 99)
    if found:
        reasons["messages"] = "it holds conversations with roles"
    return found[0].name if found else ""


def _split(columns: dict[str, Column], partial: bool, reasons: dict[str, str], taken: set[str]) -> str:
    """A column whose values are names of splits, train and test among them as far as the sample shows."""
    for column in columns.values():
        names = {SYNONYMS.get(v.strip().lower(), v.strip().lower()) for v in column.values}
        if column.name in taken or len(names) > MOST_SPLITS:
            continue
        if names >= SPLITS or (partial and names <= SPLITS and "train" in names and column.name.lower() == "split"):
            reasons["split"] = f"its values are {', '.join(sorted(column.values))}"
            return column.name
    return ""


def _output(columns: dict[str, Column], taken: set[str], reasons: dict[str, str], rows: int) -> str:
    free = [c for c in columns.values() if c.name not in taken and c.filled and not c.is_id]
    if named := _by_name(free, OUTPUTS):
        reasons["output"] = "by its name" + (f", and it has {len(named.values)} values" if named.is_label else "")
        return named.name
    labels = sorted((c for c in free if c.is_label and not c.numbers), key=lambda c: len(c.values))
    if labels:
        reasons["output"] = f"it has only {len(labels[0].values)} values in {rows:,} rows"
        return labels[0].name
    texts = sorted((c for c in free if not c.numbers), key=lambda c: -c.length)
    if len(texts) >= 2:
        reasons["output"] = "the second longest text"
        return texts[1].name
    shown = ", ".join(repr(c) for c in columns)
    raise Error("invalid", f"no column looks like the answer; there are {shown}", "name it: --output COLUMN")


def _input(columns: dict[str, Column], taken: set[str], reasons: dict[str, str]) -> str:
    free = [c for c in columns.values() if c.name not in taken and c.filled and not c.is_id]
    longest = max(free, key=lambda c: c.length, default=None)
    named = _by_name(free, INPUTS)
    if named and longest and named.length * 4 >= longest.length:
        reasons["input"] = "by its name"
        return named.name
    if longest and longest.numbers < longest.filled:
        reasons["input"] = f"the longest text, {longest.length:.0f} characters on average"
        return longest.name
    shown = ", ".join(repr(c) for c in columns)
    raise Error("invalid", f"no column looks like the request; there are {shown}", "name it: --input COLUMN")


def _by_name(columns: list[Column], names: list[str]) -> Column | None:
    """The column whose name is, or ends in or begins with, the likeliest of these words."""
    for test in (_same, _part):
        for name in names:
            for column in columns:
                if test(column.name.strip().lower(), name):
                    return column
    return None


def _same(column: str, name: str) -> bool:
    return column == name


def _part(column: str, name: str) -> bool:
    return name in column.replace("-", "_").replace(" ", "_").split("_")


def _labels(column: Column | None) -> list[tuple[str, float]]:
    if column is None or not column.is_label:
        return []
    return [(value, count / column.filled) for value, count in column.values.most_common()]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
