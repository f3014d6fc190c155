"""MLflow's REST API over the ledger: `MLFLOW_TRACKING_URI=http://…` and existing training code works unchanged."""

import json
import logging
import os
import re
import typing
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.responses import FileResponse
from starlette.routing import BaseRoute, Mount

from longrein.core.errors import Error
from longrein.core.ledger import Ledger
from longrein.core.store import Store
from longrein.core.worker import as_error
from longrein.models.track import experiments, inputs, limits, logged, registered, runs, versions
from longrein.models.track.artifacts import Artifacts
from longrein.models.track.call import Call
from longrein.models.track.writer import Writer

_log = logging.getLogger(__name__)
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Function = Callable[[Call, Any], dict[str, Any]]

BODY_BYTES = 32 << 20  # a dataset's profile may take 16 MB
CHUNK_BYTES = 1 << 20
MODEL, TAG = "{model_id}", "{tag_key}"

# Each commits with the writes that arrive beside it.
WRITES: dict[str, Function] = {
    "POST experiments/create": experiments.create,
    "POST experiments/update": experiments.update,
    "POST experiments/delete": experiments.delete,
    "POST experiments/restore": experiments.restore,
    "POST experiments/set-experiment-tag": experiments.set_tag,
    "POST experiments/delete-experiment-tag": experiments.delete_tag,
    "POST runs/create": runs.create,
    "POST runs/update": runs.update,
    "POST runs/delete": runs.delete,
    "POST runs/restore": runs.restore,
    "POST runs/log-metric": runs.log_metric,
    "POST runs/log-parameter": runs.log_param,
    "POST runs/log-batch": runs.log_batch,
    "POST runs/log-model": runs.log_model,
    "POST runs/set-tag": runs.set_tag,
    "POST runs/delete-tag": runs.delete_tag,
    "POST runs/log-inputs": inputs.log_inputs,
    "POST runs/outputs": inputs.log_outputs,
    "POST logged-models": logged.create,
    f"DELETE logged-models/{MODEL}": logged.delete,
    f"PATCH logged-models/{MODEL}/tags": logged.set_tags,
    f"DELETE logged-models/{MODEL}/tags/{TAG}": logged.delete_tag,
    f"POST logged-models/{MODEL}/params": logged.log_params,
    "POST registered-models/create": registered.create,
    "POST registered-models/rename": registered.rename,
    "PATCH registered-models/update": registered.update,
    "DELETE registered-models/delete": registered.delete,
    "POST registered-models/set-tag": registered.set_tag,
    "DELETE registered-models/delete-tag": registered.delete_tag,
    "POST registered-models/alias": registered.set_alias,
    "DELETE registered-models/alias": registered.delete_alias,
    "PATCH model-versions/update": versions.update,
    "POST model-versions/transition-stage": versions.transition,
    "DELETE model-versions/delete": versions.delete,
    "POST model-versions/set-tag": versions.set_tag,
    "DELETE model-versions/delete-tag": versions.delete_tag,
}
# Reads, and the two that take a model's bytes into the store before they write.
READS: dict[str, Function] = {
    "GET experiments/get": experiments.get,
    "GET experiments/get-by-name": experiments.get_by_name,
    "GET experiments/search": experiments.search,
    "POST experiments/search": experiments.search,
    "GET runs/get": runs.get,
    "POST runs/search": runs.search,
    "GET metrics/get-history": runs.history,
    "GET metrics/get-history-bulk": runs.history_bulk,
    "GET metrics/get-history-bulk-interval": runs.history_interval,
    "GET artifacts/list": runs.list_artifacts,
    f"GET logged-models/{MODEL}": logged.get,
    f"PATCH logged-models/{MODEL}": logged.finalize,
    "POST logged-models/search": logged.search,
    f"GET logged-models/{MODEL}/artifacts/directories": logged.list_artifacts,
    "GET registered-models/get": registered.get,
    "GET registered-models/search": registered.search,
    "GET registered-models/alias": registered.by_alias,
    "GET registered-models/get-latest-versions": versions.latest,
    "POST registered-models/get-latest-versions": versions.latest,
    "POST model-versions/create": versions.create,
    "GET model-versions/get": versions.get,
    "GET model-versions/search": versions.search,
    "GET model-versions/get-download-uri": versions.download_uri,
}
# Our codes in MLflow's words. A status of 500 or 503 makes its clients try again for minutes: only where that helps.
CODES = {
    "not_found": ("RESOURCE_DOES_NOT_EXIST", 404),
    "invalid": ("INVALID_PARAMETER_VALUE", 400),
    "conflict": ("RESOURCE_ALREADY_EXISTS", 400),
    "blocked": ("RESOURCE_CONFLICT", 409),
    "unauthorized": ("UNAUTHENTICATED", 401),
    "forbidden": ("PERMISSION_DENIED", 403),
    "too_large": ("INVALID_PARAMETER_VALUE", 413),
    "missing_package": ("NOT_IMPLEMENTED", 501),
    "no_space": ("RESOURCE_EXHAUSTED", 507),
    "overloaded": ("REQUEST_LIMIT_EXCEEDED", 429),
    "unavailable": ("TEMPORARILY_UNAVAILABLE", 503),
}
SERVER_INFO = {
    "store_type": "SqlStore", "workspaces_enabled": False, "trace_archival_enabled": False,
    "multipart_uploads_enabled": False, "multipart_downloads_enabled": False,
}  # fmt: skip


