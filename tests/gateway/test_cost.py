"""What requests cost, on a real engine: nothing of its time is lost, and with the idle time it is the bill."""

import asyncio
import concurrent.futures
import json
import time

import openai
import pytest
from tiny import make

from longrein.control import value, whatif
from longrein.core import meter
from longrein.core.errors import Error
from longrein.core.meter import Meter
from longrein.gateway.cost import tags
from longrein.ops.value.report import UNMATCHED

RATE = 3600.0  # USD an hour: a dollar a second
FOREVER = 1 << 60


@pytest.fixture(scope="module")
def served(tmp_path_factory, new_world):
    """A server whose hour was busy: whole answers and streams, cancelled ones, refused ones, offline ones that had to
    make way, embeddings, prompts that begin alike. Its world, once it has ended."""
    folder = tmp_path_factory.mktemp("cost")
    world = new_world(folder)
    release = world.release(
        "support", make(folder / "hf"), system="Be kind. " * 12, engine="torch", max_batch=3, threads=1
    )
    world.promote(release)
    world.endpoints["support"]["value"] = {"resolved": 2.5}
    costs = {"machine": {"usd_per_hour": RATE}}
    world.ledger.work.want({"project": "test", "endpoints": world.endpoints, "costs": costs}, actor="test")
    with world.serve() as gateway, world.client(gateway) as client:
        batch = offline(client, 12)
        while not engine(gateway)["running"]:  # else there is nobody who could make way
            time.sleep(0.01)
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda i: ask(client, i), range(60)))
        while client.batches.retrieve(batch).status not in ("completed", "failed"):
            time.sleep(0.05)
        preempted = engine(gateway)["preemptions_total"]
    yield world, preempted
    world.ledger.close()


def engine(gateway):
    """What the engine counts."""
    stats = gateway.fleet.lanes["support"].serving.engine.stats()
    return asyncio.run_coroutine_threadsafe(stats, gateway._loop).result(10)


def ask(client, i):
    messages = [{"role": "user", "content": f"{i % 5} 我的卡丢了 " * (1 + i % 4)}]
    more = {"max_tokens": 8 + i % 40, "extra_headers": {"x-longrein-tags": f"feature=f{i % 3}"}, "seed": i}
    kind = i % 6
    if kind == 0:  # hangs up in the middle
        with client.chat.completions.create(
            model="support",
            messages=messages,
            stream=True,
            extra_body={"ignore_eos": True},
            **more | {"max_tokens": 60},
        ) as stream:
            next(iter(stream))
    elif kind == 1:  # hangs up before it has begun
        with pytest.raises(openai.APITimeoutError):
            client.with_options(timeout=0.02).chat.completions.create(
                model="support", messages=messages, extra_body={"ignore_eos": True}, **more | {"max_tokens": 100}
            )
    elif kind == 2:
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(model="support", messages=[{"role": "user", "content": "word " * 5000}])
    elif kind == 3:
        client.embeddings.create(model="support", input=["a", "the second text"])
    else:
        client.chat.completions.create(model="support", messages=messages, n=1 + i % 2, **more)


def offline(client, count):
    body = {
        "model": "support",
        "messages": [{"role": "user", "content": "later"}],
        "max_tokens": 150,
        "ignore_eos": True,
    }
    lines = [
        json.dumps({"custom_id": str(i), "method": "POST", "url": "/v1/chat/completions", "body": body})
        for i in range(count)
    ]
    file = client.files.create(file=("in.jsonl", "\n".join(lines).encode()), purpose="batch")
    return client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h").id


def test_the_requests_and_the_idle_time_are_the_bill(served):
    world, preempted = served
    records = world.requests.find(limit=1000)
    assert preempted and len(records) == 72
    [life] = meter.read(world.folder / ".longrein" / meter.FOLDER, 0, FOREVER)
    assert life.endpoint == "support"
    alive, busy = sum(h.alive_s for h in life.hours), sum(h.busy_s for h in life.hours)
    spent = sum(r["prefill_ms"] + r["decode_ms"] for r in records) / 1000
    assert spent == pytest.approx(busy, rel=1e-3) and 0 < busy < alive
    idle = alive - busy
    asked = sum(r["cost_usd"] or 0.0 for r in records)
    assert asked + idle * RATE / 3600 == pytest.approx(alive * RATE / 3600, rel=1e-3)
    gone = [r for r in records if r["status"] == 499]
    assert len(gone) >= 10 and sum(r["cost_usd"] for r in gone) > 0 and any(r["decode_ms"] for r in gone)
    assert {tuple(r["tags"]) for r in records} >= {("feature=f0",), ("feature=f1",), ()}


