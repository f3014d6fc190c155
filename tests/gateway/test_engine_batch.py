"""What the batcher does with prompts in pieces, prefixes, priorities and faults changes no answer."""

import asyncio
import random
from array import array
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from longrein.core.errors import Error
from longrein.core.generation import Event, Limits, Request
from longrein.gateway.engine import EngineProcess
from longrein.plugins.engine._torch import attention
from longrein.plugins.engine._torch.model import Span
from longrein.plugins.engine._torch.slots import LEAST, Slots
from longrein.plugins.engine.torch import Torch

SYSTEM = [7 + i % 300 for i in range(40)]  # a beginning that many prompts share


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make(tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder).eval()


def reference(model: Any, prompt: list[int], tokens: int) -> list[int]:
    given = torch.tensor([prompt])
    out = model.generate(given, attention_mask=torch.ones_like(given), max_new_tokens=tokens, do_sample=False)
    found: list[int] = out[0, len(prompt) :].tolist()
    return found


def finish(engine: Torch) -> dict[str, list[Event]]:
    events: dict[str, list[Event]] = {}
    while engine.pending():
        for event in engine.step():
            events.setdefault(event.id, []).append(event)
    return events


def ids(events: list[Event]) -> list[int]:
    return [id for event in events for id in event.token_ids]


def answer(engine: Torch, **fields: Any) -> list[Event]:
    engine.submit(Request(id="one", **fields))
    return finish(engine)["one"]


def usage(events: list[Event]) -> Any:
    return events[-1].usage


def some(seed: int, count: int) -> list[list[int]]:
    draw = random.Random(seed)
    return [[draw.randrange(3, 320) for _ in range(draw.randrange(1, 60))] for _ in range(count)]


@pytest.mark.parametrize("kept", [0, 1, 8])
def test_equals_generate_under_limits_that_change_at_random(folder: Path, model: Any, kept: int) -> None:
    """40 requests, half of them offline, most beginning alike, while batch, pieces and offline share jump."""
    engine, draw = Torch(folder, {"max_batch": 6, "kept": kept}), random.Random(kept)
    prompts = [SYSTEM[: draw.choice([0, 20, 40])] + rest for rest in some(1, 40)]
    lengths, coming = [draw.randrange(1, 30) for _ in prompts], list(range(40))
    got: list[list[int]] = [[] for _ in prompts]
    while coming or engine.pending():
        for _ in range(draw.choice([0, 0, 1, 4]) if engine.pending() else 1):
            if coming:
                i = coming.pop(0)
                priority = draw.choice([-1, 0, 5, 9])
                engine.submit(
                    Request(id=str(i), prompt=prompts[i], max_tokens=lengths[i], temperature=0, priority=priority)
                )
        engine.limits = Limits(draw.randrange(1, 7), draw.choice([1, 3, 16, 100]), draw.randrange(1, 7))
        for event in engine.step():
            got[int(event.id)] += event.token_ids
    assert got == [reference(model, p, n) for p, n in zip(prompts, lengths, strict=True)]
    stats = engine.stats()
    assert stats["preemptions_total"] > 5 and stats["cached_tokens_total"] > 100
    assert stats["kv_tokens"] == 0


# prefixes


def test_the_next_turn_of_a_conversation_computes_only_what_is_new(folder: Path, model: Any) -> None:
    engine, history = Torch(folder, {}), SYSTEM
    for turn, more in enumerate(some(3, 4)):
        prompt = history + more
        events = answer(engine, prompt=prompt, max_tokens=10, temperature=0, ignore_eos=True)
        assert usage(events).cached_tokens == (len(history) - 1 if turn else 0)  # the last token was never read
        history = prompt + ids(events)
    assert ids(answer(Torch(folder, {"kept": 0}), prompt=prompt, max_tokens=10, temperature=0)) == ids(events)


