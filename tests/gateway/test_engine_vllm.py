"""The engine vllm over a program that stands for `vllm` (fake_vllm.py): no GPU, but processes, sockets, HTTP."""

import asyncio
import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import tiny

from longrein.core import plugins
from longrein.core.errors import Error
from longrein.core.generation import Request
from longrein.gateway.engine import EngineProcess

CHAT = [{"role": "user", "content": "How do I change the card? 我的卡丢了"}]
FAKE = Path(__file__).parent / "fake_vllm.py"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny.make(tmp_path_factory.mktemp("vllm") / "model")


class Program:
    def __init__(self, log):
        self.log = log

    def notes(self):
        return [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []

    def until(self, condition):
        """Wait for what the program notes."""
        deadline = time.monotonic() + 20
        while not (found := condition(self.notes())):
            assert time.monotonic() < deadline, self.notes()
            time.sleep(0.01)
        return found


@pytest.fixture
def program(tmp_path, monkeypatch):
    """A program called vllm on the PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "vllm").write_text(f'#!/bin/sh\nexec {sys.executable} {FAKE} "$@"\n')
    (folder / "vllm").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_VLLM_LOG", str(tmp_path / "log"))
    return Program(tmp_path / "log")


@pytest.fixture
def engine(program, model):
    made = plugins.load("engine", "vllm")(model, {"context": 128, "flags": {"enforce-eager": True}})
    yield made
    made.server.close()


def finish(engine, *requests):
    events = {request.id: [] for request in requests}
    for request in requests:
        engine.submit(request)
    while engine.pending():
        for event in engine.step():
            events[event.id].append(event)
    return events


def text(events):
    return "".join(event.text for event in events)


def test_answers_stream_with_tokens_text_and_usage(engine, model):
    assert (engine.info["context"], engine.info["max_batch"], engine.info["chat"]) == (128, 256, True)
    requests = [Request(id=str(i), messages=CHAT, max_tokens=1 + i % 7, ignore_eos=True) for i in range(20)]
    for request, events in zip(requests, finish(engine, *requests).values(), strict=True):
        ids = [id for event in events for id in event.token_ids]
        assert len(ids) == request.max_tokens and text(events) == engine.text.tokenizer.decode(ids).rstrip("\ufffd")
        last = events[-1]
        assert [e.finish_reason for e in events] == [None] * (len(events) - 1) + ["length"]
        assert last.usage.completion_tokens == len(ids) and last.usage.cached_tokens == 2 and last.usage.first_s > 0
        torch = plugins.load("engine", "torch")(model, {}) if request.id == "0" else None
        if torch:  # the same prompt, whatever answers it
            torch.submit(Request(id="t", messages=CHAT, max_tokens=1))
            assert torch.step()[-1].usage.prompt_tokens == last.usage.prompt_tokens


def test_the_program_is_started_as_the_options_say(engine, program, model):
    [started] = program.notes()
    argv = started["argv"]
    assert argv[:4] == ["serve", str(model), "--served-model-name", "model"] and started["offline"] == "1"
    wanted = {"--max-num-seqs=256", "--max-model-len=128", "--scheduling-policy=priority", "--enforce-eager"}
    assert wanted <= set(argv) and not any(a.startswith("--quantization") for a in argv)
    assert os.stat(Path(engine.server.socket).parent).st_mode & 0o077 == 0  # nobody else asks it without a key


def test_stop_strings_end_of_text_and_logprobs(engine):
    prompt = [50]
    [whole] = finish(engine, Request(id="a", prompt=prompt, max_tokens=40)).values()
    stop = text(whole)[10:13]
    fields = {"prompt": prompt, "max_tokens": 40}
    [cut] = finish(engine, Request(id="a", stop=[stop], **fields)).values()
    assert text(cut) == text(whole)[:10] and (cut[-1].finish_reason, cut[-1].stop) == ("stop", stop)
    last = engine.text.tokenizer.get_vocab_size() - 1  # next comes id 0, the end of a text
    [ended] = finish(engine, Request(id="a", prompt=[last], max_tokens=40)).values()
    assert (ended[-1].finish_reason, ended[-1].stop, text(ended)) == ("stop", None, "")
    for count in (0, 1, 2):
        [told] = finish(engine, Request(id="a", prompt=prompt, max_tokens=2, logprobs=count)).values()
        [logprob] = told[0].logprobs
        assert logprob.logprob == -0.5 and [p for _, p in logprob.top] == [-0.5, -1.5][:count]


def test_a_cancelled_request_is_aborted_there_and_others_go_on(engine, program):
    for id in ("a", "b"):
        engine.submit(Request(id=id, prompt=[50], ignore_eos=True, priority=3, cache_salt="x"))
    while not any(e.id == "a" for e in engine.step()):
        pass
    engine.cancel("a")
    engine.cancel("a")
    assert engine.pending() == 1
    ids = set()
    while engine.pending():
        ids |= {e.id for e in engine.step()}
    assert ids == {"b"}
    program.until(lambda notes: [n["whole"] for n in notes if "said" in n] and len(notes) == 3)
    assert {(n["priority"], n["salt"]) for n in program.notes()[1:]} == {(3, "x")}


def test_bad_requests_and_failures_there(engine):
    for request in (Request(id="x"), Request(id="x", prompt=""), Request(id="x", prompt=[5] * 200)):
        with pytest.raises(Error) as caught:
            engine.submit(request)
        assert caught.value.code == "invalid" and caught.value.details["param"]
    found = finish(
        engine, Request(id="far", prompt=[10**6]), Request(id="ill", prompt=[5], seed=666), Request(id="ok", prompt=[5])
    )
    far, ill = (Error.from_dict(found[id][-1].error) for id in ("far", "ill"))
    assert (far.code, far.details["param"]) == ("invalid", "prompt")
    assert ill.code == "failed" and "EngineCore" in ill.message
    assert found["ok"][-1].finish_reason


def test_stats_come_from_its_metrics(engine):
    finish(engine, Request(id="a", prompt=[50], max_tokens=5, ignore_eos=True))
    stats = engine.stats()
    assert (stats["running"], stats["tokens_in_total"], stats["tokens_out_total"], stats["steps_total"]) == (0, 1, 5, 5)
    assert stats["step_s"] == pytest.approx(0.01)


def test_what_cannot_be_started_is_told(program, model, tmp_path, monkeypatch):
    vllm = plugins.load("engine", "vllm")
    for options in ({"flags": {"port": 1}}, {"flags": {"trust_remote_code": True}}, {"odd": 1}):
        with pytest.raises(Error) as caught:
            vllm(model, options)
        assert caught.value.code == "invalid"
    monkeypatch.setenv("FAKE_VLLM", "dies")
    with pytest.raises(Error, match="status 3"):
        vllm(model, {})
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Error) as caught:
        vllm(model, {})
    assert caught.value.code == "missing_package"


def gone(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return True
    return state == "Z"


@pytest.mark.skipif(sys.platform != "linux", reason="a child that dies with its parent is Linux's")
@pytest.mark.parametrize("way", ["engine killed", "vllm killed", "stopped"])
def test_engine_and_program_end_together(program, model, tmp_path, way):
    async def run():
        ended = asyncio.Event()
        engine = await EngineProcess.start("vllm", model, log=tmp_path / "out", on_exit=lambda _: ended.set())
        events = [e async for e in engine.generate(Request(prompt=[50], max_tokens=3, ignore_eos=True))]
        assert events[-1].usage.completion_tokens == 3
        pid = program.notes()[0]["pid"]
        if way == "stopped":
            await engine.stop()
        else:
            os.kill(engine.pid if way == "engine killed" else pid, signal.SIGKILL)
            await asyncio.wait_for(ended.wait(), 20)
            await engine.stop()
        program.until(lambda _: gone(pid))

    asyncio.run(run())
