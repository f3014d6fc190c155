"""From a gateway whose engine dies to the message in a chat, and the end of it: everything real but the clock, which
the observer has ahead of the gateway, so that nobody waits for blocks to settle."""

import time
from pathlib import Path

import openai
import pytest
from receiver import receiver
from world import World

from longrein.control.alerting import Alerting
from longrein.control.delivery import Delivery
from longrein.control.observer import PARTS, Observer
from longrein.core.ledger import now_ms
from longrein.core.ledger.traffic import BLOCK_MS, SETTLED_MS
from longrein.ops.monitor.objective import HOUR_MS

AHEAD_MS = 2 * (BLOCK_MS + SETTLED_MS)


def test_an_engine_that_dies_is_told_in_the_chat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert {Alerting, Delivery} <= {*PARTS}
    world = World(tmp_path)
    world.promote(world.release("客服", "hello"), log_text=True)
    with receiver(b'{"code":0,"msg":"success"}') as chat:
        monkeypatch.setenv("CHAT", f"{chat.url}/hook")
        channel = {
            "channel": "feishu",
            "url": "${CHAT}",
            "language": "zh",
            "wait_s": 0,
            "repeat_s": 7 * 86400,
        }
        endpoint = {**world.endpoints["客服"], "objectives": {"availability": 0.999, "latency": 5}}
        wanted = {"project": "shop", "endpoints": {"客服": endpoint}, "channels": {"ops": channel}}
        world.ledger.work.want(wanted, actor="test")
        ahead = [AHEAD_MS]
        observer = Observer(
            world.ledger, world.store, tmp_path, actor="observer", parts=(Alerting, Delivery),
            clock=lambda: now_ms() + ahead[0],
        )  # fmt: skip
        with world.serve() as gateway:
            client = world.client(gateway)
            for _ in range(3):
                with pytest.raises(openai.APIError):
                    client.chat.completions.create(model="客服", messages=[{"role": "user", "content": "die"}])
            deadline = time.monotonic() + 60
            while not chat.got:
                observer.look()
                assert time.monotonic() < deadline, "nobody was told"
                time.sleep(0.05)  # the observer looks once a second; here it has less to wait for
            ahead[0] += 24 * HOUR_MS  # a day of silence later
            while len(chat.got) < 2:
                observer.look()
                assert time.monotonic() < deadline, "nobody was told of the end"
                time.sleep(0.05)
        observer.close()
    first, last = (got.json["card"] for got in chat.got[:2])
    assert first["header"]["title"]["content"] == "【严重】endpoint:客服 availability: 误差预算消耗过快"
    text = first["elements"][0]["text"]["content"]
    assert "1 小时内 3 个请求中 100 % 失败，是允许值（0.1 %）的 1,000 倍" in text and "chatcmpl-" in text
    assert last["header"]["template"] == "green" and last["header"]["title"]["content"].startswith("【已恢复】")
    events = [e.kind for e in world.ledger.events.recent("endpoint:客服")]
    assert events == ["alert.resolved", "alert.fired"]
    (alert,) = world.ledger.alerts.recent()
    why = world.requests.get(alert.evidence["requests"][0])
    assert why["endpoint"] == "客服" and why["status"] >= 500
    world.ledger.close()
