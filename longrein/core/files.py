"""Files that are there whole or not at all."""

import os
from pathlib import Path


def replace(path: Path, data: bytes, *, sync: bool = False) -> None:
    """Write a file in place of the one before, whatever happens to this process; with `sync`, to the machine.

    One process at a time may do so for a path. Errors: OSError; then the one before stands.
    """
    staged = path.with_name(path.name + ".new")
    with staged.open("wb") as file:
        file.write(data)
        if sync:
            file.flush()
            os.fsync(file.fileno())
    os.replace(staged, path)
