"""Drift: how soon it is noticed, and how often where there is none, beside river's detectors.

    python benchmarks/drift.py [--runs 200] [--null 1000000] [--json drift.json]     # needs ../shared/data

CLINC150 (English): two of ten domains are held out, anew in each run; 4,000 requests of the eight others are the
reference. Traffic is drawn from the rest of the eight, with replacement; after 500 requests a share of it (10, 30 or
100 %) comes from the held-out domains, or is out of scope of all ten. COLD (Chinese): the same with one of three topics
held out. Delay: requests from the change to the first alarm; runs that had one before the change do not count.

Everybody sees the same number a request, its distance from the nearest of 2,000 reference texts in Longrein's own
embedding, in standard deviations, and has seen it for the 2,000 other reference requests before. `conformal` is the
default detector on that number, with its default options and a declared run length of 20,000; `longrein` is the whole
watch: distance, rarity, topic, length, language, one alarm. Neither is tuned. Of river's detectors (ADWIN, PageHinkley,
KSWIN) every setting of a grid is run on the null; of those with at most .5 false alarms per 10,000, each column shows
the one that is best in that very column, which nobody could choose beforehand.

The seasonal part draws eight weeks of ten domains whose shares follow the hour and the day of the week; two domains
more come in the eighth week. Runs are kept in the JSON file; started again with it, it goes on where it was.
"""

import argparse
import csv
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from longrein.core import plugins  # noqa: E402
from longrein.ops.drift.reference import Reference, Sample, sample  # noqa: E402
from longrein.ops.drift.watch import BATCH, HEAVY, HOUR_MS, SEASONS, Config, Watch  # noqa: E402

RATE = 20_000  # the declared run length
WORLDS, NEIGHBOURS, CALIBRATION, BEFORE, AFTER, NULL = 8, 2000, 2000, 500, 5000, 12_500
SHARES = 0.1, 0.3, 1.0
WATCHED = "input", "input rarity", "input topic", "input length", "input language"
ALLOWED = 0.5  # false alarms per 10,000
SLOW = 25_000  # requests of the null at most, for KSWIN: 0.2 ms each
Features = Mapping[str, Any]  # name -> one value a text


class World(NamedTuple):
    """Features of texts, measured against one reference."""

    calibration: Features
    pool: Features  # of the same kind
    shifted: dict[str, Features]


# data


def clinc() -> tuple[dict[str, list[str]], list[str]]:
    folder = data() / "clinc150"
    domains = {i: d for d, intents in json.loads((folder / "domains.json").read_text()).items() for i in intents}
    found: dict[str, list[str]] = {}
    full = json.loads((folder / "data_full.json").read_text())
    for split in ("train", "val", "test"):
        for text, intent in full[split]:
            found.setdefault(domains[intent], []).append(text)
    return found, [text for split in ("oos_train", "oos_val", "oos_test") for text, _ in full[split]]


def cold() -> tuple[dict[str, list[str]], list[str]]:
    found: dict[str, list[str]] = {}
    for split in ("train", "dev", "test"):
        with (data() / "cold" / f"{split}.csv").open(encoding="utf-8-sig", newline="") as file:
            for row in csv.DictReader(file):
                found.setdefault(row["topic"], []).append(row["TEXT"])
    return found, []


def data() -> Path:
    return Path(os.environ.get("LONGREIN_DATA", ROOT.parent / "shared" / "data"))


def world(kinds: dict[str, list[str]], outside: list[str], held: int, seed: int) -> World:
    draw = np.random.default_rng(seed)
    out = set(draw.choice(sorted(kinds), held, replace=False).tolist())
    inside = [text for kind, texts in kinds.items() if kind not in out for text in texts]
    draw.shuffle(inside)
    reference = Reference.fit([sample("", input=text) for text in inside[:NEIGHBOURS]])
    measured = lambda texts: measure(reference, [sample("", input=text) for text in texts])  # noqa: E731
    shifted = {"new": measured([text for kind in out for text in kinds[kind]])}
    if outside:
        shifted["outside"] = measured(outside)
    rest = NEIGHBOURS + CALIBRATION
    return World(measured(inside[NEIGHBOURS:rest]), measured(inside[rest : rest + 12_000]), shifted)


