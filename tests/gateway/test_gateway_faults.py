"""What goes wrong while serving: clients that leave, floods, engines that die, releases that change or are damaged."""

import concurrent.futures
import contextlib
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time

import httpx
import openai
import pytest

from longrein.core.errors import Error
from longrein.core.ledger import Ledger, database
from longrein.core.limit import Limit
from longrein.gateway.server import Gateway


def say(client, text, model="support", **options):
    return client.chat.completions.create(model=model, messages=[{"role": "user", "content": text}], **options)


def until(condition, seconds=20):
    """Poll something that happens in another process."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not happen"
    return value


def engine(gateway, name, endpoint="support"):
    """A number of the engine's, from /metrics."""
    for line in httpx.get(f"{gateway.url}/metrics").text.splitlines():
        if line.startswith(f'longrein_engine_{name}{{endpoint="{endpoint}"'):
            return float(line.rsplit(" ", 1)[1])
    return None


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_hangs_up_frees_the_engine(echo, stream, tmp_path):
    world, gateway = echo
    before = engine(gateway, "cancelled_total")
    text = f"until {tmp_path}/never"
    body = json.dumps({"model": "support", "messages": [{"role": "user", "content": text}], "stream": stream, "n": 2})
    with socket.create_connection(("127.0.0.1", gateway.port)) as raw:
        raw.sendall(
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {world.key}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
        )
        if stream:
            assert b"200 OK" in raw.recv(4096)
        until(lambda: engine(gateway, "running") == 2)
    until(lambda: engine(gateway, "running") == 0)
    assert engine(gateway, "cancelled_total") == before + 2

    def logged():
        gateway.recorder.flush()
        return next((r for r in world.requests.find() if r["input"] == text and r["status"] == 499), None)

    row = until(logged)
    assert row["finish_reason"] == "cancelled" and row["completion_tokens"] == 2
    assert say(world.client(gateway), "still there").choices[0].message.content == "v1 still there"


def test_a_client_that_leaves_while_sending_its_body(echo):
    world, gateway = echo
    with socket.create_connection(("127.0.0.1", gateway.port)) as raw:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {world.key}\r\n"
        raw.sendall(f"{head}Content-Length: 1000\r\n\r\n{{".encode())
    assert say(world.client(gateway), "hi").choices[0].message.content == "v1 hi"


def test_two_hundred_clients_at_once_are_answered_or_told(world):
    world.promote(world.release("support", "v1", max_queue=50))
    with world.serve() as gateway, httpx.Client(limits=httpx.Limits(max_connections=200), timeout=60) as http:

        def ask(i):
            return http.post(
                f"{gateway.url}/v1/chat/completions",
                headers={"Authorization": f"Bearer {world.key}"},
                json={"model": "support", "messages": [{"role": "user", "content": f"number {i}"}]},
            )

        with concurrent.futures.ThreadPoolExecutor(200) as pool:
            answers = list(pool.map(ask, range(200)))
        for i, answer in enumerate(answers):
            if answer.status_code == 200:
                assert answer.json()["choices"][0]["message"]["content"] == f"v1 number {i}"
            else:
                assert answer.status_code == 429 and answer.headers["retry-after"] == "3"
                assert answer.json()["error"]["type"] == "rate_limit_error"
        assert [a.status_code for a in answers].count(200) >= 50
        gateway.recorder.flush()
        assert len(world.requests.find(limit=1000)) == 200
        assert ask(0).status_code == 200


def test_an_engine_that_dies_is_told_and_replaced(world, tmp_path):
    world.promote(world.release("support", "v1"))
    with world.serve() as gateway, world.client(gateway) as client:
        stream = say(client, f"until {tmp_path}/never", stream=True)
        assert next(stream).choices[0].delta.role == "assistant"
        with pytest.raises(openai.APIStatusError) as told:
            say(client, "die")
        assert told.value.status_code == 503 and "ended unexpectedly" in told.value.message
        with pytest.raises(openai.APIError, match="ended unexpectedly"):
            list(stream)
        gateway.settled(30)
        assert say(client, "back").choices[0].message.content == "v1 back"
        text = httpx.get(f"{gateway.url}/metrics").text
        assert 'longrein_engine_restarts_total{endpoint="support"} 1' in text
        gateway.recorder.flush()
        statuses = sorted(r["status"] for r in world.requests.find())
        assert statuses == [200, 503, 503]


