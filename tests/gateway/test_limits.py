"""Budgets and rates: exact with several processes, across kills, restarts and clocks that jump."""

import json
import signal
import subprocess
import sys
from datetime import UTC, datetime

import pytest

from longrein.core.errors import Error
from longrein.core.ledger import ApiKey
from longrein.core.limit import Limit, Price, parse
from longrein.gateway import budget as budget_module
from longrein.gateway.budget import WORKERS, Budget, period_end
from longrein.gateway.limits import UNKNOWN_TOKENS, Limits

START = datetime(2026, 11, 22, 12, 30, 15, tzinfo=UTC).timestamp()


class Clock:
    """In place of the module `time`: both clocks stand still until told otherwise."""

    CLOCK_BOOTTIME = CLOCK_MONOTONIC = 7

    def __init__(self):
        self.wall, self.boot = START, 1000.0

    def time(self):
        return self.wall

    def clock_gettime(self, _):
        return self.boot

    def go(self, seconds):
        self.wall += seconds
        self.boot += seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(budget_module, "time", clock)
    return clock


def key(id="k1", team="", **limits):
    return ApiKey(id, "", ("infer",), 0, None, team, limits or None)


def limits(folder, *keys, endpoints=None, teams=None):
    made = Limits(folder / "run" / "budget")
    made.configure({k.id: k for k in keys}, endpoints or {"e": {}}, teams or {})
    return made


def refused(made, *request):
    with pytest.raises(Error) as told:
        made.reserve(*request)
    assert told.value.http_status == 429
    return told.value


def test_nothing_is_limited_until_somebody_says_so(tmp_path):
    made = limits(tmp_path, key())
    assert made.reserve(key(), "e", 10**12, 10**12) is None and made.reserve(None, "e", 1, 1) is None
    made.settle(None, 5, 1.0)
    assert not (tmp_path / "run").exists()
    made.close()


def test_tokens_are_reserved_and_the_rest_is_given_back(tmp_path, clock):
    k = key(tokens_per_minute=100)
    made = limits(tmp_path, k)
    first = made.reserve(k, "e", 40, 40)
    told = refused(made, k, "e", 11, 10)
    assert told.message == "the limit of 100 tokens a minute for key k1 is reached: 0 used, 80 under way"
    assert told.details == {"retry_after_s": 45.0, "limit": "tokens_per_minute of key k1"}
    made.settle(first, 50, None)
    second = made.reserve(k, "e", 25, 25)
    refused(made, k, "e", 0, 1)
    made.settle(second, 0, None, counts=False)
    assert made.used() == {("key k1", "tokens_per_minute"): (50, 100)}
    never = refused(made, k, "e", 101, 0)
    assert "may use 101 tokens" in never.message and "fewer max_tokens" in never.hint
    made.close()


def test_requests_money_teams_and_endpoints(tmp_path, clock):
    a, b = key("a", "blue", requests_per_minute=2), key("b", "blue")
    price = {"input_usd_per_mtok": 1.0, "output_usd_per_mtok": 4.0}
    endpoints = {"e": {"limits": {"tokens_per_day": 1000}, "price": price}}
    made = limits(tmp_path, a, b, endpoints=endpoints, teams={"blue": {"usd_per_month": 0.0005}})
    r = made.reserve(a, "e", 100, 50)
    cost = made.cost("e", 100, 50)
    assert cost == pytest.approx(0.0003)
    made.settle(r, 150, cost)
    told = refused(made, b, "e", 100, 50)  # the same team, by another key
    assert told.details["limit"] == "usd_per_month of team blue" and told.details["openai_code"] == "insufficient_quota"
    assert "0.0005 USD a month for team blue is reached: 0.0003 used" in told.message
    made.settle(made.reserve(a, "e", 10, 10), 20, made.cost("e", 10, 10))
    assert refused(made, a, "e", 1, 1).details["limit"] == "requests_per_minute of key a"
    other = key("c")
    made.settle(made.reserve(other, "e", 700, 100), 800, None)
    assert refused(made, None, "e", 50, 50).details["limit"] == "tokens_per_day of endpoint e"
    made.close()


def test_an_answer_of_unknown_length_reserves_something(tmp_path, clock):
    k = key(tokens_per_day=UNKNOWN_TOKENS + 10)
    made = limits(tmp_path, k)
    r = made.reserve(k, "e", 10, None)
    refused(made, k, "e", 1, 0)
    made.settle(r, 5000, None)  # longer than thought: it counts in full
    assert made.used()["key k1", "tokens_per_day"][0] == 5000
    made.close()


def test_use_outlives_a_restart_and_reservations_do_not(tmp_path, clock):
    k = key(tokens_per_month=100)
    made = limits(tmp_path, k)
    made.settle(made.reserve(k, "e", 0, 60), 60, None)
    made.reserve(k, "e", 0, 40)
    made.close()
    again = limits(tmp_path, k)
    refused(again, k, "e", 0, 41)
    again.settle(again.reserve(k, "e", 0, 40), 40, None)
    again.close()


