"""API keys and feedback, on both databases."""

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


def test_feedback_is_kept_once_a_request_metric_and_source(ledger: Ledger) -> None:
    said = {"source": "k1", "endpoint": "客服", "release": "d1"}
    assert ledger.feedback.put("r1", [("helpful", 1.0, "好 \U0001f469"), ("score", 0.5, "")], **said) == [
        "helpful",
        "score",
    ]
    assert ledger.feedback.put("r1", [("helpful", 0.0, "again"), ("new", 2.0, "")], **said) == ["new"]
    assert ledger.feedback.put("r1", [("helpful", 0.0, "")], **{**said, "source": "k2"}) == ["helpful"]
    assert ledger.feedback.put("r2", [("", None, "only words")], **said) == [""]
    found = ledger.feedback.of("r1")
    assert sorted((f["name"], f["source"], f["value"]) for f in found) == [
        ("helpful", "k1", 1.0), ("helpful", "k2", 0.0), ("new", "k1", 2.0), ("score", "k1", 0.5)
    ]  # fmt: skip
    assert found[0]["comment"] == "好 \U0001f469" and found[0]["arm"] == ""
    assert ledger.feedback.erase(["r1", *(f"x{i}" for i in range(1000))]) == 4
    assert ledger.feedback.of("r1") == [] and ledger.feedback.of("r2")[0]["value"] is None