def test_while_an_engine_cannot_come_back_its_endpoint_says_why_and_others_serve(world):
    world.promote(world.release("other", "o"))
    release = world.promote(world.release("support", "v1"))
    with world.serve() as gateway, world.client(gateway) as client:
        file = world.store.path(release.meta["model"]["uri"]) / "voice"
        file.write_text("damaged while it served")
        assert say(client, "hi").choices[0].message.content == "v1 hi"
        os.kill(gateway.fleet.lanes["support"].serving.engine.pid, signal.SIGKILL)
        until(lambda: gateway.fleet.lanes["support"].state == "unavailable")
        with pytest.raises(openai.InternalServerError, match="does not match its digest") as error:
            say(client, "hi")
        assert error.value.status_code == 503 and error.value.response.headers["retry-after"]
        gateway.recorder.flush()
        failed = world.requests.get(error.value.response.headers["x-request-id"])
        assert (failed["endpoint"], failed["status"], failed["finish_reason"]) == ("support", 503, "error")
        assert say(client, "hi", "other").choices[0].message.content == "o hi"
        file.write_text("v1")  # mended: the next try finds it good
        until(lambda: gateway.fleet.lanes["support"].state == "serving")
        assert say(client, "hi").choices[0].message.content == "v1 hi"


def test_a_new_release_takes_over_while_a_stream_ends_on_the_old_one(world, tmp_path):
    cold = {"strategy": "blue_green", "keep_warm_s": 0}
    first = world.promote(world.release("support", "v1"), rollout=cold)
    with world.serve() as gateway, world.client(gateway) as client:
        gate = tmp_path / "gate"
        raw = client.chat.completions.with_raw_response.create(
            model="support", messages=[{"role": "user", "content": f"until {gate} done"}], stream=True
        )
        stream = raw.parse()
        assert next(stream).choices[0].delta.role == "assistant"
        old = gateway.fleet.lanes["support"].serving.engine
        second = world.promote(world.release("support", "v2", system="be kind"))
        gateway.refresh()
        gateway.settled(30)
        after = client.chat.completions.with_raw_response.create(
            model="support", messages=[{"role": "user", "content": "hi"}]
        )
        assert after.parse().choices[0].message.content == "v2 hi"
        assert after.headers["x-longrein-release"] == second.digest != first.digest
        assert old.alive
        gate.touch()
        assert "".join(c.choices[0].delta.content or "" for c in stream) == f"v1 until {gate} done"
        until(lambda: not old.alive)
        world.ledger.aliases.move("release", "support", "prod", first, actor="test", back=True)
        gateway.refresh()
        gateway.settled(30)
        assert say(client, "hi").choices[0].message.content == "v1 hi"


def test_the_releases_system_prompt_stands_in_front_unless_the_client_has_one(world):
    world.promote(world.release("support", "v1", system="be kind 卡"))
    with world.serve() as gateway, world.client(gateway) as client:

        def read(*messages):
            answer = client.chat.completions.create(model="support", messages=list(messages))
            return json.loads(answer.choices[0].message.content)["messages"]

        user = {"role": "user", "content": "read"}
        assert read(user) == [{"role": "system", "content": "be kind 卡"}, user]
        own = {"role": "developer", "content": "be brief"}
        assert read(own, user) == [{"role": "system", "content": "be brief"}, user]


def test_a_damaged_model_makes_its_endpoint_unavailable_and_no_other(world):
    world.promote(world.release("other", "o"))
    broken = world.promote(world.release("support", "v1"))
    path = world.store.path(broken.meta["model"]["uri"]) / "voice"
    path.write_text("tampered")
    with world.serve() as gateway, world.client(gateway) as client:
        with pytest.raises(openai.InternalServerError) as error:
            say(client, "hi")
        assert error.value.status_code == 503
        assert "does not match its digest" in error.value.message
        ready = httpx.get(f"{gateway.url}/readyz")
        assert ready.status_code == 200 and ready.json()["status"] == "degraded"
        assert ready.json()["endpoints"]["support"]["error"]["code"] == "corrupt"
        assert say(client, "hi", "other").choices[0].message.content == "o hi"


def test_a_release_that_cannot_start_leaves_the_old_one_serving(world):
    world.promote(world.release("support", "v1"))
    with world.serve() as gateway, world.client(gateway) as client:
        world.promote(world.release("support", "v2", broken=True))
        gateway.refresh()
        assert gateway.settled(30) == {"support": "serving"}
        assert say(client, "hi").choices[0].message.content == "v1 hi"
        state = httpx.get(f"{gateway.url}/readyz").json()["endpoints"]["support"]
        assert (state["release"], state["wanted"]) == ("release:support@1", "release:support@2")
        assert state["error"]["message"] == "the echo is broken"


