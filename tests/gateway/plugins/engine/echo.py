"""A project's own engine for tests of the protocol: it says what it was told, one word a step.

"until PATH …" says its first word, then waits for the file PATH. "die" ends the process. "read" tells what it got.
"""

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from longrein.core.errors import Error
from longrein.core.generation import Event, Logprob, Request, Usage


class Running:
    def __init__(self, request: Request, prompt: list[str], words: list[str], gate: Path | None) -> None:
        self.request, self.prompt, self.words, self.gate, self.said = request, prompt, words, gate, 0


class Echo:
    def __init__(self, model: Path, options: Mapping[str, Any]) -> None:
        self.options, self.running = dict(options), {}
        self.cancelled = self.said = 0
        if options.get("broken"):
            raise Error("invalid", "the echo is broken", "mend it")
        self.voice = (model / "voice").read_text()
        self.info = {"context": options.get("context", 1000), "chat": True}

    def submit(self, request: Request) -> None:
        if len(self.running) >= self.options.get("max_queue", 1000):
            raise Error("overloaded", "too many wait", "try again later", retry_after_s=3)
        text = request.messages[-1]["content"] if request.messages else request.prompt
        prompt = [w for m in request.messages or [{"content": str(text)}] for w in m["content"].split()]
        if len(prompt) > self.info["context"]:
            code = {"openai_code": "context_length_exceeded"}
            raise Error("invalid", f"the context is {self.info['context']} tokens", param="messages", **code)
        words = [self.voice, *str(text).split()]
        if words[1:] == ["die"]:
            os._exit(3)
        if words[1:] == ["read"]:
            words = [
                json.dumps({"messages": request.messages, "seed": request.seed, "temperature": request.temperature})
            ]
        gate = Path(words[2]) if words[1:2] == ["until"] else None
        self.running[request.id] = Running(request, prompt, words, gate)

    def cancel(self, id: str) -> None:
        self.cancelled += self.running.pop(id, None) is not None

    def step(self) -> list[Event]:
        events = [event for running in list(self.running.values()) if (event := self._advance(running))]
        if not events:
            time.sleep(0.002)  # the time a real engine computes for
        return events

    def pending(self) -> int:
        return len(self.running)

    def stats(self) -> dict[str, Any]:
        return {"running": len(self.running), "waiting": 0, "cancelled_total": self.cancelled, "words_total": self.said}

    def _advance(self, running: Running) -> Event | None:
        if running.gate and running.said and not running.gate.exists():
            return None
        request, word = running.request, running.words[running.said]
        running.said += 1
        self.said += 1
        text = word if running.said == 1 else " " + word
        stopped = word in request.stop
        full = running.said == request.max_tokens
        reason = "stop" if stopped or running.said == len(running.words) else "length" if full else None
        usage = Usage(len(running.prompt), running.said) if reason else None
        tops = [(text, -0.5), ("x", -1.5)][: request.logprobs] if request.logprobs else []
        logprobs = None if request.logprobs is None or stopped else [Logprob(text, -0.5, tops)]
        if reason:
            del self.running[request.id]
        shown = "" if stopped else text
        return Event(request.id, shown, [running.said], logprobs, reason, word if stopped else None, usage)


plugin = Echo
