"""All that is watched of one endpoint on one host, and where it is kept: a state that is written once a second, and
references, which are larger, once each."""

import hashlib
import logging
from collections.abc import Iterable, Sequence
from contextlib import suppress
from math import log1p
from pathlib import Path
from typing import NamedTuple

import msgspec

from longrein.core.drift import Drift, Group
from longrein.core.errors import Error
from longrein.core.files import replace
from longrein.core.observation import Observation
from longrein.core.text import language
from longrein.ops.drift.reference import Sample
from longrein.ops.drift.stream import Dumped, Stream
from longrein.ops.drift.watch import Config

RELEASES = 4  # of one endpoint that are watched at a time: those heard of last
ANSWER_CHARS = 100  # a longer answer is no label
SAID = 200  # values of feedback that say what is normal, at most
STATE = "state"
REFERENCE = ".reference"
log = logging.getLogger(__name__)


class Normal(NamedTuple):
    """What counts as normal for an endpoint."""

    inputs: str  # a name for what inputs are compared with
    accepted_ms: int = 0  # when what there was to see was last accepted
    erased: int = 0  # a number that grows whenever a person was erased
    rows: Sequence[Sample] = ()  # training rows that inputs are compared with; none: with the first requests
    note: str = ""  # what the rows are, or why there are none

    @property
    def key(self) -> str:
        return key(self.inputs, self.accepted_ms)


class Said(NamedTuple):
    """One value of feedback."""

    request_id: str
    release: str  # digest
    name: str
    value: float
    ts_ms: int


