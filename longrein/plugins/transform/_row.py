"""What the transforms share: the texts of a row, whether it is one request or a conversation."""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec


def prompt(row: dict[str, Any]) -> str:
    """What is asked: the input, or all messages before the last one."""
    if "messages" in row:
        return "\n".join(m["content"] for m in row["messages"][:-1])
    text: str = row["input"]
    return text


def answer(row: dict[str, Any]) -> str | None:
    """What is answered: the output, or the last message."""
    if "messages" in row:
        text: str = row["messages"][-1]["content"]
        return text
    return row.get("output")


def texts(row: Mapping[str, Any]) -> list[str]:
    """All of them."""
    said = [m["content"] for m in row["messages"]] if "messages" in row else [row["input"], row.get("output")]
    return [text for text in (*said, row.get("rejected")) if text is not None]


def edit(row: dict[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    """The row with every text changed, or the same object when none is."""
    if row.get("rejected") is not None and (rejected := change(row["rejected"])) != row["rejected"]:
        row = {**row, "rejected": rejected}
    if "messages" in row:
        messages = [{**m, "content": change(m["content"])} for m in row["messages"]]
        return row if messages == row["messages"] else {**row, "messages": messages}
    text, output = change(row["input"]), row.get("output")
    changed = change(output) if output is not None else None
    return row if text == row["input"] and changed == output else {**row, "input": text, "output": changed}


def scored(row: dict[str, Any], numbers: dict[str, float]) -> dict[str, Any]:
    """The row with numbers in `extra`, for later transforms to go by; the same object when they are there."""
    extra = msgspec.json.decode(row.get("extra") or "{}")
    return row if extra | numbers == extra else row | {"extra": msgspec.json.encode(extra | numbers).decode()}
