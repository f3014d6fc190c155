"""The store: content-addressed, atomic, and deaf to links and to ways out of it."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from race import race

from longrein.core.digest import of_file, of_json, of_tree, size_of
from longrein.core.errors import Error
from longrein.core.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def file(folder: Path, name: str = "a.txt", content: bytes = b"hello") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def tree(root: Path) -> Path:
    file(root, "a.txt")
    file(root, "deep/er/权重.bin", b"\0" * 3_000_000)
    file(root, "empty", b"")
    return root


def refused(code: str, call: "object", *arguments: object) -> Error:
    with pytest.raises(Error) as caught:
        call(*arguments)  # type: ignore[operator]
    assert caught.value.code == code
    return caught.value


def test_a_file_moves_in(store: Store, tmp_path: Path) -> None:
    source = file(tmp_path)
    stored = store.put(source)
    assert stored.digest == "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"  # sha256sum says so too
    assert stored.uri == f"sha256/2c/{stored.digest}" and stored.bytes == 5 and not source.exists()
    assert store.path(stored.uri).read_bytes() == b"hello" and store.verify(stored.uri, stored.digest).is_file()


def test_a_folder_moves_in_as_one(store: Store, tmp_path: Path) -> None:
    stored = store.put(tree(tmp_path / "model"))
    assert stored.bytes == 3_000_005 == size_of(store.path(stored.uri))
    assert sorted(p.name for p in store.path(stored.uri).rglob("*") if p.is_file()) == ["a.txt", "empty", "权重.bin"]
    assert not (tmp_path / "model").exists() and not list(store.root.glob("staging/*"))


def test_the_same_content_is_kept_once(store: Store, tmp_path: Path) -> None:
    one, two = store.put(tree(tmp_path / "one")), store.put(tree(tmp_path / "other"))
    assert one == two and not (tmp_path / "other").exists()
    assert store.put(file(tmp_path, "x")) == store.put(file(tmp_path, "y"))
    assert len(list((store.root / "sha256").glob("*/*"))) == 2


def test_digests_depend_on_names_and_bytes_alone(tmp_path: Path) -> None:
    one, two = tree(tmp_path / "one"), tree(tmp_path / "two")
    (two / "a.txt").chmod(0o700)
    os.utime(two / "empty", (0, 0))
    (two / "no files in here").mkdir()
    assert of_tree(one) == of_tree(two) == "436d22bb6d7bf62f93ac8e9d6cf09d24bab1ca255270695fbd5b257b70f52bd0"
    (two / "empty").rename(two / "blank")
    assert of_tree(one) != of_tree(two)
    assert of_json({"b": [1, 0.5, None], "a": "客"}) == of_json({"a": "客", "b": [1, 0.5, None]})
    with pytest.raises(ValueError):
        of_json(float("nan"))


def test_links_are_refused_and_nothing_is_moved(store: Store, tmp_path: Path) -> None:
    outside = file(tmp_path / "outside", "secret")
    folder = tree(tmp_path / "model")
    (folder / "deep" / "link").symlink_to(outside)
    (tmp_path / "link").symlink_to(outside)
    (tmp_path / "folder link").symlink_to(outside.parent)
    (tmp_path / "dangling").symlink_to("nowhere")
    for source in ("model", "link", "folder link", "dangling"):
        assert "symbolic link" in refused("invalid", store.put, tmp_path / source).message
        assert os.path.lexists(tmp_path / source)
    assert outside.exists() and not store.root.exists()


def test_nothing_to_store(store: Store, tmp_path: Path) -> None:
    refused("not_found", store.put, tmp_path / "nothing")


@pytest.mark.parametrize("uri", ["../secret", "sha256/../../secret", "/etc/passwd", "sha256/ab/../../../secret?x"])
def test_no_uri_leads_out_of_the_store(store: Store, tmp_path: Path, uri: str) -> None:
    store.root.mkdir()
    file(tmp_path, "secret")
    refused("invalid", store.path, uri)
    assert not store.holds(uri)


def test_what_is_gone_or_damaged_is_told(store: Store, tmp_path: Path) -> None:
    stored = store.put(tree(tmp_path / "model"))
    assert store.holds(stored.uri) and not store.holds("sha256/00/00")
    path = store.path(stored.uri)
    with (path / "deep/er/权重.bin").open("r+b") as handle:
        handle.seek(2_000_000)
        handle.write(b"\1")
    assert "expected 436d" in refused("corrupt", store.verify, stored.uri, stored.digest).message
    file(path, "a.txt").unlink()
    (path / "a.txt").symlink_to("/etc/passwd")
    refused("corrupt", store.verify, stored.uri, stored.digest)
    shutil.rmtree(path)
    assert "longrein apply" in refused("not_found", store.verify, stored.uri, stored.digest).hint


PUTTERS = """
import sys
from pathlib import Path
from longrein.core.store import Store
store, mine = Store(Path(sys.argv[1]) / "store"), Path(sys.argv[1]) / sys.argv[2]
for i in range(20):
    (mine / f"f{i}" / "x").mkdir(parents=True)
    (mine / f"f{i}" / "x" / "y").write_text(str(i))
GO
print(json.dumps([store.put(mine / f"f{i}").digest for i in range(20)]))
"""


def test_processes_that_put_the_same_content_at_once(tmp_path: Path) -> None:
    one, two, three = race(PUTTERS, str(tmp_path))
    assert one == two == three and len(set(one)) == 20
    store = Store(tmp_path / "store")
    for digest in one:
        store.verify(f"sha256/{digest[:2]}/{digest}", digest)
    assert not list((tmp_path / "store").glob("staging/*"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 4 MiB."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("needs root, to mount a small file system")
    path = tmp_path / "disk"
    path.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", path], check=False, capture_output=True)
    if done.returncode != 0:
        pytest.skip("this machine lets nobody mount a tmpfs")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", path], check=True)


def test_from_another_file_system(tmp_path: Path, small_disk: Path) -> None:
    for store, source in ((Store(small_disk / "store"), tmp_path / "one"), (Store(tmp_path / "s"), small_disk / "two")):
        stored = store.put(tree(source))
        store.verify(stored.uri, stored.digest)
        assert not source.exists() and not list(store.root.glob("staging/*"))
        shutil.rmtree(store.path(stored.uri))


def test_a_full_disk_leaves_the_source_and_nothing_half_written(tmp_path: Path, small_disk: Path) -> None:
    store, source = Store(small_disk / "store"), tree(tmp_path / "model")
    filler = file(small_disk, "filler", b"x" * 2_000_000)
    with pytest.raises(OSError, match="No space left"):
        store.put(source)
    assert of_tree(source).startswith("436d")
    assert not list((store.root / "sha256").glob("*/*")) and not list(store.root.glob("staging/*"))
    filler.unlink()
    stored = store.put(source)
    store.verify(stored.uri, stored.digest)


def test_of_file_is_sha256(tmp_path: Path) -> None:
    assert of_file(file(tmp_path, content=b"")).startswith("e3b0c44298fc1c14")