def test_a_prompt_shared_by_many_at_once(folder: Path) -> None:
    engine = Torch(folder, {"max_batch": 8, "prefill_tokens": 60})
    for i, more in enumerate(some(4, 8)):
        engine.submit(Request(id=str(i), prompt=SYSTEM + more, max_tokens=60, ignore_eos=True))
    cached = {id: usage(events).cached_tokens for id, events in finish(engine).items()}
    assert cached["0"] == 0 and min(cached[str(i)] for i in range(2, 8)) >= len(SYSTEM)


def test_the_same_prompt_again(folder: Path) -> None:
    engine = Torch(folder, {})
    fields: dict[str, Any] = {"prompt": SYSTEM, "max_tokens": 5, "temperature": 0}
    first, again = answer(engine, **fields), answer(engine, **fields)
    assert ids(first) == ids(again)
    assert (usage(first).cached_tokens, usage(again).cached_tokens) == (0, len(SYSTEM) - 1)


def test_a_salt_keeps_tenants_apart(folder: Path) -> None:
    engine = Torch(folder, {})
    cached = [
        usage(answer(engine, prompt=SYSTEM, max_tokens=2, cache_salt=salt)).cached_tokens
        for salt in ("", "a", "b", "a")
    ]
    assert cached == [0, 0, 0, len(SYSTEM) - 1]


tokens = st.lists(st.integers(0, 1), max_size=4 * LEAST)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(tokens, st.sampled_from("ab"), st.booleans()), max_size=25), st.integers(1, 4))
def test_slots_never_give_what_they_do_not_hold(requests: list[tuple[list[int], str, bool]], count: int) -> None:
    """Against a plain list of what was written where."""
    slots, written, used = Slots(count), [([], "") for _ in range(count)], []  # type: ignore[var-annotated]
    for wanted, salt, ends in (([*w, 1], s, e) for w, s, e in requests):
        if not slots.free:
            slots.release(used.pop(0))
        slot, shared, source = slots.take(wanted, salt)
        assert slot not in used and shared < len(wanted)
        assert shared == 0 or (written[source][0][:shared] == wanted[:shared] and written[source][1] == salt)
        slots.extend(slot, wanted[shared:])
        assert slots.held[slot] == array("i", wanted).tobytes()
        written[slot] = (wanted, salt)
        used.append(slot)
        if ends:
            slots.release(used.pop())


# priorities


def test_online_goes_first_and_takes_the_place_of_offline(folder: Path, model: Any) -> None:
    engine, prompts = Torch(folder, {"max_batch": 2, "kept": 0}), some(5, 5)
    fields: dict[str, Any] = {"max_tokens": 20, "ignore_eos": True}
    for i in (0, 1):
        engine.submit(Request(id=f"offline {i}", prompt=prompts[i], priority=1, temperature=0, **fields))
    early = [event for _ in range(5) for event in engine.step()]
    for i in (2, 3, 4):
        engine.submit(Request(id=f"online {i}", prompt=prompts[i], priority=-i, seed=i, **fields))
    assert {event.id for event in engine.step()} == {"online 3", "online 4"}
    assert engine.stats()["preemptions_total"] == 2
    assert engine.stats()["waiting_by_priority"] == {"-2": 1, "1": 2}
    rest = finish(engine)
    for i in (0, 1):
        whole = [id for event in early if event.id == f"offline {i}" for id in event.token_ids]
        whole += ids(rest[f"offline {i}"])
        assert whole == ids(answer(Torch(folder, {}), prompt=prompts[i], temperature=0, **fields))
        assert usage(rest[f"offline {i}"]).completion_tokens == 20
    for i in (3, 4):
        alone = answer(Torch(folder, {}), prompt=prompts[i], seed=i, **fields)
        assert ids(alone)[1:] == ids(rest[f"online {i}"])


def test_a_preempted_seeded_answer_goes_on_as_if_nothing_had_been(folder: Path) -> None:
    engine = Torch(folder, {"max_batch": 1, "kept": 0})
    wanted: dict[str, Any] = {"prompt": SYSTEM, "seed": 4, "max_tokens": 30, "ignore_eos": True}
    got = []
    engine.submit(Request(id="x", priority=1, **wanted, repetition_penalty=1.2))
    for i in range(40):
        if i in (3, 9, 14):  # each takes the only slot, and so all that was computed
            engine.submit(Request(id=str(i), prompt=[9, 8], max_tokens=2))
        got += [id for event in engine.step() if event.id == "x" for id in event.token_ids]
    assert engine.stats()["preemptions_total"] == 3
    assert got == ids(answer(Torch(folder, {}), **wanted, repetition_penalty=1.2))


