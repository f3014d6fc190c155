"""Sinks follow the request log: what arrives at a collector, when it is away, and after a kill."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from collector import Collector, attributes

from longrein.control import export, nouns
from longrein.control.export import Export, Exporter
from longrein.control.observer import Observer, Site
from longrein.core import plugins, trace
from longrein.core.ledger import Ledger
from longrein.core.record import Record, Segment
from longrein.core.store import Store
from longrein.data import seal
from longrein.ops.monitor.sink import Config

NOW = 1_800_000_000_000


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector().listening() as one:
        yield one


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db")
    yield Site(ledger, Store(tmp_path / "store"), tmp_path, nouns.Lifecycle(project="shop"), "eye")
    ledger.close()


class Log:
    """A gateway process that answers."""

    def __init__(self, folder: Path) -> None:
        self.segment, self.count = Segment(folder / ".longrein" / "requests", "w1"), 0

    def answer(self, count: int, **values: Any) -> list[str]:
        import msgspec

        records = [
            Record(**{"id": f"chatcmpl-{NOW + i:012x}{i:012x}", "ts_ms": NOW + i, "endpoint": "shop", "status": 200,
                      "total_ms": 4.0, "prompt_tokens": 2, "completion_tokens": 1, "user": "ann", **values})
            for i in range(self.count, self.count + count)
        ]  # fmt: skip
        self.count += count
        self.segment.append(b"".join(msgspec.json.encode(r) + b"\n" for r in records))
        return [r.id for r in records]


def ids(collector: Collector) -> list[str]:
    return [attributes(span)["gen_ai.response.id"] for span in collector.spans]


def counted(collector: Collector) -> int:
    return sum(point.count for point in collector.metrics.get("gen_ai.server.request.duration", []))


def test_what_comes_after_it_began_is_sent_once(site: Site, collector: Collector) -> None:
    log = Log(site.project)
    log.answer(5)
    sink = Exporter(site, "otel", Config(url=collector.url, traces=1))
    sink.attempt(NOW)
    asked = log.answer(1_200)
    sink.attempt(NOW + 1_000)
    sink.attempt(NOW + 2_000)
    assert ids(collector) == asked and len(collector.taken["/v1/traces"]) == 3
    assert "user.id" not in attributes(collector.spans[0])
    sink.attempt(NOW + 10_000)
    assert counted(collector) == 1_200
    (tokens, _) = collector.metrics["gen_ai.client.token.usage"]
    assert attributes(tokens)["gen_ai.token.type"] == "input" and tokens.sum == 2_400
    assert attributes(collector.taken["/v1/metrics"][0].resource_metrics[0].resource)["service.instance.id"].endswith(
        "/shop"
    )
    sink.close()
    more = log.answer(3)
    again = Exporter(site, "otel", Config(url=collector.url, traces=1, personal=True))
    again.attempt(NOW + 11_000)
    assert ids(collector) == asked + more and attributes(collector.spans[-1])["user.id"] == "ann"
    again.attempt(NOW + 30_000)
    assert counted(collector) == 1_203 and {p.start_time_unix_nano for p in [tokens]} == {NOW * 10**6}
    again.close()


def test_a_share_of_them_and_those_that_clients_follow(site: Site, collector: Collector) -> None:
    log = Log(site.project)
    sink = Exporter(site, "otel", Config(url=collector.url, traces=0.1))
    sink.attempt(NOW)
    log.answer(2_000)
    wanted = log.answer(3, trace="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
    log.answer(3, trace="00-00000000000000000000000000000001-00f067aa0ba902b7-00")
    sink.attempt(NOW + 1_000)
    assert set(wanted) < set(ids(collector)) and 120 < len(ids(collector)) < 280  # ± 6 σ
    sink.attempt(NOW + 20_000)
    assert counted(collector) == 2_006


def test_a_collector_that_is_away(site: Site, collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "WAITING", 50)
    log = Log(site.project)
    sink = Exporter(site, "otel", Config(url=collector.url, traces=1, every_s=1))
    sink.attempt(NOW)
    asked = log.answer(10)
    collector.answers["/v1/traces"] = [(429, {"Retry-After": "30"}, b"")]
    sink.attempt(NOW + 1_000)
    sink.attempt(NOW + 30_000)
    assert ids(collector) == [] and len(collector.headers) == 1  # it waits as it was told
    sink.attempt(NOW + 31_001)
    assert ids(collector) == asked and not sink.problems
    collector.answers["/v1/traces"] = [(503, {}, b"")] * 3
    late = log.answer(100)
    for step in range(1, 4):
        sink.attempt(NOW + 31_001 + step * 60_000)
    assert sink.problems["traces"][0] == NOW + 91_001
    sink.attempt(NOW + 331_001)
    assert ids(collector) == asked + late[50:] and counted(collector) == 110
    (given_up,) = collector.metrics["longrein.export.dropped"]
    assert (given_up.as_double, attributes(given_up)["longrein.reason"]) == (50, "behind")
    collector.answers["/v1/traces"] = [(400, {}, b"no")]
    log.answer(7)
    sink.attempt(NOW + 340_000)
    sink.attempt(NOW + 350_000)
    assert {attributes(p)["longrein.reason"]: p.as_double for p in collector.metrics["longrein.export.dropped"]} == {
        "behind": 50, "refused": 7,
    }  # fmt: skip


def test_a_segment_that_is_sealed_before_it_was_read(site: Site, collector: Collector) -> None:
    log = Log(site.project)
    sink = Exporter(site, "otel", Config(url=collector.url, traces=1))
    asked = log.answer(5)
    sink.attempt(NOW)
    asked = log.answer(5)
    folder = site.home / "requests"
    log.segment.close()
    assert seal.keep(folder, {}, NOW) and not list(folder.glob("*.jsonl"))
    sink.attempt(NOW + 1_000)
    assert ids(collector) == asked
    log = Log(site.project)
    log.answer(2)
    seal.erase(folder, user="ann")
    sink.attempt(NOW + 2_000)
    assert len(ids(collector)) == 7
    sink.close()


def test_what_no_sink_can_do_is_told_and_tried_again(
    site: Site, collector: Collector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugins, "_project", [])
    (tmp_path / "plugins" / "sink").mkdir(parents=True)
    source = "class Sink:\n    def __init__(self, options, instance):\n        1 / 0\nplugin = Sink\n"
    (tmp_path / "plugins" / "sink" / "mine.py").write_text(source)
    plugins.use_project(tmp_path)
    mine = Exporter(site, "mine", Config(sink="mine", url=collector.url))
    wrong = Exporter(site, "wrong", Config(url=collector.url, options={"colour": "red"}))
    unset = Exporter(site, "unset", Config(url=collector.url, headers={"authorization": "Bearer ${NOT_SET_HERE}"}))
    for sink in (mine, wrong, unset):
        sink.attempt(NOW)
        sink.attempt(NOW + 1_000)
        sink.close()
    told = [sink.problems[""][1] for sink in (mine, wrong, unset)]
    assert "ZeroDivisionError" in told[0] and "colour" in told[1] and "NOT_SET_HERE" in told[2]
    (site.home / "sinks" / "otel.json").write_bytes(b"torn")
    good = Exporter(site, "otel", Config(url=collector.url, traces=1))
    good.attempt(NOW)
    assert not good.problems


def test_two_processes_send_nothing_twice(site: Site, collector: Collector) -> None:
    log = Log(site.project)
    both = [Exporter(site, "otel", Config(url=collector.url, traces=1)) for _ in range(2)]
    for sink in both:
        sink.attempt(NOW)
    asked = log.answer(3)
    for sink in both:
        sink.attempt(NOW + 1_000)
    both[0].close()
    asked += log.answer(3)
    both[1].attempt(NOW + 2_000)
    assert ids(collector) == asked


CHILD = """
import sys, time
from pathlib import Path
from longrein.control import nouns
from longrein.control.export import Exporter
from longrein.control.observer import Site
from longrein.ops.monitor.sink import Config
site = Site(None, None, Path(sys.argv[1]), nouns.Lifecycle(project="shop"), "eye")
sink = Exporter(site, "otel", Config(url=sys.argv[2], traces=1, every_s=0.1))
while True:
    sink.attempt(time.time_ns() // 10**6)
    print(flush=True)
    time.sleep(0.01)
"""


def test_killed_it_goes_on(site: Site, collector: Collector) -> None:
    log = Log(site.project)
    asked: list[str] = []
    kills = 3
    for _ in range(kills):
        child = subprocess.Popen([sys.executable, "-c", CHILD, site.project, collector.url], stdout=subprocess.PIPE)
        assert child.stdout and child.stdout.readline()
        before = len(collector.taken["/v1/traces"])
        asked += log.answer(3_000)
        until(lambda before=before: len(collector.taken["/v1/traces"]) > before + 2)  # type: ignore[misc]
        os.kill(child.pid, signal.SIGKILL)
        child.communicate()
    last = Exporter(site, "otel", Config(url=collector.url, traces=1, every_s=0.1))
    last.attempt(NOW)
    last.attempt(NOW + 1_000)
    sent = Counter(ids(collector))
    assert set(sent) == set(asked) and counted(collector) == len(asked)
    assert sum(sent.values()) - len(sent) <= kills * export.BATCH
    told = [sum(p.count for p in _durations(message)) for message in collector.taken["/v1/metrics"]]
    assert told == sorted(told)  # a counter never falls


def _durations(message: Any) -> Any:
    (whole,) = message.resource_metrics
    return next(m for m in whole.scope_metrics[0].metrics if m.unit == "s").exponential_histogram.data_points


def test_the_observer_sends_and_says_when_it_cannot(
    ledger: Ledger, tmp_path: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "EVERY_S", 0.02)
    ledger.work.want({"project": "shop", "sinks": {"otel": {"url": collector.url, "traces": 1.0}}}, actor="ann")
    log = Log(tmp_path)
    far = [time.time_ns() // 10**6]
    observer = Observer(ledger, Store(tmp_path / "store"), tmp_path, actor="eye", parts=[Export], clock=lambda: far[0])
    observer.look()
    until(lambda: list((tmp_path / ".longrein" / "sinks").glob("otel.json")))
    (part,) = observer._parts
    assert isinstance(part, Export)
    problems = part.threads["sink:otel"].exporter.problems
    collector.answers["/v1/traces"] = [(403, {}, b"no")]
    log.answer(1)
    until(lambda: problems)
    observer.look()
    assert not ledger.alerts.firing()
    far[0] += 3_600_000
    observer.look()
    observer.look()
    (alert,) = ledger.alerts.firing("sink_failing")
    assert alert.subject == "sink:otel" and "403" in alert.summary
    ledger.alerts.fire("sink_failing", "sink:gone", "here", summary="was taken out of the file", actor="eye")
    log.answer(1)
    until(lambda: collector.spans and not problems)
    observer.look()
    assert not ledger.alerts.firing()
    observer.close()


@pytest.mark.parametrize("header, goes_on", [
    ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", True),
    ("01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00-more", True),
    ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more", False),
    ("ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", False),
    ("00-00000000000000000000000000000000-00f067aa0ba902b7-01", False),
    ("00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01", False),
    ("00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01", False), ("", False), ("00-" * 400, False),
])  # fmt: skip
def test_which_headers_are_continued(header: str, goes_on: bool) -> None:
    assert bool(trace.valid(header)) == goes_on
    of = trace.of("chatcmpl-1", trace.valid(header))
    assert of == trace.of("chatcmpl-1", trace.valid(header)) and len(of.id) == 32 and len(of.span) == 16
    assert trace.valid(of.header) and bool(of.parent) == goes_on


def until(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 30
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)  # waits for what another thread does
    return value
