"""The shape of a row: from a source's own columns to the few that every later step knows."""

import json
from collections.abc import Callable
from hashlib import blake2b
from typing import Any

import msgspec
import pyarrow as pa

from longrein.core.errors import Error
from longrein.core.text import language
from longrein.data import layout

_TEXTS = ("row", "reason", "detail", "stage", "source")
REJECTED = pa.schema([*((name, pa.string()) for name in _TEXTS), ("line", pa.int64())])
ROLES = ("system", "user", "assistant", "tool")


def schema(messages: bool, extra: bool, rejected: bool = False) -> pa.Schema:
    """The columns of a dataset.

    input, output: text; of a conversation the last user's message and the closing answer. messages: when there are
    any. rejected: of preference pairs, the answer that `output` is preferred to. split. language: an ISO 639-1 code
    or "other", as the transform `language` told it, else guessed by script (longrein.core.text). source, line,
    source_digest: the file, where in it (from 1) and its sha256. row_id: 32 hex digits of the row's content
    (BLAKE2b-128), the same in every version and on every machine as long as the content is; copies share it.
    touched: the transforms that changed its texts, in order, "normalize,pii". extra: other columns asked for, a
    JSON object.
    """
    conversation = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
    return pa.schema(
        [("input", pa.string()), ("output", pa.string())]
        + ([("messages", conversation)] if messages else [])
        + ([("rejected", pa.string())] if rejected else [])
        + [(name, pa.string()) for name in ("split", "language", "source")]
        + [("line", pa.int64()), ("source_digest", pa.string()), ("row_id", pa.string()), ("touched", pa.string())]
        + ([("extra", pa.string())] if extra else [])
    )


class Shape:
    """Takes the columns that the config names, or that its layout makes, out of a source's row."""

    def __init__(
        self, input: str, output: str, messages: str, keep: list[str], split: str, rejected: str = "", format: str = ""
    ) -> None:
        if format and (input or output or messages or rejected):
            raise Error(
                "invalid", "`format` says which columns are read", "leave out input, output, messages, rejected"
            )
        if not format and bool(input) == bool(messages):
            raise Error("invalid", "a dataset needs either `input` or `messages`", "for example: input: text")
        if rejected and not (output or messages):
            raise Error("invalid", "`rejected` needs the answer that is preferred", "name its column: output: chosen")
        names = (input, output, messages, rejected)
        self.layout: Callable[[layout.Columns], layout.Columns] | None = None
        if format:
            self.layout, names = layout.LAYOUTS[format]
        self.input, self.output, self.messages, self.rejected = names
        self.keep, self.split = keep, split

    @property
    def schema(self) -> pa.Schema:
        """Of the rows when they are finished."""
        return schema(bool(self.messages), bool(self.keep), bool(self.rejected))

    def __call__(self, columns: dict[str, Any]) -> dict[str, Any] | tuple[str, str]:
        """A row {"input", "output"} or {"messages"}, with "rejected", "split" and "extra" when asked; or (reason,
        detail)."""
        try:
            given = self.layout(columns) if self.layout else columns
        except layout.Unfit as unfit:
            return str(unfit.args[0]), str(unfit.args[1])
        row = self._conversation(given) if self.messages else self._request(given)
        if self.rejected and not isinstance(row, tuple):
            row = self._pair(row, text(given.get(self.rejected)))
        if isinstance(row, tuple):
            return row
        if self.split:
            if not (value := text(columns.get(self.split))):
                return "no_split", f"no column {self.split!r}, or it is empty"
            row["split"] = value
        if self.keep:
            row["extra"] = encode({name: columns[name] for name in self.keep if name in columns})
        return row

    def _request(self, columns: dict[str, Any]) -> dict[str, Any] | tuple[str, str]:
        asked = text(columns.get(self.input))
        if asked is None:
            return "missing_input", f"no column {self.input!r}, or it is null"
        if not asked or asked.isspace():
            return "blank", f"the column {self.input!r} is empty"
        if not self.output:
            return {"input": asked, "output": None}
        answered = text(columns.get(self.output))
        if answered is None or not answered or answered.isspace():
            return "missing_output", f"no column {self.output!r}, or it is empty"
        return {"input": asked, "output": answered}

    def _pair(self, row: dict[str, Any], rejected: str | None) -> dict[str, Any] | tuple[str, str]:
        if rejected is None or not rejected.strip():
            return "missing_rejected", f"no column {self.rejected!r}, or it is empty"
        chosen = row["messages"][-1]["content"] if "messages" in row else row["output"]
        if chosen.strip() == rejected.strip():
            return "no_preference", "chosen and rejected are the same"
        return row | {"rejected": rejected}

    def _conversation(self, columns: dict[str, Any]) -> dict[str, Any] | tuple[str, str]:
        value = columns.get(self.messages)
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except ValueError:
                return "bad_messages", f"the column {self.messages!r} is text, but not JSON"
        if value is None:
            return "missing_input", f"no column {self.messages!r}, or it is null"
        if not isinstance(value, list) or not all(isinstance(m, dict) for m in value):
            return "bad_messages", "not a list of objects"
        messages = [{"role": m.get("role"), "content": m.get("content")} for m in value]
        for message in messages:
            if message["role"] not in ROLES or not isinstance(message["content"], str):
                return "bad_messages", f"a message needs a role ({', '.join(ROLES)}) and a text as content"
        if len(messages) < 2 or messages[-1]["role"] != "assistant":
            return "bad_messages", "the last message must be the assistant's answer to an earlier one"
        return {"messages": messages}


def finished(row: dict[str, Any], source_digest: str) -> dict[str, Any]:
    """The row as it is written, the split aside: texts of a conversation, language, digest, id."""
    asked, answered = row.get("input", ""), row.get("output")
    if "messages" in row:
        asked = next((m["content"] for m in reversed(row["messages"]) if m["role"] == "user"), "")
        answered = row["messages"][-1]["content"]
        content = encode(row["messages"])
    else:
        content = encode([asked, answered])
    if row.get("rejected") is not None:
        content += encode(row["rejected"])
    return row | {
        "input": asked,
        "output": answered,
        "language": row.get("language") or language(asked),
        "source_digest": source_digest,
        "row_id": blake2b(content.encode(), digest_size=16).hexdigest(),
        "touched": row.get("touched", ""),
    }


def touch(row: dict[str, Any], name: str) -> dict[str, Any]:
    """The row with one more transform that changed it."""
    return row | {"touched": f"{row['touched']},{name}" if row.get("touched") else name}


def alike(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two rows have the same texts."""
    return all(one.get(name) == other.get(name) for name in ("input", "output", "messages", "rejected"))


def request(row: dict[str, Any]) -> str:
    """What decides a row's split: the input, or a conversation without its last message."""
    asked: str = row["input"]
    return "\n".join(m["content"] for m in row["messages"][:-1]) if "messages" in row else asked


def size(row: dict[str, Any]) -> int:
    """Characters of a row, roughly, for batches that are not too large."""
    conversation = sum(len(m["content"]) for m in row.get("messages", ()))
    return (
        len(row["input"])
        + len(row.get("output") or "")
        + len(row.get("extra") or "")
        + len(row.get("rejected") or "")
        + conversation
    )


def text(value: Any) -> str | None:
    """A column's value as text: numbers, truth values and nested ones as JSON, null as None."""
    return value if value is None or isinstance(value, str) else encode(value)


def encode(value: Any) -> str:
    """JSON; dates, decimals and bytes, which Parquet has and JSON lacks, as their text."""
    return msgspec.json.encode(value, enc_hook=str).decode()
