"""Drift of live traffic: real answers of real gateways to an alarm that explains itself, through kills and restarts."""

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lifecycle
import msgspec
import pytest
from eye import QUICK, TOPICS, Eye, texts, until
from world import World

from longrein.control.drifting import affected
from longrein.core.drift import Drift
from longrein.core.observation import SOCKET
from longrein.ops.drift.endpoint import Endpoint


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.ledger.close()


@pytest.fixture
def eye(world: World) -> Iterator[Eye]:
    """Over one endpoint whose texts may be kept."""
    world.promote(world.release("support", "v1"), drift=QUICK, log_text=True)
    eye = Eye(world)
    yield eye
    eye.close()


def test_a_new_topic_raises_an_alarm_that_explains_itself(eye: Eye, world: World) -> None:
    eye.weigh(texts("bank", 900))
    assert eye.firing() == []
    new = texts("travel", 300, 1)
    mixed = [text for pair in zip(texts("bank", 300, 2), new, strict=True) for text in pair]
    eye.weigh(mixed)
    (alert,) = eye.firing()
    assert (alert.subject, alert.name) == ("endpoint:support", "input")
    assert "what endpoint:support is asked has changed: about" in alert.summary
    told = alert.evidence
    assert 0.3 < told["share"] < 0.7
    assert set(told["kinds"][0]["words"][:3]) <= set(TOPICS["travel"])
    assert told["features"][0]["name"].startswith("input")
    assert all(mixed[int(id[1:]) - 900] in new for id in told["after"])
    assert all(int(id[1:]) < 200 for id in told["before"])
    eye.observer.look()
    ids = until(lambda: affected(eye.home.parent, eye.firing()[0], 1000))
    right = [mixed[int(id[1:]) - 900] in new for id in ids if int(id[1:]) >= 900]
    assert len(right) > 150 and sum(right) > 0.8 * len(right)
    assert affected(eye.home.parent, alert, 3) == ids[:3]
    eye.part._told = 0.0
    eye.observer.look()
    (row,) = world.ledger.drift.of("support")
    assert row["state"]["streams"][0]["peak"] >= row["state"]["streams"][0]["needed"] == 15000


def test_chinese_and_a_stable_stream(eye: Eye) -> None:
    eye.weigh(texts("bank", 400))
    eye.weigh(texts("中文", 200))
    assert "input language" in [f["name"] for f in eye.firing()[0].evidence["features"][:2]]


def test_what_is_accepted_is_normal_from_then_on(eye: Eye, world: World) -> None:
    eye.weigh(texts("bank", 400))
    eye.weigh(texts("travel", 400))
    assert eye.firing()
    world.ledger.drift.accept("support", actor="ann", reason="summer")
    eye.observer.look()
    assert eye.firing() == []
    assert world.ledger.alerts.recent()[0].summary == "what there is now was accepted as normal"
    stream = until(
        lambda: (s := eye.stream()) and s.key.endswith(f"@{world.ledger.drift.accepted_ms('support')}") and s
    )
    assert (stream.watch.learning, stream.note) == (0, "what there was when that was accepted")
    eye.weigh(texts("travel", 500, 1))
    assert eye.firing() == []
    eye.weigh(texts("bank", 300, 3))
    assert eye.firing()


def test_what_goes_away_is_over(eye: Eye) -> None:
    eye.weigh(texts("bank", 400))
    eye.weigh(texts("travel", 200))
    assert eye.firing()
    eye.observer.look()
    eye.weigh(texts("bank", 700, 1))
    eye.observer.look()
    assert eye.firing() == []
    eye.weigh(texts("bank", 300, 2))
    assert eye.firing() == []