def test_a_meter_outlives_clocks_that_jump_and_disks_that_are_full(tmp_path, monkeypatch):
    now_ms = 1_700_000_000_000 // meter.HOUR_MS * meter.HOUR_MS + 10_000
    monkeypatch.setattr(meter, "_now_ms", lambda: now_ms)
    (tmp_path / "engines").write_text("no folder can be here")
    mine = Meter(tmp_path / "engines", "of release:support@3", time.monotonic() - 60)
    mine.look(12.0)
    (tmp_path / "engines").unlink()
    for busy_s, jump_ms in ((13, 3_600_000), (14, -6_600_000), (15, 90_000_000), (16, -86_400_000), (17, 86_400_000)):
        now_ms += jump_ms
        mine.look(busy_s)
    found = meter.read(tmp_path / "engines", 0, FOREVER)
    hours = [hour for day in found for hour in day.hours]
    assert [day.endpoint for day in found] == ["support"] * len(found) and len(found) >= 2
    assert sum(hour.busy_s for hour in hours) == pytest.approx(17.0)
    assert 60 <= sum(hour.alive_s for hour in hours) < 70 and all(hour.alive_s >= 0 for hour in hours)
    (tmp_path / "engines" / "torn.json").write_bytes(b'{"name": "of')
    (tmp_path / "engines" / "0-1-2.json").write_bytes(b"")
    meter.forget(tmp_path / "engines", now_ms)
    assert len(meter.read(tmp_path / "engines", 0, FOREVER)) == len(found)
    assert not (tmp_path / "engines" / "0-1-2.json").exists()


def test_tags_are_few_and_short_and_no_reason_to_refuse():
    assert tags("feature=search, customer=Müller%20%26%20S%C3%B6hne") == ["customer=Müller & Söhne", "feature=search"]
    assert tags("") == tags("=x,feature=,no sign,1a=2,a b=c,x=" + "y" * 65) == tags("a=%00") == []
    assert len(tags(",".join(f"t{i}={i}" for i in range(1000)))) == 8
    assert tags("a=1,a=2") == ["a=2"]


def test_the_report_of_a_busy_hour_is_the_bill_too(served):
    world, _ = served
    for request in world.requests.find(limit=5):
        where = {"endpoint": "support", "release": request["release"]}
        world.ledger.feedback.put(request["id"], [("resolved", 1.0, "")], source="crm", **where)
    nobody = {"source": "crm", "endpoint": "support", "release": ""}
    world.ledger.feedback.put("chatcmpl-" + f"{1:024x}", [("resolved", 1.0, "")], **nobody)
    site = value.Site(world.ledger, world.folder / ".longrein")
    for by in ("endpoint", "release", "key", "user", "day", "hour", "feature", "model"):
        found = value.spent(site, by, 0)
        assert found.total.requests == 72 and not found.notes
        rest = {one.what: one.usd for one in found.rest}
        assert (
            set(rest) == {"(idle)", UNMATCHED}
            and rest[UNMATCHED] == 2.5
            and found.total.value_usd == pytest.approx(12.5)
        )
        assert found.total.cost_usd + rest["(idle)"] == pytest.approx(found.bill_usd, rel=1e-6)
    assert found.lines[0].group.startswith("support@")
    features = {line.group: line for line in value.spent(site, "feature", 0).lines}
    assert features.keys() == {"f0", "f1", "f2", "–"} and features["f1"].cost_usd > 0
    assert value.spent(site, "endpoint", 0, idle=True).total.cost_usd == pytest.approx(found.bill_usd)


def test_what_a_rule_started_is_paid_once(ledger, tmp_path):
    ledger.work.want({"project": "test"}, actor="ann")
    for capability in ("control.rules", "models.train"):
        run = ledger.runs.start(capability=capability, name="x", actor="ann")
        ledger.runs.finish(run, actor="ann", cost_usd=2.0)
    found = value.spent(value.Site(ledger, tmp_path / ".longrein"), "endpoint", 0, until_ms=FOREVER)
    assert [(one.what, one.usd) for one in found.steps] == [("models.train", 2.0)]


def test_what_if(served):
    world, _ = served
    site = value.Site(world.ledger, world.folder / ".longrein")
    now = whatif.measured(site, "support", 0)
    assert now.asked == 72 and now.repeated >= 11 and 0 < now.busy < 1  # the offline ones are all the same
    assert now.cost_usd == pytest.approx(value.spent(site, "endpoint", 0).bill_usd)
    tried = whatif.trial(site, world.store, "support", "", "", {"max_batch": 1}, now)
    assert tried.other_s > 0 < tried.now_s and "max_batch=1" in tried.what
    for endpoint, code in (("suport", "not_found"), ("empty", "invalid")):
        world.want("empty")
        with pytest.raises(Error) as error:
            whatif.measured(site, endpoint, 0)
        assert error.value.code == code
