"""The management API below /api/v1: what the console and the command line do, over HTTP; thin over the ledger."""

import asyncio
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from longrein.core.errors import Error
from longrein.core.ledger import Asset, Ledger, Run
from longrein.core.ref import check_name
from longrein.core.store import Store
from longrein.gateway.inference import read_body
from longrein.models import deploy, registry
from longrein.models.experiment.describe import as_of_now
from longrein.models.rollback import rollback

PREFIX = "/api/v1"
MAX_LIMIT = 1000
MAX_BODY_BYTES = 1 << 20
T = TypeVar("T")
Why = Callable[[Ledger, Store, str], Any]
ASKED = ("endpoint", "release", "status", "key", "team", "user", "session", "text")  # of the request log
QUERIES: dict[str, tuple[str, ...]] = {  # what a path's query string may hold
    f"{PREFIX}/assets": ("kind", "name", "limit"),
    f"{PREFIX}/runs": ("capability", "name", "limit"),
    f"{PREFIX}/lineage/{{ref}}": ("direction", "limit"),
    f"{PREFIX}/rollouts": ("endpoint", "limit"),
    f"{PREFIX}/events": ("subject", "kind", "after", "limit"),
    f"{PREFIX}/requests": (*ASKED, "since_ms", "until_ms", "limit"),
}


class Promote(msgspec.Struct, forbid_unknown_fields=True):
    """Point an alias at a version. Its gates decide: 409 `blocked` when one has not passed this very digest."""

    ref: str
    alias: str = "prod"
    reason: str = ""


class Rollback(msgspec.Struct, forbid_unknown_fields=True):
    """Point an endpoint back at a release it served before: the previous one, or `to` (a version or a whole ref)."""

    endpoint: str
    to: str | None = None
    reason: str = ""


BODIES: dict[str, type[msgspec.Struct]] = {f"{PREFIX}/promote": Promote, f"{PREFIX}/rollback": Rollback}


class Hooks(NamedTuple):
    """What the handlers need of the gateway around them."""

    refresh: Callable[[], None]  # follow the ledger at once
    flush: Callable[[], None]  # write the request log's buffer
    requests: Path  # the request log's folder
    why: Why | None  # trace a request: longrein.control.why.why


class _Management:
    """The handlers: plain functions, which Starlette runs in threads, for the ledger may take its time."""

    def __init__(self, ledger: Ledger, store: Store, hooks: Hooks) -> None:
        self.ledger, self.store, self.hooks = ledger, store, hooks

    def assets(self, request: Request) -> Response:
        """The newest assets, by kind and name."""
        query = _query(request, "kind", "name")
        found = self.ledger.assets.recent(query["kind"], query["name"], _limit(request))
        return _json({"assets": [_asset(a) for a in found]})

    def asset(self, request: Request) -> Response:
        """One asset with its aliases, gate verdicts and runs."""
        asset = self.ledger.assets.get(request.path_params["ref"])
        held = self.ledger.aliases.get(asset.kind, asset.name)
        aliases = [alias for alias, (target, _) in held.items() if target.id == asset.id]
        verdicts = [asdict(v) for v in self.ledger.aliases.verdicts(asset.digest)]
        makers = [edge.run_id for edge in self.ledger.assets.makers(asset.id)]
        return _json({**_asset(asset), "aliases": aliases, "verdicts": verdicts, "runs": makers})

    def runs(self, request: Request) -> Response:
        """The newest runs, by capability and name."""
        query = _query(request, "capability", "name")
        found = self.ledger.runs.recent(query["capability"], query["name"], _limit(request))
        return _json({"runs": [asdict(run) for run in found]})

    def run(self, request: Request) -> Response:
        """One run with its metrics, params, tags, inputs and outputs."""
        run: Run = self.ledger.runs.get(_text(request.path_params["id"]))
        metrics = {k: v if math.isfinite(v) else str(v) for k, v in self.ledger.runs.metrics(run.id).items()}
        more = {"metrics": metrics, "params": self.ledger.runs.params(run.id), "tags": self.ledger.runs.tags(run.id)}
        sides: dict[str, list[Any]] = {"in": [], "out": []}
        for edge, asset in self.ledger.assets.of_run(run.id):
            sides[edge.direction].append({"role": edge.role, "ref": asset.ref, "digest": asset.digest})
        return _json({**asdict(run), **more, "inputs": sides["in"], "outputs": sides["out"]})

    def lineage(self, request: Request) -> Response:
        """What an asset came from (up) or what came from it (down)."""
        direction = _query(request, "direction")["direction"] or "up"
        if direction not in ("up", "down"):
            raise Error("invalid", f"direction cannot be {direction[:50]!r}", "up or down", param="direction")
        found = self.ledger.assets.lineage(
            self.ledger.assets.get(request.path_params["ref"]), direction, _limit(request)
        )
        edges = [asdict(edge) for edge in found.edges]
        return _json({"assets": [_asset(a) for a in found.assets], "runs": found.runs, "edges": edges})

    def events(self, request: Request) -> Response:
        """The audit trail, newest first."""
        query = _query(request, "subject", "kind")
        after = _number(request, "after", 0, 2**62)
        found = self.ledger.events.recent(query["subject"], query["kind"], _limit(request), after)
        return _json({"events": [event._asdict() for event in found]})

    def requests(self, request: Request) -> Response:
        """The newest requests; `text` is looked for in both texts, `status` may be a class such as 5xx."""
        from longrein.data.requests import FOREVER_MS, Query, RequestLog  # Arrow: only once somebody asks

        self.hooks.flush()
        since_ms = _number(request, "since_ms", 0, FOREVER_MS)
        until_ms = _number(request, "until_ms", FOREVER_MS, FOREVER_MS)
        given: Any = _query(request, *ASKED)
        query = Query(**given, since_ms=since_ms, until_ms=until_ms)
        return _json({"requests": RequestLog(self.hooks.requests).find(query, _limit(request))})

    def why(self, request: Request) -> Response:
        """From an answer back to release, model, runs, dataset and source rows."""
        if self.hooks.why is None:
            raise Error("unavailable", "this server cannot trace answers", f"longrein why {request.path_params['id']}")
        self.hooks.flush()
        return _json(self.hooks.why(self.ledger, self.store, _text(request.path_params["id"])))

    def promote(self, request: Request, body: Promote) -> Response:
        """Point an alias at a version, if its gates let it."""
        asset = self.ledger.assets.get(body.ref)
        registry.promote(self.ledger, asset, body.alias, actor=request.state.actor, reason=body.reason)
        self.hooks.refresh()
        _, revision = self.ledger.aliases.get(asset.kind, asset.name)[body.alias]
        return _json({"ref": asset.ref, "alias": body.alias, "revision": revision})

    def rollback(self, request: Request, body: Rollback) -> Response:
        """Point an endpoint back at a release that it served before, or end the rollout that is under way there."""
        check_name(body.endpoint, "endpoint")
        target = rollback(self.ledger, body.endpoint, body.to or "", actor=request.state.actor, reason=body.reason)
        self.hooks.refresh()
        _, revision = self.ledger.aliases.get("release", body.endpoint)[deploy.ALIAS]
        return _json({"endpoint": body.endpoint, "ref": target.ref, "revision": revision})

    def rollouts(self, request: Request) -> Response:
        """Rollouts under way, or an endpoint's, the newest first: weights, requests, evidence, what comes next."""
        endpoint = _query(request, "endpoint")["endpoint"]
        found = self.ledger.rollouts.recent(endpoint, _limit(request)) if endpoint else []
        live = [] if endpoint else list(self.ledger.rollouts.all_live().values())
        return _json({"rollouts": [as_of_now(self.ledger, seen) for seen in [*live, *found]]})


