"""Layouts that training data commonly comes in, and their columns as ours: input, output, messages, rejected."""

import re
from collections.abc import Callable
from typing import Any, Literal

Columns = dict[str, Any]
Layout = Literal["", "alpaca", "sharegpt", "preference", "ultrafeedback"]
ROLES = {
    "human": "user", "user": "user", "gpt": "assistant", "chatgpt": "assistant", "assistant": "assistant",
    "model": "assistant", "bot": "assistant", "function_call": "assistant", "system": "system", "tool": "tool",
    "observation": "tool", "function_response": "tool",
}  # fmt: skip
_turn = re.compile(r"(?:^|\n\n)(Human|Assistant):[ \n]?")


class Unfit(Exception):
    """A record that is not in the layout: (reason, detail)."""


def alpaca(columns: Columns) -> Columns:
    """instruction, input, output (Taori et al. 2023), and system; a history of turns is not one request."""
    if columns.get("history"):
        raise Unfit("has_history", "a row with `history` is a conversation; give it as messages")
    parts = [columns.get(name) for name in ("system", "instruction", "input")]
    if not all(isinstance(part, (str, type(None))) for part in parts):
        raise Unfit("bad_instruction", "instruction and input are texts")
    return {"input": "\n\n".join(part for part in parts if part), "output": columns.get("output")}


def sharegpt(columns: Columns) -> Columns:
    """conversations: [{from: human | gpt | …, value}], and system."""
    turns = next((columns[name] for name in ("conversations", "conversation", "messages") if columns.get(name)), None)
    return {"messages": _with_system(columns, _messages(turns, "conversations"))}


def preference(columns: Columns) -> Columns:
    """chosen and rejected, whole conversations or answers to `prompt`, as texts or messages: TRL's layouts, those of
    UltraFeedback (binarized) and of Anthropic's hh-rlhf, whose texts are turns of "Human:" and "Assistant:"."""
    asked = next((columns[name] for name in ("prompt", "conversations", "question") if columns.get(name)), None)
    before = _with_system(columns, [] if asked is None else _messages(asked, "prompt", "user"))
    chosen, rejected = (_messages(columns.get(name), name) for name in ("chosen", "rejected"))
    if chosen[:-1] != rejected[:-1]:
        raise Unfit("different_prompts", "chosen and rejected answer different conversations")
    if chosen[-1]["role"] != "assistant" or rejected[-1]["role"] != "assistant":
        raise Unfit("bad_messages", "chosen and rejected must end with the assistant's answer")
    prompt = chosen[:-1]
    if not prompt or prompt[0]["role"] == "assistant":  # answers alone, perhaps with calls of tools before them
        prompt = before + prompt
    elif before and before[0]["role"] == "system" != prompt[0]["role"]:
        prompt = [before[0], *prompt]
    return {"messages": [*prompt, chosen[-1]], "rejected": rejected[-1]["content"]}


def ultrafeedback(columns: Columns) -> Columns:
    """instruction and completions, scored (Cui et al. 2023): the best against the worst; else `preference`."""
    completions = columns.get("completions")
    if not isinstance(completions, list):
        return preference(columns)
    scored = [(s, c["response"]) for c in completions if isinstance(c, dict) and (s := _score(c)) is not None]
    if len(scored) < 2 or max(scored)[0] == min(scored)[0]:
        raise Unfit("no_preference", "fewer than two completions, or all with one score")
    best, worst = max(scored, key=lambda one: one[0]), min(scored, key=lambda one: one[0])
    return preference({"prompt": columns.get("instruction"), "chosen": best[1], "rejected": worst[1]})


LAYOUTS: dict[str, tuple[Callable[[Columns], Columns], tuple[str, str, str, str]]] = {  # and which columns they make
    "alpaca": (alpaca, ("input", "output", "", "")),
    "sharegpt": (sharegpt, ("", "", "messages", "")),
    "preference": (preference, ("", "", "messages", "rejected")),
    "ultrafeedback": (ultrafeedback, ("", "", "messages", "rejected")),
}


def guess(names: set[str], turns: bool) -> Layout:
    """The layout of rows with these columns. turns: whether a column holds [{from, value}]."""
    if {"chosen", "rejected"} <= names:
        return "preference"
    if {"instruction", "completions"} <= names:
        return "ultrafeedback"
    if turns:
        return "sharegpt"
    return "alpaca" if {"instruction", "input", "output"} <= names else ""


def _messages(value: Any, name: str, role: str = "assistant") -> list[dict[str, str]]:
    """A text as one message or as turns of Human and Assistant; messages in either of two spellings."""
    if isinstance(value, str):
        pieces = _turn.split(value)
        if len(pieces) < 3 or pieces[0].strip():
            return [{"role": role, "content": value}]
        pairs = zip(pieces[1::2], pieces[2::2], strict=True)
        return [{"role": ROLES[who.lower()], "content": text} for who, text in pairs]
    turns = [value] if isinstance(value, dict) else value
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, dict) for turn in turns):
        raise Unfit("bad_messages", f"no {name!r}, or it is neither text nor a list of messages")
    found = []
    for turn in turns:
        who, text = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
        if not isinstance(who, str) or not isinstance(text, str) or who.lower() not in ROLES:
            raise Unfit("bad_messages", f"a turn of {name!r} needs who speaks ({', '.join(ROLES)}) and a text")
        found.append({"role": ROLES[who.lower()], "content": text})
    return found


def _with_system(columns: Columns, messages: list[dict[str, str]]) -> list[dict[str, str]]:
    said = columns.get("system")
    if not isinstance(said, str) or not said or (messages and messages[0]["role"] == "system"):
        return messages
    return [{"role": "system", "content": said}, *messages]


def _score(completion: Columns) -> float | None:
    """Its overall score, as a number; None without one, or without a text."""
    try:
        return float(completion["overall_score"]) if isinstance(completion.get("response"), str) else None
    except (KeyError, TypeError, ValueError):
        return None
