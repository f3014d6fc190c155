"""Assets: versions, digests, names, refs and lineage, on both databases."""

import json

import pytest
from race import race

from longrein.core.errors import Error
from longrein.core.ledger import Asset, Ledger
from longrein.core.ledger.schema import assets, edges

HOSTILE = [
    "客服-意图", "имя", "a'b\"; DROP TABLE assets; --", "100% 𝒻𝓊𝓃", "..", "-rf", "%s{0}", "a  b", "👩‍👩‍👧", "x" * 200,
]  # fmt: skip
REFUSED = [
    "", " a", "a ", "a:b", "a@b", "a/b", "a\\b", "a?b", "a#b", "a\nb", "a\0b", "a\x7fb", "a\u2028b", "\ud800",
    "x" * 201, "意" * 100,
]  # fmt: skip


def put(ledger: Ledger, ref: str, digest: str, run: str = "", **given: object) -> Asset:
    kind, _, name = ref.partition(":")
    return ledger.assets.put(kind, name, digest, run_id=run, actor="ann", **given)  # type: ignore[arg-type]


def chain(ledger: Ledger, length: int) -> None:
    """Versions of one model, each made by a run that read the one before."""
    rows = [
        {"id": i, "kind": "model", "name": "m", "version": i, "digest": f"d{i}", "uri": "", "bytes": 0, "meta": {},
         "created_ms": 0, "updated_ms": 0}
        for i in range(1, length + 1)
    ]  # fmt: skip
    links = [
        {"run_id": f"{i:032x}", "asset_id": i - (direction == "in"), "direction": direction}
        for i in range(1, length + 1)
        for direction in ("in", "out")
    ]
    with ledger.db.write() as connection:
        connection.execute(assets.insert(), rows)
        connection.execute(edges.insert(), links[1:])


def test_same_content_is_the_same_version(ledger: Ledger) -> None:
    one = put(ledger, "dataset:t", "aa", "r1", uri="u", bytes=3, meta={"rows": 2, "名": "值"})
    again = put(ledger, "dataset:t", "aa", "r2")
    other = put(ledger, "dataset:t", "bb", "r3")
    elsewhere = put(ledger, "dataset:u", "aa")
    assert again == one and one.meta == {"rows": 2, "名": "值"} and one.run_id == "r1"
    assert [one.ref, other.ref, elsewhere.ref] == ["dataset:t@1", "dataset:t@2", "dataset:u@1"]
    assert [e.kind for e in ledger.events.recent()] == ["asset.made"] * 3
    assert {e.run_id for e in ledger.assets.makers(one.id)} == {"r1", "r2"}


def test_going_back_to_old_content_is_the_old_version(ledger: Ledger) -> None:
    versions = [put(ledger, "dataset:t", digest).version for digest in ("aa", "bb", "aa", "bb", "cc")]
    assert versions == [1, 2, 1, 2, 3]


def test_rebuilt_bytes_are_pointed_at(ledger: Ledger) -> None:
    put(ledger, "dataset:t", "aa", uri="lance/t.lance?version=1", bytes=1)
    put(ledger, "dataset:t", "aa", uri="lance/t.lance?version=4", bytes=2)
    asset = ledger.assets.get("dataset:t")
    assert (asset.version, asset.uri, asset.bytes) == (1, "lance/t.lance?version=4", 2)


def test_a_name_may_be_in_any_script(ledger: Ledger) -> None:
    for name in HOSTILE:
        put(ledger, f"model:{name}", "aa")
        assert ledger.assets.get(f"model:{name}@1").name == name
    assert {asset.name for asset, _ in ledger.assets.latest()} == set(HOSTILE)


def test_a_name_that_would_read_as_something_else_is_refused(ledger: Ledger) -> None:
    for name in REFUSED:
        with pytest.raises(Error) as caught:
            ledger.assets.put("model", name, "aa")
        assert caught.value.code == "invalid"
    assert ledger.assets.recent() == [] and ledger.events.head()[0] == 0


def test_refs_by_version_alias_and_latest(ledger: Ledger) -> None:
    one, two = put(ledger, "model:m", "aa"), put(ledger, "model:m", "bb")
    ledger.aliases.move("model", "m", "prod", one, actor="ann")
    refs = ("model:m@1", "model:m@prod", "model:m", "model:m@latest", "model:m@2", "model:m@")
    assert [ledger.assets.get(ref) for ref in refs] == [one, one, two, two, two, two]


