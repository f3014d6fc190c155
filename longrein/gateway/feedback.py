"""POST /v1/feedback: what people and programs say of an answer, joined to the release that gave it."""

import asyncio
import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from longrein.core.errors import Error
from longrein.core.ledger import ApiKey, Ledger, now_ms
from longrein.core.ledger.feedback import CORRECT, LATE_S
from longrein.gateway.inference import read_body
from longrein.gateway.metrics import Metrics
from longrein.gateway.tally import Tally

PATH = "/v1/feedback"
MAX_BODY_BYTES = 1 << 16
Name = Annotated[str, Meta(min_length=1, max_length=100)]
Text = Annotated[str, Meta(max_length=200)]


class Feedback(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """One of request_id and session says of what: a session's newest answer. Saying the same metric of the same answer
    again, with the same key, changes nothing."""

    request_id: Text | None = None
    session: Text | None = None
    metrics: Annotated[dict[Name, bool | float], Meta(max_length=50)] = {}
    comment: Annotated[str, Meta(max_length=10_000)] | None = None
    label: Annotated[str, Meta(min_length=1, max_length=10_000)] | None = None  # what the answer should have been


BODIES: dict[str, type[msgspec.Struct]] = {PATH: Feedback}


class _Feedback:
    def __init__(self, ledger: Ledger, log: Path, tally: Tally, metrics: Metrics, flush: Callable[[], None]) -> None:
        self.ledger, self.log, self.tally, self.metrics, self.flush = ledger, log, tally, metrics, flush

    async def feedback(self, request: Request) -> Response:
        """Say how good an answer was: numbers or yes and no by name, a comment, and what it should have been."""
        data = await read_body(request.scope, request.receive, MAX_BODY_BYTES)
        try:
            body = msgspec.json.decode(data, type=Feedback)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            hint = 'send {"request_id": "chatcmpl-…", "metrics": {"helpful": true}}'
            raise Error("invalid", f"the feedback cannot be used: {error}", hint) from error
        if (body.request_id is None) == (body.session is None):
            raise Error("invalid", "feedback is about a request_id or a session", "send one of the two")
        if not body.metrics and not body.comment and body.label is None:
            raise Error("invalid", "the feedback says nothing", "send metrics, a comment or a label", param="metrics")
        if body.label is not None and CORRECT in body.metrics:
            hint = "send one of the two"
            raise Error("invalid", f"the label tells {CORRECT!r} by itself", hint, param="metrics")
        if not all(map(math.isfinite, body.metrics.values())):
            raise Error("invalid", "a metric is not a finite number", "send numbers, true or false", param="metrics")
        if not all(map(str.isprintable, body.metrics)):
            raise Error("invalid", "a metric's name holds what cannot be printed", "use words", param="metrics")
        value = await asyncio.to_thread(self._keep, body, request.scope["longrein.key"])
        return Response(msgspec.json.encode(value), media_type="application/json")

    def _keep(self, body: Feedback, key: ApiKey | None) -> dict[str, Any]:
        from longrein.data.requests import correct  # Arrow: only once somebody says something

        try:
            row = self._about(body, key)
        except Error as error:
            self.metrics.feedback.add(("", "unknown" if error.code == "not_found" else "failed"))
            raise
        comment, label = ((text or "").replace("\0", "\ufffd") for text in (body.comment, body.label))
        said: dict[str, float | None] = {name: float(value) for name, value in body.metrics.items()}
        if body.label is not None:
            said[CORRECT] = None if (right := correct(row, label)) is None else float(right)
        where = {"endpoint": row["endpoint"], "release": row["release"], "arm": row["arm"]}
        values = [(name, value, comment) for name, value in (said or {"": None}).items()]
        new = self.ledger.feedback.put(row["id"], values, source=key.id if key else "", label=label, **where)
        for name in new:
            if (value := said.get(name)) is not None:
                self.tally.score(row["endpoint"], row["release"], row["arm"], name, value, row["team"])
        age_s = max(0, now_ms() - row["ts_ms"]) / 1000
        self.metrics.feedback.add((row["endpoint"], "new"), len(new))
        self.metrics.feedback.add((row["endpoint"], "duplicate"), len(values) - len(new))
        self.metrics.feedback.add((row["endpoint"], "late"), len(new) * (age_s > LATE_S))
        known = [name for name, _, _ in values if name not in new and name]
        told = {CORRECT: said[CORRECT]} if CORRECT in said and body.label is not None else {}
        return {
            "request_id": row["id"],
            "recorded": [name for name in new if name],
            "known": known,
            "age_s": age_s,
        } | told

    def _about(self, body: Feedback, key: ApiKey | None) -> dict[str, Any]:
        """The request in the log. A key may judge what was asked with it, or with others of its team; of other requests
        it learns no more than that it may not. Errors: `not_found`."""
        from longrein.data.requests import Query, RequestLog  # Arrow: only once somebody says something

        self.flush()
        log = RequestLog(self.log)
        if body.request_id is not None:
            try:
                found = [row for row in [log.get(body.request_id)] if _may(key, row)]
            except Error as error:
                raise _unknown(error.message) from error
        else:
            found = [row for row in log.find(Query(session=body.session or "\0"), 100) if _may(key, row)]
        found = [row for row in found if row["endpoint"]]
        if not found:
            what = f"request {body.request_id!r}" if body.request_id is not None else f"session {body.session!r}"
            raise _unknown(f"there is no {what} in the log")
        if found[0]["erased"]:
            raise _unknown(f"the request {found[0]['id']!r} was erased")
        return found[0]


def routes(ledger: Ledger, log: Path, tally: Tally, metrics: Metrics, flush: Callable[[], None]) -> list[Route]:
    """To be guarded. log: the request log's folder; flush: write what is not there yet."""
    return [Route(PATH, _Feedback(ledger, log, tally, metrics, flush).feedback, methods=["POST"])]


def _unknown(message: str) -> Error:
    hint = "feedback names the `id` of an answer, and the API key that asked"
    return Error("not_found", message, hint, openai_code="request_not_found", param="request_id")


def _may(key: ApiKey | None, row: dict[str, Any]) -> bool:
    if key is None or "admin" in key.scopes or row["key_id"] == key.id:
        return True
    return bool(key.team) and row["team"] == key.team
