"""Several gateway processes on one port, under load: killed, replaced, and one engine, one log, one budget for all."""

import concurrent.futures
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time

import httpx
import msgspec
import openai
import pytest

from longrein.core.errors import Error
from longrein.core.ledger import Block
from longrein.core.limit import Limit
from longrein.data.requests import asked_ms
from longrein.gateway import snapshot
from longrein.gateway.metrics import Metrics, Served
from longrein.gateway.server import Gateway
from longrein.gateway.workers import Workers

WORKER = """
import socket, sys
from pathlib import Path
from longrein.core.ledger import Ledger
from longrein.core.store import Store
from longrein.gateway.server import Gateway
from longrein.gateway.workers import serve
folder, (sock, pipe) = Path(sys.argv[1]), map(int, sys.argv[2].split(","))
ledger, store = Ledger(f"sqlite:///{folder}/.longrein/ledger.db"), Store(folder / ".longrein/store")
serve(Gateway(ledger, store, folder, sock=socket.socket(fileno=sock)), pipe)
"""


@contextlib.contextmanager
def serving(world, count=2):
    command = [sys.executable, "-c", WORKER, str(world.folder)]
    workers = Workers(world.ledger, command, count, run=world.folder / ".longrein" / "run", port=0)
    workers.start()
    try:
        assert set(workers.settled(60).values()) == {"serving"}
        yield workers
    finally:
        workers.stop()


