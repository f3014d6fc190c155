"""Answered requests and what they should have been answered, as rows for a dataset to read."""

import json
import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from longrein.core.errors import Error
from longrein.core.ledger import Ledger
from longrein.data.ingest import Config
from longrein.data.requests import Query, RequestLog
from longrein.data.split import Split, column, default

REQUEST_ID = "request_id"


def gather(
    ledger: Ledger, log: RequestLog, endpoint: str, *, since_ms: int, labelled: bool, limit: int,
    ids: Collection[str] = (), but: Collection[str] = (),
) -> list[dict[str, Any]]:  # fmt: skip
    """At most `limit` requests that an endpoint answered since then, the newest first, each asked text once: "input",
    "answer", "request_id", "release", "ts_ms", and "label" where `labelled` (then none without one).

    ids: only these, where given. but: not these. Requests whose text was not kept, or was erased, are left out.
    """
    labels = dict(ledger.feedback.labels(endpoint, since_ms)) if labelled else {}
    if labelled or ids:
        wanted = (set(labels) if labelled else set(ids)) & (set(ids) or set(labels)) - set(but)
        found: Iterable[dict[str, Any]] = log.many(wanted).values()
    else:
        found = log.find(Query(endpoint=endpoint, since_ms=since_ms, status="200"), 10 * limit)
    rows: dict[str, dict[str, Any]] = {}
    for request in sorted(found, key=lambda r: -r["ts_ms"]):
        text = asked(request["input"])
        usable = request["endpoint"] == endpoint and request["ts_ms"] >= since_ms and request["id"] not in but
        if not text or not usable or text in rows:
            continue
        rows[text] = {
            "input": text, "answer": request["output"], REQUEST_ID: request["id"], "release": request["release"],
            "ts_ms": request["ts_ms"],
        } | ({"label": labels[request["id"]].strip()} if labelled else {})  # fmt: skip
        if len(rows) == limit:
            break
    return list(rows.values())


def asked(text: str | None) -> str:
    """What a user asked last, of what the log keeps of a request: one text, or the messages as JSON."""
    if not text or not text.startswith("[{"):
        return text or ""
    try:
        messages = json.loads(text)
        said = [m["content"] for m in messages if m.get("role") == "user" and isinstance(m.get("content"), str)]
    except (ValueError, AttributeError, KeyError, TypeError):
        return text
    return str(said[-1]) if said else ""


def collected(folder: Path) -> set[str]:
    """The ids of the requests that the files of a folder hold already."""
    found = set()
    for path in folder.glob("*.jsonl"):
        for line in path.read_bytes().splitlines():
            try:
                value = json.loads(line)
            except ValueError:
                continue
            if isinstance(value, Mapping) and isinstance(value.get(REQUEST_ID), str):
                found.add(value[REQUEST_ID])
    return found


def write(rows: Iterable[Mapping[str, Any]], path: Path, dataset: Config) -> int:
    """Rows under the names that a dataset reads them by, in one new file; it is whole or not there. How many."""
    names = {"input": dataset.input or "input", "label": dataset.output or "output"}
    by = column(dataset.split)
    split = Split(default(), dataset.seed) if by else None
    path.parent.mkdir(parents=True, exist_ok=True)
    staged, count = path.with_name(f".{path.name}.{os.getpid()}.tmp"), 0
    try:
        with staged.open("w", encoding="utf-8", errors="replace") as file:
            for row in rows:
                named = {names.get(key, key): value for key, value in row.items()}
                named |= {by: split.of(row["input"])} if split else {}
                file.write(json.dumps(named, ensure_ascii=False) + "\n")
                count += 1
            file.flush()
            os.fsync(file.fileno())
        os.replace(staged, path)
    except OSError as error:
        staged.unlink(missing_ok=True)
        raise Error("failed", f"{path} cannot be written: {error.strerror}", "check the folder and the disk") from error
    return count