def test_a_ref_that_leads_nowhere_says_what_would(ledger: Ledger) -> None:
    ledger.aliases.move("model", "support", "prod", put(ledger, "model:support", "aa"), actor="ann")
    for ref, code, hint in (
        ("model:suport@1", "not_found", "'support'"),
        ("model:support@9", "not_found", "1"),
        ("model:support@pord", "not_found", "'prod'"),
        ("model:support@" + "9" * 190, "not_found", ""),
        ("model:support@²", "not_found", ""),
        ("model:support@-1", "not_found", ""),
        ("modle:support", "invalid", "'model'"),
        ("support@prod", "invalid", "kind:name@version"),
        ("", "invalid", ""),
        ("model:support@" + "9" * 5000, "invalid", ""),
        ("model:support@1@2", "invalid", ""),
        ("model:\ud800", "invalid", ""),
        ("model:support@\ud800", "invalid", ""),
        ("model:support@a\0b", "invalid", ""),
    ):
        with pytest.raises(Error) as caught:
            ledger.assets.get(ref)
        assert caught.value.code == code and hint in caught.value.hint, ref
        assert len(caught.value.message) < 400


def test_lineage_of_a_diamond(ledger: Ledger) -> None:
    raw, model = put(ledger, "dataset:raw", "r", "r0"), None
    left, right = put(ledger, "dataset:left", "l", "r1"), put(ledger, "dataset:right", "x", "r2")
    for run, inputs in {"r1": [raw], "r2": [raw], "r3": [left, right], "r9": [raw]}.items():
        for asset in inputs:
            ledger.assets.link(run, asset.id, "in", "dataset")
    model = put(ledger, "model:m", "m", "r3")
    put(ledger, "report:unrelated", "u", "r9")
    up = ledger.assets.lineage(model)
    assert up.assets[0] == model and {a.name for a in up.assets} == {"m", "left", "right", "raw"}
    assert up.runs == ["r0", "r1", "r2", "r3"]
    down = ledger.assets.lineage(raw, "down")
    assert {a.name for a in down.assets} == {"raw", "left", "right", "m", "unrelated"}
    assert {(e.run_id, e.direction) for e in up.edges} == {
        ("r0", "out"), ("r1", "in"), ("r1", "out"), ("r2", "in"), ("r2", "out"), ("r3", "in"), ("r3", "out"),
    }  # fmt: skip


def test_lineage_ends_where_a_run_reads_what_it_writes(ledger: Ledger) -> None:
    one, two = put(ledger, "index:i", "a", "r1"), put(ledger, "index:j", "b", "r1")
    for asset in (one, two):
        ledger.assets.link("r1", asset.id, "in", "index")
    for direction in ("up", "down"):
        assert {a.name for a in ledger.assets.lineage(one, direction).assets} == {"i", "j"}


def test_lineage_of_a_deep_chain_is_whole_and_nearest_first(ledger: Ledger) -> None:
    chain(ledger, 2000)
    first, last = ledger.assets.get("model:m@1"), ledger.assets.get("model:m")
    up = ledger.assets.lineage(last)
    assert [a.version for a in up.assets] == list(range(2000, 0, -1)) and len(up.edges) == 3999
    assert [a.version for a in ledger.assets.lineage(first, "down").assets] == list(range(1, 2001))
    assert [a.version for a in ledger.assets.lineage(last, limit=3).assets] == [2000, 1999, 1998]


def test_latest_and_recent(ledger: Ledger) -> None:
    for ref, digest in [("model:a", "1"), ("model:b", "1"), ("model:a", "2"), ("dataset:a", "9"), ("model:a", "1")]:
        put(ledger, ref, digest)
    assert [(a.ref, n) for a, n in ledger.assets.latest()] == [("dataset:a@1", 1), ("model:a@2", 2), ("model:b@1", 1)]
    assert [a.ref for a, _ in ledger.assets.latest("model", limit=1)] == ["model:a@2"]
    assert [a.ref for a in ledger.assets.recent(limit=2)] == ["dataset:a@1", "model:a@2"]
    assert [a.ref for a in ledger.assets.recent("model", "a")] == ["model:a@2", "model:a@1"]


def test_a_transaction_is_kept_whole_or_not_at_all(ledger: Ledger) -> None:
    with pytest.raises(ZeroDivisionError), ledger.transaction():
        put(ledger, "model:m", "aa", "r1")
        ledger.runs.start(name="x")
        raise ZeroDivisionError
    assert ledger.assets.recent() == [] and ledger.runs.recent() == [] and ledger.events.head()[0] == 0
    put(ledger, "model:m", "aa", "r1")
    assert ledger.events.verify() == 1


PUTTERS = """
import sys
from longrein.core.ledger import Ledger
ledger = Ledger(sys.argv[1])
GO
refs = [ledger.assets.put("model", "m", f"d{i}", actor=sys.argv[2], run_id=sys.argv[2]).version for i in range(20)]
print(json.dumps(refs))
"""


def test_processes_that_make_the_same_assets_agree_on_their_versions(ledger: Ledger, ledger_url: str) -> None:
    results = race(PUTTERS, ledger_url)
    assert results[0] == results[1] == results[2] and sorted(results[0]) == list(range(1, 21))
    assert ledger.events.verify() == 20
    assert json.dumps([len(ledger.assets.makers(a.id)) for a in ledger.assets.recent()]) == json.dumps([3] * 20)
