"""Costs against benefits of a project: the request log, feedback, engines' hours, runs and prices in one report."""

import socket
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from longrein.control import nouns
from longrein.control.rules import firing
from longrein.core import meter, record
from longrein.core.errors import Error
from longrein.core.ledger import Asset, Ledger, Run, now_ms
from longrein.core.usage import Sum
from longrein.data import spending
from longrein.data.requests import asked_ms
from longrein.ops.value import bill
from longrein.ops.value.price import Rates
from longrein.ops.value.report import TWICE, Report, Rest, report

MOST_RUNS = MOST_SAID = MOST_ASSETS = 1_000_000
MONTH_MS = 30.4375 * meter.DAY_MS
GB = 1e9


class Site(msgspec.Struct, frozen=True):
    """Where to look."""

    ledger: Ledger
    home: Path  # .longrein

    @property
    def spec(self) -> nouns.Lifecycle:
        """As last applied: what gateways do. Errors: `not_found`."""
        wanted = self.ledger.work.wanted()
        if wanted is None:
            raise Error("not_found", "nothing was applied here yet", "longrein apply")
        return nouns.restore(wanted)

    def sums(self, by: str, since_ms: int, until_ms: int, values: Mapping[str, float], most: int) -> list[Sum]:
        column = "release" if by == "model" else by
        found = spending.sums(self.home / record.FOLDER, column, since_ms, until_ms, values, most)
        names = self._names(by, {one.group for one in found})
        for one in found:
            one.group = names.get(one.group, one.group) or "–"
        return found

    def release(self, digest: str) -> Asset | None:
        return self.ledger.assets.by_digest(digest, "release") if digest else None

    def _names(self, by: str, groups: set[str]) -> dict[str, str]:
        """What people call the groups."""
        if by == "key":
            return {key.id: f"{key.label} ({key.id})" for key in self.ledger.keys.all()}
        if by in ("release", "model"):
            releases = {digest: asset for digest in groups if (asset := self.release(digest))}
            if by == "release":
                return {digest: asset.ref.removeprefix("release:") for digest, asset in releases.items()}
            return {digest: _model(asset) for digest, asset in releases.items()}
        if by in spending.PERIODS_MS:
            return {start: _when(int(start), by) for start in groups}
        return {}


def spent(
    site: Site, by: str, since_ms: int, until_ms: int | None = None, *, idle: bool = False, training: bool = False,
    answers: int = 0, most: int = spending.MOST,
) -> Report:  # fmt: skip
    """What was asked from one time to another, what it cost and what it brought, by a column or a tag.

    idle: spread over the requests. training: each answer bears its share of the steps that made its release, over all
    answers so far, or over so many `answers`, where that is more.
    """
    until_ms = until_ms or now_ms()
    spec = site.spec
    rates = Rates.of(spec.costs, spec.compute.usd_per_hour)
    values = worths(site, spec, since_ms)
    sums = site.sums(by, since_ms, until_ms, values, most)
    there = {id: usd for id, usd in values.items() if since_ms <= (asked_ms(id) or 0) < until_ms}
    unmatched = sum(there.values()) - sum(one.value_usd for one in sums)
    engines = meter.read(site.home / meter.FOLDER, since_ms, until_ms)
    pools = bill.pools(engines, rates, since_ms, until_ms)
    return report(
        by, since_ms, until_ms, sums, pools, spread=idle, own=rates.endpoints,
        training=_trained(site, by, since_ms, until_ms, answers, rates) if training else _nothing,
        unmatched_usd=unmatched if abs(unmatched) > 1e-9 else 0.0,
        steps=_steps(site, spec, rates, engines, since_ms, until_ms),
    )  # fmt: skip


def worths(site: Site, spec: nouns.Lifecycle, since_ms: int) -> dict[str, float]:
    """{request id: USD} of all that was said since then of endpoints that say what it is worth."""
    found: dict[str, float] = {}
    for name, endpoint in spec.endpoints.items():
        if endpoint.value:
            said = site.ledger.feedback.values(name, since_ms, MOST_SAID)
            found |= bill.worths(((row.request_id, row.name, row.value) for row in said), endpoint.value)
    return found


