"""Documents that look like good examples: a quality classifier, trained on the spot or from a file."""

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
        if options.model:
            self.model = model.load(Path(options.model))
        elif options.negative:
            self.model = _cached(options)

    def apply(self, rows: Iterable[dict[str, Any]]) -> Iterator[Verdict]:
        stream = iter(rows)
        while batch := list(islice(stream, BATCH)):
            if self.model is None:
                raise Error("failed", "classify has no model yet: it surveys the rows first")
            for row, chance in zip(batch, self.model.chances([prompt(r) for r in batch]).tolist(), strict=True):
                chance = round(chance, 4)
                row = scored(row, {self.options.score: chance}) if self.options.score else row
                if chance >= self.least:
                    yield Verdict(row)
                else:
                    yield Verdict(row, "low_quality", f"{chance:.4f}; at least {self.least:.4f} stays")


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
        if self.model is None and sample:
            self.model = model.train(_texts(self.options.positive, self.options), sample)
        if self.model is not None and sample and self.options.share is not None:
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
    """Trained once for the same files, so that not every process does it again."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "longrein" / "classify"
    known = [(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in _paths(options)]
    told = msgspec.json.encode([VERSION, model.BITS, options.columns, known])
    path = folder / f"{blake2b(told, digest_size=16).hexdigest()}.npz"
    try:
        return model.load(path)
    except Error:
        made = model.train(_texts(options.positive, options), _texts(options.negative, options))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        staged = path.with_suffix(f".{os.getpid()}.tmp")
        staged.write_bytes(made.save())
        staged.replace(path)
    except OSError:
        pass  # it is there to save time
    return made


def _paths(options: Options) -> list[Path]:
    return [
        path.resolve() for files in (options.positive, options.negative) for path in reference.files(files).values()
    ]
