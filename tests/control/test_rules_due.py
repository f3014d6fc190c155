"""When rules fire, in simulated time: once a cause, not too often, never because of themselves."""

import itertools

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longrein.control.rules.due import DEPTH, Cause, Past, decide, next_moment, of_alert, of_schedule
from longrein.control.rules.rule import Config, reads, seconds
from longrein.core.ledger import Alert

HOUR, DAY = 3_600_000, 86_400_000
NOW = 1_700_000_000_000


def rule(**more):
    return msgspec.convert({"on": "drifted", "do": ["retrain"], "cooldown": "0s", **more}, Config)


def cause(key="a", endpoint="desk", at=NOW, **more):
    return Cause(key, "drifted", endpoint, "it drifts", at, at, **{"severity": "warning", **more})


def why(found):
    return [h.why for h in found[1]]


def test_a_cause_fires_once():
    fire, _ = decide("r", rule(), [cause(), cause("b", "shop")], [], NOW)
    assert [c.key for c in fire] == ["a", "b"]
    assert decide("r", rule(), [cause()], [Past("a", "desk", 0)], NOW) == ([], [])


def test_which_alerts():
    assert decide("r", rule(endpoint="shop"), [cause()], [], NOW) == ([], [])
    assert decide("r", rule(on="degraded"), [cause()], [], NOW) == ([], [])
    assert decide("r", rule(when={"severity": "critical"}), [cause()], [], NOW) == ([], [])
    later = rule(when={"for_s": 60})
    assert decide("r", later, [cause()], [], NOW + 59_999) == ([], [])
    assert len(decide("r", later, [cause()], [], NOW + 60_000)[0]) == 1


def test_one_at_a_time_for_an_endpoint():
    fire, held = decide("r", rule(), [cause("a"), cause("b"), cause("c", "shop")], [], NOW)
    assert [c.key for c in fire] == ["a", "c"] and [h.why for h in held] == ["it is at work here already"]
    assert why(decide("r", rule(), [cause("b")], [Past("a", "desk", NOW - DAY, running=True)], NOW))


def test_cooldown_is_of_the_endpoint():
    cool, past = rule(cooldown="6h"), [Past("x", "desk", NOW - 5 * HOUR)]
    fire, held = decide("r", cool, [cause(), cause("b", "shop")], past, NOW)
    assert [c.key for c in fire] == ["b"]
    assert (held[0].why, held[0].until_ms) == ("it cools down for 6h", NOW + HOUR)
    assert len(decide("r", cool, [cause()], past, NOW + HOUR)[0]) == 1


def test_budgets_of_runs_and_money():
    past = [Past(str(i), f"e{i}", NOW - i * HOUR, cost_usd=1.0) for i in range(1, 4)]
    _, held = decide("r", rule(budget={"runs": 3}), [cause()], past, NOW)
    assert (held[0].why, held[0].until_ms) == ("it has fired 3 times in 1d", NOW - 3 * HOUR + DAY)
    assert len(decide("r", rule(budget={"runs": 3}), [cause()], past, NOW + 21 * HOUR)[0]) == 1
    assert why(decide("r", rule(budget={"usd": 3}), [cause()], past, NOW)) == ["it has spent $3.00 in 1d"]
    assert len(decide("r", rule(budget={"usd": 3.5}), [cause()], past, NOW)[0]) == 1


def test_it_never_answers_itself():
    assert why(decide("r", rule(), [cause(by=("q", "r"))], [], NOW)) == ["it brought this about itself"]
    long = tuple(f"q{i}" for i in range(DEPTH))
    assert "a person has to look" in why(decide("r", rule(), [cause(by=long)], [], NOW))[0]
    alert = Alert(7, "drifted", "release:客服@3", "", "warning", "s", {"caused_by": ["q", "r"]}, NOW, NOW, NOW, None)
    assert of_alert(alert).by == ("q", "r") and of_alert(alert).endpoint == "客服"


def test_schedules_do_not_make_up_for_what_was_before_them():
    nightly = msgspec.convert({"schedule": "0 3 * * *", "do": ["retrain"]}, Config)
    three = NOW // DAY * DAY + 3 * HOUR
    assert of_schedule("n", nightly, three + 1, three + HOUR) is None
    missed = of_schedule("n", nightly, three - 1, three + HOUR)  # nobody was there at three: it is made up for, once
    assert missed and missed.at_ms == three
    assert decide("n", nightly, [missed], [Past(missed.key, "", three)], three + HOUR)[0] == []
    assert next_moment(nightly, three + 1) == three + DAY
    often = msgspec.convert({"every": "6h", "do": ["retrain"]}, Config)
    found = of_schedule("o", often, 0, NOW)
    assert found and found.at_ms % (6 * HOUR) == 0 and NOW - 6 * HOUR < found.at_ms <= NOW
    assert next_moment(often, NOW) == found.at_ms + 6 * HOUR


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3 * DAY), st.sampled_from("abc")), max_size=60), st.integers(1, 4),
    st.sampled_from(["0s", "10m", "3h"]),
)  # fmt: skip
def test_a_storm_of_alerts_stays_within_its_limits(storm, runs, cooldown):
    limited = rule(cooldown=cooldown, budget={"runs": runs})
    past: list[Past] = []
    for at in range(NOW, NOW + 3 * DAY, HOUR // 2):
        causes = [cause(f"{t}{e}", e, NOW + t) for t, e in storm if NOW + t <= at]
        past = [p._replace(running=False) for p in past]
        past += [Past(c.key, c.endpoint, at) for c in decide("r", limited, causes, past, at)[0]]
    times = sorted(p.started_ms for p in past)
    assert len({p.key for p in past}) == len(past)
    assert all(sum(t - DAY < u <= t for u in times) <= runs for t in times)
    for endpoint in "abc":
        mine = sorted(p.started_ms for p in past if p.endpoint == endpoint)
        assert all(b - a >= seconds(cooldown) * 1000 for a, b in itertools.pairwise(mine))


@pytest.mark.parametrize(
    ("pattern", "folder", "taken"),
    [("data/new/*.jsonl", "data/new", True), ("data/**/*.jsonl", "data/new/", True), ("data/*.csv", "data", False),
     ("other/*.jsonl", "data", False), ("./data/*", "data", True)],
)  # fmt: skip
def test_which_folders_a_dataset_reads(pattern, folder, taken):
    assert reads(pattern, folder) is taken
