"""Channels are told of alerts: together, in order, once, again after hours, and through kills and receivers that are
down; before real receivers, on a clock of the test's own."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from receiver import Got, Receiver, receiver

from longrein.control import delivery as module
from longrein.control import nouns
from longrein.control.delivery import Delivery
from longrein.control.observer import Site
from longrein.core.ledger import Ledger, now_ms
from longrein.core.ledger.notices import DAY_MS, FIRST_MS, LEASE_MS
from longrein.core.store import Store

NOW = now_ms()
WAIT_MS, REPEAT_MS = 30_000, 4 * 3_600_000


@pytest.fixture
def server() -> Iterator[Receiver]:
    with receiver(b"") as made:
        yield made


def spec(server: Receiver, **config: Any) -> nouns.Lifecycle:
    channel = {"channel": "webhook", "url": f"{server.url}/ops", **config}
    return nouns.restore({"project": "shop", "channels": {"ops": channel}})


def delivery(ledger: Ledger, folder: Path, wanted: nouns.Lifecycle) -> Delivery:
    return Delivery(Site(ledger, Store(folder / "store"), folder, wanted, "eye"))


def tell(to: Delivery, *times: int) -> None:
    """Look at these times, each time until what is sent has arrived."""
    for now in times:
        to.look(now)
        to.close()


def fire(ledger: Ledger, name: str = "latency", severity: str = "critical", subject: str = "endpoint:客服") -> None:
    ledger.alerts.fire("slo_burning", subject, name, summary=f"{name} 太慢", severity=severity, actor="ann")


def end(ledger: Ledger, name: str = "latency") -> None:
    ledger.alerts.resolve("slo_burning", "endpoint:客服", name, actor="ann")


def told(server: Receiver) -> list[list[tuple[str, str]]]:
    return [[(a["labels"]["name"], a["status"]) for a in got.json["alerts"]] for got in server.got]


def test_what_fires_together_is_told_together_and_so_is_its_end(
    ledger: Ledger, server: Receiver, tmp_path: Path
) -> None:
    to = delivery(ledger, tmp_path, spec(server))
    fire(ledger, "a", "warning")
    to.look(NOW)
    fire(ledger, "b")
    tell(to, NOW + 10_000, NOW + WAIT_MS - 1)
    assert server.got == []
    tell(to, NOW + WAIT_MS, NOW + WAIT_MS + 1, NOW + REPEAT_MS)
    assert told(server) == [[("b", "firing"), ("a", "firing")]]
    assert server.got[0].json["commonAnnotations"]["title"] == "[CRITICAL] 2 alerts: endpoint:客服"
    end(ledger, "a")
    tell(to, NOW + REPEAT_MS + 1, NOW + REPEAT_MS + WAIT_MS, NOW + REPEAT_MS + WAIT_MS + 1)
    assert told(server)[1:] == [[("a", "resolved")]]


def test_it_is_told_again_after_hours_and_when_it_becomes_worse(
    ledger: Ledger, server: Receiver, tmp_path: Path
) -> None:
    to = delivery(ledger, tmp_path, spec(server))
    fire(ledger, severity="warning")
    tell(to, NOW, NOW + WAIT_MS)
    fire(ledger, severity="critical")
    tell(to, NOW + 60_000, NOW + 60_000 + WAIT_MS)
    fire(ledger, severity="warning")  # better is no news
    tell(to, NOW + 120_000, NOW + 120_000 + WAIT_MS)
    severities = [got.json["alerts"][0]["labels"]["severity"] for got in server.got]
    assert severities == ["warning", "critical"]
    worse_ms = NOW + 60_000 + WAIT_MS
    tell(to, worse_ms + REPEAT_MS - 1)
    assert len(server.got) == 2
    tell(to, worse_ms + REPEAT_MS, worse_ms + REPEAT_MS + WAIT_MS)
    assert len(server.got) == 3 and len({got.headers["Idempotency-Key"] for got in server.got}) == 3


def test_who_wants_what(ledger: Ledger, server: Receiver, tmp_path: Path) -> None:
    many = {
        "all": {}, "grave": {"severity": "critical"}, "drift": {"kinds": ["drifted"]}, "other": {"endpoints": ["b"]},
        "mine": {"endpoints": ["客服"], "language": "zh"}, "quiet": {"resolved": False},
    }  # fmt: skip
    channels = {
        name: {"channel": "webhook", "url": f"{server.url}/{name}", "wait_s": 0, **c} for name, c in many.items()
    }
    endpoints = {name: {"model": "m"} for name in ("客服", "b")}
    to = delivery(ledger, tmp_path, nouns.restore({"project": "shop", "channels": channels, "endpoints": endpoints}))
    fire(ledger, severity="warning")
    tell(to, NOW, NOW + 1)
    assert {got.path for got in server.got} == {"/all", "/mine", "/quiet"}
    (chinese,) = (got for got in server.got if got.path == "/mine")
    assert chinese.json["commonAnnotations"]["title"] == "【警告】endpoint:客服 latency: 误差预算消耗过快"
    end(ledger)
    tell(to, NOW + 2, NOW + 3, NOW + 4)
    assert sorted(got.path for got in server.got[3:]) == ["/all", "/mine"]
    assert ledger.notices.open() == {}


def test_a_silence_holds_back_and_what_outlasts_it_is_told(ledger: Ledger, server: Receiver, tmp_path: Path) -> None:
    began = now_ms()
    to = delivery(ledger, tmp_path, spec(server, wait_s=0))
    ledger.silences.add("slo_burning", name="a", for_s=60, reason="known", actor="ann")
    fire(ledger, "a")
    fire(ledger, "b")
    tell(to, began + 1000, began + 1001)
    end(ledger, "b")
    tell(to, began + 2000, began + 2001)
    assert told(server) == [[("b", "firing")], [("b", "resolved")]]
    tell(to, began + 100_000, began + 100_001)
    assert told(server)[2:] == [[("a", "firing")]]
    ledger.silences.add(for_s=60, reason="", actor="ann")
    end(ledger, "a")
    now = now_ms()
    tell(to, now, now + 1)
    assert len(server.got) == 3
    tell(to, now + 100_000, now + 100_001)
    assert told(server)[3:] == [[("a", "resolved")]]


def test_a_receiver_that_is_down_loses_nothing_and_holds_nobody_up(
    ledger: Ledger, server: Receiver, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    channels = {name: {"channel": "webhook", "url": f"{server.url}/{name}", "wait_s": 0} for name in ("bad", "good")}
    to = delivery(ledger, tmp_path, nouns.restore({"project": "shop", "channels": channels}))
    up = threading.Event()

    def answer(got: Got) -> tuple[int, dict[str, str], bytes]:
        return (200, {}, b"") if got.path == "/good" or up.is_set() else (503, {}, b"later")

    server.answer = answer
    fire(ledger, "a")
    tell(to, NOW, NOW + 1)
    fire(ledger, "b")
    tell(to, NOW + 2, NOW + 3)
    assert [got.path for got in server.got].count("/good") == 2
    assert [got.path for got in server.got].count("/bad") == 1  # it waits before it tries again
    state = ledger.notices.channels(NOW + 3)
    assert (state["bad"].waiting, state["bad"].error, state["good"].waiting) == (
        2,
        "the receiver answered 503: later",
        0,
    )
    up.set()
    tell(to, NOW + 2 * FIRST_MS, NOW + 2 * FIRST_MS + 1)
    bad = [got for got in server.got if got.path == "/bad"]
    assert [a["labels"]["name"] for a in bad[1].json["alerts"]] == ["a", "b"] and len(bad) == 2
    assert ledger.notices.channels(NOW)["bad"].failing_ms is None


def test_what_nobody_takes_for_a_day_is_given_up_and_said(
    ledger: Ledger, server: Receiver, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    to = delivery(ledger, tmp_path, spec(server, wait_s=0))
    server.answer = lambda got: (500, {}, b"\xff\xfe")
    fire(ledger)
    tell(to, NOW, NOW + 1, NOW + DAY_MS + 10)
    assert ledger.notices.channels(NOW + DAY_MS + 20)["ops"].given_up == 1 and "given up" in caplog.text


def test_a_variable_that_is_not_set_is_an_error_of_the_channel(
    ledger: Ledger, server: Receiver, tmp_path: Path
) -> None:
    wanted = nouns.restore(
        {"project": "p", "channels": {"ops": {"channel": "slack", "url": "${NO_SUCH}", "wait_s": 0}}}
    )
    to = delivery(ledger, tmp_path, wanted)
    fire(ledger)
    tell(to, NOW, NOW + 1)
    assert "NO_SUCH" in ledger.notices.channels(NOW)["ops"].error


def test_a_channel_of_somebody_else_that_breaks_ends_nothing(ledger: Ledger, tmp_path: Path, server: Receiver) -> None:
    from longrein.core import plugins

    folder = tmp_path / "plugins" / "channel"
    folder.mkdir(parents=True)
    (folder / "pager.py").write_text(
        "class Pager:\n    def __init__(self, url, options):\n        self.url = url\n"
        "    def send(self, message):\n        raise RuntimeError('no ' + self.url)\nplugin = Pager\n"
    )
    plugins.use_project(tmp_path)
    os.environ["PAGER"] = "pager://secret"
    wanted = nouns.restore({"project": "p", "channels": {"ops": {"channel": "pager", "url": "${PAGER}", "wait_s": 0}}})
    to = delivery(ledger, tmp_path, wanted)
    fire(ledger)
    tell(to, NOW, NOW + 1)
    assert ledger.notices.channels(NOW)["ops"].error == "RuntimeError: no ${PAGER}"


def test_two_observers_send_each_message_once(ledger_url: str, server: Receiver, tmp_path: Path) -> None:
    ledgers = [Ledger(ledger_url) for _ in range(2)]
    both = [delivery(ledger, tmp_path, spec(server, wait_s=0)) for ledger in ledgers]
    for i in range(5):
        fire(ledgers[0], f"{i}")
        for now in (NOW + 2 * i + 1, NOW + 2 * i + 2):
            threads = [threading.Thread(target=tell, args=(one, now)) for one in both]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    names = [name for message in told(server) for name, _ in message]
    assert sorted(names) == [f"{i}" for i in range(5)] and names == sorted(names)
    for ledger in ledgers:
        ledger.close()


CHILD = """
import sys
from pathlib import Path
from longrein.control import nouns
from longrein.control.delivery import Delivery
from longrein.control.observer import Site
from longrein.core.ledger import Ledger
folder, url, now = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
spec = nouns.restore({"project": "shop", "channels": {"ops": {"channel": "webhook", "url": url, "wait_s": 0}}})
one = Delivery(Site(Ledger(f"sqlite:///{folder}/ledger.db"), None, folder, spec, "eye"))
for i in range(2):
    one.look(now + i)
