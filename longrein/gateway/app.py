"""The gateway's routes, what every response carries, and how errors look."""

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from longrein.core.errors import Error
from longrein.gateway import batches, feedback, management, openai, openapi, responses
from longrein.gateway.auth import Door, is_loopback
from longrein.gateway.inference import KINDS, Inference, new_id, retry_after
from longrein.gateway.metrics import Counter, Labels, Metrics, engine_gauges, limit_gauges, machine_gauges
from longrein.gateway.replicas import Lane, Replica
from longrein.gateway.sampler import HOST, stats
from longrein.models.experiment.assign import BUCKETS
from longrein.ops.monitor import probe

FORMATS = (
    "text/plain; version=0.0.4; charset=utf-8", "application/openmetrics-text; version=1.0.0; charset=utf-8"
)  # fmt: skip


def build(
    inference: Inference, door: Door, routes: Iterable[BaseRoute], ledger_error: Callable[[], str], lifespan: Any,
    watched: Callable[[], list[Counter]] = list,
) -> ASGIApp:  # fmt: skip
    """`routes`: more of them, already guarded. `ledger_error`: why the ledger is away, or "". `watched`: what
    observers say, as metrics; it may take its time."""
    status = _Status(inference, door, ledger_error, watched)
    answers = [Route(path, inference, methods=["POST"]) for path in KINDS]
    models = [Route("/v1/models", status.models), Route("/v1/models/{name}", status.model)]
    more = list(routes)
    bodies = {**management.BODIES, **feedback.BODIES, **batches.BODIES, **responses.BODIES}
    described = openapi.describe([*answers, *models, *more], bodies, {**management.QUERIES, **batches.QUERIES})
    app = Starlette(
        routes=[
            Route("/healthz", status.health),
            Route("/readyz", status.ready),
            Route("/metrics", status.metrics),
            *door.guard([Route("/openapi.json", lambda request: respond(described))], "any"),
            *door.guard([*answers, *models], "infer"),
            *more,
        ],
        middleware=[Middleware(_Identify, inference.metrics)],
        exception_handlers={Error: _on_error, HTTPException: _on_http, Exception: _on_bug},
        lifespan=lifespan,
    )
    return _Front(app, inference, door)


def respond(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(value), status, headers, "application/json")


class _Front:
    """Lets requests for answers pass before Starlette, whose router and middleware would double what they cost."""

    def __init__(self, app: ASGIApp, inference: Inference, door: Door) -> None:
        self.app, self.inference, self.door = app, inference, door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] not in KINDS or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        scope["longrein.id"] = new_id(scope["path"])
        try:
            scope["longrein.key"] = self.door.admit(scope, "infer")
        except Error as error:
            self.inference.metrics.refused.add((str(error.http_status),))
            response = _refusal(scope["path"], error)
            response.headers["x-request-id"] = scope["longrein.id"]
            await response(scope, receive, send)
        else:
            await self.inference(scope, receive, send)


