"""Dynamic batching: learns what a step of the engine costs, sizes the next one, and refuses what would come late.

A small state machine without clock or I/O: (state, what a step took) → state, (state, load) → decision. The engine's
process runs it live (longrein.gateway.engine_process), tests and benchmarks run the same code on traces.

A step is taken to last a + b·batch + c·prompt tokens + d·context, as in Sarathi-Serve (Agrawal et al. 2024) and
BentoML's adaptive batching; the four are fitted while it runs. What follows from them:

- prompt tokens a step: what is left of the time a token may take after the running requests have theirs;
- batch: where a step that decodes all, and prefills as much as they bring in, takes just that time;
- admission: a request is refused at once when its first token would come after the time promised for it, because
  serving it late would make the next ones late as well.
"""

import math

import msgspec

from longrein.core.generation import Limits, Load, Slo, Work

FORGET = 0.998  # weight of a step against the next: a memory of some 500 steps
WARM = 20  # steps before what was learnt is used
FOLLOW = 0.05  # weight of a step in the speed: a memory of some 20 steps
LEAST_S, MOST_S = 1e-7, 3600.0  # no step is shorter or longer
OUTLIER = 3.0  # a step counts as at most that many times what was expected, or that part of it
SWEEPS = 3  # of coordinate descent a step; it starts from the last solution
STIFF = 1e-3  # pull towards the last solution, for what the last steps did not vary
HEADROOM = 0.85  # of the time a token may take, what a step is planned for
OFFLINE = 0.6  # the same with offline requests on board
SAVINGS = 1.0  # such times that can be saved up at most
LEAST_PREFILL = 16  # prompt tokens that every step may take, or long prompts would never end
MISSES = 0.1  # share of first tokens that may come later than predicted
RATE = 0.03  # of learning the margin that keeps it so
MARGINS = 0.8, 3.0
PROMISES = 10_000


class Decision(msgspec.Struct, frozen=True):
    limits: Limits
    refused: list[tuple[str, float]] = []  # id, and seconds after which it would be in time


class StepTime:
    """Seconds of a step from (1, batch, prompt tokens, context): speed · θ·x.

    θ by recursive least squares with forgetting, in information form: the decayed sums of x·xᵀ and x·y, relative
    errors counted, solved by coordinate descent under θ ≥ 0. No matrix is inverted; what the last steps did not vary
    stays as it was. Speed is what θ is off by in the last steps: a machine that has to be shared changes all at once.
    """

    def __init__(self) -> None:
        self.steps = 0
        self._speed = 1.0
        self._theta = [0.0] * 4
        self._xx = [[0.0] * 4 for _ in range(4)]
        self._xy = [0.0] * 4

    @property
    def theta(self) -> list[float]:
        """Seconds of: a step, a request in its batch, a prompt token, a position read."""
        return [self._speed * cost for cost in self._theta]

    def __call__(self, batch: float, prefill: float, context: float) -> float:
        a, b, c, d = self.theta
        return a + b * batch + c * prefill + d * context

    def learn(self, work: Work) -> None:
        seconds = work.seconds
        if not LEAST_S < seconds < MOST_S:  # a clock that jumped
            return
        self.steps += 1
        expected = self(work.batch, work.prefill_tokens, work.context)
        if self.steps > WARM and expected > 0:
            seconds = min(max(seconds, expected / OUTLIER), expected * OUTLIER)
            self._speed *= 1 + FOLLOW * (seconds / expected - 1)
        x = (1.0, work.batch, work.prefill_tokens, work.context)
        seconds /= self._speed
        weight = 1 / (expected / self._speed if self.steps > WARM and expected > 0 else seconds) ** 2
        for i in range(4):
            row = self._xx[i]
            for j in range(4):
                row[j] = row[j] * FORGET + weight * x[i] * x[j]
            self._xy[i] = self._xy[i] * FORGET + weight * x[i] * seconds
        self._solve()

    def _solve(self) -> None:
        theta, last = self._theta, list(self._theta)
        for _ in range(SWEEPS):
            for i in range(4):
                own, row = self._xx[i][i], self._xx[i]
                if own <= 0:
                    continue
                rest = self._xy[i] - sum(row[j] * theta[j] for j in range(4) if j != i)
                theta[i] = max(0.0, (rest + STIFF * own * last[i]) / (own * (1 + STIFF)))


