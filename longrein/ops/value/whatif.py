"""What answers would cost otherwise: each alternative from measured figures, with what it assumes beside it."""

from collections.abc import Sequence

import msgspec

from longrein.core.limit import Price

FULL = 0.7  # of an engine's time that it may work before queues grow long


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """An endpoint's requests of a while, and what served them."""

    answers: int
    tokens_in: int
    tokens_out: int
    engine_s: float  # the requests' share of it
    engine_usd: float
    tokens_usd: float  # what was paid by tokens
    idle_usd: float  # the part of the bill that no request bore
    busy: float  # the share of their time that the engines worked
    asked: int  # requests, and how many of them had been asked just before
    repeated: int
    repeat_s: float
    cached: int  # that the cache answered already

    @property
    def cost_usd(self) -> float:
        return self.engine_usd + self.tokens_usd + self.idle_usd


class Machine(msgspec.Struct, frozen=True):
    """Other hardware."""

    usd_per_hour: float
    speed: float = 1.0  # how many times as much it computes in a second


class Trial(msgspec.Struct, frozen=True):
    """A model that was tried on requests as long as those measured, and the one that serves now, tried likewise."""

    what: str
    now_s: float  # engine seconds a request
    other_s: float


class Option(msgspec.Struct):
    what: str
    usd_per_1k: float
    change: float  # against now: -.25 is a quarter less
    assumes: str


def options(
    now: Measured, *, machine: Machine | None = None, price: Price | None = None, trials: Sequence[Trial] = ()
) -> list[Option]:
    """What there is now, then the alternatives. Needs answers that cost something."""
    worked = f"{now.answers:,} answers as measured; engines worked {now.busy:.0%} of their time"
    found = [("now", now.cost_usd, worked), _cache(now)]
    if now.idle_usd and now.busy < FULL:
        usd = now.tokens_usd + now.engine_usd / FULL
        how = f"engines that work {FULL:.0%} of their time: fewer of them, or more traffic; steps take as long as now"
        found.append(("fuller engines", usd, how))
    found += [_tried(now, trial) for trial in trials]
    if machine:
        hours = now.engine_s / 3600 / (now.busy or 1.0) / machine.speed
        how = f"{machine.speed:g} times as fast as now, as you say; working {now.busy:.0%} of its time, as now"
        usd = now.tokens_usd + hours * machine.usd_per_hour
        found.append((f"a machine at ${machine.usd_per_hour:g} an hour", usd, how))
    if price:
        read, written = price.input_usd_per_mtok, price.output_usd_per_mtok
        how = f"${read:g} and ${written:g} a million tokens read and written, as today's tokenizer counts them"
        found.append(("an API by tokens", price.usd(now.tokens_in, now.tokens_out), how))
    return [
        Option(what, 1000 * usd / now.answers, usd / now.cost_usd - 1 if now.cost_usd else 0.0, assumes)
        for what, usd, assumes in found
    ]


def _cache(now: Measured) -> tuple[str, float, str]:
    share = now.repeated / now.asked if now.asked else 0.0
    how = f"{share:.1%} of the requests had been asked by the same key within {now.repeat_s:g} s, and all may be cached"
    how += f"; {now.cached:,} came from a cache already" if now.cached else ""
    return "a cache", now.cost_usd - share * (now.engine_usd + now.tokens_usd), f"{how}; what is idle stays idle"


def _tried(now: Measured, trial: Trial) -> tuple[str, float, str]:
    ratio = trial.other_s / trial.now_s
    ms = f"{trial.other_s * 1000:.3g} ms of engine a request, now {trial.now_s * 1000:.3g} ms"
    how = f"tried here: {ms}; on hardware that fits, just as idle; its quality is for a gate to judge"
    return trial.what, now.tokens_usd + (now.engine_usd + now.idle_usd) * ratio, how
