"""Which rows train, validate and test: by a hash of the request, so that duplicates stay on one side everywhere."""

from collections.abc import Mapping
from hashlib import blake2b

from longrein.core.errors import Error
from longrein.core.text import key

SYNONYMS = {"training": "train", "dev": "validation", "val": "validation", "valid": "validation", "eval": "validation"}


def default() -> dict[str, float | str]:
    return {"train": 0.8, "validation": 0.1, "test": 0.1}


class Split:
    """Shares by name, {"train": 0.8, …}, that add up to 1; or {"column": name} to take the source's own.

    A row's side depends on its folded request and the seed alone: not on order, other rows or the machine. Where a
    transform found near-duplicates, it depends on the first request of their group.
    """

    def __init__(self, spec: Mapping[str, float | str], seed: int) -> None:
        self._salt = seed.to_bytes(8, "little", signed=True)
        self._bounds: list[tuple[int, str]] = []
        if column(spec):
            return
        shares = {name: share for name, share in spec.items() if isinstance(share, (int, float))}
        if len(shares) != len(spec) or not spec or min(shares.values()) < 0 or abs(sum(shares.values()) - 1) > 1e-6:
            raise Error(
                "invalid",
                f"the split {dict(spec)} is not a set of shares that add up to 1",
                "for example {train: 0.8, validation: 0.1, test: 0.1}, or {column: split}",
            )
        total = 0.0
        for name, share in shares.items():
            total += share
            self._bounds.append((round(total * 2**64), name))
        self._bounds[-1] = (2**64, self._bounds[-1][1])

    def of(self, request: str, group: str = "") -> str:
        """The side of a request, by shares; with a group, the side of the request whose key (hex) it is."""
        digest = bytes.fromhex(group) or key(request)
        place = int.from_bytes(blake2b(digest, digest_size=8, key=self._salt).digest(), "little")
        return next(name for bound, name in self._bounds if place < bound)


def column(spec: Mapping[str, float | str]) -> str:
    """The source's column that names the split, or ""."""
    name = spec.get("column", "")
    return name if isinstance(name, str) and len(spec) == 1 else ""


def named(value: str) -> str:
    """A source's own name for a split as ours: dev and val are validation."""
    name = value.strip().lower()
    return SYNONYMS.get(name, name)
