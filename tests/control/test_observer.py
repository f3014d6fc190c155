"""The process that watches: it follows the wanted state, outlives its ledger's absence, and is started again."""

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from longrein.control.observer import Child, Observer, Site
from longrein.core.errors import Error
from longrein.core.ledger import Ledger
from longrein.core.store import Store


class Eye:
    def __init__(self, site: Site, said: list[Any]) -> None:
        self.site, self.said = site, said

    def look(self, now: int) -> None:
        self.said.append((self.site.spec.project, now))
        if len(self.said) == 2:
            raise Error("unavailable", "not now")

    def close(self) -> None:
        self.said.append("closed")


def test_parts_are_made_anew_for_a_new_wanted_state(ledger: Ledger, tmp_path: Path) -> None:
    said: list[Any] = []
    parts = [lambda site: Eye(site, said)]
    store = Store(tmp_path / "store")
    observer = Observer(ledger, store, tmp_path, actor="eye", parts=parts, clock=lambda: 7)
    observer.look()
    ledger.work.want({"project": "a"}, actor="ann")
    observer.look()
    observer.look()  # it fails, and is asked again
    observer.look()
    ledger.work.want({"project": "b"}, actor="ann")
    observer.look()
    observer.close()
    assert said == [("a", 7), ("a", 7), ("a", 7), "closed", ("b", 7), "closed"]


def until(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 30
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)
    return value


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="needs Linux")
def test_one_that_is_killed_is_started_again_and_ends_with_its_owner(tmp_path: Path) -> None:
    (tmp_path / "longrein.yaml").write_text("project: test\n")
    child = Child(tmp_path / "longrein.yaml")

    def pids() -> list[int]:
        mine = psutil.Process().children()
        return [p.pid for p in mine if p.status() != psutil.STATUS_ZOMBIE and "watch" in p.cmdline()]

    try:
        (first,) = until(pids)
        os.kill(first, signal.SIGKILL)
        (second,) = until(lambda: [pid for pid in pids() if pid != first])
    finally:
        child.close()
    assert not psutil.pid_exists(second)
    assert not [t for t in threading.enumerate() if t.name == "observer"]
