"""The OpenAPI description of the gateway's paths, made from the routes and the types of their bodies."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from starlette.routing import BaseRoute, Route

from longrein.core.generation import Request
from longrein.gateway.embeddings import EmbeddingBody
from longrein.gateway.openai import ChatBody, CompletionBody

BODIES: dict[str, type[ChatBody | CompletionBody | EmbeddingBody]] = {
    "/v1/chat/completions": ChatBody,
    "/v1/completions": CompletionBody,
    "/v1/embeddings": EmbeddingBody,
}


def describe(
    routes: Iterable[BaseRoute], bodies: Mapping[str, type[msgspec.Struct]], queries: Mapping[str, tuple[str, ...]]
) -> dict[str, Any]:
    """bodies: what a path takes. queries: what its query string may name; `limit` and `after` are numbers."""
    bodies = {**BODIES, **bodies}
    (*schemas, _), components = msgspec.json.schema_components(
        [*bodies.values(), Request], ref_template="#/components/schemas/{name}"
    )
    for type_ in BODIES.values():
        given = {name: components["Request"]["properties"][name] for name in type_.SAMPLING}
        components[type_.__name__]["properties"] |= given
    del components["Request"]
    kinds = dict(zip(bodies, schemas, strict=True))
    paths = {
        route.path: {
            method.lower(): _operation(route, kinds.get(route.path), queries.get(route.path, ()))
            for method in sorted(route.methods - {"HEAD"})
        }
        for route in routes
        if isinstance(route, Route) and route.methods
    }
    bearer = {"key": {"type": "http", "scheme": "bearer"}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Longrein", "version": "1"},
        "security": [{"key": []}],
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": bearer},
    }


def _operation(route: Route, body: dict[str, Any] | None, query: tuple[str, ...]) -> dict[str, Any]:
    inside = [_parameter("path", name) for name in re.findall(r"{(\w+)}", route.path)]
    summary = (getattr(route.endpoint, "__doc__", None) or route.name).strip().splitlines()[0]
    refusals = {str(status): {"description": text} for status, text in REFUSALS.items()}
    operation: dict[str, Any] = {
        "summary": summary,
        "parameters": [*inside, *(_parameter("query", name) for name in query)],
        "responses": {"200": {"description": "The answer."}, **refusals},
    }
    if body:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    return operation


def _parameter(where: str, name: str) -> dict[str, Any]:
    kind = "integer" if name in ("limit", "after", "since_ms", "until_ms") else "string"
    return {"in": where, "name": name, "required": where == "path", "schema": {"type": kind}}


REFUSALS = {
    400: "Something in the request is wrong: the message says what.",
    401: "The API key is missing or wrong.",
    403: "The API key lacks the scope.",
    404: "There is no such thing; the nearest names are in the message.",
    409: "A gate blocks it, or somebody was faster.",
    413: "The body is too large.",
    429: "Too much at once: try again after Retry-After seconds.",
    503: "Not available now: try again after Retry-After seconds.",
}