def _steps(
    site: Site, spec: nouns.Lifecycle, rates: Rates, engines: Sequence[meter.Engine], since_ms: int, until_ms: int
) -> list[Rest]:
    """What runs cost that ended in this time, by what they did, and what is stored."""
    recent = (r for r in site.ledger.runs.recent(limit=MOST_RUNS) if r.ended_ms and since_ms <= r.ended_ms < until_ms)
    runs = [r for r in recent if r.capability != firing.CAPABILITY]  # a firing's cost is that of the runs it started
    found: dict[str, list[float]] = {}
    for run in runs:
        found.setdefault(run.capability or "runs", []).append(_cost(run, rates))
    steps = [Rest(name, sum(usd), f"{len(usd)} runs") for name, usd in sorted(found.items())]
    here = [r for r in runs if r.environment.get("host") == socket.gethostname() and _cost(r, rates)]
    times = [bill.clip((r.started_ms, r.ended_ms or 0), since_ms, until_ms) for r in here]
    twice = bill.overlap_s(bill.spans(engines, rates, since_ms, until_ms), times) * (rates.machine or 0.0)
    if twice:
        steps.append(Rest(TWICE, -twice, "the machine served meanwhile, and is paid once"))
    price = spec.costs.storage_usd_per_gb_month
    if price is not None:
        kept = {asset.digest: asset.bytes or 0 for asset in site.ledger.assets.recent(limit=MOST_ASSETS)}
        months, size = (until_ms - since_ms) / MONTH_MS, sum(kept.values()) / GB
        steps.append(Rest("storage", size * price * months, f"{size:.3g} GB of versions, as much as there is now"))
    return steps


def _trained(site: Site, by: str, since_ms: int, until_ms: int, answers: int, rates: Rates) -> Callable[[Sum], float]:
    """USD that an answer bears of the runs its release came from; a run's cost is borne by the answers of all releases
    that came from it."""
    so_far = spending.sums(site.home / record.FOLDER, "release", 0, until_ms)
    window = spending.sums(site.home / record.FOLDER, "release", since_ms, until_ms)
    runs: dict[str, list[str]] = {}
    for digest in {one.group for one in so_far if one.group}:
        if asset := site.release(digest):
            runs[digest] = site.ledger.assets.lineage(asset).runs
    costs = {
        run.id: _cost(run, rates) for run in site.ledger.runs.many({id for ids in runs.values() for id in ids}).values()
    }
    given: dict[str, int] = {}  # answers that came of a run
    for one in so_far:
        for id in runs.get(one.group, ()):
            given[id] = given.get(id, 0) + one.answered
    shares = {
        digest: sum(costs[id] / max(given[id], answers, 1) for id in ids if id in costs) for digest, ids in runs.items()
    }
    if by == "release":
        named = {asset.ref.removeprefix("release:"): usd for d, usd in shares.items() if (asset := site.release(d))}
        return lambda one: named.get(one.group, 0.0)
    total: dict[str, list[float]] = {}
    for one in window:
        mean = total.setdefault(one.endpoint, [0.0, 0.0])
        mean[0] += one.answered * shares.get(one.group, 0.0)
        mean[1] += one.answered
    return lambda one: total[one.endpoint][0] / max(total[one.endpoint][1], 1) if one.endpoint in total else 0.0


def _nothing(_: Sum) -> float:
    return 0.0


def _cost(run: Run, rates: Rates) -> float:
    """A run's own, or its time on the machine: a failed one costs as well."""
    if run.cost_usd:
        return run.cost_usd
    wall_s = run.wall_s if run.wall_s is not None else ((run.ended_ms or run.started_ms) - run.started_ms) / 1000
    return wall_s * (rates.machine or 0.0) if run.step_key else 0.0


def _model(release: Asset) -> str:
    options = release.meta.get("options") or {}
    return str((release.meta.get("model") or {}).get("ref") or options.get("model") or "").removeprefix("model:")


def _when(start_ms: int, by: str) -> str:
    return datetime.fromtimestamp(start_ms / 1000, UTC).strftime("%Y-%m-%d" if by == "day" else "%Y-%m-%d %H:00")
