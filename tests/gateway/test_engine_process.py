"""The engine process: many requests over one socket, and every way in which one of the two sides can go away."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import tiny

from longrein.core.errors import Error
from longrein.gateway.engine import EngineProcess, Event, Request

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make(tmp_path_factory.mktemp("models") / "llama", max_position_embeddings=4096)


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def engine(runner: asyncio.Runner, folder: Path) -> Iterator[EngineProcess]:
    """Two slots, a queue of 250; for tests that leave it running and empty."""
    started = runner.run(EngineProcess.start("torch", folder, {"threads": 1, "max_batch": 2, "max_queue": 250}))
    yield started
    runner.run(started.stop())


def run(test: Callable[[EngineProcess], Awaitable[None]], folder: Path, **options: Any) -> None:
    """With an engine of its own."""

    async def main() -> None:
        async with started(folder, **options) as engine:
            await asyncio.wait_for(test(engine), 60)

    asyncio.run(main())


@contextlib.asynccontextmanager
async def started(folder: Path, **options: Any) -> AsyncIterator[EngineProcess]:
    keywords = {k: options.pop(k) for k in ("log", "on_exit", "name") if k in options}
    engine = await EngineProcess.start("torch", folder, {"threads": 1, **options}, **keywords)
    try:
        yield engine
    finally:
        await engine.stop()


async def collect(engine: EngineProcess, **fields: Any) -> list[Event]:
    return [event async for event in engine.generate(Request(**fields))]


def text(events: list[Event]) -> str:
    return "".join(event.text for event in events)


LONG: dict[str, Any] = {"prompt": [5, 6, 7], "ignore_eos": True}


def test_200_at_once(runner: asyncio.Runner, engine: EngineProcess) -> None:
    async def test() -> None:
        async def one(i: int) -> list[Event]:
            chat = [{"role": "user", "content": f"request {i} 你好"}]
            return await collect(engine, id="same", messages=chat, seed=i, max_tokens=20 + i % 9)

        answers = await asyncio.gather(*(one(i) for i in range(200)))
        for i, events in enumerate(answers):
            usage = events[-1].usage
            assert usage is not None and usage.first_s >= usage.queue_s >= 0
            assert events[-1].finish_reason == "stop" or usage.completion_tokens == 20 + i % 9
            assert usage.completion_tokens == sum(len(e.token_ids) for e in events)
            assert [e.finish_reason for e in events[:-1]] == [None] * (len(events) - 1)
        assert text(await one(77)) == text(answers[77])
        stats = await engine.stats()
        assert stats["running"] == stats["waiting"] == 0
        assert stats["tokens_out_total"] >= sum(e[-1].usage.completion_tokens for e in answers if e[-1].usage)

    runner.run(asyncio.wait_for(test(), 60))


def test_closing_the_iterator_frees_the_slot(runner: asyncio.Runner, engine: EngineProcess) -> None:
    async def test() -> None:
        assert (engine.info["context"], engine.info["max_batch"], engine.info["chat"]) == (4096, 2, True)
        streams = [engine.generate(Request(**LONG)) for _ in range(3)]
        first = [await anext(streams[0]), await anext(streams[1])]
        assert all(event.token_ids for event in first)
        assert (await engine.stats())["waiting"] == 0  # the third has not been asked for yet
        third = asyncio.ensure_future(anext(streams[2]))
        await asyncio.sleep(0)
        stats = await engine.stats()
        assert (stats["running"], stats["waiting"], stats["slots_used"]) == (2, 1, 2)
        await streams[0].aclose()
        assert (await third).token_ids  # the slot went to the one who waited
        for stream in streams[1:]:
            await stream.aclose()
        assert (await engine.stats())["slots_used"] == 0
        stream = engine.generate(Request(**LONG))
        waiting = asyncio.ensure_future(collect_all(stream))
        while not (await engine.stats())["running"]:
            pass
        waiting.cancel()  # as a server does when its client hangs up
        await asyncio.gather(waiting, return_exceptions=True)
        assert (await engine.stats())["running"] == 0

    runner.run(asyncio.wait_for(test(), 60))


async def collect_all(stream: AsyncIterator[Event]) -> list[Event]:
    return [event async for event in stream]


def test_a_reader_that_does_not_read_stalls_nobody(runner: asyncio.Runner, engine: EngineProcess) -> None:
    async def test() -> None:
        slow = engine.generate(Request(**LONG, max_tokens=500))
        await anext(slow)
        events = await collect(engine, prompt=[9], max_tokens=600, ignore_eos=True)
        assert events[-1].finish_reason == "length"
        rest = await collect_all(slow)
        assert sum(len(e.token_ids) for e in rest) == 499

    runner.run(asyncio.wait_for(test(), 60))


def test_killed_in_mid_stream(folder: Path) -> None:
    exits: list[EngineProcess] = []

    async def test(engine: EngineProcess) -> None:
        streams = [engine.generate(Request(**LONG)) for _ in range(6)]
        for stream in streams[:3]:
            await anext(stream)
        waiting = [asyncio.ensure_future(collect_all(stream)) for stream in streams]
        await asyncio.sleep(0)
        os.kill(engine.pid, signal.SIGKILL)
        for result in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(result, Error) and result.code == "unavailable"
            assert "mine ended unexpectedly" in result.message
        assert not engine.alive and exits == [engine]
        assert await engine.wait() == -signal.SIGKILL
        for call in (collect(engine, **LONG), engine.stats()):
            with pytest.raises(Error, match="ended unexpectedly"):
                await call

    run(test, folder, max_batch=3, on_exit=exits.append, name="mine")
    assert len(exits) == 1


def test_drain(folder: Path) -> None:
    exits: list[EngineProcess] = []

    async def test(engine: EngineProcess) -> None:
        stream = engine.generate(Request(**LONG, max_tokens=300))
        await anext(stream)
        stopping = asyncio.ensure_future(engine.stop(drain_s=60))
        rest = await collect_all(stream)
        assert rest[-1].finish_reason == "length"
        await stopping
        assert await engine.wait() == 0 and not engine.alive and exits == []
        with pytest.raises(Error, match="stopping"):
            await collect(engine, **LONG)
        await engine.stop()

    run(test, folder, on_exit=exits.append)


def test_stop_without_drain_tells_those_in_flight(folder: Path) -> None:
    async def test(engine: EngineProcess) -> None:
        stream = engine.generate(Request(**LONG))
        await anext(stream)
        with pytest.raises(Error, match="stopping") as caught:
            await asyncio.gather(collect_all(stream), engine.stop())
        assert caught.value.code == "unavailable" and caught.value.details["retry_after_s"] == 1

    run(test, folder)


BAD: dict[str, tuple[dict[str, Any], str, str]] = {
    "temperature": ({"prompt": "x", "temperature": -1}, "invalid", "temperature: Expected `float` >= 0"),
    "not a number": ({"prompt": "x", "temperature": float("nan")}, "invalid", "temperature: "),
    "wrong type": ({"prompt": "x", "max_tokens": "many"}, "invalid", "max_tokens: Expected `int"),
    "empty stop": ({"prompt": "x", "stop": [""]}, "invalid", "stop.*: Expected `str` of length >= 1"),
    "too long": ({"prompt": [5] * 5000}, "invalid", "context is 4096 tokens; the prompt has 5000"),
    "half a surrogate": ({"prompt": "\ud800"}, "invalid", "cannot be encoded"),
    "not JSON": ({"messages": [{"role": "user", "content": object()}]}, "invalid", "cannot be encoded"),
}


def test_bad_requests_are_refused_and_the_rest_goes_on(runner: asyncio.Runner, engine: EngineProcess) -> None:
    async def test() -> None:
        running = engine.generate(Request(**LONG))
        await anext(running)
        for fields, code, message in BAD.values():
            with pytest.raises(Error, match=message) as caught:
                await collect(engine, **fields)
            assert caught.value.code == code
        flood = [asyncio.ensure_future(collect(engine, prompt=[7], max_tokens=1)) for _ in range(300)]
        results = await asyncio.gather(*flood, return_exceptions=True)
        refused = [r for r in results if isinstance(r, Error)]
        assert {(e.code, e.details["retry_after_s"] >= 1) for e in refused} == {("overloaded", True)}
        assert len(refused) + sum(isinstance(r, list) and len(r) == 1 for r in results) == 300
        assert (await anext(running)).token_ids
        await running.aclose()

    runner.run(asyncio.wait_for(test(), 60))


def test_the_plugins_own_errors_come_through(folder: Path, tmp_path: Path) -> None:
    async def start(plugin: str, model: Path, options: dict[str, Any]) -> None:
        await EngineProcess.start(plugin, model, options, log=tmp_path / "log")

    for plugin, model, options, code, message in [
        ("torch", folder, {"max_batches": 1}, "invalid", "max_batches"),
        ("torhc", folder, {}, "not_found", "no engine called 'torhc'"),
    ]:
        with pytest.raises(Error, match=message) as caught:
            asyncio.run(start(plugin, model, options))
        assert caught.value.code == code and caught.value.hint


def test_an_engine_that_dies_or_hangs_while_starting(tmp_path: Path) -> None:
    before = set(psutil.Process().children(recursive=True))
    plugins = tmp_path / "plugins" / "engine"
    plugins.mkdir(parents=True)
    (plugins / "dies.py").write_text("import os, sys; print('so long', file=sys.stderr, flush=True); os._exit(7)\n")
    (plugins / "hangs.py").write_text("import threading; threading.Event().wait()\n")
    (plugins / "breaks.py").write_text("def plugin(model, options): return 1 / 0\n")

    async def start(plugin: str, **options: Any) -> None:
        await EngineProcess.start(plugin, tmp_path, project=tmp_path, log=tmp_path / "log", **options)

    with pytest.raises(Error, match="ended while it was starting") as caught:
        asyncio.run(start("dies"))
    assert str(tmp_path / "log") in caught.value.hint and "so long" in (tmp_path / "log").read_text()
    with pytest.raises(Error, match=r"did not start in 0\.5 s"):
        asyncio.run(start("hangs", start_s=0.5))
    with pytest.raises(Error, match="ZeroDivisionError"):
        asyncio.run(start("breaks"))
    assert "1 / 0" in (tmp_path / "log").read_text()
    assert set(psutil.Process().children(recursive=True)) <= before  # none was left behind


def test_the_gateways_process_stays_light() -> None:
    script = "import sys, longrein.gateway.engine; print([m for m in sys.modules if m.split('.')[0] in sys.argv[1:]])"
    heavy = ["torch", "transformers", "tokenizers", "safetensors", "numpy", "jinja2", "pyarrow", "lance"]
    done = subprocess.run([sys.executable, "-c", script, *heavy], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


PARENT = """
import asyncio, os, pathlib, sys
from longrein.gateway.engine import EngineProcess, Request
async def main():
    engine = await EngineProcess.start("torch", pathlib.Path(sys.argv[1]), {"threads": 1})
    await anext(engine.generate(Request(prompt=[5, 6, 7], ignore_eos=True)))
    print(engine.pid, flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


def test_it_dies_with_its_parent(folder: Path) -> None:
    command = [sys.executable, "-c", PARENT, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as parent:
        assert parent.stdout
        engine = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
        assert parent.wait() == -signal.SIGKILL
        with contextlib.suppress(psutil.NoSuchProcess):
            engine.wait(timeout=20)