@pytest.mark.parametrize(("name", "first"), [("minute", 45), ("day", 41_385), ("month", 732_585)])
def test_windows_end_with_the_minute_day_and_month_of_utc(tmp_path, clock, name, first):
    k = key(**{f"tokens_per_{name}": 10})
    made = limits(tmp_path, k)
    slow = made.reserve(k, "e", 0, 10)
    assert refused(made, k, "e", 0, 1).details["retry_after_s"] == pytest.approx(first)
    clock.go(first - 1)
    refused(made, k, "e", 0, 1)
    clock.go(1)
    new = made.reserve(k, "e", 0, 10)
    made.settle(slow, 10, None)  # it belongs to a window that is over
    refused(made, k, "e", 0, 1)
    made.settle(new, 4, None)
    made.reserve(k, "e", 0, 6)
    made.close()


@pytest.mark.parametrize("jump", [-90_000, 90_000, 40 * 86_400])
def test_setting_the_clock_neither_refills_a_budget_nor_holds_one_back(tmp_path, clock, jump):
    k = key(tokens_per_day=10, requests_per_minute=100)
    made = limits(tmp_path, k)
    made.settle(made.reserve(k, "e", 0, 10), 10, None)
    clock.wall += jump
    refused(made, k, "e", 0, 1)
    clock.wall -= jump
    clock.go(41_385)
    made.reserve(k, "e", 0, 10)
    made.close()


def test_after_a_reboot_windows_go_on_by_the_wall_clock(tmp_path, clock, monkeypatch):
    k = key(tokens_per_day=10)
    made = limits(tmp_path, k)
    made.settle(made.reserve(k, "e", 0, 10), 10, None)
    made.close()
    clock.boot = 5.0
    clock.wall += 60
    monkeypatch.setattr(budget_module, "_boot_id", lambda: b"another")
    made = limits(tmp_path, k)
    assert refused(made, k, "e", 0, 1).details["retry_after_s"] == pytest.approx(41_325)
    clock.go(41_325)
    made.reserve(k, "e", 0, 10)
    made.close()


HAMMER = """
import json, sys
from pathlib import Path
from longrein.core.errors import Error
from longrein.core.ledger import ApiKey
from longrein.gateway.limits import Limits
key = ApiKey("k1", "", ("infer",), 0, None, "", {"tokens_per_month": int(sys.argv[2])})
limits = Limits(Path(sys.argv[1]))
limits.configure({"k1": key}, {"e": {}}, {})
let = spent = 0
print("ready", flush=True)
sys.stdin.readline()
for i in range(int(sys.argv[3])):
    try:
        reservation = limits.reserve(key, "e", 3, i % 5)
    except Error:
        continue
    let += 1
    if sys.argv[4] == "hold":
        print("held", flush=True)
        sys.stdin.read()
    used = 3 + (i % 5) * (i % 2)
    spent += used
    limits.settle(reservation, used, None)
print(json.dumps({"let": let, "spent": spent}), flush=True)
"""


def hammer(path, limit, times, mode="settle"):
    command = [sys.executable, "-c", HAMMER, str(path), str(limit), str(times), mode]
    worker = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
    assert worker.stdout.readline() == "ready\n"
    return worker


def test_processes_that_hammer_one_budget_never_overspend_by_a_token(tmp_path):
    path = tmp_path / "budget"
    workers = [hammer(path, 20_000, 6000) for _ in range(3)]
    for worker in workers:
        worker.stdin.write("go\n")
        worker.stdin.flush()
    spent = [json.loads(worker.communicate()[0])["spent"] for worker in workers]
    assert all(spent)
    budget = Budget(path)
    state = budget.state(budget.counter("key k1 tokens_per_month", "month"))
    assert state.used == sum(spent) and state.reserved == 0
    assert 20_000 - 7 <= state.used <= 20_000
    budget.close()


def test_a_killed_worker_gives_its_reservations_back(tmp_path, clock):
    path = tmp_path / "run" / "budget"
    holder = hammer(path, 7, 1, "hold")
    holder.stdin.write("go\n")
    holder.stdin.flush()
    assert holder.stdout.readline() == "held\n"
    clock.boot, clock.wall = __import__("time").clock_gettime(7), __import__("time").time()  # as the other sees them
    k = key(tokens_per_month=7)
    made = limits(tmp_path, k)
    assert "3 under way" in refused(made, k, "e", 0, 5).message
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    clock.go(2)
    r = made.reserve(k, "e", 0, 7)
    made.settle(r, 7, None)
    made.close()