def test_answers_of_a_release_are_compared_with_its_own(eye: Eye, world: World) -> None:
    """Another release may answer differently; the same one may not begin to."""
    first = world.ledger.aliases.get("release", "support")["prod"][0]
    assert first
    eye.weigh(texts("bank", 400), answer="all is well", release=first.digest)
    eye.weigh(texts("bank", 400, 1), answer="I am sorry, that cannot be done", release=first.digest)
    (alert,) = eye.firing()
    assert alert.name == "output" and alert.summary.startswith("what release:support@1 answers has changed")
    second = world.ledger.assets.put("release", "support", "e" * 64, meta=first.meta, actor="test")
    world.ledger.aliases.move("release", "support", "prod", second, actor="test")
    third = world.ledger.assets.put("release", "support", "f" * 64, meta=first.meta, actor="test")
    world.ledger.aliases.move("release", "support", "prod", third, actor="test")
    eye.observer.look()
    assert eye.firing() == []
    eye.weigh(texts("bank", 400, 2), answer="quite another answer", release=third.digest)
    assert eye.firing() == []


def test_feedback_counts_once_and_late_labels_too(eye: Eye, world: World) -> None:
    """Concept drift: the same questions, fewer right answers. Said twice, it counts once, over a restart as well."""
    release = world.ledger.aliases.get("release", "support")["prod"][0]
    assert release

    def say(first: int, count: int, right: Callable[[int], bool], name: str = "correct") -> None:
        for i in range(first, first + count):
            world.ledger.feedback.put(
                f"r{i}", [(name, float(right(i)), "")], source="key", endpoint="support", release=release.digest
            )

    eye.weigh(texts("bank", 10), release=release.digest)
    say(0, 260, lambda i: i % 10 != 0)
    say(0, 260, lambda i: True)  # again, by the same source: nothing new
    world.ledger.feedback.put("old", [("correct", 0.0, "")], source="k", endpoint="support", release="gone")
    eye.observer.look()
    until(lambda: (s := eye.stream("feedback", release.digest)) and s.watch.seen == 60)
    eye.close()
    again = Eye(world)
    again.observer.look()
    say(260, 10, lambda i: i % 10 != 0)
    again.observer.look()
    until(lambda: (s := again.stream("feedback", release.digest)) and s.watch.seen == 70)
    say(270, 300, lambda i: i % 2 == 0)
    again.observer.look()
    until(lambda: (s := again.stream("feedback", release.digest)) and s.watch.seen == 370)
    again.observer.look()
    (alert,) = again.firing()
    assert alert.name == "feedback" and "said of the answers of release:support@1" in alert.summary
    (feature,) = alert.evidence["features"]
    assert feature["name"] == "correct" and feature["after"] < 0.7 < feature["before"]
    again.observer.look()
    ids = until(lambda: affected(again.home.parent, alert))
    assert all(int(id[1:]) % 2 for id in ids if int(id[1:]) >= 270)
    again.close()


def test_hosts_add_up_what_each_sees(world: World, tmp_path: Path) -> None:
    """Neither has enough; both together do."""
    declared = {**QUICK, "watch": ["input"], "false_alarm_requests": 10**9}
    world.promote(world.release("support", "v1"), drift=declared)
    one, two = Eye(world, name="one"), Eye(world, tmp_path / "two", name="two")
    for eye in (one, two):
        eye.weigh(texts("bank", 400))
    peak = 0.0
    for text in texts("travel", 50):
        for eye in (one, two):
            eye.weigh([text])
        if (peak := until(one.stream).peak) > 1000:
            break
    world.want("support", drift=declared | {"false_alarm_requests": int(1.5 * peak)})
    one.observer.look()
    assert peak > 1000 and one.firing() == []
    two.observer.look()
    (alert,) = one.firing()
    assert alert.evidence["host"] == "two"
    for eye in (one, two):
        eye.observer.look()
        assert len(eye.firing()) == 1
    one.close()
    two.close()


def test_one_observer_of_a_folder_watches_and_another_takes_over(eye: Eye, world: World) -> None:
    other = Eye(world)
    assert other.part.host is None
    eye.weigh(texts("bank", 300))
    eye.observer.close()
    other.observer.look()
    assert until(lambda: other.stream()).watch.seen == 100
    other.close()


