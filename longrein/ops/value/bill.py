"""What the hardware was paid for: the time in which engines lived, whether they worked or not."""

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from longrein.core.meter import Engine, Hour
from longrein.ops.value.price import Rates

MACHINE = ""  # the pool of endpoints that have no hardware of their own
Span = tuple[float, float]  # [from, to) in ms


class Pool(msgspec.Struct):
    """Hardware that is paid for together: the machine, or what one endpoint has for itself."""

    paid_s: float = 0.0  # of the machine; of an endpoint's own hardware, of all its engines
    alive_s: float = 0.0  # of its engines
    busy_s: float = 0.0
    bill_usd: float | None = None  # None: nobody has said what it costs


def pools(engines: Iterable[Engine], rates: Rates, since_ms: float, until_ms: float) -> dict[str, Pool]:
    """{"" or an endpoint with hardware of its own: its pool} of what was paid from one time to another."""
    found: dict[str, Pool] = {}
    on_machine: list[Span] = []
    for engine in engines:
        name = engine.endpoint if engine.endpoint in rates.endpoints else MACHINE
        pool = found.setdefault(name, Pool())
        for hour in engine.hours:
            start, end = clip(_span(hour), since_ms, until_ms)
            alive_s = (end - start) / 1000
            pool.alive_s += alive_s
            if hour.alive_s > 0:
                pool.busy_s += (hour.busy_s or 0.0) * alive_s / hour.alive_s
            if name == MACHINE:
                on_machine.append((start, end))
    for name, pool in found.items():
        pool.paid_s = covered(on_machine) if name == MACHINE else pool.alive_s
        rate = rates.machine if name == MACHINE else rates.endpoints[name]
        pool.bill_usd = None if rate is None else pool.paid_s * rate
    return found


def spans(engines: Iterable[Engine], rates: Rates, since_ms: float, until_ms: float) -> list[Span]:
    """When engines lived that share the machine."""
    shared = [engine for engine in engines if engine.endpoint not in rates.endpoints]
    return [clip(_span(hour), since_ms, until_ms) for engine in shared for hour in engine.hours]


def clip(span: Span, since: float, until: float) -> Span:
    start, end = max(span[0], since), min(span[1], until)
    return start, max(start, end)


def covered(found: Sequence[Span]) -> float:
    """Seconds in at least one of the spans."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(found):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total / 1000


def overlap_s(one: Sequence[Span], other: Sequence[Span]) -> float:
    """Seconds in both."""
    return covered(one) + covered(other) - covered([*one, *other])


def worths(said: Iterable[tuple[str, str, float]], value: Mapping[str, float]) -> dict[str, float]:
    """{request id: USD} of feedback (request id, metric, number), the oldest first: of a metric said of one answer more
    than once, the last counts."""
    last = {(request, name): number * value[name] for request, name, number in said if name in value}
    found: dict[str, float] = {}
    for (request, _), usd in last.items():
        found[request] = found.get(request, 0.0) + usd
    return found


def _span(hour: Hour) -> Span:
    """An engine lives without a pause, and `last_ms` is when it was seen alive last."""
    return hour.last_ms - hour.alive_s * 1000, float(hour.last_ms)
