"""What every source plugin keeps; found by itself, run over each (see longrein.core.ports.Source)."""

import sqlite3
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from longrein.core import plugins
from longrein.core.errors import Error
from longrein.core.ports import Source


class Place:
    """Three rows in one place that a plugin reaches, and how they change."""

    def __init__(self, kind: str, root: Path) -> None:
        self.kind, self.root, self.options = kind, root, dict[str, Any]()
        if kind == "sql":
            self.url, self.options, self.away = (
                "sqlite:///rows.db",
                {"table": "rows", "cursor": "id"},
                "sqlite:///no.db",
            )
            self.database = sqlite3.connect(root / "rows.db", isolation_level=None)
            self.database.execute("CREATE TABLE rows (id INTEGER PRIMARY KEY, text TEXT)")
        elif kind == "http":
            self.server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(root)))
            threading.Thread(target=self.server.serve_forever, daemon=True).start()
            self.url = f"http://127.0.0.1:{self.server.server_port}/rows.txt"
            self.away = self.url.replace("rows", "none")
        else:
            import fsspec

            self.files = fsspec.filesystem("memory")
            self.url, self.away = "memory://contract/*.txt", "memory://contract/none.txt"
        self.write(1)

    def write(self, count: int) -> None:
        if self.kind == "sql":
            self.database.execute("INSERT INTO rows VALUES (?, 'row')", (count,))
        elif self.kind == "http":
            (self.root / "rows.txt").write_text("row\n" * count)
        else:
            self.files.pipe("/contract/rows.txt", b"row\n" * count)

    def made(self, url: str = "") -> Source:
        plugin: Source = plugins.load("source", self.kind)(url or self.url, self.options, self.root)
        return plugin

    def close(self) -> None:
        if self.kind == "sql":
            self.database.close()
        elif self.kind == "http":
            self.server.shutdown()
            self.server.server_close()
        else:
            self.files.rm("/contract", recursive=True)


@pytest.fixture(params=plugins.names("source"))
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    made = Place(request.param, tmp_path)
    yield made
    made.close()


def test_the_same_again_until_it_changes(place: Place, tmp_path: Path) -> None:
    first = list(place.made().scan({}))
    assert list(place.made().scan({})) == first
    known = {o.name: o.revision for o in first}
    assert [o.revision for o in place.made().scan(known)] == [o.revision for o in first]
    place.write(3)
    later = {o.name: o.revision for o in place.made().scan(known)}
    assert (later != known or "" in later.values()) and len({o.name for o in first}) == len(first)


def test_fetched_twice_it_is_the_same(place: Place, tmp_path: Path) -> None:
    source = place.made()
    (one,) = source.scan({})
    for name in ("a", "b"):
        source.fetch(one, tmp_path / name)
    assert b"row" in (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert "." in one.file and "/" not in one.file and "://" in one.name


def test_what_is_not_there_is_an_error(place: Place) -> None:
    with pytest.raises(Error) as raised:
        list(place.made(place.away).scan({}))
    assert raised.value.hint
