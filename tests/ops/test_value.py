"""Prices, bills and reports: pure, with numbers that can be checked by hand."""

import csv
import io
import json
import random
from datetime import datetime

import msgspec
import pytest

from longrein.cli.cost import as_text, to_csv, to_focus
from longrein.core.limit import Price
from longrein.core.meter import Engine, Hour
from longrein.core.usage import Sum
from longrein.ops.value import bill, focus
from longrein.ops.value.price import Config, Hardware, Rates
from longrein.ops.value.report import Rest, report
from longrein.ops.value.whatif import Machine, Measured, Trial, options

HOUR_MS = 3_600_000
START_MS = 1_700_000_000_000 // HOUR_MS * HOUR_MS


def engine(endpoint, start_s, end_s, busy_s, born=0):
    """One that lived from one second of the first hour to another."""
    return Engine(f"of release:{endpoint}@1", born, [Hour(START_MS, START_MS + end_s * 1000, end_s - start_s, busy_s)])


def asked(endpoint, group, engine_s, rate, **more):
    usd = engine_s * rate
    return Sum(
        endpoint=endpoint, group=group, engine_s=engine_s, prefill_usd=usd / 4, decode_usd=usd * 3 / 4,
        **{"requests": 10, "answered": 10, **more},
    )  # fmt: skip


def test_a_second_of_hardware_by_hand():
    assert Hardware(usd_per_hour=7.2).usd_per_s == pytest.approx(0.002)
    own = Hardware(purchase_usd=35_064, years=4, power_w=1000, usd_per_kwh=0.2)
    assert own.usd_per_s * 3600 == pytest.approx(1.0 + 0.2)
    half = msgspec.structs.replace(own, utilization=0.5)  # used half of the time, an hour of use bears two of owning
    assert half.usd_per_s * 3600 == pytest.approx(2.0 + 0.2)


@pytest.mark.parametrize(
    "wrong",
    [
        {}, {"usd_per_hour": -1}, {"usd_per_hour": 1e12}, {"usd_per_hour": 1, "purchase_usd": 1}, {"purchase_usd": -5},
        {"purchase_usd": 5, "years": 0}, {"purchase_usd": 5, "utilization": 0}, {"purchase_usd": 5, "utilization": 1.1},
        {"usd_per_hour": 1, "power_w": 300}, {"usd_per_hour": float("nan")}, {"purchase_usd": float("inf")},
    ],
)  # fmt: skip
def test_prices_that_are_none_are_refused(wrong):
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(wrong, Hardware)


def test_what_is_not_said_is_unknown_and_not_nothing():
    assert Rates.of(Config()).engine("support", 1) is None
    assert Rates.of(Config(), 3.6).engine("support", 2) == pytest.approx(0.0005)
    own = Config(machine=Hardware(usd_per_hour=3600), endpoints={"big": Hardware(usd_per_hour=7200)})
    assert [Rates.of(own, 1.0).engine(name, 4) for name in ("big", "small")] == [2.0, 0.25]


def test_a_machine_is_paid_once_however_many_engines_it_has():
    rates = Rates(0.01, {"gpu": 0.5})
    engines = [
        engine("a", 0, 1000, 300),
        engine("b", 500, 2000, 100),
        engine("a", 3000, 3600, 0),
        engine("gpu", 0, 100, 50),
    ]
    found = bill.pools(engines, rates, START_MS, START_MS + HOUR_MS)
    assert found[bill.MACHINE].paid_s == 2600 and found[bill.MACHINE].bill_usd == pytest.approx(26.0)
    assert found[bill.MACHINE].alive_s == 3100 and found[bill.MACHINE].busy_s == 400
    assert found["gpu"].bill_usd == pytest.approx(50.0)
    cut = bill.pools(engines, rates, START_MS + 400_000, START_MS + 600_000)[bill.MACHINE]
    assert cut.paid_s == 200 and cut.busy_s == pytest.approx(200 * 0.3 + 100 / 15)
    assert bill.pools([], rates, 0, 1) == {}
    assert bill.overlap_s([(0, 5000)], [(1000, 2000), (4000, 9000)]) == 2.0


@pytest.mark.parametrize("seed", range(20))
def test_requests_and_the_rest_are_always_the_bill(seed):
    draw = random.Random(seed)
    rates = Rates(draw.uniform(1e-6, 1e-2), {"own": draw.uniform(1e-6, 1.0)})
    engines = [
        engine(draw.choice(["a", "b", "own"]), at := draw.randrange(3000), at + draw.randrange(1, 600), 10)
        for _ in range(draw.randrange(1, 20))
    ]
    engines += [engine("a", 0, 10, 0), engine("own", 0, 10, 0)]
    sums = [
        asked(draw.choice(["a", "b", "own"]), f"g{i % 7}", draw.uniform(0, 30), draw.uniform(1e-6, 1e-3))
        for i in range(30)
    ]
    found = report(
        "user",
        START_MS,
        START_MS + HOUR_MS,
        sums,
        bill.pools(engines, rates, START_MS, START_MS + HOUR_MS),
        own=["own"],
    )
    total = sum(line.prefill_usd + line.decode_usd for line in found.lines)
    assert total + sum(rest.usd for rest in found.rest) == pytest.approx(found.bill_usd, rel=1e-9)
    assert sum(line.cost_usd for line in found.lines) == pytest.approx(found.total.cost_usd)