def test_as_many_processes_as_there_are_places_and_no_more(tmp_path):
    path = tmp_path / "budget"
    held = [Budget(path) for _ in range(WORKERS)]
    assert sorted(b.worker for b in held) == list(range(WORKERS))
    with pytest.raises(Error, match="gateway processes"):
        Budget(path)
    held.pop(3).close()
    again = Budget(path)
    assert again.worker == 3
    for b in [*held, again]:
        b.close()


def test_more_limits_than_there_is_room_for(tmp_path, clock, monkeypatch):
    monkeypatch.setattr(budget_module, "SLOTS", 64)
    budget = Budget(tmp_path / "budget")
    counters = [budget.counter(f"key {i}", "day" if i < 10 else "minute") for i in range(64)]
    assert len({c.at for c in counters}) == 64
    for counter in counters:
        windows = budget.take([counter], [2], [10])
        budget.settle([counter], [2], windows, [1])
    with pytest.raises(Error, match="limits in use"):
        budget.counter("one more", "minute")
    clock.go(60)
    other = Budget(tmp_path / "budget")  # while somebody is there, everything keeps its place
    assert [other.counter(f"key {i}", "day").at for i in range(64)] == [c.at for c in counters]
    other.close()
    budget.close()
    budget = Budget(tmp_path / "budget")
    assert [budget.state(budget.counter(f"key {i}", "day")).used for i in range(12)] == [1] * 10 + [0, 0]
    budget.counter("one more", "minute")
    budget.close()


def test_a_file_of_nonsense_is_no_budget(tmp_path):
    path = tmp_path / "budget"
    path.write_bytes(b"\xff" * 1_000_000)
    budget = Budget(path)
    counter = budget.counter("key k", "day")
    assert isinstance(budget.take([counter], [5], [5]), list) and budget.state(counter).reserved == 5
    budget.close()


@pytest.mark.parametrize(
    "texts",
    [("x=1",), ("tokens_per_day=-1",), ("tokens_per_day=1.5",), ("usd_per_day=nan",), ("usd_per_day",), ("=",),
     ("requests_per_minute=99999999999999999999",)],
)  # fmt: skip
def test_limits_that_are_none(texts):
    with pytest.raises(Error) as told:
        parse(texts)
    assert told.value.code == "invalid" and told.value.hint


def test_limits_as_they_are_written():
    assert parse(()) is None
    assert parse(("tokens_per_day=100", "usd_per_month=2.5")) == Limit(tokens_per_day=100, usd_per_month=2.5)
    price = Price(input_usd_per_mtok=2.0, output_usd_per_mtok=8.0, cached_usd_per_mtok=0.5)
    assert price.usd(1000, 500, 400) == pytest.approx(0.0054)


def test_period_ends():
    december = datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp()
    assert all(period_end(p, december) == december + 1 for p in ("minute", "day", "month"))
    assert period_end("minute", 60.0) == 120.0


def test_a_key_over_its_budget_is_told_when_to_come_back_and_the_log_says_what_stopped_it(world):
    import httpx

    world.promote(world.release("support", "v1"), price={"input_usd_per_mtok": 1e6, "output_usd_per_mtok": 1e6})
    world.ledger.keys.create("poor", team="blue", limits=Limit(requests_per_minute=100), actor="test")
    poor = world.ledger.keys.create("poor", team="blue", limits=Limit(usd_per_day=50), actor="test")
    with world.serve() as gateway:

        def ask(key, max_tokens=3):
            body = {"model": "support", "messages": [{"role": "user", "content": "a b"}], "max_tokens": max_tokens}
            headers = {"Authorization": f"Bearer {key}"}
            return httpx.post(f"{gateway.url}/v1/chat/completions", headers=headers, json=body)

        first = ask(poor)
        assert first.status_code == 200
        used = first.json()["usage"]["total_tokens"]
        row = world.requests.get(first.json()["id"])
        assert (row["cost_usd"], row["team"], row["limit"]) == (used, "blue", "")
        told = ask(poor, 20)
        assert told.status_code == 429 and int(told.headers["retry-after"]) >= 1
        error = told.json()["error"]
        assert error["code"] == "insufficient_quota" and f"is reached: {used} used" in error["message"]
        row = world.requests.get(told.headers["x-request-id"])
        assert row["limit"].startswith("usd_per_day of key ") and row["error"] == "overloaded"
        assert ask(world.key, 40).status_code == 200
        metrics = httpx.get(f"{gateway.url}/metrics").text
        assert f'limit="usd_per_day"}} {used}\n' in metrics and "longrein_log_dropped_total 0\n" in metrics


def test_a_full_disk_refuses_what_it_cannot_count_and_kills_nobody(tmp_path):
    k = key(tokens_per_day=10)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "budget").symlink_to("/dev/full")
    made = limits(tmp_path, k)
    with pytest.raises(Error, match="cannot be counted") as told:
        made.reserve(k, "e", 1, 1)
    assert told.value.http_status == 503
    assert made.reserve(key("other"), "e", 1, 1) is None