def until(condition, seconds=30):
    """Poll something that happens in another process."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)
    return value


def client(workers, world, **options):
    return openai.OpenAI(base_url=f"{workers.url}/v1", api_key=world.key, max_retries=0, **options)


def say(client, text, **options):
    return client.chat.completions.create(model="support", messages=[{"role": "user", "content": text}], **options)


def number(workers, name, which=""):
    with httpx.Client() as http:  # a connection of its own: whoever accepts it answers
        for line in http.get(f"{workers.url}/metrics").text.splitlines():
            if line.startswith(name) and which in line:
                return float(line.rsplit(" ", 1)[1])
    return 0.0


def engines(world):
    """The processes that serve models here."""
    found = subprocess.run(["pgrep", "-f", f"engine_process .*{world.folder}"], capture_output=True, text=True).stdout
    return [int(pid) for pid in found.split()]


def test_a_killed_worker_loses_its_own_requests_alone_and_comes_back(world, tmp_path):
    world.promote(world.release("support", "v1"), log_text=True)
    with serving(world, 3) as workers:
        (engine,) = engines(world)
        gate, lost, done, end = tmp_path / "gate", [], [], threading.Event()

        def load(i):
            while not end.is_set():
                try:
                    with client(workers, world, timeout=30) as asking:
                        answer = say(asking, f"number {i}")
                    assert answer.choices[0].message.content == f"v1 number {i}"
                    done.append(answer.id)
                except openai.APIError as error:
                    lost.append(error)

        clients = [client(workers, world, timeout=60) for _ in range(9)]
        streams = [say(c, f"until {gate} done", stream=True) for c in clients]
        for stream in streams:
            assert next(stream).choices[0].delta.role == "assistant"
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            asking = [pool.submit(load, i) for i in range(4)]
            until(lambda: len(done) > 20)
            victim = workers.pids[0]
            os.kill(victim, signal.SIGKILL)
            killed_ms = time.time_ns() // 1_000_000
            until(lambda: len(workers.pids) == 3 and victim not in workers.pids)
            count = len(done)
            until(lambda: len(done) > count + 20)
            end.set()
            for future in asking:
                future.result()
        gate.touch()
        ended, cut = 0, 0
        for stream in streams:
            try:
                text = "".join(c.choices[0].delta.content or "" for c in stream)
            except openai.APIError:
                cut += 1
                continue
            except httpx.HTTPError:  # a stream that breaks off is the transport's error in this client
                cut += 1
                continue
            ended += 1
            assert text == f"v1 until {gate} done"
        assert ended + cut == 9 and ended > 0
        assert len(lost) <= 4, lost  # at most what each of the four had under way
        assert engines(world) == [engine]
        until(lambda: number(workers, "longrein_engine_running") == 0)  # the killed one's are cancelled
        assert number(workers, "longrein_engine_cancelled_total") >= cut
        kept = {id for id in done if not killed_ms - 5000 < asked_ms(id) <= killed_ms}  # the unflushed may be lost
        until(lambda: {r["id"] for r in world.requests.find(limit=10_000)} >= kept)
        for c in clients:
            c.close()
    until(lambda: engines(world) == [])


def test_a_killed_engine_is_told_to_all_workers_and_started_once(world, tmp_path):
    world.promote(world.release("support", "v1"))
    with serving(world) as workers:
        (engine,) = engines(world)
        with concurrent.futures.ThreadPoolExecutor(8) as pool:

            def ask(_):
                with client(workers, world) as asking:
                    return say(asking, f"until {tmp_path}/never")

            asked = [pool.submit(ask, i) for i in range(8)]
            until(lambda: number(workers, "longrein_engine_running") == 8)
            os.kill(engine, signal.SIGKILL)
            for future in asked:
                with pytest.raises(openai.APIStatusError) as told:
                    future.result()
                assert told.value.status_code == 503 and "ended unexpectedly" in told.value.message

        def back():
            with contextlib.suppress(openai.APIStatusError), client(workers, world) as asking:
                return say(asking, "back").choices[0].message.content == "v1 back"

        until(lambda: sum(map(bool, (back() for _ in range(8)))) == 8)
        assert len(engines(world)) == 1 and engines(world) != [engine]


def test_workers_share_a_budget_and_their_metrics_are_one(world):
    world.promote(world.release("support", "v1"))
    poor = world.ledger.keys.create("poor", limits=Limit(requests_per_minute=5, tokens_per_month=10**9), actor="test")
    with serving(world) as workers:

        def ask(_):
            with httpx.Client() as http:
                body = {"model": "support", "messages": [{"role": "user", "content": "hi"}]}
                headers = {"Authorization": f"Bearer {poor}"}
                return http.post(f"{workers.url}/v1/chat/completions", headers=headers, json=body).status_code

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            told = list(pool.map(ask, range(40)))
        assert 5 <= told.count(200) <= 10 and told.count(200) + told.count(429) == 40  # ten if the minute ended
        ok = told.count(200)
        # whichever is asked: then each has told the other
        until(lambda: all(number(workers, "longrein_requests_total", 'status="200"') == ok for _ in range(10)))
        os.kill(workers.pids[0], signal.SIGKILL)
        until(lambda: len(workers.pids) == 2)
        until(lambda: number(workers, "longrein_requests_total", 'status="200"') == ok)  # a counter never falls


def test_a_reload_replaces_all_and_refuses_nobody(world):
    world.promote(world.release("support", "v1"))
    with serving(world) as workers:
        before, told, end = set(workers.pids), [], threading.Event()

        def load():
            while not end.is_set():
                with client(workers, world, timeout=30) as asking:
                    told.append(say(asking, "hi").choices[0].message.content)

        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            asking = [pool.submit(load) for _ in range(2)]
            workers.reload()
            until(lambda: not before & set(workers.pids) and len(workers.pids) == 2)
            end.set()
            for future in asking:
                future.result()
        assert set(told) == {"v1 hi"}
        assert len(engines(world)) == 1


def test_by_the_command_line(world):
    """Announced, reloaded by SIGHUP, ended by SIGTERM with status 0 and nothing left behind."""
    world.promote(world.release("support", "v1"))
    (world.folder / "longrein.yaml").write_text("project: test\n")
    serve = [sys.executable, "-m", "longrein.cli.main", "serve", "--workers", "2", "--port", "0", "-C", world.folder]
    with subprocess.Popen(serve, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as parent:
        url = parent.stdout.readline().strip()
        until(lambda: "endpoint support answers" in parent.stderr.readline())
        headers = {"Authorization": f"Bearer {world.key}"}
        body = {"model": "support", "messages": [{"role": "user", "content": "hi"}]}

        def ask():
            return httpx.post(f"{url}/v1/chat/completions", headers=headers, json=body).json()

        def children():
            found = subprocess.run(
                ["pgrep", "-P", str(parent.pid), "-f", "--", "--worker"], capture_output=True, text=True
            ).stdout
            return set(found.split())

        assert ask()["choices"][0]["message"]["content"] == "v1 hi"
        before = children()
        assert len(before) == 2
        parent.send_signal(signal.SIGHUP)
        until(lambda: len(children()) == 2 and not before & children())
        assert ask()["choices"][0]["message"]["content"] == "v1 hi"
        parent.terminate()
        assert parent.wait(40) == 0
        parent.stderr.read()
    until(lambda: engines(world) == [])
    assert not (world.folder / ".longrein" / "gateway.json").exists()


def test_workers_that_cannot_start_are_an_error(world):
    command = [sys.executable, "-c", "import sys; sys.exit(3)"]
    workers = Workers(world.ledger, command, 2, run=world.folder / ".longrein" / "run", port=0)
    with pytest.raises(Exception, match="end as soon as they start"):
        workers.start()
    assert workers.pids == []


def test_a_worker_that_cannot_be_started_again_for_a_while_ends_nothing(world):
    world.promote(world.release("support", "v1"))
    python = world.folder / "python"
    python.symlink_to(sys.prefix)
    command = [str(python / "bin" / "python"), "-c", WORKER, str(world.folder)]
    workers = Workers(world.ledger, command, 2, run=world.folder / ".longrein" / "run", port=0)
    workers.start()
    try:
        workers.settled(60)
        python.unlink()
        victim, other = workers.pids
        os.kill(victim, signal.SIGKILL)
        until(lambda: workers.pids == [other])
        for _ in range(20):
            with client(workers, world) as asking:
                assert say(asking, "hi").choices[0].message.content == "v1 hi"
        workers.check()
        python.symlink_to(sys.prefix)
        until(lambda: len(workers.pids) == 2 and other in workers.pids)
    finally:
        workers.stop()


def test_what_ends_by_itself_is_noticed(world):
    workers = Workers(world.ledger, ["/nowhere/python"], 2, run=world.folder / ".longrein" / "run", port=0)
    with pytest.raises(FileNotFoundError):
        workers.start()
    workers.stop()
    gateway = Gateway(world.ledger, world.store, world.folder, port=0)
    gateway.start()
    gateway.check()
    gateway._server.should_exit = True
    gateway._thread.join()
    with pytest.raises(Error, match="ended by itself"):
        gateway.check()
    gateway.stop()


def test_metrics_of_the_dead_count_and_what_they_had_under_way_does_not(tmp_path):
    dead, mine = Metrics(), Metrics()
    for metrics in (dead, mine):
        served, block = Served(), Block("e", "r", 0, statuses={"200": 2})
        block.time("latency_ms", 500)
        served.count(block)
        metrics.served = lambda served=served: served
        metrics.look = lambda: {("e", "r"): 3}
    (tmp_path / "999999999.json").write_bytes(msgspec.json.encode(dead.state()))
    (tmp_path / "999999998.json").write_bytes(b"torn {")
    counted = snapshot.Snapshots(tmp_path, mine)
    mine.others = counted.others
    lines = mine.render().splitlines()
    assert 'longrein_requests_total{endpoint="e",release="r",status="200"} 4' in lines
    assert 'longrein_request_seconds_count{endpoint="e",release="r"} 2' in lines
    assert 'longrein_inflight{endpoint="e",release="r"} 3' in lines
    counted.close()
