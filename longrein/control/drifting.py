"""Watches endpoints for drift: reads what is normal from the ledger, adds up what hosts see, and raises `drifted`.

One observer of a project and host does it, the one that holds a lock; ops.drift.host hears and weighs. Evidence of
hosts that share the traffic is summed (see ops.drift.watch), so that no host must notice alone.
"""

import socket
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from longrein.control.judging import Judges
from longrein.core.drift import GROUPS, declared
from longrein.core.errors import Error
from longrein.core.ledger import Alert, Asset, Ledger
from longrein.core.ledger.rollouts import ALIAS
from longrein.core.record import lock
from longrein.core.store import Store
from longrein.ops.drift import host
from longrein.ops.drift.endpoint import Endpoint, Normal, Said, key
from longrein.ops.drift.reference import Sample, sample
from longrein.ops.drift.stream import Stream
from longrein.ops.monitor.message import sentence

if TYPE_CHECKING:
    from longrein.control.observer import Site

KIND = "drifted"
FOLDER = "drift"  # in .longrein
ERASED = "person.erased"  # the event
TELL_S, EXPLAIN_S = 2.0, 30.0  # how often the ledger is told, and an alert brought up to date
ROWS = 4000  # of a training set, that say what is normal
SAID_MOST, SAID_MS = 2000, 7 * 86_400_000  # values of feedback that are read at once; how old, when there is no state
LATE_MS = 10_000  # what was said before that long is in the ledger by now
Rows = list[dict[str, Any]]  # ledger.drift's


class Drifting:
    """The observer's part."""

    def __init__(self, site: "Site") -> None:
        self.site, self.ledger = site, site.ledger
        self.folder = site.home / FOLDER
        self.name = socket.gethostname()
        self.host: host.Host | None = None
        self._wanted = {name: d for name, e in site.spec.endpoints.items() if (d := declared(e.drift))}
        self._judges = Judges(site, {name: e.judge for name, e in site.spec.endpoints.items() if e.judge})
        self._held: BinaryIO | None = None
        self._head: tuple[int, str] | None = None
        self._keys: dict[str, set[str]] = {}  # by endpoint: of what is normal there now
        self._heard: dict[str, dict[tuple[str, str, str], None]] = {}  # feedback that may be read again
        self._told = 0.0
        self._explained: dict[int, float] = {}

    def look(self, now: int) -> None:
        if self._wanted or self._judges.judges:
            if not self._hold():
                return
            self._follow()
        if self.host:
            self.host.check()
            for name in self._wanted:
                self._hear(self.host, name, now)
        firing = {(a.subject, a.name): a for a in self.ledger.alerts.firing(KIND)}
        if self.host:
            self._alert(self.host, self._tell(self.host), firing)
        for subject, group in firing:
            told = "it is not watched any more"
            self.ledger.alerts.resolve(KIND, subject, group, summary=told, actor=self.site.actor)

    def close(self) -> None:
        self._judges.close()
        if self.host:
            self.host.close()
        if self._held:
            self._held.close()

    def _hold(self) -> bool:
        """Whether this is the observer that watches here."""
        if self._held is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            file = (self.folder / "lock").open("ab")
            if lock(file):
                self._held = file
            else:
                file.close()
        return self._held is not None

    def _follow(self) -> None:
        """What is normal, read again whenever something happened."""
        head = self.ledger.events.head()
        if head == self._head:
            return
        basis = {}
        held, moving = self.ledger.aliases.holders("release", ALIAS), self.ledger.rollouts.all_live()
        erased = next((e.seq for e in self.ledger.events.recent(kind=ERASED, limit=1)), 0)
        for name, drift in self._wanted.items():
            serving, before, _ = held.get(name, (None, None, 0))
            releases = [serving, before, moving[name].candidate if name in moving else None]
            accepted_ms = self.ledger.drift.accepted_ms(name)
            dataset, why = (None, "") if drift.reference == "traffic" else _dataset(self.ledger, serving)
            if dataset and dataset.created_ms < accepted_ms:
                dataset, why = None, "what there was later is accepted"
            normal = Normal(dataset.digest[:12] if dataset else "traffic", accepted_ms, erased)
            basis[name] = normal, partial(_rows, self.site.store, dataset, why)
            self._keys[name] = {normal.key, *(key(r.digest, accepted_ms) for r in releases if r)}
        first = self.host is None
        if self.host is None:
            texts = {name: self.site.spec.endpoints[name].log_text for name in self._wanted}
            known = {name: Endpoint(self.folder / name, d, texts[name]) for name, d in self._wanted.items()}
            self.host = host.Host(self.site.home, self.folder, known, self._judges.offer)
        for name, (normal, load) in basis.items():
            self.host.follow(name, normal, load)
        if first:
            self.host.start()
        self._head = head

    def _hear(self, here: host.Host, name: str, now: int) -> None:
        """Hand on what was said of answers, each thing once. What is written late, by another clock or another
        process, is still read for a while."""
        endpoint, heard = here.endpoints[name], self._heard.setdefault(name, {})
        since_ms = max(endpoint.heard_ms - LATE_MS, now - SAID_MS)
        first = not heard and endpoint.heard_ms  # this process has not read them: those up to then were heard before
        said = []
        for row in self.ledger.feedback.values(name, since_ms, SAID_MOST):
            place = (row.request_id, row.name, row.source)
            if place in heard or row.arm:
                continue
            heard[place] = None
            if not (first and row.ts_ms <= endpoint.heard_ms):
                said.append(Said(row.request_id, row.release, row.name, row.value, row.ts_ms))
        for place in list(heard)[: -2 * SAID_MOST]:
            del heard[place]
        if said:
            here.hear(name, said)

    def _tell(self, here: host.Host) -> Rows:
        """Put what is known here into the ledger, now and then; what others know."""
        if time.monotonic() - self._told > TELL_S:
            with here.lock:
                states = {name: [s.told() for s in e.streams.values()] for name, e in here.endpoints.items()}
            counts = self._judges.counts
            for name in states | counts:
                told = {"streams": states.get(name, []), "left_out": here.ear.left_out, "garbage": here.ear.garbage}
                self.ledger.drift.put(name, self.name, told | {"judge": counts.get(name)})
            self._told = time.monotonic()
        return [row for row in self.ledger.drift.of() if row["host"] != self.name]

    def _alert(self, here: host.Host, others: Rows, firing: dict[tuple[str, str], Alert]) -> None:
        """Raise what is to be raised, and end what is over; those of `firing` that are looked after are taken out."""
        for name in self._wanted:
            elsewhere = [s for row in others if row["endpoint"] == name for s in row["state"]["streams"]]
            for group in GROUPS:
                alert = firing.pop((f"endpoint:{name}", group), None)
                with here.lock:
                    streams = [s for (g, _), s in here.endpoints[name].streams.items() if g == group]
                streams = [s for s in streams if s.key in self._keys[name]]
                if alert is None:
                    self._raise(here, name, streams, elsewhere)
                else:
                    self._go_on(here, name, alert, streams)

    def _raise(self, here: host.Host, name: str, streams: Sequence[Stream], elsewhere: Rows) -> None:
        for stream in streams:
            also = [s["evidence"] for s in elsewhere if (s["group"], s["key"]) == (stream.group, stream.key)]
            enough = max(stream.peak, stream.evidence + sum(also)) >= stream.config.run_length
            if enough and stream.evidence >= max(also, default=0.0):  # who knows most tells
                with here.lock:
                    told = stream.alarm(0)
                self._fire(name, stream, told)
                return

    def _go_on(self, here: host.Host, name: str, alert: Alert, streams: Sequence[Stream]) -> None:
        """One that fires is brought up to date by who knows it, and ends when it is over."""
        stream = next((s for s in streams if s.key == alert.evidence.get("key")), None)
        if over := self._over(name, alert, stream):
            self.ledger.alerts.resolve(KIND, alert.subject, alert.name, summary=over, actor=self.site.actor)
            if stream:
                with here.lock:
                    stream.over()
        elif stream and time.monotonic() - self._explained.get(alert.id, -EXPLAIN_S) > EXPLAIN_S:
            self._explained[alert.id] = time.monotonic()
            with here.lock:
                told = stream.alarm(alert.id)
            if alert.evidence.get("host") == self.name:
                self._fire(name, stream, told)

    def _over(self, name: str, alert: Alert, stream: Stream | None) -> str:
        """Why, or "" when it is not."""
        if alert.evidence.get("key") not in self._keys[name]:
            if self.ledger.drift.accepted_ms(name) > alert.fired_ms:
                return "what there is now was accepted as normal"
            if alert.name == "input":
                return "what serves now was made with other data"
            return "the release that it was about does not serve any more"
        if stream and stream.gone:
            return "the newest requests are as they were before"
        return ""

    def _fire(self, name: str, stream: Stream, told: dict[str, Any]) -> None:
        about = self.ledger.assets.by_digest(stream.release, "release") if stream.release else None
        told |= {
            "host": self.name, "watch": stream.group, "about": about.ref if about else f"endpoint:{name}",
            "false_alarm_requests": self._wanted[name].false_alarm_requests, "requests": told["after"],
        }  # fmt: skip
        self.ledger.alerts.fire(
            KIND, f"endpoint:{name}", stream.group, summary=sentence(KIND, told) or "it has drifted", evidence=told,
            since_ms=told["since_ms"], actor=self.site.actor,
        )  # fmt: skip


