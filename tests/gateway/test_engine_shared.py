"""One engine that several gateway processes ask: found or started once, and it outlives each of them."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from longrein.core import unix
from longrein.core.errors import Error
from longrein.gateway import engine_hub
from longrein.gateway.engine import EngineProcess, Request


@pytest.fixture
def start(world):
    model, shared = world.voice("v1"), world.folder / ".longrein" / "run" / ("a long name " * 10)

    def start(**more):
        log = world.folder / "engine.log"
        return EngineProcess.start("echo", model, project=world.folder, shared=shared, log=log, **more)

    return start


async def say(engine, text):
    events = [e async for e in engine.generate(Request(messages=[{"role": "user", "content": text}]))]
    return "".join(e.text for e in events)


async def gone(pid):
    deadline = time.monotonic() + 20
    while True:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        assert time.monotonic() < deadline, "it did not end"
        await asyncio.sleep(0.02)


def test_those_who_ask_at_once_share_one_and_it_ends_with_the_last_goodbye(start):
    async def story():
        engines = await asyncio.gather(*(start() for _ in range(5)))
        assert len({e.pid for e in engines}) == 1 and engines[0].info == engines[4].info
        told = await asyncio.gather(*(say(e, f"to {i}") for i, e in enumerate(engines) for _ in range(4)))
        assert told == [f"v1 to {i}" for i in range(5) for _ in range(4)]
        for engine in engines[1:]:
            await engine.stop()
            assert not engine.alive
        assert await say(engines[0], "still") == "v1 still"
        with pytest.raises(Error, match="stopping"):
            await say(engines[1], "no")
        await engines[0].stop()
        await gone(engines[0].pid)
        again = await start()
        assert again.pid != engines[0].pid and await say(again, "new") == "v1 new"
        await again.stop()
        await gone(again.pid)

    asyncio.run(story())


def test_another_task_is_another_engine(start):
    async def story():
        one, other = await start(), await start(options={"context": 50})
        assert one.pid != other.pid
        await asyncio.gather(one.stop(), other.stop())

    asyncio.run(story())


ASK = """
import asyncio, sys
from pathlib import Path
from longrein.gateway.engine import EngineProcess, Request
async def main(folder, model, shared):
    engine = await EngineProcess.start("echo", model, project=folder, shared=shared, log=folder / "engine.log")
    never = Request(messages=[{"role": "user", "content": f"until {folder}/never"}])
    async for event in engine.generate(never):
        print(engine.pid, flush=True)
asyncio.run(main(*map(Path, sys.argv[1:])))
"""


def test_a_killed_asker_takes_nobody_along_and_its_requests_are_cancelled(start, world, tmp_path):
    async def story():
        engine = await start()
        shared = world.folder / ".longrein" / "run" / ("a long name " * 10)
        other = subprocess.Popen(
            [sys.executable, "-c", ASK, world.folder, world.folder / "model", shared], stdout=subprocess.PIPE, text=True
        )
        assert int(await asyncio.to_thread(other.stdout.readline)) == engine.pid
        gate = tmp_path / "gate"
        mine = asyncio.ensure_future(say(engine, f"until {gate} done"))
        while (await engine.stats())["running"] != 2:
            pass
        other.send_signal(signal.SIGKILL)
        other.communicate()
        while (await engine.stats())["running"] != 1:
            pass
        assert (await engine.stats())["cancelled_total"] == 1
        gate.touch()
        assert await mine == f"v1 until {gate} done"
        await engine.stop()
        await gone(engine.pid)

    asyncio.run(story())


def test_a_killed_engine_is_told_to_all_and_started_once(start, tmp_path):
    async def story():
        exits = []
        engines = [await start(on_exit=exits.append) for _ in range(3)]
        asked = [asyncio.ensure_future(say(e, f"until {tmp_path}/never")) for e in engines]
        while (await engines[0].stats())["running"] != 3:
            pass
        os.kill(engines[0].pid, signal.SIGKILL)
        for told in await asyncio.gather(*asked, return_exceptions=True):
            assert isinstance(told, Error) and told.http_status == 503 and "ended unexpectedly" in told.message
        assert sorted(map(id, exits)) == sorted(map(id, engines))
        again = await asyncio.gather(*(start() for _ in range(3)))
        assert len({e.pid for e in again}) == 1 and await say(again[2], "hi") == "v1 hi"
        await asyncio.gather(*(e.stop() for e in again))

    asyncio.run(story())


def test_one_who_comes_and_goes_without_a_word_spoils_nothing(start, world):
    async def story():
        engine = await start()
        (path,) = (p for p in (world.folder / ".longrein/run" / ("a long name " * 10)).iterdir() if p.is_socket())
        with unix.short(path) as name:
            for said in (b"", b"\xff" * 100, b"\0\0\0\x02\xc1\xc1"):
                with socket.socket(socket.AF_UNIX) as stranger:
                    stranger.connect(name)
                    stranger.sendall(said)
        assert await say(engine, "hi") == "v1 hi"
        await engine.stop()
        await gone(engine.pid)

    asyncio.run(story())


def test_an_engine_that_cannot_start_says_why_to_all(start):
    async def story():
        told = await asyncio.gather(*(start(options={"broken": True}) for _ in range(3)), return_exceptions=True)
        assert all(isinstance(t, Error) for t in told)
        assert await say(await start(), "another") == "v1 another"

    asyncio.run(story())


def test_a_lost_asker_that_comes_back_finds_it_warm(start):
    async def story():
        engine = await start()
        engine._stopping = True  # as a killed process leaves it: no goodbye
        engine._transport.abort()
        again = await start()
        assert again.pid == engine.pid
        await again.stop()
        await gone(again.pid)

    assert engine_hub.LINGER_S > 1
    asyncio.run(story())