@pytest.mark.parametrize(
    "meta",
    [{}, {"model": None}, {"model": {"digest": "0" * 64, "uri": "../../etc"}}, {"model": {"digest": "0", "uri": "\0"}}],
)
def test_a_release_that_makes_no_sense_is_unavailable(world, meta):
    world.promote(world.ledger.assets.put("release", "support", "0" * 64, meta=meta, actor="test"))
    with world.serve() as gateway, world.client(gateway) as client:
        assert gateway.settled(30) == {"support": "unavailable"}
        with pytest.raises(openai.InternalServerError, match="is unavailable"):
            say(client, "hi")
        assert httpx.get(f"{gateway.url}/readyz").status_code == 503


def test_an_endpoint_comes_and_goes_with_the_lifecycle_file(world):
    with world.serve() as gateway, world.client(gateway) as client:
        with pytest.raises(openai.NotFoundError, match="there are none yet"):
            say(client, "hi")
        world.want("support")
        gateway.refresh()
        with pytest.raises(openai.InternalServerError, match="has no release yet") as error:
            say(client, "hi")
        assert error.value.response.headers["retry-after"]
        world.promote(world.release("support", "v1"))
        gateway.refresh()
        gateway.settled(30)
        assert say(client, "hi").choices[0].message.content == "v1 hi"
        process = gateway.fleet.lanes["support"].serving.engine
        world.endpoints.clear()
        world.ledger.work.want({"project": "test", "endpoints": {}}, actor="test")
        gateway.refresh()
        with pytest.raises(openai.NotFoundError):
            say(client, "hi")
        until(lambda: not process.alive)


def test_the_server_follows_the_ledger_without_being_asked(world):
    with world.serve() as gateway, world.client(gateway) as client:
        world.promote(world.release("support", "v1"))
        until(
            lambda: httpx.get(f"{gateway.url}/readyz").json()["endpoints"].get("support", {}).get("state") == "serving"
        )
        assert say(client, "hi").choices[0].message.content == "v1 hi"


def test_with_the_ledger_away_serving_goes_on_and_no_record_is_lost(world):
    world.promote(world.release("support", "v1"))
    with world.serve() as gateway, world.client(gateway) as client:
        home, away = world.folder / ".longrein" / "ledger.db", world.folder / "away"
        away.mkdir()
        world.ledger.db.engine.dispose()
        files = [f for f in home.parent.glob("ledger.db*")]
        for file in files:
            file.rename(away / file.name)
        home.mkdir()  # nothing can be opened here now
        try:
            ids = [say(client, f"alone {i}").id for i in range(3)]
            gateway.recorder.flush()
            assert [world.requests.get(id)["status"] for id in ids] == [200] * 3
            ready = until(lambda: (r := httpx.get(f"{gateway.url}/readyz").json())["ledger"] != "ok" and r)
            assert ready["status"] == "ready" and "unable to open" in ready["ledger"]
        finally:
            home.rmdir()
            for file in away.iterdir():
                file.rename(home.parent / file.name)
        gateway.tally.flush()
        assert sum(b.requests for b in world.ledger.traffic.blocks("support", until_ms=1 << 62)) == 3


def test_with_the_ledger_locked_answers_feedback_and_budgets_go_on_or_say_so(world, monkeypatch):
    monkeypatch.setattr(database, "BUSY_S", 1)
    ledger = Ledger(str(world.ledger.db.url))  # of the gateway: it waits no longer than that for a lock
    world.promote(world.release("support", "v1"))
    poor = world.ledger.keys.create("poor", limits=Limit(tokens_per_day=2000), actor="test")
    gateway = Gateway(ledger, world.store, world.folder, port=0)
    gateway.start()
    try:
        gateway.settled(60)
        with world.client(gateway, poor) as client:
            say(client, "before")
            gateway.tally.flush()
            with sqlite3.connect(world.folder / ".longrein" / "ledger.db", isolation_level=None) as other:
                other.execute("BEGIN EXCLUSIVE")
                ids = [say(client, f"alone {i}", max_tokens=10).id for i in range(20)]
                with pytest.raises(openai.RateLimitError, match="2000 tokens a day"):
                    say(client, "much", max_tokens=1990)
                gateway.recorder.flush()
                with pytest.raises(Error):
                    gateway.tally.flush()
                body = {"request_id": ids[0], "metrics": {"helpful": True}}
                key = {"Authorization": f"Bearer {poor}"}
                told = httpx.post(f"{gateway.url}/v1/feedback", json=body, headers=key, timeout=30)
                assert told.status_code == 503 and told.json()["error"]["message"]
                assert world.requests.get(ids[-1])["status"] == 200
                other.execute("ROLLBACK")
            assert httpx.post(f"{gateway.url}/v1/feedback", json=body, headers=key).status_code == 200
            gateway.recorder.flush()
            gateway.tally.flush()
            blocks = world.ledger.traffic.blocks("support", until_ms=1 << 62)
            assert sum(b.requests for b in blocks) == 22 and sum(b.refused for b in blocks) == 1
    finally:
        gateway.stop()
        ledger.close()