class Controller:
    """Sizes the steps of one engine and judges its queue for an objective. most: what the engine can take at most.

    Without an objective, and before the first steps are known, nothing is refused and the limits stay at their most.
    Never refused are requests of priority below 0, which go first, nor those above 0, which wait for idle room.
    """

    def __init__(self, slo: Slo | None, most: Limits) -> None:
        self.slo, self.most = slo, most
        self.step = StepTime()
        self.margin = 1.0  # actual over predicted time to the first token, all but MISSES of them
        self._left_s = 0.0  # what the last steps left of the time that a token may take
        self._rows = self._prefill = self._context = self._ended = 0.0  # decayed sums over steps
        self._promised: dict[str, float] = {}

    def learn(self, work: Work) -> None:
        """What a step was and took."""
        self.step.learn(work)
        if self.slo and work.batch:
            target = self.slo.tpot_s * HEADROOM
            self._left_s = min(max(self._left_s + target - work.seconds, 0.0), SAVINGS * target)
        self._rows = self._rows * FORGET + work.batch
        self._prefill = self._prefill * FORGET + work.prefill_tokens
        self._context = self._context * FORGET + work.context
        self._ended = self._ended * FORGET + work.ended
        for id, first_s in work.first:
            promised = self._promised.pop(id, None)
            if self.slo and promised and promised > self.slo.ttft_s / 4:  # shorter ones decide nothing
                missed = first_s > promised * self.margin
                least, most = MARGINS
                self.margin = min(max(self.margin * math.exp(RATE * (missed - MISSES)), least), most)

    def decide(self, load: Load) -> Decision:
        """The limits of the next step, and whom to refuse."""
        if self.slo is None or self.step.steps < WARM:
            return Decision(self.most)
        if len(self._promised) > PROMISES:  # those of requests that were cancelled
            self._promised.clear()
        batch = self._batch(self.slo.tpot_s * HEADROOM)
        online = load.running - load.offline
        spare = self._batch(self.slo.tpot_s * OFFLINE) - online - len(load.waiting)
        limits = Limits(batch, self._chunk(load.running, self._left_s), max(0, min(spare, self.most.offline)))
        return Decision(limits, self._late(self.slo.ttft_s, load, batch))

    @property
    def _row(self) -> float:
        """Seconds that one running request adds to a step."""
        _, b, _, d = self.step.theta
        return b + d * self._context / max(self._rows, 1.0)

    @property
    def _answer(self) -> float:
        """Tokens of a mean answer."""
        return self._rows / max(self._ended, 1.0)

    def _batch(self, seconds: float) -> int:
        """How many may run so that a step takes `seconds`, with the prefill that so many bring in on board."""
        a, _, c, _ = self.step.theta
        each = self._row + c * self._prefill / max(self._rows, 1.0)
        found = (seconds - a) / each if each > 0 else self.most.batch
        return int(min(max(found, 1), self.most.batch))

    def _chunk(self, running: int, saved_s: float = 0.0) -> int:
        """Prompt tokens that fit into a step beside `running` requests; with none running nobody waits for it.
        The time of a token is promised as a mean: what earlier steps saved may be spent."""
        assert self.slo
        a, _, c, _ = self.step.theta
        if not running or c <= 0:
            return self.most.prefill_tokens
        left = self.slo.tpot_s * HEADROOM + saved_s - a - self._row * running
        return int(min(max(left / c, LEAST_PREFILL), self.most.prefill_tokens))

    def _late(self, limit: float, load: Load, batch: int) -> list[tuple[str, float]]:
        """Those whose first token would be late through the load. One whose own prompt takes longer than was promised
        may take twice what it would take alone, or it would never be served."""
        refused: list[tuple[str, float]] = []
        ahead, place = load.prefilling, load.running - load.offline
        for queued in load.waiting:
            alone = self._prefill_s(queued.tokens, 0) * self.margin
            wait = self._prefill_s(ahead + queued.tokens, min(place, batch)) + self._slot_s(place, batch)
            late_s = queued.waited_s + wait * self.margin - (limit if alone <= limit else 2 * alone)
            if late_s > 0 and (ahead or place) and queued.priority == 0:
                refused.append((queued.id, late_s))
                self._promised.pop(queued.id, None)
                continue
            self._promised.setdefault(queued.id, queued.waited_s + wait)
            ahead += queued.tokens
            place += 1
        return refused

    def _prefill_s(self, tokens: int, running: int) -> float:
        """Until so many prompt tokens are computed beside `running` requests."""
        a, _, c, _ = self.step.theta
        steps = math.ceil(tokens / self._chunk(running))
        return steps * (a + self._row * running) + c * tokens

    def _slot_s(self, place: int, batch: int) -> float:
        """Until so many of a full batch have ended that the one in `place` may start."""
        if place < batch:
            return 0.0
        a, _, c, _ = self.step.theta
        step_s = a + (self._row + c * self._prefill / max(self._rows, 1.0)) * batch
        return (place - batch + 1) * self._answer * step_s / batch