def test_each_lane_has_a_queue_of_its_own(folder: Path) -> None:
    engine = Torch(folder, {"max_batch": 1, "max_queue": 2})
    for i in range(2):
        engine.submit(Request(id=f"offline {i}", prompt=[5], priority=3))
    engine.submit(Request(id="online", prompt=[5], max_tokens=1))
    assert {event.id for event in engine.step()} == {"online"}


def test_cancelled_in_the_middle_of_a_prompt(folder: Path, model: Any) -> None:
    engine = Torch(folder, {"prefill_tokens": 10})
    engine.submit(Request(id="x", prompt=SYSTEM, max_tokens=5))
    assert engine.step() == [] and engine.stats()["kv_tokens"] == 10
    engine.cancel("x")
    assert engine.pending() == 0 and engine.step() == [] and engine.work is None
    prompt = [*SYSTEM, 11]
    assert ids(answer(engine, prompt=prompt, max_tokens=9, temperature=0)) == reference(model, prompt, 9)


# faults


def test_an_output_that_is_no_number_ends_its_request_only(tmp_path: Path) -> None:
    """One token of the vocabulary spoils whatever it touches."""
    folder = tiny.make(tmp_path, tie_word_embeddings=False)
    engine, model = Torch(folder, {"max_batch": 3, "kept": 0}), AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.inference_mode():
        engine.model.embedding[300] = torch.nan
    prompts = {"a": SYSTEM[:9], "bad": [*SYSTEM[:20], 300], "b": SYSTEM[:12]}
    for id, prompt in prompts.items():
        engine.submit(Request(id=id, prompt=prompt, max_tokens=20, temperature=0))
    found = finish(engine)
    [error] = found.pop("bad")
    assert error.error and error.error["code"] == "failed" and "not a number" in error.error["message"]
    assert {id: ids(events) for id, events in found.items()} == {i: reference(model, prompts[i], 20) for i in "ab"}
    after = answer(engine, prompt=SYSTEM, max_tokens=20, temperature=0)
    assert usage(after).cached_tokens < 20 and ids(after) == reference(model, SYSTEM, 20)


def test_an_error_in_one_requests_text_ends_it_only(folder: Path, model: Any) -> None:
    engine = Torch(folder, {})
    for id in "ab":
        engine.submit(Request(id=id, prompt=SYSTEM, max_tokens=9, temperature=0))
    engine.step()
    engine.running[0].stream.tokenizer = None  # type: ignore[assignment]
    found = finish(engine)
    assert found["a"][-1].error and "AttributeError" in found["a"][-1].error["message"]
    assert found["b"][-1].finish_reason and engine.pending() == 0


# accounting


def test_the_shares_add_up_to_the_time_it_was_busy(folder: Path) -> None:
    engine = Torch(folder, {"max_batch": 4, "prefill_tokens": 30})
    for i, prompt in enumerate(some(6, 9)):
        engine.submit(Request(id=str(i), prompt=prompt, max_tokens=1 + i, ignore_eos=True))
    used = [usage(events) for events in finish(engine).values()]
    assert sum(u.prefill_s + u.decode_s for u in used) == pytest.approx(engine.stats()["busy_s_total"])
    assert all(u.prefill_s > 0 for u in used) and [u for u in used if not u.decode_s] == [used[0]]