def routes(ledger: Ledger, store: Store) -> list[BaseRoute]:
    """The routes to mount at the root. Authentication is the caller's, around them; who it found is
    `scope["state"]["actor"]`, the name that events and runs carry."""
    artifacts = Artifacts(store)
    artifacts.sweep()
    ledger.runs.experiment("Default")  # clients log to it without asking
    return [
        Mount("/api/2.0/mlflow-artifacts", Files(artifacts)),
        Mount("/api/2.0/mlflow", Api(ledger, artifacts)),
        Mount("/api/3.0/mlflow", server_info),
    ]


class Endpoint(NamedTuple):
    function: Function
    writes: bool
    type: type[msgspec.Struct]
    lists: frozenset[str]  # fields that a query string may name several times
    decoder: "msgspec.json.Decoder[Any]"


class Api:
    """/api/2.0/mlflow: one dictionary from "METHOD path" to the function that answers."""

    def __init__(self, ledger: Ledger, artifacts: Artifacts) -> None:
        self.ledger, self.artifacts, self.writer = ledger, artifacts, Writer(ledger.db)
        self.endpoints = {path: _endpoint(f, True) for path, f in WRITES.items()}
        self.endpoints |= {path: _endpoint(f, False) for path, f in READS.items()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            endpoint, found = self._find(scope["method"], _rest(scope))
            body = await _body(receive, limits.BATCH_BYTES if endpoint.function is runs.log_batch else BODY_BYTES)
            request = _request(endpoint, body, scope["query_string"].decode("latin-1"), found)
            call = Call(self.ledger, self.artifacts, scope.get("state", {}).get("actor", ""))
            if endpoint.writes:
                answer = await self.writer.run(lambda: endpoint.function(call, request))
            else:
                answer = await run_in_threadpool(endpoint.function, call, request)
        except Exception as error:  # noqa: BLE001 — the edge: whatever it was becomes MLflow's error
            await _refuse(send, error)
            return
        await _reply(send, 200, answer)

    def _find(self, method: str, path: str) -> tuple[Endpoint, dict[str, str]]:
        endpoint = self.endpoints.get(f"{method} {path}")
        if endpoint is not None:
            return endpoint, {}
        parts = path.split("/")
        if parts[0] == "logged-models" and len(parts) > 1:
            found = {"model_id": parts[1]}
            parts[1] = MODEL
            if len(parts) > 3 and parts[2] == "tags":
                found["tag_key"], parts[3:] = "/".join(parts[3:]), [TAG]
            endpoint = self.endpoints.get(f"{method} {'/'.join(parts)}")
            if endpoint is not None:
                return endpoint, found
        if parts[0] in ("traces", "assessments", "issues", "datasets", "scorers", "gateway", "webhooks", "workspaces"):
            raise Error(
                "missing_package", f"MLflow's {parts[0]} are not part of this server", "it tracks runs and models"
            )
        raise _Unknown(f"{method} {path}")


class Files:
    """/api/2.0/mlflow-artifacts: upload, download, list and delete, streamed to and from disk."""

    def __init__(self, artifacts: Artifacts) -> None:
        self.artifacts = artifacts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            head, _, name = _rest(scope).partition("/")
            method = scope["method"]
            if head != "artifacts":
                raise Error("missing_package", "Multipart upload is not supported for the current artifact repository")
            if method == "GET" and not name:
                folder = dict(parse_qsl(scope["query_string"].decode("latin-1"))).get("path", "")
                answer: dict[str, Any] = {"files": await run_in_threadpool(self.artifacts.list, folder)}
            elif method in ("GET", "HEAD"):
                await self._download(name, scope, receive, send)
                return
            elif method == "PUT":
                await self._upload(name, receive)
                answer = {}
            elif method == "DELETE":
                await run_in_threadpool(self.artifacts.delete, name)
                answer = {}
            else:
                raise _Unknown(f"{method} {name}")
        except Exception as error:  # noqa: BLE001 — the edge: whatever it was becomes MLflow's error
            await _refuse(send, error)
            return
        await _reply(send, 200, answer)

    async def _download(self, name: str, scope: Scope, receive: Receive, send: Send) -> None:
        path = self.artifacts.path(name)
        if not path.is_file():
            raise Error("not_found", f"there is no artifact {name!r}")
        # Always as an attachment of no type: what somebody uploaded must not run as a page of this host.
        quiet = {"X-Content-Type-Options": "nosniff"}
        response = FileResponse(path, media_type="application/octet-stream", filename=path.name, headers=quiet)
        await response(scope, receive, send)

    async def _upload(self, name: str, receive: Receive) -> None:
        self.artifacts.target(name)
        staged = self.artifacts.stage()
        try:
            with staged.open("wb") as file:
                more, held, size = True, [], 0
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Error("interrupted", f"the upload of {name!r} broke off; nothing was kept")
                    held.append(message.get("body", b""))
                    size, more = size + len(held[-1]), message.get("more_body", False)
                    if size >= CHUNK_BYTES or not more:
                        await run_in_threadpool(file.writelines, held)
                        held, size = [], 0
                file.flush()
                await run_in_threadpool(os.fsync, file.fileno())
            await run_in_threadpool(self.artifacts.settle, staged, name)
        finally:
            staged.unlink(missing_ok=True)


async def server_info(scope: Scope, receive: Receive, send: Send) -> None:
    """/api/3.0/mlflow: what this server can do; MLflow's traces and other services of version 3 it cannot."""
    if _rest(scope) == "server-info":
        await _reply(send, 200, SERVER_INFO)
    else:
        service = _rest(scope).split("/")[0]
        await _refuse(send, Error("missing_package", f"MLflow's {service} are not part of this server"))


class _Unknown(Error):
    def __init__(self, what: str) -> None:
        super().__init__("not_found", f"there is no endpoint {what[:200]!r} in MLflow's API here")


def _endpoint(function: Function, writes: bool) -> Endpoint:
    kind = typing.get_type_hints(function)["request"]
    hints = typing.get_type_hints(kind)
    lists = frozenset(n for n, t in hints.items() if typing.get_origin(t) is tuple)
    return Endpoint(function, writes, kind, lists, msgspec.json.Decoder(kind, strict=False))


def _request(endpoint: Endpoint, body: bytes, query: str, found: dict[str, str]) -> Any:
    """The request, from its body, query string and path. Numbers may come as text, as protobuf's JSON has them."""
    if b"\\u0000" in body or "%00" in query:  # a database cannot hold it
        raise Error("invalid", "text may not contain the character NUL")
    if body and not found:
        try:
            return endpoint.decoder.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            pass  # the slower way below knows null, and tells what is wrong
    value: Any = {}
    try:
        value = _without_null(msgspec.json.decode(body)) if body else {}
        if not isinstance(value, dict):
            raise Error("invalid", "the body must be a JSON object")
        for key, item in parse_qsl(query, keep_blank_values=True):
            if key in endpoint.lists:
                value.setdefault(key, []).append(item)
            else:
                value[key] = item
        return msgspec.convert(value | found, endpoint.type, strict=False)
    except msgspec.ValidationError as error:
        raise Error("invalid", _told(str(error), value), "see MLflow's REST API") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Error("invalid", f"the body is not JSON: {error}") from error


def _told(problem: str, value: Any) -> str:
    """What msgspec found wrong, as MLflow says it."""
    why, _, at = problem.partition(" - at `$")
    path = re.findall(r"\.(\w+)|\[(\d+|\.\.\.)\]", at)
    missing = re.search(r"missing required field `(\w+)`", why)
    if missing and not path:
        return f"Missing value for required parameter '{missing[1]}'."
    name = ".".join(key or index for key, index in path)
    first = value.get(path[0][0]) if path and isinstance(value, dict) else value
    return f"Invalid value {json.dumps(first, ensure_ascii=False)[:300]} for parameter '{name}' supplied: {why}"


def _without_null(value: Any) -> Any:
    """protobuf's JSON reads null as "not given"."""
    if isinstance(value, dict):
        return {k: _without_null(v) for k, v in value.items() if v is not None}
    return [_without_null(v) for v in value] if isinstance(value, list) else value


def _rest(scope: Scope) -> str:
    """The path below the mount."""
    path = scope["path"]
    return str(path[len(scope.get("root_path", "")) :] if path.startswith(scope.get("root_path", "")) else path).strip(
        "/"
    )


async def _body(receive: Receive, limit: int) -> bytes:
    parts, size, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Error("interrupted", "the client went away")
        parts.append(message.get("body", b""))
        size, more = size + len(parts[-1]), message.get("more_body", False)
        if size > limit:
            raise Error("invalid", f"requests like this must be at most {limit} bytes", "split it up")
    return parts[0] if len(parts) == 1 else b"".join(parts)


async def _refuse(send: Send, reason: Exception) -> None:
    error = as_error(reason)
    if error is not reason:
        _log.error("%s", error.message, exc_info=reason)  # a fault of ours: people see its one line, the log all of it
    code, status = CODES.get(error.code, ("INTERNAL_ERROR", error.http_status))
    if isinstance(error, _Unknown):
        code = "ENDPOINT_NOT_FOUND"
    message = f"{error.message} (hint: {error.hint})" if error.hint else error.message
    await _reply(send, status, {"error_code": code, "message": message, **error.details})


async def _reply(send: Send, status: int, value: dict[str, Any]) -> None:
    body = msgspec.json.encode(value)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
