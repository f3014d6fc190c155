"""Unix sockets under paths of any length."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MOST_BYTES = 100  # that a socket's path may surely have


@contextmanager
def short(path: Path) -> Iterator[str]:
    """A name for a socket's path, to bind or connect to while the block lasts."""
    if len(os.fsencode(path)) < MOST_BYTES or not sys.platform.startswith("linux"):
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
