"""Goodput of the embedded engine under overload, by what sizes its batch, on real arrivals.

    python benchmarks/batching.py [--seconds 40] [--json batching.json]
    python benchmarks/batching.py --simulated     # the same in simulated time, in which no neighbour is heard

The Azure conversation trace (../shared/data/azure-llm-traces, or LONGREIN_DATA), its lengths cut to a quarter and its
rate scaled to this machine's capacity, is sent to a real engine process: a Llama of 5 M parameters, one thread. An
answer is good when its first token came within ttft_s and its mean time a token is at most tpot_s; goodput is good
answers a second. The capacity and both limits are measured first: closed loop, CLIENTS at once. Every policy gets the
same arrivals, the same engine (prompts in pieces, attention by length) and clients that give up when the first token is
late; they differ only in how many run at once and who is let in:

    fixed-N    a cap of N
    aimd       Clipper's (Crankshaw et al. 2017): one more while steps keep to tpot_s, a tenth less when one does not
    gradient2  Netflix's concurrency limits: the limit follows long-term over short-term step time
    longrein   longrein.ops.batching

`offline` is longrein with eight clients of the offline lane beside the same arrivals. Runs are kept in the JSON file as
they end; started again with the same file it goes on where it was.
"""

import argparse
import asyncio
import csv
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from longrein.core.errors import Error  # noqa: E402
from longrein.core.generation import Limits, Slo, Work  # noqa: E402
from longrein.gateway.engine import EngineProcess, Request  # noqa: E402

LEVELS = 0.3, 1.0, 1.5, 2.5  # offered rate over capacity
CAPS = 8, 16, 24, 32, 48
MOST, CONTEXT, VOCABULARY, SHORTER = 64, 1024, 4096, 4
CLIENTS, CALIBRATE_S, WARM_S = 24, 10.0, 4.0
SIMULATED_CAPACITY = 15.0  # requests a second
FIRST_TOKENS = 20  # the time to the first token may be that many times the time of a token
PLUGIN = "import sys\nsys.path.insert(0, {0!r})\nfrom batching import peer\nplugin = peer()\nVERSION = 1\n"


class Arrival(NamedTuple):
    at: float
    prompt: int
    answer: int


class Outcome(NamedTuple):
    at: float
    first_s: float | None  # None: refused or given up
    token_s: float
    tokens: int


# what the others do


class Fixed:
    def __init__(self, batch: int, slo: Slo) -> None:
        self.batch = float(batch)

    def learn(self, work: Work) -> None:
        pass


class Aimd:
    def __init__(self, batch: int, slo: Slo) -> None:
        self.batch, self.slo = 1.0, slo

    def learn(self, work: Work) -> None:
        if work.seconds > self.slo.tpot_s:
            self.batch = max(1.0, self.batch * 0.9)
        elif work.batch >= int(self.batch):
            self.batch = min(MOST, self.batch + 1)


class Gradient2:
    """concurrency-limits' Gradient2Limit with its defaults: tolerance 1.5, smoothing 0.2, a queue of 4."""

    def __init__(self, batch: int, slo: Slo) -> None:
        self.batch, self.long_s = 20.0, 0.0

    def learn(self, work: Work) -> None:
        self.long_s = self.long_s * 599 / 600 + work.seconds / 600 if self.long_s else work.seconds
        if self.long_s / work.seconds > 2:
            self.long_s *= 0.95
        if work.batch < self.batch / 2:
            return
        gradient = max(0.5, min(1.0, 1.5 * self.long_s / work.seconds))
        self.batch = min(max(self.batch * 0.8 + (self.batch * gradient + 4) * 0.2, 1.0), MOST)


POLICIES = {"fixed": Fixed, "aimd": Aimd, "gradient2": Gradient2}