def test_work_says_what_a_step_was(folder: Path) -> None:
    engine = Torch(folder, {"prefill_tokens": 30})
    engine.submit(Request(id="x", prompt=SYSTEM, max_tokens=3, ignore_eos=True))
    engine.submit(Request(id="y", prompt=[5, 6], max_tokens=1))
    load = engine.load()
    assert [(q.id, q.tokens) for q in load.waiting] == [("x", 40), ("y", 2)] and load.running == 0
    seen = []
    while engine.pending():
        engine.step()
        work = engine.work
        assert work and work.seconds > 0
        seen.append((work.batch, work.prefill_tokens, work.context, work.ended, [id for id, _ in work.first]))
    assert seen == [
        (0, 30, 30, 0, []),
        (2, 12, 42, 1, ["x", "y"]),
        (1, 0, 41, 0, []),
        (1, 0, 42, 1, []),
    ]


# kernels and types


@pytest.mark.parametrize("head", [8, 32, 100])
@pytest.mark.parametrize("kernel", ["_single", "_threaded"])
def test_the_kernel_is_attention(kernel: str, head: int) -> None:
    made = torch.Generator().manual_seed(head)
    q = torch.randn(5, 2, 3, head, generator=made)
    keys, values = torch.randn(2, 7, 2, 50, head, generator=made)
    slots, lengths = torch.tensor([6, 0, 3, 2, 5]), torch.tensor([1, 50, 7, 33, 2])
    out = torch.empty_like(q)
    given = (t.numpy() for t in (q, keys, values, slots, lengths, out))
    getattr(attention, kernel)(*given, head**-0.5)
    assert torch.allclose(out, attention._gathered(q, keys, values, slots, lengths), atol=1e-5)


@pytest.mark.parametrize(("dtype", "error"), [("bfloat16", 0.03), ("int8", 0.08)])
@pytest.mark.parametrize("biased", [False, True])
def test_smaller_types_come_close(tmp_path: Path, dtype: str, error: float, biased: bool) -> None:
    folder = tiny.make(tmp_path, attention_bias=biased, mlp_bias=biased)
    exact, close = (Torch(folder, {"dtype": d}) for d in ("float32", dtype))
    assert close.info["dtype"] == dtype
    spans = [Span(0, 0, [5], True), *(Span(i + 1, 0, prompt, True) for i, prompt in enumerate(some(7, 8)))]
    spans.sort(key=lambda span: len(span.tokens) > 1)
    with torch.inference_mode():
        a, b = exact.model.forward(spans), close.model.forward(spans)
        alone = close.model.forward(spans[-1:])
    assert (a - b).norm() / a.norm() < error
    assert torch.allclose(alone[0], b[-1], atol=0.05 * float(b.std()))  # whatever it is batched with
    assert len(ids(answer(close, prompt=[5, 6], max_tokens=4, ignore_eos=True))) == 4


# in its process


def test_what_would_be_late_is_refused_at_once_but_not_the_offline_lane(folder: Path) -> None:
    """A promise so short that whoever has to wait is late, once the engine knows its own speed."""

    async def main() -> None:
        options = {"threads": 1, "max_batch": 2, "slo": {"ttft_s": 1e-4, "tpot_s": 10.0}}
        engine = await EngineProcess.start("torch", folder, options)

        async def ask(**fields: Any) -> Any:
            return [e async for e in engine.generate(Request(prompt=SYSTEM, ignore_eos=True, **fields))][-1].usage

        try:
            await ask(max_tokens=60)  # it learns; nobody is late who is alone
            online = [ask(max_tokens=50) for _ in range(12)]
            offline = [ask(max_tokens=5, priority=1) for _ in range(12)]
            first = [ask(max_tokens=5, priority=-1) for _ in range(3)]
            found = await asyncio.gather(*online, *offline, *first, return_exceptions=True)
            refused = [e for e in found[:12] if isinstance(e, Error)]
            assert refused and {e.code for e in refused} == {"overloaded"}
            assert all(e.details["retry_after_s"] >= 1 and "promises" in e.message for e in refused)
            assert not [e for e in found[12:] if isinstance(e, BaseException)]
            stats = await engine.stats()
            assert stats["running"] == stats["waiting"] == 0
            assert (await ask(max_tokens=5)).completion_tokens == 5
        finally:
            await engine.stop()

    asyncio.run(asyncio.wait_for(main(), 60))
