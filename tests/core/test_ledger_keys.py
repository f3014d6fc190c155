"""API keys and the request log, on both databases."""

import pytest

from longrein.core.errors import Error
from longrein.core.ledger import Ledger
from longrein.core.ledger.keys import hashed


def test_a_key_is_shown_once_and_kept_as_a_hash(ledger: Ledger) -> None:
    secret = ledger.keys.create("网页", ("infer", "track"), actor="ann")
    (key,) = ledger.keys.all()
    assert ledger.keys.live() == {hashed(secret): key}
    assert (key.label, key.scopes, key.revoked_ms) == ("网页", ("infer", "track"), None)
    everything = str(ledger.events.recent()) + str(ledger.keys.all())
    assert secret.startswith("lr-") and len(secret) > 40 and secret not in everything


def test_no_two_keys_are_the_same(ledger: Ledger) -> None:
    assert len({ledger.keys.create("x", actor="ann") for _ in range(10)}) == len(ledger.keys.live()) == 10


def test_a_revoked_key_is_dead_once(ledger: Ledger) -> None:
    ledger.keys.create("x", actor="ann")
    (key,) = ledger.keys.all()
    ledger.keys.revoke(key.id, actor="ann")
    assert ledger.keys.live() == {} and ledger.keys.all()[0].revoked_ms
    for key_id in (key.id, "nope"):
        with pytest.raises(Error) as caught:
            ledger.keys.revoke(key_id, actor="ann")
        assert caught.value.code == "not_found"
    assert [e.kind for e in ledger.events.recent()] == ["key.revoked", "key.created"]


def test_an_unknown_scope_names_the_nearest(ledger: Ledger) -> None:
    with pytest.raises(Error, match="'infre'") as caught:
        ledger.keys.create("x", ("infre",), actor="ann")
    assert "'infer'" in caught.value.hint and ledger.keys.all() == []


def request(number: int, endpoint: str = "shop", **given: object) -> dict[str, object]:
    return {
        "id": f"r{number}", "ts_ms": number, "endpoint": endpoint, "release": "d1", "key_id": "k", "status": 200,
        "finish_reason": "stop", "prompt_tokens": 3, "completion_tokens": 5, "ttft_ms": 1.5, "total_ms": 2.5,
        "cost_usd": None, "input_digest": "x", "input": None, "output": None,
    } | given  # fmt: skip


def test_the_request_log(ledger: Ledger) -> None:
    ledger.requests.put([])
    ledger.requests.put(request(i, "shop" if i % 2 else "客服", input="你好 \U0001f469") for i in range(6))
    ledger.requests.put([request(5, input="changed"), request(6)])  # one written before: the first stands
    assert [r["id"] for r in ledger.requests.recent(limit=2)] == ["r6", "r5"]
    assert [r["id"] for r in ledger.requests.recent("客服")] == ["r4", "r2", "r0"]
    assert ledger.requests.get("r5")["input"] == "你好 \U0001f469"
    with pytest.raises(Error, match="no request 'r9'"):
        ledger.requests.get("r9")