def routes(ledger: Ledger, store: Store, hooks: Hooks) -> list[Route]:
    handle = _Management(ledger, store, hooks)
    return [
        Route(f"{PREFIX}/assets", handle.assets),
        Route(f"{PREFIX}/assets/{{ref}}", handle.asset),
        Route(f"{PREFIX}/runs", handle.runs),
        Route(f"{PREFIX}/runs/{{id}}", handle.run),
        Route(f"{PREFIX}/lineage/{{ref}}", handle.lineage),
        Route(f"{PREFIX}/events", handle.events),
        Route(f"{PREFIX}/requests", handle.requests),
        Route(f"{PREFIX}/why/{{id}}", handle.why),
        Route(f"{PREFIX}/rollouts", handle.rollouts),
        Route(f"{PREFIX}/promote", _with_body(handle.promote, Promote), methods=["POST"]),
        Route(f"{PREFIX}/rollback", _with_body(handle.rollback, Rollback), methods=["POST"]),
    ]


def _with_body(handler: Callable[[Request, Any], Response], type_: type[T]) -> Callable[[Request], Any]:
    async def endpoint(request: Request) -> Response:
        data = await read_body(request.scope, request.receive, MAX_BODY_BYTES)
        try:
            body = msgspec.json.decode(data, type=type_)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Error("invalid", f"the body cannot be used: {error}", "send JSON, UTF-8") from error
        return await asyncio.to_thread(handler, request, body)

    endpoint.__name__, endpoint.__doc__ = handler.__name__, handler.__doc__
    return endpoint


def _json(value: Any) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")


def _asset(asset: Asset) -> dict[str, Any]:
    return {"ref": asset.ref, **asdict(asset)}


def _query(request: Request, *names: str) -> dict[str, str]:
    return {name: _text(request.query_params.get(name, "")) for name in names}


def _text(value: str) -> str:
    """Errors: `invalid` for what PostgreSQL cannot even compare."""
    if "\0" in value:
        raise Error("invalid", f"{value[:50]!r} holds a NUL", "leave it out")
    return value


def _limit(request: Request) -> int:
    return _number(request, "limit", 100, MAX_LIMIT)


def _number(request: Request, name: str, default: int, most: int) -> int:
    text = request.query_params.get(name, "")
    if not text:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 19 or int(text) > most:
        raise Error("invalid", f"{name} must be a whole number up to {most}, not {text[:50]!r}", param=name)
    return int(text)
