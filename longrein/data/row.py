"""The shape of a row: from a source's own columns to the few that every later step knows."""

import json
from hashlib import blake2b
from typing import Any

import msgspec
import pyarrow as pa

from longrein.core.errors import Error
from longrein.core.text import language

_TEXTS = ("row", "reason", "detail", "stage", "source")
REJECTED = pa.schema([*((name, pa.string()) for name in _TEXTS), ("line", pa.int64())])
ROLES = ("system", "user", "assistant", "tool")


def schema(messages: bool, extra: bool) -> pa.Schema:
    """The columns of a dataset.

    input, output: text; of a conversation the last user's message and the closing answer. messages: when there are
    any. split. language: an ISO 639-1 code or "other", as the transform `language` told it, else guessed by script
    (longrein.core.text). source, line, source_digest: the file, where in it (from 1) and its sha256. row_id: 32 hex
    digits of the row's content (BLAKE2b-128), the same in every version and on every machine as long as the content
    is; copies share it. touched: the transforms that changed its texts, in order, "normalize,pii". extra: other
    columns asked for, a JSON object.
    """
    conversation = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
    return pa.schema(
        [("input", pa.string()), ("output", pa.string())]
        + ([("messages", conversation)] if messages else [])
        + [(name, pa.string()) for name in ("split", "language", "source")]
        + [("line", pa.int64()), ("source_digest", pa.string()), ("row_id", pa.string()), ("touched", pa.string())]
        + ([("extra", pa.string())] if extra else [])
    )


class Shape:
    """Takes the columns that the config names out of a source's row."""

    def __init__(self, input: str, output: str, messages: str, keep: list[str], split: str) -> None:
        if bool(input) == bool(messages):
            raise Error("invalid", "a dataset needs either `input` or `messages`", "for example: input: text")
        self.input, self.output, self.messages, self.keep, self.split = input, output, messages, keep, split

    def __call__(self, columns: dict[str, Any]) -> dict[str, Any] | tuple[str, str]:
        """A row {"input", "output"} or {"messages"}, with "split" and "extra" when asked; or (reason, detail)."""
        row = self._conversation(columns) if self.messages else self._request(columns)
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
    return all(one.get(name) == other.get(name) for name in ("input", "output", "messages"))


def request(row: dict[str, Any]) -> str:
    """What decides a row's split: the input, or a conversation without its last message."""
    asked: str = row["input"]
    return "\n".join(m["content"] for m in row["messages"][:-1]) if "messages" in row else asked


def size(row: dict[str, Any]) -> int:
    """Characters of a row, roughly, for batches that are not too large."""
    conversation = sum(len(m["content"]) for m in row.get("messages", ()))
    return len(row["input"]) + len(row.get("output") or "") + len(row.get("extra") or "") + conversation


def text(value: Any) -> str | None:
    """A column's value as text: numbers, truth values and nested ones as JSON, null as None."""
    return value if value is None or isinstance(value, str) else encode(value)


def encode(value: Any) -> str:
    """JSON; dates, decimals and bytes, which Parquet has and JSON lacks, as their text."""
    return msgspec.json.encode(value, enc_hook=str).decode()
