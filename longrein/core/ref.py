"""References to assets: `model:intent@3`, `model:intent@prod`, `dataset:tickets@latest`, `model:intent` (= latest)."""

import re
from typing import NamedTuple

from longrein.core.errors import Error, nearest

KINDS = ("dataset", "index", "model", "prompt", "policy", "report", "release")
# A name may be in any script. What would read as another part of a ref, as a path or as a new line may not be in it.
_PART = r"[^@:/\\?#\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]"
NAME = re.compile(rf"(?!\s){_PART}+(?<!\s)")
NAME_BYTES = 200  # in UTF-8: a table's folder is called after it, and a file system takes 255


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
        if not colon or not _is_name(name) or not (_is_name(selector) or not selector):
            raise Error(
                "invalid", f"{text[:NAME_BYTES]!r} is not a reference", "write kind:name@version, as in model:intent@3"
            )
        if kind not in KINDS:
            raise Error("invalid", f"there is no kind of asset called {kind!r}", nearest(kind, KINDS))
        return cls(kind, name, selector or "latest")


def check_name(name: str, what: str = "name") -> str:
    if not _is_name(name):
        hint = f"leave out @ : / \\ ? # and control characters; {NAME_BYTES} bytes at most"
        raise Error("invalid", f"{name[:NAME_BYTES]!r} cannot be a {what}", hint)
    return name


def _is_name(text: str) -> bool:
    return NAME.fullmatch(text) is not None and len(text.encode()) <= NAME_BYTES
