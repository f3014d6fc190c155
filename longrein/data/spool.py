"""Rows on disk between two passes over them: written once, read once, memory flat."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec


class Spool:
    """MessagePack rows, each after its length in 8 bytes."""

    def __init__(self, path: Path) -> None:
        self.path, self.rows = path, 0

    def fill(self, rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Hands the rows on as it writes them."""
        encode = msgspec.msgpack.Encoder().encode
        with self.path.open("wb") as file:
            for row in rows:
                data = encode(row)
                file.write(len(data).to_bytes(8, "little"))
                file.write(data)
                self.rows += 1
                yield row

    def drain(self) -> Iterator[dict[str, Any]]:
        """The same rows again; the file is gone afterwards."""
        decode = msgspec.msgpack.Decoder().decode
        with self.path.open("rb") as file:
            while size := file.read(8):
                yield decode(file.read(int.from_bytes(size, "little")))
        self.path.unlink()
