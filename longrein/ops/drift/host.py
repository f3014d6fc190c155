"""What one host knows of its endpoints' drift: heard from the gateways and weighed in a thread of its own, and kept."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from longrein.core.errors import Error
from longrein.core.observation import Ear, Observation
from longrein.ops.drift.endpoint import Endpoint, Normal, Said
from longrein.ops.drift.reference import Sample

HEAR_S, SAVE_S = 0.2, 1.0
MANY = 1000  # observations that are weighed at once
AFFECTED = 20_000  # ids that are kept of an alert
ALERTS = 20  # of which they are kept
log = logging.getLogger(__name__)
Also = Callable[[Sequence[Observation]], None]
Load = Callable[[], tuple[Sequence[Sample], str]]  # training rows, and what they are; Error: why there are none


class Host:
    """Endpoints in `endpoints` are looked at with `lock` held."""

    def __init__(self, home: Path, folder: Path, endpoints: Mapping[str, Endpoint], also: Also) -> None:
        """home: .longrein; folder: where the ids of affected requests are kept; also: is told of all that is heard,
        and does not wait. Errors: OSError."""
        self.folder, self.endpoints, self._also = folder, dict(endpoints), also
        self.ear = Ear(home)
        self.lock = threading.Lock()
        self._normals: dict[str, tuple[Normal, Load]] = {}
        self._said: deque[tuple[str, list[Said]]] = deque()
        self._failing = False
        self._failure: BaseException | None = None
        self._saved = time.monotonic()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="drift", daemon=True)

    def start(self) -> None:
        """Once every endpoint was told what is normal."""
        self._thread.start()

    def follow(self, name: str, normal: Normal, load: Load) -> None:
        """load: where rows are to be learned from, in the thread, for it takes its time."""
        self._normals[name] = normal, load

    def hear(self, name: str, said: list[Said]) -> None:
        self._said.append((name, said))

    def check(self) -> None:
        """Errors: what ended the thread, should it have ended by itself."""
        if self._failure:
            raise self._failure

    def close(self) -> None:
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join()
        self.ear.close()

    def _run(self) -> None:
        try:
            while not self._closing.is_set():
                self._learn()
                heard = self.ear.hear(HEAR_S, MANY)
                self._also(heard)
                self._weigh(heard)
                if time.monotonic() - self._saved > SAVE_S:
                    self._save()
            self._save()
        except BaseException as error:  # noqa: BLE001 - the edge of the thread: check() raises it
            self._failure = error

    def _learn(self) -> None:
        while self._normals:
            name, (normal, load) = self._normals.popitem()
            endpoint = self.endpoints[name]
            if endpoint.needs_rows(normal):
                try:
                    rows, note = load()
                except Error as error:
                    rows, note = (), error.message
                normal = normal._replace(rows=rows, note=note)
            with self.lock:
                endpoint.follow(normal)

    def _weigh(self, heard: Sequence[Observation]) -> None:
        by_endpoint: dict[str, list[Observation]] = {}
        for one in heard:
            by_endpoint.setdefault(one.endpoint, []).append(one)
        with self.lock:
            for name in by_endpoint.keys() & self.endpoints.keys():
                self.endpoints[name].observe(by_endpoint[name])
            while self._said:
                name, said = self._said.popleft()
                self.endpoints[name].hear(said)

    def _save(self) -> None:
        """A disk that is full or gone loses nothing but what a kill would lose."""
        self._saved = time.monotonic()
        try:
            with self.lock:
                for endpoint in self.endpoints.values():
                    if endpoint.changed:
                        endpoint.save()
                    for stream in endpoint.streams.values():
                        if stream.affected:
                            self._note(stream.alert, stream.affected)
                            stream.affected = []
            self._failing = False
        except OSError as error:
            if not self._failing:
                log.error("what is known of drift cannot be kept: %s", error)
            self._failing = True

    def _note(self, alert: int, ids: Sequence[str]) -> None:
        file = affected_file(self.folder, alert)
        known = len(affected(self.folder, alert)) if file.exists() else 0
        with file.open("a", encoding="utf-8") as out:
            out.writelines(f"{id}\n" for id in ids[: max(AFFECTED - known, 0)])
        for old in sorted(self.folder.glob("affected-*"), key=lambda f: f.stat().st_mtime)[:-ALERTS]:
            old.unlink(missing_ok=True)


def affected(folder: Path, alert: int, limit: int = AFFECTED) -> list[str]:
    """The ids of this host's requests that are like those since the change, the newest first."""
    try:
        lines = affected_file(folder, alert).read_text("utf-8").splitlines()
    except FileNotFoundError:
        return []
    return list(dict.fromkeys(reversed(lines)))[:limit]


def affected_file(folder: Path, alert: int) -> Path:
    return folder / f"affected-{alert}"