def busy(**more):
    """An hour at a dollar a second, of which engines worked 900 seconds: 100 for nobody that is known."""
    pools = bill.pools([engine("a", 0, 3600, 900)], Rates(1.0), START_MS, START_MS + HOUR_MS)
    sums = [
        asked("a", "search", 600, 1.0, value_usd=700.0, valued=7),
        asked("a", "chat", 200, 1.0, tokens_in=5, tokens_out=9),
    ]
    return report("feature", START_MS, START_MS + HOUR_MS, sums, pools, **more)


def test_idle_and_lost_time_stand_beside_the_requests_or_are_borne_by_them():
    found = busy()
    assert [(line.group, line.cost_usd, line.margin_usd) for line in found.lines] == [
        ("search", pytest.approx(600), pytest.approx(100)), ("chat", pytest.approx(200), pytest.approx(-200)),
    ]  # fmt: skip
    assert {rest.what: round(rest.usd, 6) for rest in found.rest} == {"(idle)": 2700, "(lost)": 100}
    assert found.lines[0].usd_per_1k == pytest.approx(60_000) and found.lines[0].usd_per_success == pytest.approx(
        600 / 7
    )
    assert found.lines[1].usd_per_success is None
    spread = busy(spread=True)
    assert [line.cost_usd for line in spread.lines] == [pytest.approx(2700), pytest.approx(900)] and not spread.rest
    assert busy(training=lambda one: 0.5).total.training_usd == pytest.approx(10.0)


def test_a_missing_price_is_said_with_what_mends_it():
    pools = bill.pools([engine("a", 0, 10, 5)], Rates(), START_MS, START_MS + HOUR_MS)
    sums = [Sum(endpoint="a", group="a", requests=3, answered=3, unknown=3, tokens_out=10)]
    found = report("endpoint", START_MS, START_MS + HOUR_MS, sums, pools)
    assert found.bill_usd is None and found.lines[0].usd_per_1k is None
    text = as_text(found)
    assert "unknown" in text and "usd_per_hour" in text and "$0" not in text.splitlines()[1]
    assert "nothing was asked" in as_text(report("endpoint", 0, 1, [], {}))


def test_what_was_said_last_counts_and_what_is_worth_nothing_does_not():
    said = [
        ("r1", "resolved", 0.0),
        ("r1", "resolved", 1.0),
        ("r1", "minutes", 5.0),
        ("r2", "helpful", 1.0),
        ("r3", "angry", 1.0),
    ]
    assert bill.worths(said, {"resolved": 2.5, "minutes": 0.6, "angry": -4.0}) == {"r1": 5.5, "r3": -4.0}


def test_focus_has_the_columns_and_words_of_the_specification():
    steps = [Rest("models.train", 12.5, "2 runs")]
    found = list(csv.DictReader(io.StringIO(to_focus([busy(steps=steps)], "acme"))))
    assert len(found) == 5
    mandatory = """BilledCost BillingAccountId BillingAccountName BillingCurrency BillingPeriodEnd BillingPeriodStart
        ChargeCategory ChargeClass ChargeDescription ChargePeriodEnd ChargePeriodStart ContractedCost EffectiveCost
        InvoiceIssuerName ListCost PricingQuantity PricingUnit ProviderName PublisherName ServiceCategory ServiceName"""
    for row in found:
        assert row.keys() >= set(mandatory.split())
        assert all(name.startswith("x_") or name[0].isupper() for name in row)
        costs = {float(row[name]) for name in ("BilledCost", "EffectiveCost", "ContractedCost", "ListCost")}
        assert len(costs) == 1 and row["BillingCurrency"] == "USD" and row["ChargeClass"] == ""
        assert row["ChargeCategory"] == "Usage" and row["ServiceCategory"] == "AI and Machine Learning"
        assert row["ChargeFrequency"] == "Usage-Based" and isinstance(json.loads(row["Tags"]), dict)
        times = [
            datetime.strptime(row[n], "%Y-%m-%dT%H:%M:%SZ")
            for n in ("BillingPeriodStart", "ChargePeriodStart", "ChargePeriodEnd", "BillingPeriodEnd")
        ]
        assert times == sorted(times) and times[0].day == times[3].day == 1
    assert sum(float(row["BilledCost"]) for row in found) == pytest.approx(3600 + 12.5)
    assert set(found[0]) == set(focus.COLUMNS)


def test_csv_holds_what_the_table_shows():
    rows = list(csv.DictReader(io.StringIO(to_csv(busy()))))
    assert [row["group"] for row in rows] == ["search", "chat", "(idle)", "(lost)"]
    assert sum(float(row["cost_usd"]) for row in rows) == pytest.approx(3600)


def test_alternatives_by_hand():
    now = Measured(
        answers=1000, tokens_in=100_000, tokens_out=50_000, engine_s=360.0, engine_usd=0.36, tokens_usd=0.0,
        idle_usd=3.24, busy=0.1, asked=1000, repeated=250, repeat_s=300.0, cached=0,
    )  # fmt: skip
    price = Price(input_usd_per_mtok=1.0, output_usd_per_mtok=4.0)
    tried = [Trial("int8", 2.0, 1.0)]
    found = {one.what: one for one in options(now, machine=Machine(7.2, 4.0), price=price, trials=tried)}
    per_1k = {what: round(one.usd_per_1k, 6) for what, one in found.items()}
    assert per_1k == {
        "now": 3.6, "a cache": 3.51, "fuller engines": round(0.36 / 0.7, 6), "int8": 1.8,
        "a machine at $7.2 an hour": 1.8, "an API by tokens": 0.3,
    }  # fmt: skip
    assert found["int8"].change == pytest.approx(-0.5) and all(one.assumes for one in found.values())
    quiet = msgspec.structs.replace(now, idle_usd=0.0, busy=0.0, asked=0)
    assert [one.what for one in options(quiet)] == ["now", "a cache"]
