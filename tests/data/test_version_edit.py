"""data.version: an edited JSONL checkout, of which only the lines are read that are not as they were."""

import random
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from longrein.core.errors import Error
from longrein.core.ledger import Ledger
from longrein.core.store import Store
from longrein.data import checkout, revise, version
from tests.data.test_version_delta import commit, edited, rows_of, size, texts


class Place:
    """A ledger with one version of 400 rows, some of them copies, checked out."""

    def __init__(self, root: Path) -> None:
        self.store, self.ledger, self.out = (
            Store(root / "store"),
            Ledger(f"sqlite:///{root / 'ledger.db'}"),
            root / "out",
        )
        self.found = rows_of([*texts(390), *["copy"] * 10])
        self.first = self.put(commit(self.store, self.found))
        checkout.write(self.store, self.first.uri, self.out, ref=self.first.ref, digest=self.first.digest)
        self.file = self.out / "rows.jsonl"
        self.lines = self.file.read_bytes().splitlines(keepends=True)

    def put(self, made: version.Version) -> Any:
        return self.ledger.assets.put(
            "dataset", "t", made.digest, uri=made.uri, bytes=made.bytes, actor="a", meta={"rows": made.rows}
        )

    def commit(self, lines: list[bytes]) -> Any:
        self.file.write_bytes(b"".join(lines))
        return revise.commit(self.ledger, self.store, "t", self.out, actor="a")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture(scope="module")
def _made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made") / "root"
    Place(root)
    return root


def test_only_what_changed_is_written(tmp_path):
    place = Place(tmp_path)
    before = size(place.store)
    place.lines[7] = place.lines[7].replace(b'"a.jsonl"', b'"b.jsonl"')
    made = place.commit(place.lines)
    version.verify(place.store, made.digest, made.uri)
    assert size(place.store) - before < 0.2 * before
    assert [r["source"] for r in version.rows(place.store, made.uri)][6:9] == ["a.jsonl", "b.jsonl", "a.jsonl"]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 1 << 30), share=st.sampled_from([0.002, 0.02, 0.2, 0.9]))
def test_any_edit_is_the_same_as_reading_all(_made, tmp_path_factory, seed, share):
    """Lines changed, removed, copied, moved, emptied, with other ends; with and without the hashes."""
    dice, digests = random.Random(seed), []
    lines = (_made / "out/rows.jsonl").read_bytes().splitlines(keepends=True)
    for _ in range(int(len(lines) * share) + 1):
        at, what = dice.randrange(len(lines)), dice.randrange(6)
        if what == 0:
            row = msgspec.json.decode(lines[at]) if lines[at].strip() else {}
            lines[at] = msgspec.json.encode({**row, "input": f"new {dice.random()}"}) + b"\n"
        elif what == 1:
            del lines[at]
        elif what == 2:
            lines.insert(dice.randrange(len(lines)), lines[at])
        elif what == 3:
            lines.insert(dice.randrange(len(lines)), lines.pop(at))
        elif what == 4:
            lines.insert(at, dice.choice([b"\n", b"  \r\n"]))
        else:
            lines[at] = lines[at].rstrip(b"\n") + b"\r\n"
    if dice.random() < 0.3:
        lines[-1] = lines[-1].rstrip() or b" "
    for hashes in (True, False):
        root = tmp_path_factory.mktemp("any") / "root"
        shutil.copytree(_made, root)
        store, ledger = Store(root / "store"), Ledger(f"sqlite:///{root / 'ledger.db'}")
        (root / "out/rows.jsonl").write_bytes(b"".join(lines))
        if not hashes:
            (root / "out/.lines").unlink()
        made = revise.commit(ledger, store, "t", root / "out", actor="a")
        version.verify(store, made.digest, made.uri)
        digests.append((made.digest, made.meta["rows"]))
    assert digests[0] == digests[1]


def test_hashes_of_another_checkout_are_not_believed(place):
    """Killed between two files of a checkout: the mark says what the hashes are of."""
    other = place.out.with_name("other")
    place.commit([*place.lines[:-1], place.lines[0]])
    newest = place.ledger.assets.get("dataset:t")
    checkout.write(place.store, newest.uri, other, ref=newest.ref, digest=newest.digest)
    shutil.copy(place.out / ".lines", other / ".lines")
    (other / "rows.jsonl").write_bytes(b"".join(place.lines))
    assert checkout.lines(other) is None
    assert revise.commit(place.ledger, place.store, "t", other, actor="a").digest == place.first.digest


def test_bad_lines_are_named_and_nothing_is_kept(place):
    for bad, said in ((b"{]\n", "line 3"), (b'{"input": 7}\n', "rows.jsonl:3"), (b"\xff\n", "line 3")):
        with pytest.raises(Error, match=said):
            place.commit([*place.lines[:2], bad, *place.lines[3:]])
    with pytest.raises(Error, match="no row of t is left"):
        place.commit([b"\n", b" \n"])
    assert place.ledger.assets.get("dataset:t").ref == place.first.ref
    assert not list(place.store.root.glob("draft-*"))


def test_a_damaged_version_is_not_edited(place):
    (file,) = (place.store.root / "lance/t.lance/data").iterdir()
    content = bytearray(file.read_bytes())
    for at in range(200, 20_000, 50):
        content[at] ^= 1
    file.write_bytes(content)
    with pytest.raises(Error) as raised:
        place.commit(place.lines[1:])
    assert raised.value.code == "corrupt"


def test_edits_on_edits(tmp_path):
    """More than a table has runs for."""
    place = Place(tmp_path)
    for turn in range(20):
        place.lines[turn * 3] = msgspec.json.encode({"input": f"turn {turn}"}) + b"\n"
        made = place.commit(place.lines)
        version.verify(place.store, made.digest, made.uri)
        checkout.write(place.store, made.uri, place.out, ref=made.ref, digest=made.digest)
        place.lines = place.file.read_bytes().splitlines(keepends=True)
    assert len(edited(place.lines, 1)) and size(place.store) < 12 * place.first.bytes
