"""An engine in simulated time, for tests of the controller: it batches as plugins/engine/torch.py does."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from longrein.core.generation import Limits, Load, Queued, Slo, Work
from longrein.ops.batching import Decision

MOST = Limits(batch=64, prefill_tokens=512, offline=64)
# seconds of a step: fixed, a running request, a prompt token, a position read; a 5 M Llama on one core
COSTS = 1.5e-3, 0.25e-3, 0.1e-3, 0.5e-6


@dataclass
class Request:
    id: str
    at: float
    prompt: int
    answer: int
    priority: int = 0
    done: int = 0  # prompt tokens computed
    made: int = 0
    first: float | None = None
    last: float = 0.0
    refused: bool = False

    @property
    def rank(self) -> tuple[int, float]:
        return self.priority, self.at

    def good(self, slo: Slo) -> bool:
        if self.first is None or self.made < self.answer:
            return False
        mean = (self.last - self.first) / max(self.made - 1, 1)
        return self.first - self.at <= slo.ttft_s and mean <= slo.tpot_s


@dataclass
class Engine:
    """Costs may be a function of time; noise: seconds of a step, given what it should take."""

    costs: Callable[[float], Sequence[float]] = lambda now: COSTS
    noise: Callable[[float], float] = lambda seconds: seconds
    patience_s: float = float("inf")  # clients give up when nothing has come by then
    now: float = 0.0
    waiting: list[Request] = field(default_factory=list)
    running: list[Request] = field(default_factory=list)
    preemptions: int = 0

    def load(self) -> Load:
        offline = sum(r.priority > 0 for r in self.running)
        prefilling = sum(r.prompt - r.done for r in self.running if r.priority <= 0)
        waiting = [Queued(r.id, r.priority, r.prompt, self.now - r.at) for r in self.waiting if r.priority <= 0]
        return Load(len(self.running), offline, prefilling, waiting)

    def submit(self, request: Request) -> None:
        self.waiting.append(request)
        self.waiting.sort(key=lambda r: r.rank)

    def step(self, limits: Limits) -> Work | None:
        self.waiting = [r for r in self.waiting if r.priority > 0 or self.now - r.at <= self.patience_s]
        self._admit(limits)
        left, batch, prefill, context = limits.prefill_tokens, 0, 0, 0
        ending: list[Request] = []
        for r in sorted(self.running, key=lambda r: r.rank):
            size = min(r.prompt - r.done, left)
            if r.done == r.prompt or size:
                left -= size
                prefill += size
                r.done += size
                context += r.done + r.made
                if r.done == r.prompt:
                    ending.append(r)
        if not context:
            return None
        batch = len(ending)
        seconds = sum(c * x for c, x in zip(self.costs(self.now), (1, batch, prefill, context), strict=True))
        seconds = self.noise(seconds)
        self.now += seconds
        return self._tell(ending, Work(batch, prefill, context, seconds))

    def _admit(self, limits: Limits) -> None:
        while self.waiting:
            r = self.waiting[0]
            offline = [o for o in self.running if o.priority > 0]
            if sum(o.prompt - o.done for o in self.running if o.rank < r.rank) >= limits.prefill_tokens:
                return
            if r.priority > 0 and len(offline) >= limits.offline:
                return
            if len(self.running) >= limits.batch:
                if not offline or r.priority > 0:
                    return
                last = max(offline, key=lambda o: o.rank)
                self.running.remove(last)
                self.submit(last)
                self.preemptions += 1
            self.running.append(self.waiting.pop(0))

    def _tell(self, ending: list[Request], work: Work) -> Work:
        first = []
        for r in ending:
            r.made += 1
            r.last = self.now
            if r.first is None:
                r.first = self.now
                first.append((r.id, self.now - r.at))
        ended = [r for r in ending if r.made >= r.answer]
        self.running = [r for r in self.running if r not in ended]
        return Work(work.batch, work.prefill_tokens, work.context, work.seconds, len(ended), first)


def serve(
    requests: Sequence[Request],
    engine: Engine,
    decide: Callable[[Load], Decision],
    learn: Callable[[Work], None],
) -> Engine:
    """Until all have ended, been refused or given up."""
    coming = sorted(requests, key=lambda r: r.at)[::-1]
    while coming or engine.running or engine.waiting:
        if not engine.running and not engine.waiting:
            engine.now = max(engine.now, coming[-1].at)
        while coming and coming[-1].at <= engine.now:
            engine.submit(coming.pop())
        decision = decide(engine.load())
        refused = {id for id, _ in decision.refused}
        for r in [r for r in engine.waiting if r.id in refused]:
            r.refused = True
            engine.waiting.remove(r)
        if work := engine.step(decision.limits):
            learn(work)
    return engine


def poisson(rate: float, seconds: float, seed: int = 0, priority: int = 0) -> list[Request]:
    """Lengths spread as in the Azure conversations, cut to a quarter."""
    draw, now, found = random.Random(seed), 0.0, []
    while (now := now + draw.expovariate(rate)) < seconds:
        prompt = min(max(int(draw.lognormvariate(5.3, 0.9)), 4), 700)
        answer = min(max(int(draw.lognormvariate(3.7, 0.8)), 2), 250)
        found.append(Request(f"{seed}-{len(found)}", now, prompt, answer, priority))
    return found