class _Identify:
    """Gives every request an id that `longrein why` understands, and every response that id."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        id = scope["longrein.id"] = new_id(scope["path"])

        async def identified(message: Message) -> None:
            if message["type"] == "http.response.start":
                if message["status"] in (401, 403):
                    self.metrics.refused.add((str(message["status"]),))
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", id.encode())]
            await send(message)

        await self.app(scope, receive, identified)


class _Status:
    """What the server says of itself."""

    def __init__(
        self, inference: Inference, door: Door, ledger_error: Callable[[], str], watched: Callable[[], list[Counter]]
    ) -> None:
        self.fleet, self.numbers, self.limits = inference.fleet, inference.metrics, inference.limits
        self.recorder, self.watched = inference.recorder, watched
        self.door, self.ledger_error = door, ledger_error
        self.numbers.look, self.numbers.dropped = self.inflight, lambda: inference.recorder.dropped

    async def health(self, request: Request) -> Response:
        return respond({"status": "ok"})

    async def ready(self, request: Request) -> Response:
        """200 once some endpoint answers (or there is none), though others may be unavailable: the body says which."""
        endpoints = {name: describe(lane) for name, lane in self.fleet.lanes.items()}
        states = {e["state"] for e in endpoints.values()}
        good = "serving" in states or not states - {"empty"}
        word = "ready" if states <= {"serving", "empty"} else "degraded" if good else "not ready"
        body = {"status": word, "endpoints": endpoints, "ledger": self.ledger_error() or "ok"}
        return respond(body, 200 if good else 503)

    async def metrics(self, request: Request) -> Response:
        """Prometheus on this machine needs no key."""
        if not (request.client and is_loopback(request.client.host)):
            self.door.admit(request.scope, "any")
        engines = {labels(replica): numbers for replica, numbers in await stats(self.fleet)}
        ready, ledger = Counter.known("longrein_endpoint_up"), Counter.known("longrein_ledger_up")
        ready.values = {(name,): lane.state == "serving" for name, lane in self.fleet.lanes.items()}
        ledger.values = {(): not self.ledger_error()}
        gauges = [ready, ledger, *engine_gauges(engines), *limit_gauges(self.limits.used())]
        openmetrics = "application/openmetrics-text" in request.headers.get("accept", "")
        text = await asyncio.to_thread(self._render, gauges, openmetrics)
        return PlainTextResponse(text, media_type=FORMATS[openmetrics])

    def _render(self, gauges: list[Any], openmetrics: bool) -> str:
        with suppress(OSError):  # a full disk is no reason not to tell what was counted
            self.recorder.flush()
        machine = probe.machine(self.recorder.folder) | probe.accelerators()
        return self.numbers.render([*gauges, *self.watched(), *machine_gauges(HOST, machine)], openmetrics)

    def inflight(self) -> dict[Labels, float]:
        replicas = (replica for lane in list(self.fleet.lanes.values()) for replica in lane.live)
        return {labels(replica): replica.inflight for replica in replicas}

    async def models(self, request: Request) -> Response:
        """The endpoints that have a release, as models."""
        lanes = [lane for _, lane in sorted(self.fleet.lanes.items()) if lane.wanted]
        return respond({"object": "list", "data": [_model(lane) for lane in lanes]})

    async def model(self, request: Request) -> Response:
        """One endpoint."""
        name = request.path_params["name"]
        if name not in self.fleet.lanes:
            self.fleet.route(name)
        return respond(_model(self.fleet.lanes[name]))


def describe(lane: Lane) -> dict[str, Any]:
    """An endpoint in words: what it serves, what it should serve, and what stands in the way."""
    value: dict[str, Any] = {"state": lane.state}
    if lane.serving:
        value["release"] = lane.serving.target.ref
    if lane.wanted and not (lane.serving and lane.serving.target.digest == lane.wanted.digest):
        value["wanted"] = lane.wanted.ref
    if candidate := lane.route.candidate:
        live = any(replica.target.digest == candidate.digest for replica in lane.live)
        value["candidate"] = {"release": candidate.ref, "live": live, "weight": lane.route.weight / BUCKETS}
    if lane.error:
        value["error"] = lane.error.as_dict()
    return value


def labels(replica: Replica) -> Labels:
    return (replica.target.endpoint, replica.target.digest[:12])


def _model(lane: Lane) -> dict[str, Any]:
    target = (lane.serving and lane.serving.target) or lane.wanted
    created = target.created_ms // 1000 if target else 0
    release = target.ref if target else None
    return {"id": lane.name, "object": "model", "created": created, "owned_by": "longrein", "release": release}


def _on_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, Error)
    return _refusal(request.url.path, error)


def _refusal(path: str, error: Error) -> Response:
    body = _shape(path, error)
    headers = {name.decode(): value.decode() for name, value in retry_after(error)}
    if error.code == "unauthorized":
        headers["www-authenticate"] = "Bearer"
    return respond(body, error.http_status, headers)


def _shape(path: str, error: Error) -> dict[str, Any]:
    """An error as clients of that API expect it: OpenAI's, MLflow's, or ours."""
    if path.startswith("/v1/"):
        return openai.error_body(error)
    if path.startswith(("/api/2.0/", "/api/3.0/")):
        code = {"unauthorized": "UNAUTHENTICATED", "forbidden": "PERMISSION_DENIED"}.get(error.code, "INVALID_STATE")
        return {"error_code": code, "message": f"{error.message}; {error.hint}"}
    return {"error": error.as_dict()}


def _on_http(request: Request, error: Exception) -> Response:
    """No such path, or not by this method."""
    assert isinstance(error, HTTPException)
    codes = {404: "not_found", 405: "invalid", 413: "too_large"}
    message = f"{request.method} {request.url.path[:200]}: {error.detail.lower()}"
    shown = Error(
        codes.get(error.status_code, "failed"), message, "GET /openapi.json lists what there is", openai_code=None
    )
    response = _on_error(request, shown)
    response.status_code = error.status_code
    response.headers.update(error.headers or {})
    return response


def _on_bug(request: Request, error: Exception) -> Response:
    """Starlette raises it again afterwards, so that the traceback is in the log."""
    hint = f"the server's log has more under {request.scope.get('longrein.id')}"
    return _on_error(request, Error("failed", "something went wrong in the server", hint))
