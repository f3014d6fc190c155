"""The language each row is in, and only the languages that are wanted."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Annotated, Any, ClassVar

import msgspec
import numpy as np

from longrein.core.errors import Error, nearest
from longrein.core.ports import Verdict
from longrein.plugins.transform._han import script
from longrein.plugins.transform._language import model
from longrein.plugins.transform._row import prompt

VERSION = 1
BATCH = 256  # rows looked at in one go
OTHER = "other"  # none of them, or too unsure
# Told apart unless `among` says otherwise. The model knows some 130; the rare ones cost short texts their accuracy.
MAJOR = (
    "af ar az be bg bn bs ca cs cy da de el en eo es et eu fa fi fr ga gl gu he hi hr hu hy id is it ja ka kk km kn ko "
    "lo lt lv mk ml mn mr ms my ne nl no pa pl ps pt ro ru si sk sl sq sr sv sw ta te th tl tr ug uk ur uz vi zh"
)
ALIASES = {"wuu": "zh", "yue": "zh", "nn": "no", "uzs": "uz", "zxx": OTHER}  # zxx: no language, such as numbers


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Languages are ISO 639-1 codes; zh-Hans and zh-Hant are Chinese told apart by its characters."""

    keep: list[str] = []  # all others are dropped; none drops nothing
    min_confidence: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0  # below it the language is "other"
    among: list[str] = []  # only these are told apart: more accurate where texts are short and languages few
    script: bool = False  # zh-Hans or zh-Hant in place of zh


class Language:
    """Of the request, by py3langid's model; told in the row's column `language`. Counts rows by language."""

    rowwise: ClassVar[bool] = True

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = msgspec.convert(options, Options)
        self.counts: Counter[str] = Counter()
        among = set(map(_base, self.options.among)) or set(MAJOR.split())
        among |= set(map(_base, self.options.keep)) - {OTHER}
        for code in sorted(among.difference(MAJOR.split())):
            if code not in model.known():
                raise Error("invalid", f"language knows no {code!r}", nearest(code, model.known()))
        self.codes = frozenset(among | {alias for alias, code in ALIASES.items() if code in among or code == OTHER})

    def apply(self, rows: Iterable[dict[str, Any]]) -> Iterator[Verdict]:
        keep, stream = self.options.keep, iter(rows)
        while batch := list(islice(stream, BATCH)):
            for row, (code, confidence) in zip(batch, self.identify([prompt(r) for r in batch]), strict=True):
                self.counts[code] += 1
                row = row if row.get("language") == code else row | {"language": code}
                if not keep or code in keep or _base(code) in keep:
                    yield Verdict(row)
                else:
                    yield Verdict(row, "language", f"{code} at {confidence:.2f}; kept are {', '.join(keep)}")

    def identify(self, texts: list[str]) -> list[tuple[str, float]]:
        """(code, confidence from 0 to 1) of each text. What holds no letters is "other", at 0."""
        known = model.load(self.codes)
        labels = np.array([ALIASES.get(code, code) for code in known.labels])
        chances = model.probabilities(known, texts)
        best = labels[chances.argmax(1)]
        confidence = np.where(labels == best[:, None], chances, 0).sum(1)
        return [self._told(*told) for told in zip(best.tolist(), confidence.tolist(), texts, strict=True)]

    def _told(self, code: str, confidence: float, text: str) -> tuple[str, float]:
        if confidence < self.options.min_confidence or not confidence:
            return OTHER, confidence
        split = code == "zh" and (self.options.script or any(c.startswith("zh-") for c in self.options.keep))
        return f"zh-{script(text)}" if split else code, confidence


def _base(code: str) -> str:
    return code.partition("-")[0]


plugin = Language
