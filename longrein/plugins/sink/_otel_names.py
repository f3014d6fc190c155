"""Our words in OpenTelemetry's: the one place to change when its conventions for generative AI move on.

They are "development" still (https://github.com/open-telemetry/semantic-conventions-genai); these are of 1.41.
"""

from contextlib import suppress
from typing import Any, NamedTuple

import msgspec

SCHEMA_URL = "https://opentelemetry.io/schemas/1.41.0"
PROVIDER = "longrein"
FIRST_TOKEN = "gen_ai.first_token"  # events of a span; the conventions have none for either
STARTED = "longrein.started"


class Metric(NamedTuple):
    name: str
    unit: str  # of UCUM
    text: str


METRICS = {  # by the names of longrein.ops.monitor.totals
    "duration_s": Metric("gen_ai.server.request.duration", "s", "From a request's arrival to its end"),
    "first_token_s": Metric("gen_ai.server.time_to_first_token", "s", "From arrival to the first token"),
    "token_s": Metric("gen_ai.server.time_per_output_token", "s", "Time per token after the first"),
    "tokens": Metric("gen_ai.client.token.usage", "{token}", "Tokens read and written"),
    "queue_s": Metric("longrein.queue.duration", "s", "From arrival to the engine's first step"),
    "cost_usd": Metric("longrein.cost", "{USD}", "What answers cost"),
    "cached": Metric("longrein.cache.hits", "{request}", "Answers that came from the cache"),
    "guarded": Metric("longrein.guard.actions", "{request}", "Requests in which a guard acted"),
    "dropped": Metric(
        "longrein.export.dropped", "{request}", "Traces given up: the collector was away too long, or refused them"
    ),
}
LABELS = {  # of metrics
    "endpoint": "gen_ai.request.model",
    "operation": "gen_ai.operation.name",
    "release": "gen_ai.response.model",
    "error": "error.type",
    "arm": "longrein.arm",
    "what": "longrein.guard",
}
LABELS_OF = {
    "tokens": LABELS | {"what": "gen_ai.token.type"},
    "dropped": LABELS | {"what": "longrein.reason"},
}  # where a metric has a word of its own
FIELDS = {  # attributes of a span, by the field of core.record.Record
    "id": "gen_ai.response.id",
    "endpoint": "gen_ai.request.model",
    "release": "gen_ai.response.model",
    "engine": "longrein.engine",
    "arm": "longrein.arm",
    "key_id": "longrein.key.id",
    "team": "longrein.team",
    "user": "user.id",
    "session": "gen_ai.conversation.id",
    "status": "http.response.status_code",
    "limit": "longrein.limit",
    "stream": "gen_ai.request.stream",
    "prompt_tokens": "gen_ai.usage.input_tokens",
    "completion_tokens": "gen_ai.usage.output_tokens",
    "cached_tokens": "gen_ai.usage.cache_read.input_tokens",
    "cached": "longrein.cache.hit",
    "attempts": "longrein.attempts",
    "upstream": "server.address",
    "queue_ms": "longrein.queue_ms",
    "cost_usd": "longrein.cost_usd",
    "guards": "longrein.guards",
}
INPUT, OUTPUT = "gen_ai.input.messages", "gen_ai.output.messages"
FINISH, ERROR, OPERATION = "gen_ai.response.finish_reasons", "error.type", "gen_ai.operation.name"
FIRST_TOKEN_S = "gen_ai.response.time_to_first_chunk"


def messages(text: str, role: str, finish: str = "") -> str:
    """Texts of the request log in the conventions' form, as JSON: messages as the client sent them, or words alone."""
    given: Any = None
    if text.startswith("[") or text.startswith("{"):
        with suppress(msgspec.DecodeError):
            given = msgspec.json.decode(text)
    several = given if isinstance(given, list) else [text]
    ended = {"finish_reason": finish} if finish else {}
    return msgspec.json.encode([_message(one, role) | ended for one in several]).decode()


def _message(given: Any, role: str) -> dict[str, Any]:
    content = given.get("content") if isinstance(given, dict) else given
    role = given.get("role") or role if isinstance(given, dict) else role
    parts = content if isinstance(content, list) else [content]
    return {"role": role, "parts": [_part(part) for part in parts if part is not None]}


def _part(given: Any) -> dict[str, Any]:
    text = given.get("text") if isinstance(given, dict) else given
    if isinstance(text, str):
        return {"type": "text", "content": text}
    return given if isinstance(given, dict) else {"type": "text", "content": msgspec.json.encode(given).decode()}
