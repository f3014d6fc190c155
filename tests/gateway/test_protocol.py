"""What clients may hold of the server: slow heads and bodies, floods, sizes, connections that say nothing."""

import json
import socket
import time
from contextlib import ExitStack

import httpx
import pytest
from mock_upstream import Mock, chunk, event
from mock_upstream import begin as begin_stream
from test_upstream import USER, release

from longrein.gateway.protocol import Bounds

TIGHT = Bounds(head_bytes=8192, head_s=0.4, body_s=0.4, idle_s=0.4, stalled_s=0.4, connections=30)
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"


@pytest.fixture
def tight(world):
    world.promote(world.release("support", "v1"))
    with world.serve(bounds=TIGHT) as gateway:
        yield world, gateway


def dial(gateway):
    return socket.create_connection(("127.0.0.1", gateway.port), timeout=20)


def rest(wire):
    """All that still comes until the other side closes."""
    parts = []
    try:
        while data := wire.recv(65536):
            parts.append(data)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def test_a_head_that_never_ends_is_told_so(tight):
    _, gateway = tight
    with dial(gateway) as silent, dial(gateway) as slow, dial(gateway) as body:
        slow.sendall(HEAD + b"X-Slow: ")
        body.sendall(HEAD + b"Authorization: Bearer " + tight[0].key.encode() + b"\r\nContent-Length: 10\r\n\r\n{")
        for wire in (silent, slow, body):
            answer = rest(wire)
            assert answer.startswith(b"HTTP/1.1 408") and b"did not come in time" in answer


def test_a_connection_that_is_done_is_closed_when_it_stays_idle(tight):
    _, gateway = tight
    with dial(gateway) as wire:
        for _ in range(2):
            wire.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"200 OK" in wire.recv(65536)
        assert rest(wire) == b""


@pytest.mark.parametrize("head", [b"X: " + b"y" * 9000, b"".join(b"X-%d: y\r\n" % i for i in range(1200))])
def test_a_head_that_is_too_large(tight, head):
    _, gateway = tight
    with dial(gateway) as wire:
        wire.sendall(HEAD + head)
        assert rest(wire).startswith(b"HTTP/1.1 431")


def test_a_head_that_grows_behind_a_request_under_way(tight, tmp_path):
    world, gateway = tight
    with dial(gateway) as wire:
        message = {"role": "user", "content": f"until {tmp_path}/never"}
        body = json.dumps({"model": "support", "stream": True, "messages": [message]}).encode()
        wire.sendall(HEAD + b"Authorization: Bearer %b\r\nContent-Length: %d\r\n\r\n" % (world.key.encode(), len(body)))
        wire.sendall(body)
        assert b"200 OK" in wire.recv(65536)
        with pytest.raises(OSError):
            for _ in range(1000):
                wire.sendall(HEAD + b"X: " + b"y" * 9000)
            raise ConnectionResetError(rest(wire))


def test_a_flood_of_connections_that_say_nothing_keeps_nobody_out(world):
    world.promote(world.release("support", "v1"))
    patient = Bounds(connections=30)
    with world.serve(bounds=patient) as gateway, ExitStack() as stack, world.client(gateway) as client:
        for i in range(100):
            wire = stack.enter_context(dial(gateway))
            wire.sendall(b"GET / HT" if i % 2 else b"")
        for _ in range(3):
            answer = client.chat.completions.create(model="support", messages=[USER])
            assert answer.choices[0].message.content == "v1 hi"
        assert len(gateway._server.server_state.connections) <= 31


def test_a_client_that_takes_nothing_is_cut_off_and_its_upstream_too(world):
    async def endless(mock, asked):
        await begin_stream(asked.writer)
        while True:
            await chunk(asked.writer, event({"content": "w" * 65536}))

    mock = Mock(endless)
    world.promote(release(world, "gpt", mock))
    try:
        with world.serve(bounds=TIGHT) as gateway, dial(gateway) as wire:
            body = json.dumps({"model": "gpt", "stream": True, "messages": [USER]}).encode()
            wire.sendall(
                HEAD + b"Authorization: Bearer %b\r\nContent-Length: %d\r\n\r\n" % (world.key.encode(), len(body))
            )
            wire.sendall(body)
            deadline = time.monotonic() + 20
            while not (mock.gone and any(r["status"] == 499 for r in seen(world, gateway))):
                assert time.monotonic() < deadline
    finally:
        mock.close()


def seen(world, gateway):
    gateway.recorder.flush()
    return world.requests.find()


def test_requests_in_a_row_on_one_connection_are_answered_in_turn(tight):
    world, gateway = tight
    one = b"GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %b\r\n\r\n" % world.key.encode()
    with dial(gateway) as wire:
        wire.sendall(one + b"HEAD /healthz HTTP/1.1\r\nHost: x\r\n\r\n" + b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = rest(wire)
    assert [part[:3] for part in answer.split(b"HTTP/1.1 ")[1:]] == [b"200", b"200", b"404"], answer


def test_an_answer_before_the_body_was_read_leaves_the_connection_good(tight):
    _, gateway = tight
    with httpx.Client(base_url=gateway.url) as http:
        assert http.post("/v1/chat/completions", content=b"x" * 200_000).status_code == 401
        assert http.get("/healthz").status_code == 200
