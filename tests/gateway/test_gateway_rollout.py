"""Rollouts through a real server and real engines: who is answered by which release, what that says, how it ends."""

import concurrent.futures
import json
import shutil
import threading
import time

import httpx
import openai
import pytest
from tiny import make

from longrein.control.rollout import begin, drive
from longrein.core.ledger import now_ms
from longrein.core.ledger.traffic import BLOCK_MS
from longrein.gateway.routing import read
from longrein.models.experiment.assign import bucket
from longrein.models.experiment.describe import as_of_now, describe
from longrein.models.experiment.rollout import declared
from longrein.models.registry import promote
from longrein.models.rollback import rollback

LATER_MS = 600_000  # every block has settled, and every deadline passed


def say(client, text="hi", **options):
    return client.chat.completions.create(model="support", messages=[{"role": "user", "content": text}], **options)


def until(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not happen"
    return value


def first_word(answer):
    return answer.choices[0].message.content.split()[0]


def start(world, gateway, candidate, **strategy):
    """Roll a release out as if it had begun a block ago, so that the block that runs now counts."""
    canary = {"strategy": "canary", "steps": [{"weight": 30, "requests": 1}]}
    declared_ = declared(strategy if "strategy" in strategy else canary | strategy)
    stable = world.ledger.assets.get("release:support@prod")
    began = now_ms() // BLOCK_MS * BLOCK_MS - BLOCK_MS
    seen = begin(world.ledger, stable, candidate, declared_, actor="test", clock=lambda: began)
    gateway.refresh()
    gateway.settled(30)
    return seen


def judge(world, gateway):
    """Let all that was recorded settle, and take the rollout's step."""
    gateway.recorder.flush()
    gateway.tally.flush()
    moved = drive(world.ledger, actor="test", clock=lambda: now_ms() + LATER_MS)
    gateway.refresh()
    gateway.settled(30)
    return moved


def test_users_stay_on_their_release_and_a_raised_weight_only_adds(world):
    world.promote(world.release("support", "v1"))
    second = world.release("support", "v2")
    with world.serve() as gateway, world.client(gateway) as client:
        seen = start(world, gateway, second)
        users = [f"user {i}" for i in range(40)]
        drawn = {u: "v2" if bucket(seen.salt, f"user:{u}") < 3000 else "v1" for u in users}
        assert set(drawn.values()) == {"v1", "v2"}
        assert {u: first_word(say(client, user=u)) for u in users} == drawn
        ready = httpx.get(f"{gateway.url}/readyz").json()["endpoints"]["support"]
        assert ready["candidate"] == {"release": "release:support@2", "live": True, "weight": 0.3}
        numbers = httpx.get(f"{gateway.url}/metrics").text
        assert numbers.count("longrein_inflight{") == numbers.count("longrein_engine_words_total{") == 2
        world.ledger.rollouts.save(seen, weight=6000, actor="test")
        gateway.refresh()
        after = {u: first_word(say(client, user=u)) for u in users}
        assert {u for u in users if drawn[u] == "v2"} < {u for u in users if after[u] == "v2"}
        session = {"x-longrein-session": "s1"}  # goes before the user
        assert len({first_word(say(client, user=u, extra_headers=session)) for u in users[:8]}) == 1
        split = [first_word(say(client)) for _ in range(60)]  # those without either are dealt one by one
        assert 15 < split.count("v2") < 55


def test_a_header_chooses_the_release_for_keys_that_may(world):
    first = world.promote(world.release("support", "v1"))
    second = world.release("support", "v2")
    plain = world.ledger.keys.create("app", ("infer",), actor="test")
    with world.serve() as gateway, world.client(gateway) as client:

        def ask(release, key=""):
            with world.client(gateway, key) as chosen:
                return first_word(say(chosen, extra_headers={"x-longrein-release": release}))

        assert [ask(r) for r in ("stable", "candidate", "1", first.ref, first.digest[:12])] == ["v1"] * 5
        with pytest.raises(openai.NotFoundError, match="is not live") as error:
            ask(second.ref)
        assert "release:support@1" in error.value.message
        start(world, gateway, second)
        assert [ask(r) for r in ("candidate", "2", second.digest)] == ["v2"] * 3
        with pytest.raises(openai.PermissionDeniedError):
            ask("candidate", plain)
        assert say(client, user="x").choices


def test_a_key_may_be_pinned_to_a_side(world):
    """A tester's key sees each new release first; one that must not be tried upon never does."""
    world.promote(world.release("support", "v1"))
    second = world.release("support", "v2")
    tester, careful = (world.ledger.keys.create(r, release=r, actor="test") for r in ("candidate", "stable"))
    with world.serve() as gateway, world.client(gateway, tester) as first, world.client(gateway, careful) as last:
        assert first_word(say(first)) == "v1"  # there is no candidate yet
        seen = start(world, gateway, second, steps=[{"weight": 1, "requests": 1}])
        assert {first_word(say(first, user=f"{i}")) for i in range(5)} == {"v2"}
        world.ledger.rollouts.save(seen, weight=10_000, actor="test")
        gateway.refresh()
        assert {first_word(say(last, user=f"{i}")) for i in range(5)} == {"v1"}
        with pytest.raises(openai.PermissionDeniedError):  # a pin gives no right to choose
            say(first, extra_headers={"x-longrein-release": "stable"})


def test_a_canary_that_is_good_is_promoted_and_the_old_release_stays_warm(world):
    world.promote(world.release("support", "v1"))
    second = world.release("support", "v2")
    with world.serve() as gateway, world.client(gateway) as client:
        start(world, gateway, second, judge={"deadline_s": 60, "undecided": "promote"})
        for i in range(30):
            say(client, user=f"{i}")
        (after,) = judge(world, gateway)
        assert after.status == "promoted" and after.state["requests"][1] > 0
        assert first_word(say(client)) == "v2"
        lane = gateway.fleet.lanes["support"]
        assert [r.target.ref for r in lane.live] == ["release:support@2", "release:support@1"]
        pid = lane.live[1].engine.pid
        rollback(world.ledger, "support", actor="test")
        gateway.refresh()
        assert first_word(say(client)) == "v1" and lane.serving.engine.pid == pid  # the very engine that was kept
        promote(world.ledger, second, actor="test")
        gateway.refresh()
        assert first_word(say(client)) == "v2"  # and the undo is undone as fast


def test_a_canary_that_errs_is_taken_back_though_nobody_saw_an_error(world):
    """Its requests were made good by the release in production; the failures are its own all the same."""
    world.promote(world.release("support", "v1"))
    second = world.release("support", "v2", max_queue=0)  # refuses all
    with world.serve() as gateway, world.client(gateway) as client:
        start(world, gateway, second, steps=[{"weight": 50, "requests": 1}])
        assert {first_word(say(client)) for _ in range(60)} == {"v1"}
        (after,) = judge(world, gateway)
        assert after.status == "rolled_back" and "errors" in after.reason
        assert [r.target.ref for r in gateway.fleet.lanes["support"].live] == ["release:support@1"]


def test_a_canary_whose_engine_does_not_start_gets_no_traffic_and_its_rollout_is_told(world):
    world.promote(world.release("support", "v1"))
    broken = world.release("support", "v2", broken=True)
    with world.serve() as gateway, world.client(gateway) as client:
        start(world, gateway, broken, steps=[{"weight": 100, "requests": 1}])
        assert {first_word(say(client)) for _ in range(10)} == {"v1"}
        until(lambda: len(world.ledger.events.recent(broken.ref, "release.failed")) >= 3)
        (after,) = judge(world, gateway)
        assert after.status == "rolled_back" and after.reason.endswith("the echo is broken")


def test_a_canary_whose_engine_dies_leaves_its_users_to_the_stable_one(world):
    world.promote(world.release("support", "v1"))
    second = world.release("support", "v2")
    with world.serve() as gateway, world.client(gateway) as client:
        start(world, gateway, second, steps=[{"weight": 100, "requests": 1}])
        assert first_word(say(client)) == "v2"
        gateway.fleet.lanes["support"].slots[second.digest].replica.engine._process.kill()
        until(lambda: world.ledger.events.recent(second.ref, "release.failed"))
        assert first_word(say(client)) in ("v1", "v2")  # by then it may be back
        gateway.settled(30)
        assert first_word(say(client)) == "v2"


def test_a_shadow_is_asked_compared_and_never_returned(world):
    first = world.promote(world.release("support", "v1"), log_text=True)
    second = world.release("support", "v1", system="be kind")  # says the same, but for what it reads
    with world.serve() as gateway, world.client(gateway) as client:
        undecided = {"alpha": 1e-9}  # whatever a busy machine does to latencies
        start(world, gateway, second, strategy="shadow", share=100, judge=undecided)
        answers = [say(client, f"word {i}") for i in range(10)]
        answers.append(say(client, "read"))
        streamed = list(say(client, "word s", stream=True))
        assert streamed[0].choices and len({a.id for a in answers}) == 11
        raw = client.chat.completions.with_raw_response.create(
            model="support", messages=[{"role": "user", "content": "hi"}]
        )
        assert raw.headers["x-longrein-release"] == first.digest

        def copies():
            gateway.recorder.flush()
            gateway.tally.flush()
            blocks = world.ledger.traffic.blocks("support", 0, now_ms() + LATER_MS)
            found = [b for b in blocks if b.arm == "shadow"]
            return found if sum(b.requests for b in found) == 13 else None

        found = until(copies)
        assert {b.release for b in found} == {second.digest}
        (seen,) = world.ledger.rollouts.recent("support")
        assert as_of_now(world.ledger, seen)["requests"] == {"stable": 13, "candidate": 13}  # before any judgement
        agreed = [b.scores["agreement"] for b in found]
        assert sum(s.count for s in agreed) == 13 and sum(s.sum for s in agreed) == 12  # "read" tells them apart
        assert judge(world, gateway) == []
        (seen,) = world.ledger.rollouts.recent("support")
        assert describe(seen)["requests"] == {"stable": 13, "candidate": 13}


def test_a_canary_of_a_real_engine_and_back(world, tmp_path):
    """Two releases of a small transformer at once; the answer of the first is the same after the second was there."""
    options = {"engine": "torch", "max_batch": 4, "threads": 1}
    model = make(tmp_path / "hf")
    again = shutil.copytree(model, tmp_path / "again")  # the store takes what it is given
    first = world.promote(world.release("support", model, **options))
    second = world.release("support", again, system="Be kind.", **options)
    with world.serve() as gateway, world.client(gateway) as client:

        def answer(**more):
            asked = {"model": "support", "messages": [{"role": "user", "content": "我的卡丢了"}], "temperature": 0}
            raw = client.chat.completions.with_raw_response.create(**asked, max_tokens=8, **more)
            return raw.headers["x-longrein-release"], raw.parse().choices[0].message.content

        before = answer()
        start(world, gateway, second, steps=[{"weight": 100, "requests": 1}])
        during = answer()
        header = {"x-longrein-release": "stable"}
        assert answer(extra_headers=header) == before and during[0] == second.digest
        stream = client.chat.completions.create(
            model="support", messages=[{"role": "user", "content": "hello"}], max_tokens=200, stream=True
        )
        assert next(stream).choices[0].delta.role == "assistant"
        rollback(world.ledger, "support", actor="test")
        gateway.refresh()
        assert answer() == before and before[0] == first.digest
        assert list(stream)[-1].choices[0].finish_reason in ("stop", "length")  # begun on the second, ended on it


def test_an_ab_ends_by_what_people_say(world):
    world.promote(world.release("support", "v1"))
    second = world.release("support", "v2")
    with world.serve() as gateway, world.client(gateway) as client:
        start(world, gateway, second, strategy="ab", judge={"goal": "feedback"})
        headers = {"Authorization": f"Bearer {world.key}"}
        for i in range(50):
            answer = say(client, user=f"{i}")
            gateway.recorder.flush()
            told = {"request_id": answer.id, "metrics": {"feedback": first_word(answer) == "v2"}}
            assert httpx.post(f"{gateway.url}/v1/feedback", json=told, headers=headers).status_code < 300
        (after,) = judge(world, gateway)
        assert after.status == "promoted" and "better in feedback" in after.reason


def test_a_thousand_swaps_drop_no_stream(world, tmp_path):
    """Two warm releases take each other's place again and again, promoted and rolled back, while clients stream."""
    first = world.promote(world.release("support", "v1"))
    second = world.release("support", "v2")
    text = " ".join(f"w{i}" for i in range(12))
    with world.serve() as gateway:
        world.promote(second)
        gateway.refresh()
        gateway.settled(30)
        done, seen = threading.Event(), []

        def stream():
            with world.client(gateway) as client:
                while not done.is_set():
                    pieces = [c.choices[0].delta.content or "" for c in say(client, text, stream=True) if c.choices]
                    seen.append("".join(pieces))

        lane = gateway.fleet.lanes["support"]
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            streams = [pool.submit(stream) for _ in range(2)]
            engines = {r.engine.pid for r in lane.live}
            tables = []
            for _ in range(50):  # all the way from the ledger, then the tables it gave, as fast as they are taken
                rollback(world.ledger, "support", "1", actor="test")
                gateway.refresh()
                tables.append(read(world.ledger))
                promote(world.ledger, second, actor="test")
                gateway.refresh()
                tables.append(read(world.ledger))
            for table in tables * 9:
                gateway._new_table(table)
            done.set()
            for ended in streams:
                ended.result(30)
        assert seen and set(seen) <= {f"v1 {text}", f"v2 {text}"}
        assert len(set(seen)) == 2 and {r.engine.pid for r in lane.live} == engines
        world.ledger.events.verify()
        assert len(world.ledger.events.recent("release:support@prod", "alias.rolled_back", limit=1000)) == 50
        assert first.ref in json.dumps([e.data for e in world.ledger.events.recent("release:support@prod")])


def test_a_rollback_is_followed_within_the_poll_without_being_asked(world):
    world.promote(world.release("support", "v1"))
    second = world.release("support", "v2")
    with world.serve() as gateway, world.client(gateway) as client:
        start(world, gateway, second, steps=[{"weight": 100, "requests": 1}])
        assert first_word(say(client)) == "v2"
        rollback(world.ledger, "support", actor="test", reason="by hand")
        until(lambda: first_word(say(client)) == "v1")
        assert describe(world.ledger.rollouts.recent("support")[0])["reason"] == "by hand"
