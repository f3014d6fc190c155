"""data.version.stream: every row once, the same everywhere, each rank its share, from any batch on."""

import pytest
from test_version_delta import commit, edited, rows_of, texts

from longrein.core.errors import Error
from longrein.core.store import Store
from longrein.data import version


def lines(store: Store, uri: str, **options) -> list[int]:
    return [n for b in version.stream(store, uri, columns=["line"], **options) for n in b["line"].to_pylist()]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A version in two runs, and the same rows written at once."""
    store = Store(tmp_path_factory.mktemp("stream") / "store")
    found = texts(5000)
    commit(store, rows_of(found))
    rows = rows_of(edited(found, 1, share=0.05))
    for i, row in enumerate(rows):
        row["split"] = "test" if i % 10 == 0 else "train"
    return store, commit(store, rows).uri, commit(store, rows, name="whole").uri, len(rows)


def test_one_epoch_is_every_row_once_and_mixed(made):
    store, uri, whole, n = made
    found = lines(store, uri, batch=50, seed=3)
    assert len(found) == n // 50 * 50 and len(set(found)) == len(found)
    assert found != sorted(found) and found == lines(store, whole, batch=50, seed=3)  # however it was written
    assert found != lines(store, uri, batch=50, seed=4) and found != lines(store, uri, batch=50, seed=3, epoch=1)
    assert lines(store, uri, batch=50, shuffle=False) == list(range(1, n // 50 * 50 + 1))


@pytest.mark.parametrize("world", [1, 3, 8])
def test_ranks_share_the_rows(made, world):
    store, uri, _, n = made
    parts = [lines(store, uri, batch=32, rank=r, world_size=world) for r in range(world)]
    assert {len(p) for p in parts} == {version.batches_of(n, world, 32) * 32}
    assert len({x for p in parts for x in p}) == sum(map(len, parts))


def test_going_on_where_it_was(made):
    store, uri, _, _ = made
    whole = lines(store, uri, batch=32, rank=1, world_size=2, seed=9)
    for start in (0, 1, 17, len(whole) // 32 - 1):
        assert lines(store, uri, batch=32, rank=1, world_size=2, seed=9, start=start) == whole[start * 32 :]
    assert lines(store, uri, batch=32, rank=1, world_size=2, start=10_000) == []


def test_one_split(made):
    store, uri, _, _ = made
    found = lines(store, uri, split="test", batch=1)
    assert sorted(found) == [r["line"] for r in version.rows(store, uri, split="test")]
    assert lines(store, uri, split="nothing") == []


def test_whole_batches_only_and_every_column(made):
    store, uri, _, _ = made
    assert {b.num_rows for b in version.stream(store, uri, batch=100)} == {100}
    (row,) = next(version.stream(store, uri, batch=1)).to_pylist()
    assert version.find(store, uri, row_id=row["row_id"]) == [row]


@pytest.mark.parametrize("bad", [{"rank": 2, "world_size": 2}, {"rank": -1}, {"batch": 0}, {"start": -1}])
def test_what_makes_no_sense(made, bad):
    store, uri, _, _ = made
    with pytest.raises(Error) as raised:
        list(version.stream(store, uri, **bad))
    assert raised.value.code == "invalid"