one.close()
"""


def test_killed_between_sending_and_marking_it_doubles_at_most_that_one(tmp_path: Path, server: Receiver) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db")
    fire(ledger, "a")
    hold = threading.Event()
    server.answer = lambda got: (200 if hold.wait(60) else 500, {}, b"")
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path), f"{server.url}/ops", str(NOW)])
    server.wait(1)  # it has arrived, and is not marked as sent
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    hold.set()
    to = delivery(ledger, tmp_path, spec(server, wait_s=0))
    tell(to, NOW + 10)
    assert len(server.got) == 1  # it may be sending still, as far as anybody knows
    tell(to, NOW + LEASE_MS + 10, NOW + LEASE_MS + 20)
    fire(ledger, "b")
    tell(to, NOW + LEASE_MS + 30, NOW + LEASE_MS + 40)
    keys = [got.headers["Idempotency-Key"] for got in server.got]
    assert told(server) == [[("a", "firing")], [("a", "firing")], [("b", "firing")]]
    assert keys[0] == keys[1] != keys[2]
    ledger.close()


def test_a_slow_receiver_does_not_hold_up_a_look(ledger: Ledger, server: Receiver, tmp_path: Path) -> None:
    hold = threading.Event()
    server.answer = lambda got: (200 if hold.wait(60) else 500, {}, b"")
    to = delivery(ledger, tmp_path, spec(server, wait_s=0))
    fire(ledger)
    for now in (NOW, NOW + 1):
        to.look(now)
    server.wait(1)
    fire(ledger, "b")
    for now in range(NOW + 2, NOW + 20):  # all return, while the first message hangs
        to.look(now)
    assert len(server.got) == 1
    hold.set()
    to.close()
    tell(to, NOW + 21)
    assert told(server) == [[("latency", "firing")], [("b", "firing")]]


def test_a_receiver_that_never_ends_its_answer_has_failed(
    ledger: Ledger, server: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold = threading.Event()
    server.answer = lambda got: (200 if len(server.got) > 1 or hold.wait(60) else 500, {}, b"")
    to = delivery(ledger, tmp_path, spec(server, wait_s=0))
    fire(ledger)
    to.look(NOW)
    to.look(NOW + 1)
    server.wait(1)
    monkeypatch.setattr(module, "LEASE_MS", 0)
    to.look(NOW + 2)
    state = ledger.notices.channels(NOW)["ops"]
    assert (state.waiting, state.error, state.retry_ms) == (1, "the receiver takes too long", NOW + 2 + FIRST_MS)
    tell(to, NOW + 2 + FIRST_MS)
    assert len(server.got) == 2 and ledger.notices.channels(NOW)["ops"].failing_ms is None
    hold.set()


def test_a_clock_set_back_holds_nothing_up(ledger: Ledger, server: Receiver, tmp_path: Path) -> None:
    to = delivery(ledger, tmp_path, spec(server))
    fire(ledger)
    tell(to, NOW + 100 * DAY_MS)
    tell(to, NOW)
    assert told(server) == [[("latency", "firing")]]


def test_a_channel_that_is_no_more(ledger: Ledger, server: Receiver, tmp_path: Path) -> None:
    fire(ledger)
    tell(delivery(ledger, tmp_path, spec(server)), NOW)
    tell(delivery(ledger, tmp_path, nouns.restore({"project": "shop"})), NOW + 1)
    assert ledger.notices.channels(NOW)["ops"].waiting == 0 and server.got == []