class Endpoint:
    def __init__(self, folder: Path, drift: Drift, texts: bool) -> None:
        """texts: whether texts of requests may be on disk. What is in the folder, of the same config, goes on."""
        self.folder, self.drift = folder, drift
        plugin, options = drift.plugin
        self._config = Config(
            run_length=drift.false_alarm_requests * len(drift.watch), reference=drift.warm_up, seasons=drift.season,
            detector=plugin, options=options, texts=texts,
        )  # fmt: skip
        self.streams: dict[tuple[Group, str], Stream] = {}
        self.releases: list[str] = []  # that answered, the last one last
        self.heard_ms = 0  # up to when feedback was heard
        self.observed = 0  # answers, by this process
        self._erased = 0
        self.changed = False  # since it was saved
        self._normal: Normal | None = None
        self._restore()

    def needs_rows(self, normal: Normal) -> bool:
        """Whether `follow` would learn from rows."""
        known = self.streams.get(("input", ""))
        return "input" in self.drift.watch and (known is None or known.key != normal.key)

    def follow(self, normal: Normal) -> None:
        """To be called first. What was normal may be no longer: then it begins anew."""
        self._normal, self.changed = normal, True
        if normal.erased != self._erased:
            self._erased = normal.erased
            for stream in self.streams.values():
                stream.forget()
        for place, old in list(self.streams.items()):
            if old.key == self._key(*place):
                continue
            new = self._begin(*place)
            if not old.key.endswith(key("", normal.accepted_ms)) and new.watch.reference is None:
                with suppress(Error):  # too few: it learns from those to come
                    new.learn(old.since(), "what there was when that was accepted")
        if "input" in self.drift.watch:
            self._stream("input", "")

    def observe(self, observations: Sequence[Observation]) -> None:
        """Answers, in the order they were given."""
        self.observed += len(observations)
        if "input" in self.drift.watch:
            self._stream("input", "").observe([asked(one) for one in observations])
        by_release: dict[str, list[Sample]] = {}
        for one in observations:
            by_release.setdefault(one.release, []).extend([] if one.output is None else [answered(one, one.output)])
        for release, samples in by_release.items():
            self._answers(release)
            if "output" in self.drift.watch:
                self._stream("output", release).observe(samples)
        self.changed = True

    def hear(self, said: Iterable[Said]) -> None:
        """Feedback, in the order it came. Of releases that answered long ago it tells nothing of now."""
        by_release: dict[str, list[Sample]] = {}
        for one in said:
            self.heard_ms = max(self.heard_ms, one.ts_ms)
            sample = Sample(one.request_id, one.ts_ms, {}, {one.name: one.value})
            by_release.setdefault(one.release, []).append(sample)
        for release, samples in by_release.items():
            if "feedback" in self.drift.watch and release in self.releases:
                self._stream("feedback", release).observe(samples)
            self.changed = True

    def save(self) -> None:
        """Errors: OSError."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for stream in self.streams.values():
            if stream.watch.reference and not stream.file:
                data = stream.watch.dump_reference()
                stream.file = hashlib.sha256(data).hexdigest()[:16] + REFERENCE
                replace(self.folder / stream.file, data)
        streams = [stream.dump() for stream in self.streams.values()]
        state = _State(self.releases, self.heard_ms, self._erased, streams)
        replace(self.folder / STATE, msgspec.msgpack.encode(state))
        self.changed = False
        for old in {f.name for f in self.folder.glob("*" + REFERENCE)} - {s.file for s in self.streams.values()}:
            (self.folder / old).unlink(missing_ok=True)

    def _restore(self) -> None:
        """What cannot be used begins anew."""
        try:
            state = msgspec.msgpack.decode((self.folder / STATE).read_bytes(), type=_State)
        except FileNotFoundError:
            return
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            log.warning("what was known of drift in %s cannot be read, and begins anew: %s", self.folder, error)
            return
        self.releases, self.heard_ms, self._erased = state.releases, state.heard_ms, state.erased
        for dumped in state.streams:
            if dumped.group in self.drift.watch:
                try:
                    reference = (self.folder / dumped.file).read_bytes() if dumped.file else b""
                    stream = Stream.restore(dumped, self._of(dumped.group), reference)
                except (OSError, Error) as error:
                    log.warning("drift of %s in %s begins anew: %s", dumped.group, self.folder, error)
                else:
                    self.streams[dumped.group, dumped.release] = stream

    def _answers(self, release: str) -> None:
        """It is one of the last few that did; what is known of others is forgotten."""
        if self.releases[-1:] != [release]:
            self.releases = [*[r for r in self.releases if r != release][1 - RELEASES :], release]
            for place in [p for p in self.streams if p[1] and p[1] not in self.releases]:
                del self.streams[place]

    def _stream(self, group: Group, release: str) -> Stream:
        return self.streams.get((group, release)) or self._begin(group, release)

    def _begin(self, group: Group, release: str) -> Stream:
        stream = self.streams[group, release] = Stream(group, release, self._key(group, release), self._of(group))
        if group == "input" and self._normal:
            try:
                stream.learn(self._normal.rows, self._normal.note)
            except Error as error:
                stream.note += f", for {error.message}" if error.message else ""
        return stream

    def _key(self, group: Group, release: str) -> str:
        assert self._normal, "follow comes first"
        return key(release or self._normal.inputs, self._normal.accepted_ms)

    def _of(self, group: Group) -> Config:
        said = min(SAID, self._config.reference)
        return msgspec.structs.replace(self._config, reference=said) if group == "feedback" else self._config


class _State(msgspec.Struct, array_like=True):
    releases: list[str]
    heard_ms: int
    erased: int
    streams: list[Dumped]


def asked(one: Observation) -> Sample:
    length = {"input length": log1p(len(one.input))}
    return Sample(one.id, one.ts_ms, {"input": one.input}, length, {"input language": language(one.input)})


def answered(one: Observation, output: str) -> Sample:
    """A short answer is a label too: of a classifier, say."""
    labels = {"finish": one.finish_reason} | ({"answer": output.strip()} if len(output) <= ANSWER_CHARS else {})
    numbers = {"output length": log1p(len(output)), "refusal": float(one.refusal)}
    return Sample(one.id, one.ts_ms, {"output": output}, numbers, labels)


def key(what: str, accepted_ms: int) -> str:
    """Of the stream that compares with what was accepted then, or of a release with its own first answers."""
    return f"{what}@{accepted_ms}"
