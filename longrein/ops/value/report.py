"""Costs against benefits: what each group of requests cost and brought, and the rest of the bill beside them."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from longrein.core.usage import Sum
from longrein.ops.value.bill import MACHINE, Pool

IDLE, LOST, UNMATCHED, TWICE = "(idle)", "(lost)", "(value without a request)", "(steps beside engines)"


class Line(msgspec.Struct, kw_only=True):
    """One group of requests."""

    group: str
    requests: int
    answered: int
    cached: int
    unknown: int  # requests whose cost is not known; the sums are without it
    tokens_in: int
    tokens_out: int
    engine_s: float
    prefill_usd: float
    decode_usd: float
    tokens_usd: float
    idle_usd: float  # its share of idle and lost time, where that was asked for; else 0
    training_usd: float  # and of the steps that made its releases
    cost_usd: float  # all of these
    saved_usd: float
    value_usd: float
    margin_usd: float
    usd_per_1k: float | None  # answers
    usd_per_success: float | None  # a request that was worth something
    endpoints: list[str]


class Rest(msgspec.Struct):
    """What is paid, or brought, and belongs to no request."""

    what: str
    usd: float
    why: str = ""


class Report(msgspec.Struct, kw_only=True):
    by: str
    since_ms: int
    until_ms: int
    lines: list[Line]
    rest: list[Rest]
    total: Line
    bill_usd: float | None  # of the hardware that served; None: not known
    alive_s: float  # of engines
    busy_s: float
    steps: list[Rest]  # what made data, models and releases in that time
    notes: list[str]  # what is missing, each with what mends it


def report(
    by: str, since_ms: int, until_ms: int, sums: Sequence[Sum], pools: Mapping[str, Pool], *,
    spread: bool = False, training: Callable[[Sum], float] = lambda _: 0.0, unmatched_usd: float = 0.0,
    steps: Sequence[Rest] = (), own: Iterable[str] = (),
) -> Report:  # fmt: skip
    """spread: give each group its share of the idle time, by its share of the engine's. training: USD that an
    answer of a group bears. own: endpoints with hardware of their own. With the idle time, engines' seconds add up to
    the bill."""
    pool_of = {name: name for name in own}
    rest, factors = _idle(sums, pools, pool_of, spread)
    if unmatched_usd:
        rest.append(Rest(UNMATCHED, unmatched_usd, "feedback on requests that are erased, forgotten or elsewhere"))
    groups: dict[str, list[Sum]] = {}
    for one in sums:
        groups.setdefault(one.group, []).append(one)

    def line(group: str, parts: Sequence[Sum]) -> Line:
        idle = sum(part.engine_usd * factors.get(pool_of.get(part.endpoint, MACHINE), 0.0) for part in parts)
        trained = sum(part.answered * training(part) for part in parts)
        return _line(group, parts, idle, trained)

    lines = sorted((line(*pair) for pair in groups.items()), key=lambda one: (-one.cost_usd, -one.requests, one.group))
    bills = [pool.bill_usd for pool in pools.values()]
    return Report(
        by=by, since_ms=since_ms, until_ms=until_ms, lines=lines, rest=rest, total=line("total", sums),
        bill_usd=None if None in bills or not bills else sum(usd for usd in bills if usd is not None),
        alive_s=sum(pool.alive_s for pool in pools.values()), busy_s=sum(pool.busy_s for pool in pools.values()),
        steps=list(steps), notes=_notes(sums, pools),
    )  # fmt: skip


def _idle(
    sums: Sequence[Sum], pools: Mapping[str, Pool], pool_of: Mapping[str, str], spread: bool
) -> tuple[list[Rest], dict[str, float]]:
    """What no request paid of each pool's bill; and {pool: what each USD of its requests bears of that}."""
    rest, factors = [], {}
    for name, pool in pools.items():
        if pool.bill_usd is None:
            continue
        own = [one for one in sums if pool_of.get(one.endpoint, MACHINE) == name]
        asked, seconds = sum(one.engine_usd for one in own), sum(one.engine_s for one in own)
        left = pool.bill_usd - asked
        if spread and asked > 0:
            factors[name] = left / asked
            continue
        lost_s = max(0.0, pool.busy_s - seconds)
        lost = lost_s * pool.bill_usd / pool.alive_s if pool.alive_s else 0.0
        of = f" of {name}" if name else ""
        rest.append(Rest(IDLE + of, left - lost, "engines were alive and had nothing to do"))
        if lost_s > 1e-3 * pool.busy_s:
            rest.append(Rest(LOST + of, lost, "engines worked for requests of which there is no record"))
    return rest, factors


def _line(group: str, parts: Sequence[Sum], idle: float, training: float) -> Line:
    whole = Sum(endpoint="", group=group)
    for part in parts:
        whole.add(part)
    cost = whole.engine_usd + whole.tokens_usd + idle + training
    unpriced = whole.unknown and whole.unknown >= whole.answered - whole.cached
    return Line(
        group=group, requests=whole.requests, answered=whole.answered, cached=whole.cached, unknown=whole.unknown,
        tokens_in=whole.tokens_in, tokens_out=whole.tokens_out, engine_s=whole.engine_s,
        prefill_usd=whole.prefill_usd, decode_usd=whole.decode_usd, tokens_usd=whole.tokens_usd, idle_usd=idle,
        training_usd=training, cost_usd=cost, saved_usd=whole.saved_usd, value_usd=whole.value_usd,
        margin_usd=whole.value_usd - cost,
        usd_per_1k=1000 * cost / whole.answered if whole.answered and not unpriced else None,
        usd_per_success=cost / whole.valued if whole.valued and not unpriced else None,
        endpoints=sorted({part.endpoint for part in parts}),
    )  # fmt: skip


def _notes(sums: Sequence[Sum], pools: Mapping[str, Pool]) -> list[str]:
    notes = []
    unknown: dict[str, int] = {}
    for one in sums:
        if one.unknown:
            unknown[one.endpoint] = unknown.get(one.endpoint, 0) + one.unknown
    for endpoint, count in sorted(unknown.items()):
        notes.append(
            f"{endpoint or 'no endpoint'}: the cost of {count:,} requests is not known: say in longrein.yaml what the "
            "hardware costs (costs: {machine: {usd_per_hour: …}}), or its tokens (price:), then longrein apply"
        )
    if any(pool.bill_usd is None for pool in pools.values()):
        notes.append("the bill and what is idle of it are not known: add costs: {machine: {usd_per_hour: …}}")
    return notes
