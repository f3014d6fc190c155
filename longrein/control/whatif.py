"""Alternatives to what serves an endpoint now, priced from its request log and from short trials on this machine."""

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from longrein.control.value import Site
from longrein.core import meter, plugins, record
from longrein.core.errors import Error, nearest
from longrein.core.generation import Request
from longrein.core.ledger import now_ms
from longrein.core.store import Store
from longrein.core.usage import Sum
from longrein.data import spending
from longrein.ops.value import bill
from longrein.ops.value.price import Rates
from longrein.ops.value.whatif import Measured, Trial

REPEAT_S = 300.0
TRIED = 24  # requests of a trial


def measured(site: Site, endpoint: str, since_ms: int) -> Measured:
    """What an endpoint did since then. Errors: `not_found`, `invalid` when there is nothing to go by."""
    spec, until_ms = site.spec, now_ms()
    if endpoint not in spec.endpoints:
        raise Error("not_found", f"there is no endpoint {endpoint[:80]!r}", nearest(endpoint[:80], spec.endpoints))
    rates, cache = Rates.of(spec.costs, spec.compute.usd_per_hour), spec.endpoints[endpoint].cache
    everything = site.sums("endpoint", since_ms, until_ms, {}, spending.MOST)
    own = next((one for one in everything if one.endpoint == endpoint), Sum(endpoint=endpoint, group=endpoint))
    if not own.answered or not own.engine_usd + own.tokens_usd:
        why = "none of its answers has a known cost" if own.answered else "it answered nothing in that time"
        hint = "say what the hardware costs: costs: {machine: {usd_per_hour: …}}, longrein apply, and ask it something"
        raise Error("invalid", f"{endpoint}: {why}", hint)
    pools = bill.pools(meter.read(site.home / meter.FOLDER, since_ms, until_ms), rates, since_ms, until_ms)
    name = endpoint if endpoint in rates.endpoints else bill.MACHINE
    pool = pools.get(name, bill.Pool())
    shared = sum(
        s.engine_usd for s in everything if (s.endpoint if s.endpoint in rates.endpoints else bill.MACHINE) == name
    )
    idle = (pool.bill_usd or 0.0) - shared
    repeat_s = cache.ttl_s if cache else REPEAT_S
    asked, repeated = spending.repeated(site.home / record.FOLDER, endpoint, since_ms, until_ms, repeat_s)
    return Measured(
        answers=own.answered, tokens_in=own.tokens_in, tokens_out=own.tokens_out, engine_s=own.engine_s,
        engine_usd=own.engine_usd, tokens_usd=own.tokens_usd,
        idle_usd=max(0.0, idle) * own.engine_usd / shared if shared else 0.0,
        busy=min(1.0, pool.busy_s / pool.alive_s) if pool.alive_s else 0.0, asked=asked, repeated=repeated,
        repeat_s=repeat_s, cached=own.cached,
    )  # fmt: skip


def trial(
    site: Site, store: Store, endpoint: str, ref: str, engine: str, options: Mapping[str, Any], now: Measured
) -> Trial:
    """Try a model, or other options of the engine, on requests as long as those measured, beside what serves now.

    ref: "" is the model that serves now. engine: "" is the engine that does. Errors: the engine's, `not_found`.
    """
    release = site.ledger.assets.get(f"release:{endpoint}@prod")
    part = release.meta.get("model")
    if not part:
        raise Error("invalid", f"{release.ref} is served elsewhere: it has no model to try", "leave out --try")
    other = site.ledger.assets.get(ref if ":" in ref else f"model:{ref}").uri if ref else part["uri"]
    given = {**(release.meta.get("options") or {}), **options}
    named = " ".join(filter(None, [ref or "the model of now", engine, *(f"{k}={v}" for k, v in options.items())]))
    lengths = max(1, now.tokens_in // now.answers), max(1, now.tokens_out // now.answers)
    before = _seconds(store.path(part["uri"]), release.meta["engine"], release.meta.get("options") or {}, *lengths)
    after = _seconds(store.path(other), engine or release.meta["engine"], given, *lengths)
    return Trial(named, before, after)


def _seconds(model: Path, engine: str, options: Mapping[str, Any], read: int, written: int) -> float:
    """Engine seconds a request, all asked at once."""
    made = plugins.load("engine", engine)(model, {**options})
    draw, context = random.Random(0), made.info["context"]
    read = max(1, min(read, context - 2))
    written = max(1, min(written, context - read))
    for i in range(TRIED):
        prompt = [draw.randrange(min(made.info["vocabulary"], 256)) for _ in range(read)]
        made.submit(Request(id=str(i), prompt=prompt, max_tokens=written, ignore_eos=True, seed=i))
    usages = []
    while made.pending():
        usages += [event.usage for event in made.step() if event.usage]
    seconds = sum(usage.prefill_s + usage.decode_s for usage in usages)
    if not seconds:
        raise Error("invalid", f"the engine {engine} does not tell how long it worked", "try torch or openvino")
    return float(seconds / TRIED)
