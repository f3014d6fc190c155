"""What gateways send to the observer: the whole truth where somebody listens, nothing on disk, and never a wait."""

import os
import socket
import stat
from pathlib import Path
from typing import Any

import msgspec
import pytest

from longrein.core.observation import TEXT_BYTES, Ear, Observation, cut, read
from longrein.core.record import Record
from longrein.gateway import tap as tapped
from longrein.gateway.tap import Tap, said


def hear(ear: Ear, most: int) -> list[Observation]:
    found: list[Observation] = []
    while len(found) < most:
        got = ear.hear(20, most - len(found))
        assert got, "nothing came"
        found += got
    return found


@pytest.fixture
def ear(tmp_path: Path) -> Any:
    ear = Ear(tmp_path / ".longrein")
    yield ear
    ear.close()


def ask(client: Any, text: str, **options: Any) -> Any:
    return client.chat.completions.create(model="support", messages=[{"role": "user", "content": text}], **options)


def test_what_was_said_is_sent_and_is_on_no_disk(world: Any, ear: Ear) -> None:
    """Whole answers, streams, and the cache's; with texts, though the endpoint keeps none of them."""
    release = world.promote(world.release("support", "v1"), drift=True, log_text=False)
    messages = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "kiwifruit"},
        {"role": "assistant", "content": "yes?"},
        {"role": "user", "content": [{"type": "text", "text": "开通账户 zanzibar"}]},
    ]
    with world.serve() as gateway, world.client(gateway) as client:
        answer = client.chat.completions.create(model="support", messages=messages)
        for _ in ask(client, "streamed zanzibar", stream=True):
            pass
        heard = hear(ear, 2)
    first, second = heard
    assert (first.id, first.endpoint, first.release) == (answer.id, "support", release.digest)
    assert first.input == "开通账户 zanzibar"
    assert first.output == answer.choices[0].message.content
    assert first.completion_tokens == answer.usage.completion_tokens
    assert (second.input, second.finish_reason) == ("streamed zanzibar", "stop")
    assert second.output and "zanzibar" in second.output
    files = [f for f in world.folder.rglob("*") if f.is_file()]
    assert [f for f in files if b"zanzibar" in f.read_bytes() or "开通".encode() in f.read_bytes()] == []


def test_of_endpoints_that_are_not_watched_nothing_is_sent(world: Any, ear: Ear) -> None:
    world.promote(world.release("support", "v1"))
    with world.serve() as gateway, world.client(gateway) as client:
        ask(client, "one")
        world.want("support", drift=True)
        gateway.refresh()
        ask(client, "two")
        with pytest.raises(Exception, match=r"context|length|long"):
            ask(client, "word " * 10_000)  # refused: it says nothing of what is asked normally
        ask(client, "three", extra_headers={"cache-control": "no-store"})
        assert [o.input for o in hear(ear, 2)] == ["two", "three"]


def test_texts_are_cut_and_made_whole(tmp_path: Path, ear: Ear) -> None:
    tap = Tap(tmp_path / ".longrein")
    tap.put(Record(id="a", ts_ms=1), b'[{"role": "user", "content": "%s"}]' % (b"x" * 1_000_000), ["字" * 1_000_000])
    tap.put(Record(id="b", ts_ms=2), b'"half \\ud83d of a pair"', ["\ud83d"])
    tap.put(Record(id="c", ts_ms=3, cached=True), b"not JSON", ["known"])
    tap.close()
    first, second, third = hear(ear, 3)
    assert (first.input, first.output) == ("x" * TEXT_BYTES, "字" * (TEXT_BYTES // 3))
    assert second.output == "?"
    assert (third.input, third.output) == ("", None)


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        (b'"plain"', "plain"),
        (b'["a", "b"]', "a\nb"),
        (b"[1, 2, 3]", ""),
        (b'[{"role": "assistant", "content": "only"}]', ""),
        (b'[{"role": "user", "content": null}]', ""),
        (b'[{"role": "user", "content": [{"type": "image_url"}, {"type": "text", "text": "x"}]}]', "x"),
        (b'{"role": 3}', ""),
        (b"[" * 100_000, ""),
        (b"\xff\xfe", ""),
        (b"", ""),
    ],
)
def test_the_last_words_of_the_user(asked: bytes, text: str) -> None:
    assert said(msgspec.Raw(asked)) == text


def test_nobody_listens_or_nobody_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be sent is counted, memory is bounded, and who listens later is sent what comes then."""
    monkeypatch.setattr(tapped, "MOST", 50)
    monkeypatch.setattr(tapped, "EVERY_S", 3600)
    tap = Tap(tmp_path / ".longrein")

    def put(count: int) -> None:
        for i in range(count):
            tap.put(Record(id=f"r{i}", ts_ms=i), b'"%s"' % (b"x" * 8000), [])

    put(40)
    tap._drain()
    assert tap.left_out == 40
    ear = Ear(tmp_path / ".longrein")
    for _ in range(20):  # more than its socket holds
        put(60)
        tap._drain()
    kept = len(tap._waiting) + len(tap._packed)
    assert kept <= 60
    sent = 20 * 60 - kept - (tap.left_out - 40)
    assert 0 < sent < 300
    assert len(hear(ear, sent)) == sent
    ear.close()
    again = Ear(tmp_path / ".longrein")  # as after a restart
    tap._drain()
    assert hear(again, 1)
    again.close()
    tap.close()


def test_garbage_is_no_datagram(ear: Ear) -> None:
    for data in (b"", b"\x00", os.urandom(1000), msgspec.msgpack.encode([1, 2, 3]), b"\x93" * 200_000):
        assert read(data) is None
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stranger:
            stranger.sendto(data[:1000], str(ear.path))
    assert (ear.hear(20, 1), ear.garbage) == ([], 5)
    assert stat.S_IMODE(ear.path.stat().st_mode) == 0o600
    assert cut(None) == ""