def measure(reference: Reference, samples: Sequence[Sample]) -> Features:
    parts = [samples[i : i + BATCH] for i in range(0, len(samples), BATCH)]
    found = [reference.measure(part, reference.embed(part)) for part in parts]
    return {name: np.concatenate([f[name] for f in found]) for name in WATCHED}


def drawn(features: Features, picked: Any) -> Features:
    return {name: values[picked] for name, values in features.items()}


# detectors


class Ours:
    """The weighted mean of the evidence of conformal detectors, as longrein.ops.drift.watch has it."""

    def __init__(self, names: Sequence[str], seed: int) -> None:
        made = plugins.load("detector", "conformal")
        self.detectors = {name: made({"seed": seed}) for name in names}
        weights = np.array([HEAVY if name in WATCHED[:2] else 1.0 for name in names])
        self.weights = weights / weights.sum()

    def learn(self, features: Features) -> None:
        for name, detector in self.detectors.items():
            detector.learn(features[name], np.zeros(len(features[name]), np.int64))

    def first(self, features: Features) -> int | None:
        """The place of the first alarm."""
        paths = [d.observe(features[n], np.zeros(len(features[n]), np.int64)) for n, d in self.detectors.items()]
        alarms = np.flatnonzero(self.weights @ np.array(paths) >= RATE)
        return int(alarms[0]) if len(alarms) else None


class Peer:
    """A detector of river, fed by itself: the adapter would add its own time."""

    def __init__(self, make: Callable[[], Any], learned: int = CALIBRATION) -> None:
        """learned: how many of the last reference requests it sees."""
        self.detector, self.learned = make(), learned

    def learn(self, features: Features) -> None:
        values = features["input"]
        self.mean, self.deviation = float(values.mean()), float(values.std())
        self._alarms({"input": values[-self.learned :]}, once=False)

    def first(self, features: Features) -> int | None:
        return self._alarms(features, once=True)

    def _alarms(self, features: Features, once: bool) -> int | None:
        update = self.detector.update
        for i, value in enumerate(((features["input"] - self.mean) / self.deviation).tolist()):
            update(value)
            if once and self.detector.drift_detected:
                return i
        return None


def ours(*names: str) -> Callable[[int], Any]:
    return lambda seed: Ours(names, seed)


def peers() -> dict[str, Callable[[int], Any]]:
    from river.drift import ADWIN, KSWIN, PageHinkley

    found: dict[str, Callable[[int], Any]] = {}
    for delta in (0.3, 0.1, 0.03, 0.01, 0.002, 0.0005):
        for clock in (32, 4):
            found[f"ADWIN δ={delta:g} clock={clock}"] = lambda _, a=delta, c=clock: Peer(lambda: ADWIN(a, clock=c))
    for delta in (0.005, 0.1, 0.25, 0.5):
        for most in (8, 12, 16, 24, 32, 48, 64, 96):
            name = f"PageHinkley δ={delta:g} λ={most}"
            found[name] = lambda _, a=delta, b=most: Peer(lambda: PageHinkley(delta=a, threshold=b, mode="up"))
    for alpha, window, newest in ((1e-4, 100, 30), (1e-5, 100, 30), (1e-4, 300, 100)):
        name = f"KSWIN α={alpha:g} {newest} of {window}"
        found[name] = lambda s, a=alpha, w=window, n=newest: Peer(lambda: KSWIN(a, w, n, s), w)
    return found


# runs


