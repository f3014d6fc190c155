"""References to assets: `model:intent@3`, `model:intent@prod`, `dataset:tickets@latest`, `model:intent` (= latest)."""

import re
from typing import NamedTuple

from longrein.core.errors import Error, nearest

KINDS = ("dataset", "index", "model", "prompt", "policy", "report", "release")
# A name may be in any script. What would read as another part of a ref, or as a path, may not be in it.
NAME = re.compile(r"[^\s@:/\\?#\x00-\x1f](?:[^@:/\\?#\x00-\x1f]{0,198}[^\s@:/\\?#\x00-\x1f])?")


class Ref(NamedTuple):
    kind: str
    name: str
    selector: str = "latest"  # a version number, an alias, or "latest"

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}@{self.selector}"

    @classmethod
    def parse(cls, text: str) -> "Ref":
        kind, colon, rest = text.partition(":")
        name, _, selector = rest.partition("@")
        if not colon or not NAME.fullmatch(name):
            raise Error("invalid", f"{text!r} is not a reference", "write kind:name@version, as in model:intent@3")
        if kind not in KINDS:
            raise Error("invalid", f"there is no kind of asset called {kind!r}", nearest(kind, KINDS))
        return cls(kind, name, selector or "latest")


def check_name(name: str, what: str = "name") -> str:
    if not NAME.fullmatch(name):
        raise Error("invalid", f"{name!r} cannot be a {what}", "leave out @ : / \\ ? # and control characters")
    return name