SERVE = """
import sys
from pathlib import Path
from longrein.core.ledger import Ledger
from longrein.core.store import Store
from longrein.gateway.server import Gateway
folder = Path(sys.argv[1])
gateway = Gateway(Ledger(f"sqlite:///{folder}/.longrein/ledger.db"), Store(folder / ".longrein/store"), folder, port=0)
print(gateway.url, flush=True)
gateway.serve()
heavy = {"torch", "transformers", "pyarrow", "lance", "numpy", "pandas"} & set(sys.modules)
print("heavy:", sorted(heavy), flush=True)
"""


def test_a_signal_lets_streams_end_then_the_server_with_status_0_and_light(world, tmp_path):
    world.promote(world.release("support", "v1"))
    server = subprocess.Popen([sys.executable, "-c", SERVE, str(world.folder)], stdout=subprocess.PIPE, text=True)
    try:
        url = server.stdout.readline().strip()
        until(lambda: httpx.get(f"{url}/readyz").status_code == 200)
        client = openai.OpenAI(base_url=f"{url}/v1", api_key=world.key, max_retries=0)
        gate = tmp_path / "gate"
        stream = say(client, f"until {gate} done", stream=True)
        assert next(stream).choices[0].delta.role == "assistant"
        server.send_signal(signal.SIGTERM)

        def closed():
            try:
                httpx.get(f"{url}/healthz")
            except httpx.TransportError:
                return True

        until(closed)
        gate.touch()
        assert "".join(c.choices[0].delta.content or "" for c in stream) == f"v1 until {gate} done"
        assert server.stdout.read() == "heavy: []\n"
        assert server.wait(30) == 0
        assert [r["status"] for r in world.requests.find()] == [200]
    finally:
        server.kill()
        server.wait()


def test_more_answers_under_way_than_one_release_may_have(world, tmp_path):
    world.promote(world.release("support", "v1", max_queue=5000))
    with world.serve() as gateway, world.client(gateway) as client, contextlib.ExitStack() as open_:
        chat = {"model": "support", "messages": [{"role": "user", "content": f"until {tmp_path}/never"}], "n": 128}
        body = json.dumps(chat).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {world.key}\r\n"
        for _ in range(8):
            raw = open_.enter_context(socket.create_connection(("127.0.0.1", gateway.port)))
            raw.sendall(head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        replica = gateway.fleet.lanes["support"].serving
        until(lambda: replica.inflight == 1024)
        with pytest.raises(openai.RateLimitError, match="1024 answers are under way") as error:
            say(client, "hi")
        assert error.value.response.headers["retry-after"] == "2"
        open_.close()
        until(lambda: replica.inflight == 0)
        assert say(client, "hi").choices[0].message.content == "v1 hi"


def test_a_wanted_state_that_cannot_be_followed_is_told_and_the_last_one_serves_on(world):
    """As an older gateway finds it after a newer `apply`."""
    world.promote(world.release("support", "v1"))
    with world.serve() as gateway, world.client(gateway) as client:
        for odd in (
            {"limits": {"tokens_per_century": 1}},
            {"price": 3},
            {"log_days": "x"},
            {"rollout": {"strategy": 3}},
        ):
            world.want("support", **odd)
            ready = until(lambda: (r := httpx.get(f"{gateway.url}/readyz").json())["ledger"] != "ok" and r)
            assert ready["status"] == "ready", odd
            assert say(client, "hi").choices[0].message.content == "v1 hi"
            for name in odd:
                del world.endpoints["support"][name]
            world.want("support")
            until(lambda: httpx.get(f"{gateway.url}/readyz").json()["ledger"] == "ok")
        world.promote(world.release("support", "v2"))
        until(lambda: say(client, "hi").choices[0].message.content == "v2 hi")