WATCH = """
import sys, threading
from pathlib import Path
from longrein.control.drifting import Drifting
from longrein.control.observer import Observer
from longrein.core.ledger import Ledger
from longrein.core.store import Store
folder = Path(sys.argv[1])
ledger, store = Ledger(f"sqlite:///{folder}/.longrein/ledger.db"), Store(folder / ".longrein/store")
Observer(ledger, store, folder, actor="eye", parts=[Drifting]).run(threading.Event())
"""


@pytest.mark.parametrize("log_text", [True, False])
def test_a_killed_observer_goes_on_where_it_was(world: World, log_text: bool) -> None:
    """With a real gateway. Nothing of what was said is on a disk where texts may not be kept."""
    declared = {**QUICK, "warm_up": 100}
    world.promote(world.release("support", "v1"), drift=declared, log_text=log_text)

    def ask(client: Any, text: str) -> str:
        reply = client.chat.completions.create(model="support", messages=[{"role": "user", "content": text}])
        return str(reply.id)

    def told() -> dict[str, Any]:
        rows = world.ledger.drift.of("support")
        streams = rows[0]["state"]["streams"] if rows else []
        return next((s for s in streams if s["group"] == "input"), {"seen": 0})

    def start() -> "subprocess.Popen[bytes]":
        child = subprocess.Popen([sys.executable, "-c", WATCH, str(world.folder)])
        until(lambda: (world.folder / ".longrein" / SOCKET).exists())
        return child

    child = start()
    with world.serve() as gateway, world.client(gateway) as client:
        old = [ask(client, text) for text in texts("bank", 160)]
        kept = world.folder / ".longrein" / "drift" / "support"
        until(lambda: (s := Endpoint(kept, Drift(**declared), log_text).streams) and s["input", ""].watch.seen == 60)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        (world.folder / ".longrein" / SOCKET).unlink()
        child = start()
        new = [ask(client, f"{text} zanzibar") for text in texts("travel", 80)]
        try:
            alert = until(lambda: next((a for a in world.ledger.alerts.firing("drifted") if a.name == "input"), None))
            until(lambda: told()["seen"] > 60)
        finally:
            child.send_signal(signal.SIGKILL)
            child.wait()
    assert set(alert.evidence["after"]) <= set(new)
    first, last = (world.requests.get(id)["ts_ms"] for id in (old[-20], new[20]))
    assert first <= alert.since_ms <= last
    files = [f.read_bytes() for f in world.folder.rglob("*") if f.is_file()]
    assert any(b"zanzibar" in data for data in files) == log_text
    assert any(kind["words"] for kind in alert.evidence["kinds"]) == log_text


def test_several_gateways_tell_one_observer(eye: Eye, world: World) -> None:
    with world.serve() as one, world.serve() as two, world.client(one) as first, world.client(two) as second:
        for i in range(10):
            for client in (first, second):
                client.chat.completions.create(model="support", messages=[{"role": "user", "content": f"hello {i}"}])
        until(lambda: eye.observed == 20)


def test_state_that_cannot_be_read_begins_anew(eye: Eye, world: World) -> None:
    eye.weigh(texts("bank", 300))
    eye.close()
    folder = world.folder / ".longrein" / "drift" / "support"
    for seed, file in enumerate([next(folder.glob("*.reference")), folder / "state"], 1):
        file.write_bytes(os.urandom(500))
        again = Eye(world)
        again.weigh(texts("bank", 250, seed))
        assert again.firing() == []
        again.close()