def peer() -> Any:
    """The embedded engine with one of POLICIES in it, as a plugin of a project."""
    from longrein.plugins.engine.torch import Torch

    class Peer(Torch):
        def __init__(self, model: Path, options: Any) -> None:
            rest = dict(options)
            name, batch = rest.pop("policy"), rest.pop("batch")
            self.policy: Any = POLICIES[name](batch, Slo(**rest.pop("objective")))
            super().__init__(model, rest)

        def step(self) -> Any:
            self.limits = Limits(int(self.policy.batch), self.config.prefill_tokens, 0)
            events = super().step()
            if self.work:
                self.policy.learn(self.work)
            return events

    return Peer


# arrivals and clients


def trace() -> list[Arrival]:
    data = Path(os.environ.get("LONGREIN_DATA", ROOT.parent / "shared" / "data"))
    with (data / "azure-llm-traces" / "conv.csv").open() as file:
        rows = list(csv.DictReader(file))
    times = [datetime.fromisoformat(row["TIMESTAMP"][:26]).timestamp() for row in rows]
    sizes = [(int(r["ContextTokens"]) // SHORTER, int(r["GeneratedTokens"]) // SHORTER) for r in rows]
    most = CONTEXT - 300
    return [
        Arrival(t - times[0], min(max(p, 1), most), min(max(a, 2), 256)) for t, (p, a) in zip(times, sizes, strict=True)
    ]


def at_rate(arrivals: list[Arrival], rate: float, seconds: float) -> list[Arrival]:
    """The first arrivals, in real order and burstiness, at `rate` a second over `seconds`."""
    count = int(rate * seconds)
    some = arrivals[:count]
    scale = seconds / some[-1].at
    return [Arrival(a.at * scale, a.prompt, a.answer) for a in some]


async def ask(engine: EngineProcess, arrival: Arrival, draw: random.Random, slo: Slo | None, began: float) -> Outcome:
    """One client: gives up when its first token is late."""
    prompt = [draw.randrange(3, VOCABULARY) for _ in range(arrival.prompt)]
    request = Request(prompt=prompt, max_tokens=arrival.answer, temperature=0, ignore_eos=True)
    sent, first, last, tokens = time.perf_counter(), 0.0, 0.0, 0
    events = engine.generate(request)
    try:
        async with asyncio.timeout(slo.ttft_s if slo else None) as patience:
            async for event in events:
                last = time.perf_counter()
                tokens += len(event.token_ids)
                if not first:
                    first = last
                    patience.reschedule(None)
    except (TimeoutError, Error):
        return Outcome(sent - began, None, 0.0, tokens)
    finally:
        await events.aclose()  # type: ignore[attr-defined]
    return Outcome(sent - began, first - sent, (last - first) / max(tokens - 1, 1), tokens)


async def replay(engine: EngineProcess, arrivals: Iterable[Arrival], slo: Slo) -> list[Outcome]:
    draw, began = random.Random(0), time.perf_counter()
    tasks = []
    for arrival in arrivals:
        await asyncio.sleep(max(0.0, began + arrival.at - time.perf_counter()))
        tasks.append(asyncio.ensure_future(ask(engine, arrival, draw, slo, began)))
    return list(await asyncio.gather(*tasks))


async def closed(engine: EngineProcess, arrivals: list[Arrival], seconds: float) -> tuple[float, float]:
    """Requests a second and mean seconds a token with CLIENTS at once."""
    ends, outcomes, queue, draw = time.perf_counter() + seconds, [], iter(arrivals), random.Random(1)

    async def client() -> None:
        while time.perf_counter() < ends:
            outcomes.append(await ask(engine, next(queue), draw, None, 0.0))

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return len(outcomes) / (time.perf_counter() - began), statistics.mean(o.token_s for o in outcomes)


async def offline(engine: EngineProcess, done: asyncio.Event) -> int:
    """Eight clients of the offline lane, without end: how many tokens they got."""
    draw, tokens = random.Random(2), 0

    async def client() -> None:
        nonlocal tokens
        while not done.is_set():
            prompt = [draw.randrange(3, VOCABULARY) for _ in range(200)]
            request = Request(prompt=prompt, max_tokens=50, temperature=0, ignore_eos=True, priority=10)
            async for event in engine.generate(request):
                tokens += len(event.token_ids)
                if done.is_set():
                    return

    await asyncio.gather(*(client() for _ in range(8)))
    return tokens


# runs


async def start(folder: Path, policy: str, slo: Slo) -> EngineProcess:
    options: dict[str, Any] = {"threads": 1, "max_batch": MOST, "max_queue": 4096, "kept": 0, "context": CONTEXT}
    objective = {"ttft_s": slo.ttft_s, "tpot_s": slo.tpot_s}
    if policy in ("longrein", "offline"):
        return await EngineProcess.start("torch", folder, options | {"slo": objective})
    name, _, batch = policy.partition("-")
    options |= {"policy": name, "batch": int(batch or MOST), "objective": objective}
    return await EngineProcess.start("peer", folder, options, project=folder)


async def run(folder: Path, policy: str, arrivals: list[Arrival], slo: Slo, seconds: float) -> dict[str, Any]:
    engine, done = await start(folder, policy, slo), asyncio.Event()
    lane = asyncio.ensure_future(offline(engine, done)) if policy == "offline" else None
    outcomes = await replay(engine, arrivals, slo)
    done.set()
    extra = {"offline tokens/s": (await lane) / seconds} if lane else {}
    await engine.stop()
    counted = [o for o in outcomes if o.at >= WARM_S]
    good = [o for o in counted if o.first_s is not None and o.first_s <= slo.ttft_s and o.token_s <= slo.tpot_s]
    served = [o for o in counted if o.first_s is not None]
    return {
        "goodput": len(good) / (seconds - WARM_S),
        "offered": len(counted) / (seconds - WARM_S),
        "refused or late": 1 - len(served) / len(counted),
        "first p50": quantile([o.first_s or 0 for o in served], 0.5),
        "first p95": quantile([o.first_s or 0 for o in served], 0.95),
        "token p50": quantile([o.token_s for o in served], 0.5),
        "token p95": quantile([o.token_s for o in served], 0.95),
        **extra,
    }


def quantile(values: list[float], q: float) -> float:
    return sorted(values)[int(q * (len(values) - 1))] if values else 0.0


async def measure(folder: Path, arguments: argparse.Namespace, results: dict[str, Any]) -> None:
    arrivals = trace()
    if "capacity" not in results:
        engine = await start(folder, f"fixed-{MOST}", Slo(ttft_s=1, tpot_s=1))
        await closed(engine, arrivals, WARM_S)
        rate, token_s = await closed(engine, arrivals[2000:], CALIBRATE_S)
        await engine.stop()
        results |= {"capacity": rate, "tpot_s": token_s, "ttft_s": token_s * FIRST_TOKENS, "runs": {}}
        save(arguments.json, results)
    slo = Slo(ttft_s=results["ttft_s"], tpot_s=results["tpot_s"])
    print(f"capacity {results['capacity']:.1f} requests/s; ttft {slo.ttft_s:.3f} s, tpot {slo.tpot_s * 1e3:.1f} ms")
    for round in range(arguments.rounds):
        for level in arguments.levels:
            some = at_rate(arrivals[round * 5000 :], level * results["capacity"], arguments.seconds)
            some = [Arrival(a.at - some[0].at, a.prompt, a.answer) for a in some]
            for policy in arguments.policies:
                key = f"{level:g} {policy} {round}"
                if key not in results["runs"]:
                    results["runs"][key] = await run(folder, policy, some, slo, arguments.seconds)
                    save(arguments.json, results)
                show(level, policy, results["runs"][key])


def simulated(arguments: argparse.Namespace) -> dict[str, Any]:
    """The same policies over the engine of tests/ops/served.py: a step takes what a linear model says, ± 15 %."""
    sys.path.insert(0, str(ROOT / "tests" / "ops"))
    import served

    from longrein.ops.batching import Controller, Decision

    arrivals, seconds, slo = trace(), 120.0, Slo(ttft_s=0.5, tpot_s=0.025)
    results: dict[str, Any] = {"runs": {}}
    for level in arguments.levels:
        for policy in arguments.policies:
            some = at_rate(arrivals, level * SIMULATED_CAPACITY, seconds)
            requests = [served.Request(str(i), a.at, a.prompt, a.answer) for i, a in enumerate(some)]
            lane = [served.Request(f"offline {i}", 0.0, 200, 50, 10) for i in range(2000)]
            draw = random.Random(1)
            engine = served.Engine(noise=lambda s, d=draw: s * d.lognormvariate(0, 0.15), patience_s=slo.ttft_s)
            if policy in ("longrein", "offline"):
                ours = Controller(slo, Limits(MOST, 512, MOST))
                served.serve(requests + lane * (policy == "offline"), engine, ours.decide, ours.learn)
            else:
                name, _, batch = policy.partition("-")
                peer: Any = POLICIES[name](int(batch or MOST), slo)
                limits = lambda load, p=peer: Decision(Limits(int(p.batch), 512, 0))  # noqa: E731
                served.serve(requests, engine, limits, peer.learn)
            row = {"goodput": sum(r.good(slo) for r in requests) / seconds, "offered": len(requests) / seconds}
            row["first p50"] = quantile([r.first - r.at for r in requests if r.first is not None], 0.5)
            if policy == "offline":
                row["offline tokens/s"] = sum(r.made for r in lane if r.last <= seconds) / seconds
            results["runs"][f"{level:g} {policy} 0"] = row
            show(level, policy, row)
    return results


def save(path: Path | None, results: dict[str, Any]) -> None:
    if path:
        path.write_text(json.dumps(results, indent=1))


def show(level: float, policy: str, row: dict[str, Any]) -> None:
    numbers = " ".join(f"{name} {value:.4g}" for name, value in row.items())
    print(f"{level:g}× {policy:10} {numbers}", flush=True)


def summary(results: dict[str, Any], arguments: argparse.Namespace) -> None:
    """Goodput by level, the mean over rounds, and what it is beside the others'."""
    print("\noffered over capacity, goodput:", *arguments.policies)
    for level in arguments.levels:
        found = {}
        for policy in arguments.policies:
            runs = [results["runs"][f"{level:g} {policy} {r}"]["goodput"] for r in range(arguments.rounds)]
            found[policy] = statistics.mean(runs)
        ours = found.get("longrein", 0.0)
        caps = {p: g for p, g in found.items() if p.startswith("fixed") and p != f"fixed-{MOST}"}
        print(f"{level:g}×", *(f"{goodput:.2f}" for goodput in found.values()))
        for name, value in {f"fixed-{MOST}": found.get(f"fixed-{MOST}"), "aimd": found.get("aimd")}.items():
            if value:
                print(f"   longrein / {name}: {ours / value:.2f}")
        if caps:
            best = max(caps, key=lambda p: caps[p])
            print(f"   longrein / the best cap, {best}: {ours / caps[best]:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [f"fixed-{MOST}", *(f"fixed-{cap}" for cap in CAPS), "aimd", "gradient2", "longrein", "offline"]
    parser.add_argument("--seconds", type=float, default=40.0, help="of arrivals in each run")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--levels", type=float, nargs="+", default=LEVELS)
    parser.add_argument("--policies", nargs="+", default=names)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--simulated", action="store_true")
    arguments = parser.parse_args()
    if arguments.simulated:
        return summary(simulated(arguments), arguments)
    os.environ["OMP_NUM_THREADS"] = "1"
    from engine import make_model

    found = arguments.json is not None and arguments.json.exists()
    results: dict[str, Any] = json.loads(arguments.json.read_text()) if found else {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_model(folder, CONTEXT)
        (folder / "plugins" / "engine").mkdir(parents=True)
        (folder / "plugins" / "engine" / "peer.py").write_text(PLUGIN.format(str(Path(__file__).parent)))
        asyncio.run(measure(folder, arguments, results))
    summary(results, arguments)


if __name__ == "__main__":
    main()
