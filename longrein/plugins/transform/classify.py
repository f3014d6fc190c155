"""Documents that look like good examples: a quality classifier, trained on the spot or from a file."""

import fcntl
import os
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, ClassVar

import msgspec
import numpy as np

from longrein.core.errors import Error
from longrein.core.ports import Verdict
from longrein.plugins.transform._classify import model
from longrein.plugins.transform._near import reference
from longrein.plugins.transform._row import prompt, scored

VERSION = 1
BATCH = 256  # rows looked at in one go
SAMPLE, SAMPLE_CHARS = 50_000, 4096  # of the dataset's rows, where they are the bad examples or `share` asks for a cut
Files = list[str] | dict[str, str]


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    positive: Files = []  # good examples: files of any kind that has a reader
    negative: Files = []  # bad ones; none is a sample of the dataset itself
    columns: list[str] = []  # of those files; none is all texts in them
    model: str = ""  # in place of examples: a file that longrein.plugins.transform.classify.train wrote
    threshold: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.5  # rows whose chance is below are dropped
    share: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None  # or: keep this share, the best; 1 keeps all
    score: str = ""  # the column of `extra` that gets the chance: `near_dedup: {keep: best, by: …}` can go by it


class Classify:
    """The chance that a request is like the positive examples, were both kinds as frequent; see _classify.model.
    Trained on the same files it is the same on every machine of one kind, and kept in the user's cache folder."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.counts: Counter[str] = Counter()
        self.least = options.threshold
        self.model: model.Model | None = None

    def apply(self, rows: Iterable[dict[str, Any]]) -> Iterator[Verdict]:
        stream = iter(rows)
        while batch := list(islice(stream, BATCH)):
            self.model = self.model or self._made([])
            for row, chance in zip(batch, self.model.chances([prompt(r) for r in batch]).tolist(), strict=True):
                chance = round(chance, 4)
                row = scored(row, {self.options.score: chance}) if self.options.score else row
                if chance >= self.least:
                    yield Verdict(row)
                else:
                    yield Verdict(row, "low_quality", f"{chance:.4f}; at least {self.least:.4f} stays")

    def _made(self, sample: list[str]) -> model.Model:
        """The model that the options ask for; sample: rows of the dataset, in place of bad examples."""
        if self.options.model:
            return model.load(Path(self.options.model))
        if self.options.negative:
            return _cached(self.options)
        return model.train(_texts(self.options.positive, self.options), sample)


class EachRow(Classify):
    rowwise: ClassVar[bool] = True


class Surveying(Classify):
    """What it must know of all rows, it learns from a sample of them."""

    def survey(self, rows: Iterable[dict[str, Any]]) -> None:
        draw, sample = random.Random(0), list[str]()
        for n, row in enumerate(rows):
            at = n if n < SAMPLE else draw.randrange(n + 1)
            if at < SAMPLE:
                sample[at : at + 1] = [prompt(row)[:SAMPLE_CHARS]]
        if not sample:
            return
        self.model = self._made(sample)
        if self.options.share is not None:
            chances = np.sort(self.model.chances(sample).astype(float).round(4))
            self.least = float(chances[int((1 - self.options.share) * len(chances))])


def plugin(options: Mapping[str, Any]) -> Classify:
    """Errors: `invalid` without examples or a model; what reading and training raise."""
    given = msgspec.convert(options, Options)
    if bool(given.positive) == bool(given.model):
        raise Error(
            "invalid",
            "classify needs either `positive`, files of good examples, or `model`, a file",
            "for example: classify: {positive: [good/*.jsonl], share: 0.5}",
        )
    return EachRow(given) if given.share is None and (given.model or given.negative) else Surveying(given)


def train(positive: Iterable[str], negative: Iterable[str], path: Path) -> None:
    """Learn from texts and write the file for `model`."""
    path.write_bytes(model.train(positive, negative).save())


def _texts(files: Files, options: Options) -> Iterator[str]:
    return (text for _, _, text in reference.read(files, options.columns))


def _cached(options: Options) -> model.Model:
    """Trained once for the same files: of many processes the first does it, and the others wait."""
    known = [(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in _paths(options)]
    name = blake2b(msgspec.json.encode([VERSION, model.BITS, options.columns, known]), digest_size=16).hexdigest()
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "longrein" / "classify"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / f"{name}.lock").open("w")
    except OSError:  # no home, or not ours: it is there to save time
        return model.train(_texts(options.positive, options), _texts(options.negative, options))
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        path = folder / f"{name}.npz"
        try:
            return model.load(path)
        except Error:
            made = model.train(_texts(options.positive, options), _texts(options.negative, options))
        staged = path.with_suffix(".tmp")
        staged.write_bytes(made.save())
        staged.replace(path)
    return made


def _paths(options: Options) -> list[Path]:
    return [
        path.resolve() for files in (options.positive, options.negative) for path in reference.files(files).values()
    ]
