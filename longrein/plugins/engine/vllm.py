"""vLLM as an engine: `vllm serve` as a child of the engine's process, asked over its HTTP API with our own token ids.

Chat template and tokenizer are ours, so that prompts are those of the other engines; scheduling, sampling and stop
strings are vLLM's. Here is no thread and no queue: the event loop runs inside `step`.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from longrein.core import folder as folders
from longrein.core.errors import Error
from longrein.core.generation import Event, Logprob, Request, Usage
from longrein.core.worker import as_error
from longrein.plugins.engine._torch.text import Text, too_long
from longrein.plugins.engine._vllm import options
from longrein.plugins.engine._vllm.options import Config as Config
from longrein.plugins.engine._vllm.server import Server

VERSION = 1
STEP_S = 0.002  # how long a step waits for news: new requests come in between


class _Logprobs(msgspec.Struct):
    tokens: list[str] = []
    token_logprobs: list[float | None] = []
    top_logprobs: list[dict[str, float | None] | None] | None = None


class _Choice(msgspec.Struct):
    text: str = ""
    token_ids: list[int] | None = None
    logprobs: _Logprobs | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int
    prompt_tokens_details: _Details | None = None


class _Problem(msgspec.Struct):
    message: str = ""
    param: str | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: _Problem | None = None


CHUNK = msgspec.json.Decoder(_Chunk)


class Vllm:
    """See longrein.core.ports.Engine."""

    def __init__(self, model: Path, given: Mapping[str, Any]) -> None:
        self.config = options.parse(given)
        folders.check(model)
        self.text = Text(model)
        self.server = Server(model, options.arguments(self.config))
        self.loop = asyncio.new_event_loop()
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.events: list[Event] = []
        self.news = asyncio.Event()
        self.counts: Counter[str] = Counter()
        self.loop.run_until_complete(self.server.started())
        _, body = self.loop.run_until_complete(self.server.whole("GET", "/v1/models"))
        self.context: int = msgspec.json.decode(body)["data"][0]["max_model_len"]
        self.info = {
            "context": self.context,
            "max_batch": self.config.max_batch,
            "dtype": self.config.dtype,
            "chat": self.text.template is not None,
            "json_schema": True,
        }

    def submit(self, request: Request) -> None:
        most = self.config.max_batch + self.config.max_queue
        if len(self.tasks) >= most:
            raise Error("overloaded", f"{most} requests are under way", "try again later", retry_after_s=1)
        param = "prompt" if request.messages is None else "messages"
        prompt = self.text.encode(request, self.context)
        if not prompt:
            raise Error("invalid", "the prompt is empty", "send at least one token", param=param)
        if len(prompt) >= self.context:
            raise too_long(self.context, f"{len(prompt)} tokens", param)
        body = _body(request, prompt, self.context)
        self.counts["tokens_in_total"] += len(prompt)
        self.tasks[request.id] = self.loop.create_task(self._ask(request, body))

    def cancel(self, id: str) -> Usage | None:
        if task := self.tasks.pop(id, None):
            task.cancel()
            self.loop.run_until_complete(asyncio.wait([task]))  # its connection is closed: vLLM aborts the request
            self.events = [event for event in self.events if event.id != id]
        return None  # vLLM does not tell

    def step(self) -> list[Event]:
        if not self.tasks:
            return []
        self.loop.run_until_complete(self._some())
        events, self.events = self.events, []
        for event in events:
            self.counts["tokens_out_total"] += len(event.token_ids)
            if event.finish_reason or event.error:
                self.tasks.pop(event.id, None)
        return events

    def pending(self) -> int:
        return len(self.tasks)

    def stats(self) -> dict[str, Any]:
        try:
            _, body = self.loop.run_until_complete(self.server.whole("GET", "/metrics"))
        except Error:  # it is ending; the next request says so
            body = b""
        found = _metrics(body.decode("utf-8", "replace"))
        running, steps = int(found["num_requests_running"]), found["inter_token_latency_seconds_count"]
        return {
            "running": running,
            "waiting": int(found["num_requests_waiting"]),
            "slots_used": running,
            "slots_total": self.config.max_batch,
            "steps_total": int(found["iteration_tokens_total_count"]),
            "tokens_in_total": self.counts["tokens_in_total"],
            "tokens_out_total": self.counts["tokens_out_total"],
            "kv_share": found["kv_cache_usage_perc"],
            "preemptions_total": int(found["num_preemptions_total"]),
            "cached_tokens_total": int(found["prefix_cache_hits_total"]),
            "step_s": found["inter_token_latency_seconds_sum"] / steps if steps else 0.0,
            "batch_sizes": {},  # vLLM does not tell them
        }

    async def _some(self) -> None:
        self.news.clear()
        if not self.events:
            try:
                await asyncio.wait_for(self.news.wait(), STEP_S)
            except TimeoutError:
                pass

    def _tell(self, event: Event) -> None:
        self.events.append(event)
        self.news.set()

    async def _ask(self, request: Request, body: dict[str, Any]) -> None:
        try:
            async with self.server.open("POST", "/v1/completions", body) as answer:
                if answer.status != 200:
                    raise _refusal(answer.status, b"".join([piece async for piece in answer.pieces()]))
                reply = _Reply(request)
                async for data in answer.events():
                    if data == b"[DONE]":
                        break
                    if event := reply.take(CHUNK.decode(data)):
                        self._tell(event)
                self._tell(reply.end())
        except Exception as error:  # noqa: BLE001 - whatever one answer does, the others go on
            self._tell(Event(request.id, error=as_error(error).as_dict()))


class _Reply:
    """The events of one answer. The last one waits for the usage, which comes behind the finish reason."""

    def __init__(self, request: Request) -> None:
        self.request, self.began = request, time.monotonic()
        self.first_s = 0.0
        self.last: Event | None = None
        self.usage: _Usage | None = None

    def take(self, chunk: _Chunk) -> Event | None:
        if chunk.error:
            raise Error("failed", f"vllm: {chunk.error.message}", "see the engine's log")
        self.usage = chunk.usage or self.usage
        if not chunk.choices:
            return None
        self.first_s = self.first_s or time.monotonic() - self.began
        choice = chunk.choices[0]
        event = Event(self.request.id, choice.text, choice.token_ids or [], self._logprobs(choice.logprobs))
        if choice.finish_reason is None:
            return event
        if choice.finish_reason not in ("stop", "length"):
            raise Error("failed", f"vllm ended the answer: {choice.finish_reason}", "see the engine's log")
        reason: Literal["stop", "length"] = "length" if choice.finish_reason == "length" else "stop"
        event.finish_reason = reason
        event.stop = choice.stop_reason if isinstance(choice.stop_reason, str) else None
        self.last = event
        return None

    def end(self) -> Event:
        if self.last is None or self.usage is None:
            raise Error("unavailable", "vllm ended its answer in the middle", "try again", retry_after_s=1)
        details = self.usage.prompt_tokens_details
        self.last.usage = Usage(
            prompt_tokens=self.usage.prompt_tokens,
            completion_tokens=self.usage.completion_tokens,
            first_s=self.first_s,
            cached_tokens=(details.cached_tokens or 0) if details else 0,
        )
        return self.last

    def _logprobs(self, found: _Logprobs | None) -> list[Logprob] | None:
        if self.request.logprobs is None or found is None:
            return None
        tops = found.top_logprobs or [None] * len(found.tokens)
        count = self.request.logprobs
        return [
            Logprob(token, value or 0.0, sorted(_told(top or {}), key=lambda pair: -pair[1])[:count])
            for token, value, top in zip(found.tokens, found.token_logprobs, tops, strict=True)
        ]


def _told(top: dict[str, float | None]) -> list[tuple[str, float]]:
    return [(token, value) for token, value in top.items() if value is not None]


def _body(request: Request, prompt: list[int], context: int) -> dict[str, Any]:
    """What vLLM's /v1/completions takes; names are its own where OpenAI has none."""
    fields = msgspec.structs.asdict(request)
    for ours in ("id", "messages", "prompt", "tools", "embed"):  # tools are in the prompt; it makes no vectors
        fields.pop(ours, None)
    if schema := fields.pop("json_schema", None):
        fields["structured_outputs"] = {"json": schema}
    fields["max_tokens"] = min(request.max_tokens or context, context - len(prompt))
    if not request.cache_salt:
        del fields["cache_salt"]  # "" is refused
    stream = {"stream": True, "stream_options": {"include_usage": True}, "return_token_ids": True}
    return {"model": Server.name, "prompt": prompt, **fields, **stream}


def _refusal(status: int, body: bytes) -> Error:
    try:
        problem = CHUNK.decode(body).error or _Problem()
    except msgspec.DecodeError:
        problem = _Problem()
    message = problem.message[:2000] or f"vllm refused the request with status {status}"
    if status in (400, 404, 413, 422):
        return Error("invalid", message, param=problem.param)
    if status in (429, 503):
        return Error("overloaded", message, "try again later", retry_after_s=1)
    return Error("failed", message, "see the engine's log")


def _metrics(text: str) -> Counter[str]:
    """Prometheus' text: the samples of vLLM's, summed over their labels."""
    found: Counter[str] = Counter()
    for line in text.splitlines():
        if line.startswith("vllm:"):
            name, _, value = line.removeprefix("vllm:").rpartition(" ")
            found[name.partition("{")[0]] += float(value)  # type: ignore[assignment]
    return found


plugin = Vllm