def affected(project: Path, alert: Alert, limit: int = 1000) -> list[str]:
    """The ids of requests that an alert of drift is about, the newest first: those since it began that are like those
    that raised it. Of this host, which has their log too."""
    return host.affected(project / ".longrein" / FOLDER, alert.id, limit) if alert.kind == KIND else []


def _dataset(ledger: Ledger, release: Asset | None) -> tuple[Asset | None, str]:
    """What the model of a release was trained on, or why that is not known."""
    part = release.meta.get("model") if release else None
    if not part:
        return None, "no release serves" if release is None else "no model of ours answers"
    model = ledger.assets.get(part["ref"])
    for edge, asset in ledger.assets.of_run(model.run_id) if model.run_id else ():
        if (edge.direction, edge.role) == ("in", "dataset"):
            return asset, ""
    return None, f"{model.ref} was not trained here"


def _rows(store: Store, dataset: Asset | None, why: str) -> tuple[list[Sample], str]:
    """Training rows drawn at random, as requests. Errors: why there are none."""
    if dataset is None:
        raise Error("not_found", why)
    from longrein.data import version
    from longrein.data.version.table import errors

    with errors(dataset.uri):
        table = version.open(store, dataset.uri)
        count = table.count_rows()
        chosen = np.sort(np.random.default_rng(0).permutation(count)[: 2 * ROWS])
        rows = table.take(chosen.tolist(), columns=["input", "split", "row_id"]).to_pylist()
    found = [sample(r["row_id"], input=r["input"] or "") for r in rows if r["split"] == "train"][:ROWS]
    return found, f"{len(found)} training rows of {dataset.ref}"