def test_hostile_requests(eye: Eye) -> None:
    odd = ["", " ", "\0" * 5000, "\u202e\u200b", "a" * 8192, "字" * 2730, "🧨" * 2000, "<script>", "'; drop table"]
    eye.weigh(texts("bank", 300) + odd * 30)
    eye.tell(["other"], release="x" * 10_000)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        for data in (b"", os.urandom(2000), msgspec.msgpack.encode(["w", 1, [["id"]]])):
            sock.sendto(data, str(eye.home / SOCKET))
    eye.weigh(texts("bank", 10), release="y")
    assert eye.part.host and eye.part.host.ear.garbage == 3
    eye.part._told = 0.0
    eye.observer.look()
    (row,) = eye.ledger.drift.of("support")
    assert row["state"]["garbage"] == 3
    assert json.dumps(row["state"], allow_nan=False)


def test_erasing_a_person_takes_all_texts(eye: Eye, world: World) -> None:
    """Also where no observer was there when it was done; what is known of numbers goes on."""
    folder = world.folder / ".longrein" / "drift" / "support"

    def kept() -> bytes:
        found = b""
        for file in [*folder.glob("*.reference"), folder / "state"]:
            with contextlib.suppress(FileNotFoundError):  # written anew just now
                found += file.read_bytes()
        return found

    eye.weigh(texts("bank", 300))
    until(lambda: b"account" in kept() and any(folder.glob("*.reference")))
    eye.close()
    assert b"account" in kept()
    world.ledger.events.append("ann", "person.erased", "person:1")
    again = Eye(world)
    until(lambda: len(kept()) > 10_000 and b"account" not in kept() and b"savings" not in kept())
    assert until(again.stream).watch.seen == 100
    again.weigh(texts("travel", 100))
    assert again.firing()
    again.close()


def test_training_rows_are_normal_from_the_first_request(tmp_path: Path) -> None:
    root = lifecycle.create(tmp_path / "shop")
    rows = [{"text": text, "intent": "abc"[i % 3]} for i, text in enumerate(texts("bank", 900))]
    (root / "data" / "one.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), "utf-8")
    lifecycle.declare(root, endpoints=lifecycle.endpoint(drift=QUICK))
    assert lifecycle.apply(root)[-1] == "promoted release:shop"
    workspace = lifecycle.open(root)
    eye = Eye(workspace, of="shop")
    stream = until(eye.stream)
    assert "training rows of dataset:tickets@1" in stream.note and stream.watch.learning == 0
    eye.weigh(texts("bank", 300, 1), release="r")
    assert eye.firing() == []
    eye.weigh(texts("travel", 60, 1), release="r")
    (alert,) = eye.firing()
    assert alert.evidence["normal"] == stream.note
    (root / "data" / "two.jsonl").write_text(
        "".join(json.dumps({"text": text, "intent": "d"}) + "\n" for text in texts("travel", 400, 2)), "utf-8"
    )
    lifecycle.declare(root, models=lifecycle.model(options={"right": 0.9}), endpoints=lifecycle.endpoint(drift=QUICK))
    assert lifecycle.apply(root)[-1] == "promoted release:shop"  # a model that knows what is asked now
    eye.observer.look()
    assert eye.firing() == [] and "other data" in workspace.ledger.alerts.recent()[0].summary
    until(lambda: (s := eye.stream()) and "dataset:tickets@2" in s.note)
    eye.weigh(random.Random(0).sample(texts("travel", 150, 3) + texts("bank", 350, 4), 500), release="r")
    assert eye.firing() == []
    eye.close()
    workspace.ledger.close()


def test_without_training_rows_it_says_so(tmp_path: Path) -> None:
    root = lifecycle.create(tmp_path / "shop")
    lifecycle.declare(root, endpoints=lifecycle.endpoint(drift=QUICK))
    assert lifecycle.apply(root)[-1] == "promoted release:shop"
    workspace = lifecycle.open(root)
    eye = Eye(workspace, of="shop")
    assert "the first 200, for 63 training rows of dataset:tickets@1 are too few" in until(eye.stream).note
    eye.close()
    workspace.ledger.close()