def false_alarms(worlds: Sequence[World], make: Callable[[int], Any], requests: int) -> dict[str, float]:
    alarms = seen = 0
    for seed in range(-(-requests // NULL)):
        here, draw = worlds[seed % len(worlds)], np.random.default_rng(seed)
        stream, start = drawn(here.pool, draw.integers(len(here.pool["input"]), size=NULL)), 0
        while start < NULL:
            detector = make(seed + alarms)
            detector.learn(here.calibration)
            found = detector.first({name: values[start:] for name, values in stream.items()})
            if found is None:
                break
            alarms, start = alarms + 1, start + found + 1
        seen += NULL
        if alarms > 12 + seen * 2 * ALLOWED / 10_000:
            break  # far from what is allowed
    return {"alarms": alarms, "requests": seen, "per 10,000": alarms / seen * 10_000}


def delays(worlds: Sequence[World], make: Callable[[int], Any], kind: str, share: float, runs: int) -> list[int]:
    """AFTER + 1: not noticed."""
    found = []
    for seed in range(runs):
        here, draw = worlds[seed % len(worlds)], np.random.default_rng((seed, 1))
        usual = drawn(here.pool, draw.integers(len(here.pool["input"]), size=BEFORE + AFTER))
        other = drawn(here.shifted[kind], draw.integers(len(here.shifted[kind]["input"]), size=BEFORE + AFTER))
        new = (draw.random(BEFORE + AFTER) < share) & (np.arange(BEFORE + AFTER) >= BEFORE)
        detector = make(seed)
        detector.learn(here.calibration)
        first = detector.first({name: np.where(new, other[name], usual[name]) for name in usual})
        if first is None or first >= BEFORE:
            found.append(AFTER + 1 if first is None else first - BEFORE + 1)
    return found


def compare(name: str, arguments: argparse.Namespace, results: dict[str, Any], keep: Callable[[], None]) -> None:
    kinds, outside = {"clinc": clinc, "cold": cold}[name]()
    worlds: list[World] = []
    methods = {"conformal": ours("input"), "longrein": ours(*WATCHED), **peers()}
    for method, make in methods.items():
        key = f"{name} {method}"
        if key in results:
            continue
        worlds = worlds or [world(kinds, outside, 2 if outside else 1, seed) for seed in range(WORLDS)]
        requests = arguments.null if method in ("conformal", "longrein") else min(arguments.null, arguments.tuning)
        row: dict[str, Any] = false_alarms(worlds, make, min(requests, SLOW) if "KSWIN" in method else requests)
        if row["per 10,000"] <= ALLOWED:
            runs = arguments.runs if "KSWIN" not in method else min(arguments.runs, 10)
            columns = [(kind, share) for kind in worlds[0].shifted for share in SHARES]
            row["delays"] = {
                f"{kind} {share:.0%}": statistics.median(delays(worlds, make, kind, share, runs))
                for kind, share in columns
            }
        results[key] = row
        print(key, row, flush=True)
        keep()


def seasonal(kind: str, seed: int, weeks: int = 8) -> dict[str, Any]:
    """False alarms in the weeks before the last, and the delay in it, of requests whose mix follows the week."""
    kinds, _ = clinc()
    names, draw = sorted(kinds), np.random.default_rng(seed)
    draw.shuffle(names)
    usual, new = names[:8], names[8:]
    peak, spread = (
        draw.uniform(0, 24, 8),
        draw.uniform(1, 2.5, 8),
    )  # when a domain is asked, and how much more than else
    weekend = draw.uniform(0.3, 3.0, 8)

    def text(hour: int, share: float) -> str:
        if draw.random() < share:
            kind = str(draw.choice(new))
        else:
            mix = np.exp(spread * np.cos((hour % 24 - peak) * np.pi / 12)) * (weekend if hour // 24 % 7 > 4 else 1.0)
            kind = str(draw.choice(usual, p=mix / mix.sum()))
        return kinds[kind][draw.integers(len(kinds[kind]))]

    watch = Watch(Config(run_length=RATE, seasons=kind))  # type: ignore[arg-type]
    watch.learn([sample("", 0, text(int(draw.integers(168)), 0.0)) for _ in range(4000)])
    alarms = seen = late = 0
    for hour in range(weeks * 168):
        last = hour >= (weeks - 1) * 168
        size = int(draw.poisson(60 + 40 * np.cos((hour % 24 - 14) * np.pi / 12)))
        path = watch.observe([sample("", hour * HOUR_MS + 1, text(hour, 0.3 if last else 0.0)) for _ in range(size)])
        found = np.flatnonzero(path >= RATE)
        if last and len(found):
            return {"alarms": alarms, "requests": seen, "delay": late + int(found[0]) + 1}
        if len(found):
            alarms += 1
            renew(watch)
        seen, late = (seen, late + size) if last else (seen + size, 0)
    return {"alarms": alarms, "requests": seen, "delay": None}


def renew(watch: Watch) -> None:
    """After a false alarm: the evidence begins anew, what was learned of each season stays."""
    for name, detector in watch._detectors.items():
        old = detector.dump()
        new = plugins.load("detector", "conformal")({"seasons": SEASONS[watch.config.seasons]})
        kept = {key: old[key] for key in ("edges", "counts", "first")}
        new.restore({**new.dump(), **kept})
        watch._detectors[name] = new


def cost() -> dict[str, float]:
    """Microseconds a request of the whole watch, in batches of BATCH, of the embedding and of all else."""
    texts = [text for found in clinc()[0].values() for text in found]
    np.random.default_rng(0).shuffle(texts)
    samples = [sample(str(i), i, text) for i, text in enumerate(texts[:12_000])]
    watch = Watch(Config())
    watch.learn(samples[:4000])
    watch.observe(samples[4000:4256])
    began = time.perf_counter()
    watch.observe(samples[4256:])
    whole, began = time.perf_counter() - began, time.perf_counter()
    assert watch.reference
    for start in range(4256, len(samples), BATCH):
        watch.reference.embed(samples[start : start + BATCH])
    embedding, count = time.perf_counter() - began, len(samples) - 4256
    return {"embedding µs": embedding / count * 1e6, "beyond µs": (whole - embedding) / count * 1e6}


def table(name: str, results: dict[str, Any]) -> None:
    rows = {key.removeprefix(name + " "): row for key, row in results.items() if key.startswith(name + " ")}
    good = {key: row for key, row in rows.items() if "delays" in row}
    columns = list(next(iter(good.values()))["delays"])
    print(f"\n{name}: median delay; false alarms per 10,000\n\n| | {' | '.join(columns)} | false |")
    for key in ("conformal", "longrein"):
        cells = [f"{rows[key]['delays'][c]:g}" for c in columns]
        print(f"| {key} | {' | '.join(cells)} | {rows[key]['per 10,000']:.2f} |")
    for family in ("ADWIN", "PageHinkley", "KSWIN"):
        mine = {key: row for key, row in good.items() if key.startswith(family)}
        if mine:
            best = [min(mine, key=lambda k, c=c: mine[k]["delays"][c]) for c in columns]  # type: ignore[misc]
            cells = [f"{mine[k]['delays'][c]:g}" for k, c in zip(best, columns, strict=True)]
            print(f"| {family} | {' | '.join(cells)} | ≤ .5 |")
            print("   ", dict(zip(columns, best, strict=True)))
    peers = {key: row for key, row in good.items() if key not in ("conformal", "longrein")}
    for key in ("conformal", "longrein"):
        best = {c: min(row["delays"][c] for row in peers.values()) for c in columns}
        print(f"{key} / river's best:", {c: round(rows[key]["delays"][c] / best[c], 2) for c in columns})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200, help="a column")
    parser.add_argument("--null", type=int, default=1_000_000, help="requests without drift, for Longrein")
    parser.add_argument("--tuning", type=int, default=200_000, help="the same for each of river's settings")
    parser.add_argument("--seasons", type=int, default=10, help="simulated runs of eight weeks each")
    parser.add_argument("--parts", nargs="+", default=["clinc", "cold", "seasons", "cost"])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    found = arguments.json is not None and arguments.json.exists()
    results: dict[str, Any] = json.loads(arguments.json.read_text()) if found else {}

    def keep() -> None:
        if arguments.json:
            arguments.json.write_text(json.dumps(results, indent=1))

    for part in arguments.parts:
        if part in ("clinc", "cold"):
            compare(part, arguments, results, keep)
            table(part, results)
        elif part == "cost":
            print(cost())
        else:
            seasons(arguments.seasons, results, keep)


def seasons(runs: int, results: dict[str, Any], keep: Callable[[], None]) -> None:
    for kind in ("none", "day", "week"):
        for seed in range(runs):
            if f"seasons {kind} {seed}" not in results:
                results[f"seasons {kind} {seed}"] = seasonal(kind, seed)
                keep()
        rows = [results[f"seasons {kind} {seed}"] for seed in range(runs)]
        alarms, requests = (sum(row[name] for row in rows) for name in ("alarms", "requests"))
        late = statistics.median(row["delay"] or 99_999 for row in rows)
        print(
            f"seasons {kind}: {alarms / requests * 1e4:.2f} false per 10,000 of {requests:,}, median delay {late}",
            flush=True,
        )


if __name__ == "__main__":
    main()
